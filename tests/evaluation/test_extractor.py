from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ganlib import config
from ganlib.card import DatasetSpec
from ganlib.data.prepare import prepare
from ganlib.data.store import load_split
from ganlib.evaluation.extractor import train_extractor
from ganlib.evaluation.features import ExtractorCard, load_extractor
from ganlib.evaluation.judge import instance_loss
from ganlib.files import sha256_of
from ganlib.problems import Failed, Refused


def silent(line: str) -> None:
    pass


def test_learns_what_the_data_knows(prepared: Path, extractor_folder: Path) -> None:
    card = ExtractorCard.load(extractor_folder / "extractor.json")

    assert card.objective == ("label", "attributes", "captions")
    assert set(card.test) == {"label", "attribute/colour", "attribute/side", "r_precision"}
    assert min(card.test[name] for name in ("label", "attribute/colour", "attribute/side")) >= 0.98
    assert card.test["r_precision"] >= 0.9
    assert card.counts == {"train": 300, "test": 120}
    assert card.data["images.npy"] == sha256_of(prepared / "images.npy")
    assert set(card.data) == {"images.npy", "items.parquet", "dataset.json"}
    assert card.files == {
        name: sha256_of(extractor_folder / name) for name in ("vocabulary.json", "weights.safetensors")
    }


def test_heads_are_in_their_places(prepared: Path, extractor_folder: Path) -> None:
    test = load_split(prepared, None, "test")
    extractor = load_extractor(extractor_folder, test.spec)
    features = extractor.features(test.images)

    assert features.shape == (120, 16)
    assert features.dtype == np.float64
    assert extractor.hash == sha256_of(extractor_folder / "weights.safetensors")
    assert np.mean(extractor.label_logits(features).argmax(1) == test.labels) >= 0.98
    for name, logits in extractor.attribute_logits(features).items():
        assert np.mean(logits.argmax(1) == test.items[f"attribute/{name}"]) >= 0.98, name
    similarity = extractor.image_vectors(features) @ extractor.text_features(["a red square on the left", "", "BLUE"]).T
    assert np.abs(similarity).max() <= 1 + 1e-6
    red = np.flatnonzero(test.labels == 0)
    blue = np.flatnonzero(test.labels == 2)
    assert similarity[red, 0].mean() > similarity[blue, 0].mean()
    assert similarity[red, 2].mean() < similarity[blue, 2].mean()


def test_features_do_not_depend_on_how_many_are_judged_at_once(prepared: Path, extractor_folder: Path) -> None:
    extractor = load_extractor(extractor_folder)
    images = np.tile(load_split(prepared, None, "test").images, (3, 1, 1, 1))  # more than a batch

    assert np.allclose(extractor.features(images)[300:], extractor.features(images[300:]), atol=1e-5)
    assert extractor.features(images[:0]).shape == (0, 16)


def test_same_seed_same_bytes(prepared: Path, settings: config.Extractor, tmp_path: Path) -> None:
    def weights(name: str, seed: int) -> bytes:
        few = settings.model_copy(update={"steps": 5, "seed": seed})
        train_extractor(few, prepared, tmp_path / name, silent)
        return (tmp_path / name / "weights.safetensors").read_bytes()

    first = weights("first", 0)
    state = torch.random.get_rng_state()

    assert weights("again", 0) == first
    assert weights("other", 1) != first
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (tmp_path / "first/extractor.json").read_bytes() == (tmp_path / "again/extractor.json").read_bytes()


@pytest.mark.parametrize(
    ("has", "objective", "judged"),
    [
        ({"captions": False, "attributes": False}, ("label",), {"label"}),
        ({"classes": False, "captions": False}, ("attributes",), {"attribute/colour", "attribute/side"}),
        ({"classes": False, "attributes": False}, ("captions",), {"r_precision"}),
        ({"classes": False, "attributes": False, "captions": False}, ("instances",), set()),
    ],
)
def test_any_data_trains_an_encoder(
    has: dict[str, bool],
    objective: tuple[str, ...],
    judged: set[str],
    make_prepared: Callable[..., Path],
    settings: config.Extractor,
    tmp_path: Path,
) -> None:
    prepared = make_prepared(tmp_path / "prepared", **has)
    train_extractor(settings, prepared, tmp_path / "extractor", silent)
    extractor = load_extractor(tmp_path / "extractor", DatasetSpec.load(prepared / "dataset.json"))

    assert extractor.card.objective == objective
    assert set(extractor.card.test) == judged
    assert (tmp_path / "extractor/vocabulary.json").exists() == has.get("captions", True)

    # whatever it was trained by, images of one colour are nearer to each other than to images of other colours
    test = load_split(prepared, None, "test")
    features = extractor.features(test.images)
    colour = np.asarray(test.images).reshape(len(features), -1, 3).mean(1).argmax(1)
    distance = np.linalg.norm(features[:, None] - features, axis=2)
    same = colour[:, None] == colour
    assert distance[same].mean() < (0.98 if "attributes" in objective or not judged else 0.8) * distance[~same].mean()


def test_heads_that_are_not_there_are_refused(
    make_prepared: Callable[..., Path], settings: config.Extractor, tmp_path: Path
) -> None:
    prepared = make_prepared(tmp_path / "prepared", classes=False, captions=False)
    train_extractor(settings.model_copy(update={"steps": 2}), prepared, tmp_path / "extractor", silent)
    extractor = load_extractor(tmp_path / "extractor")

    with pytest.raises(Refused, match="no label head"):
        extractor.label_logits(np.zeros((1, 16)))
    with pytest.raises(Refused, match="no caption matcher"):
        extractor.text_features(["red"])


def copy_of(folder: Path, target: Path) -> Path:
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


@pytest.mark.parametrize("name", ["weights.safetensors", "vocabulary.json"])
def test_tampering_is_refused(extractor_folder: Path, tmp_path: Path, name: str) -> None:
    folder = copy_of(extractor_folder, tmp_path / "extractor")
    content = bytearray((folder / name).read_bytes())
    content[-3] ^= 1
    (folder / name).write_bytes(content)

    with pytest.raises(Refused, match=f"{name}: sha256 is .* it was changed"):
        load_extractor(folder)
    (folder / name).unlink()
    with pytest.raises(Refused, match=f"{name}: no such file"):
        load_extractor(folder)


def test_a_missing_or_foreign_card_is_refused(extractor_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"extractor\.json: no such file"):
        load_extractor(tmp_path)
    folder = copy_of(extractor_folder, tmp_path / "extractor")
    card = json.loads((folder / "extractor.json").read_text())
    (folder / "extractor.json").write_text(json.dumps(card | {"surprise": 1}))
    with pytest.raises(Refused, match="surprise: unknown key"):
        load_extractor(folder)


@pytest.mark.parametrize(
    "change", [{"size": 16}, {"channels": 1}, {"classes": ("red", "blue", "green")}, {"attributes": {}}]
)
def test_data_of_another_form_is_refused(prepared: Path, extractor_folder: Path, change: dict[str, object]) -> None:
    spec = DatasetSpec.load(prepared / "dataset.json").model_copy(update=change)

    with pytest.raises(Refused, match=f"{next(iter(change))}: the extractor has"):
        load_extractor(extractor_folder, spec)


def test_images_of_another_shape_or_type_are_refused(extractor_folder: Path) -> None:
    extractor = load_extractor(extractor_folder)

    for images in (np.zeros((2, 12, 12, 1), np.uint8), np.zeros((2, 12, 12, 3), np.float32)):
        with pytest.raises(Refused, match="the extractor judges uint8"):
            extractor.features(images)


def test_a_batch_larger_than_the_data_is_refused(prepared: Path, settings: config.Extractor, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"extractor\.batch: found 301; take 2 to 300"):
        train_extractor(settings.model_copy(update={"batch": 301}), prepared, tmp_path / "out", silent)


def test_a_loss_that_is_not_finite_leaves_nothing(prepared: Path, settings: config.Extractor, tmp_path: Path) -> None:
    with pytest.raises(Failed, match=r"choose a smaller extractor\.lr"):
        train_extractor(settings.model_copy(update={"lr": 1e30, "steps": 20}), prepared, tmp_path / "out", silent)
    assert not (tmp_path / "out").exists()


def test_instance_loss_against_the_formula() -> None:
    first, second = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), torch.eye(3, 4)
    views = torch.nn.functional.normalize(torch.cat([first, second]), dim=1).double().numpy()
    similarity = np.exp(views @ views.T / 0.2)
    pairs = [(i, (i + 3) % 6) for i in range(6)]
    expected = np.mean([-np.log(similarity[i, j] / (similarity[i].sum() - similarity[i, i])) for i, j in pairs])

    assert instance_loss(first, second).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.skipif("GANLIB_REAL_DATA" not in os.environ, reason="GANLIB_REAL_DATA names no folder with mnist/")
def test_reads_real_digits(tmp_path: Path) -> None:
    source = str(Path(os.environ["GANLIB_REAL_DATA"]) / "mnist")
    ingest = config.Ingest(source="mnist", path=source, size=28, channels=1, limit=3000)
    prepare(ingest, tmp_path, tmp_path / "prepared", silent)
    train_extractor(config.Extractor(width=16, steps=120), tmp_path / "prepared", tmp_path / "extractor", silent)

    assert ExtractorCard.load(tmp_path / "extractor/extractor.json").test["label"] >= 0.93
