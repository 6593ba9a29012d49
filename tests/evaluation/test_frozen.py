from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ganlib import config
from ganlib.data.store import load_split
from ganlib.evaluation.features import load_extractor
from ganlib.evaluation.frozen import CARD, freeze, open_frozen
from ganlib.evaluation.suite import evaluate
from ganlib.files import sha256_of
from ganlib.problems import Refused

SETTINGS = config.Evaluate(samples=200, prompts=120, subsets=5, subset_size=50, batch=64, seed=9)


@pytest.fixture(scope="module")
def frozen(prepared: Path, extractor_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("frozen") / "set"
    freeze(prepared, extractor_folder, SETTINGS, out, lambda line: None)
    return out


@pytest.fixture
def copy(frozen: Path, tmp_path: Path) -> Path:
    """A frozen set of the test's own, to be spoiled."""
    return Path(shutil.copytree(frozen, tmp_path / "copy"))


def test_holds_the_test_split_and_the_extractor_and_nothing_of_the_train_split(
    frozen: Path, prepared: Path, extractor_folder: Path
) -> None:
    found, test = open_frozen(frozen), load_split(prepared, None, "test")

    assert np.array_equal(found.test.images, test.images)
    assert found.test.items.equals(test.items)
    assert found.test.spec.counts == {"train": 0, "test": len(test.images)}
    assert found.test.spec.classes == test.spec.classes
    assert found.extractor.hash == load_extractor(extractor_folder).hash
    assert np.array_equal(found.real, load_extractor(extractor_folder).features(test.images))
    assert len(np.load(frozen / "prepared/images.npy")) == len(test.images)
    with pytest.raises(Refused, match="no images in the split 'train'"):
        load_split(frozen / "prepared", None, "train")


def test_its_card_says_the_protocol_the_floor_and_where_it_is_from(
    frozen: Path, prepared: Path, extractor_folder: Path, tmp_path: Path
) -> None:
    card = open_frozen(frozen).card

    def noise(condition: np.ndarray | None, count: int, seed: int) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 256, (count, 12, 12, 3), dtype=np.uint8)

    settings = SETTINGS.model_copy(update={"seed": 0})
    report = evaluate(
        noise, "none", prepared, None, extractor_folder, settings, None, tmp_path / "report", lambda line: None
    )

    assert card.evaluate == settings
    assert card.floor == pytest.approx(report["frechet_distance_floor"])
    assert card.data["images.npy"] == sha256_of(prepared / "images.npy")
    assert set(card.files) == {
        "prepared/images.npy", "prepared/items.parquet", "prepared/dataset.json",
        "extractor/weights.safetensors", "extractor/vocabulary.json", "extractor/extractor.json",
    }  # fmt: skip


def test_the_same_data_give_the_same_hash_whatever_the_seed_of_the_reports(
    frozen: Path, prepared: Path, extractor_folder: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    other = SETTINGS.model_copy(update={"seed": 1})
    again = freeze(prepared, extractor_folder, other, tmp_path / "again", said.append)

    assert again == sha256_of(frozen / CARD) == open_frozen(frozen).sha256
    assert "120 real images; training images have a Frechet distance of" in said[0]
    more = SETTINGS.model_copy(update={"samples": 201})
    assert freeze(prepared, extractor_folder, more, tmp_path / "more", said.append) != again


def test_is_never_made_over(frozen: Path, prepared: Path, extractor_folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in frozen.rglob("*")}

    with pytest.raises(Refused, match="is there already, and a frozen set is never changed; name another folder"):
        freeze(prepared, extractor_folder, SETTINGS, frozen, lambda line: None)
    assert {path: path.stat().st_mtime_ns for path in frozen.rglob("*")} == before


@pytest.mark.parametrize("name", ["prepared/images.npy", "prepared/items.parquet", "extractor/weights.safetensors"])
def test_a_changed_file_is_refused(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[-1] ^= 1
    (copy / name).write_bytes(content)

    with pytest.raises(Refused, match=rf"{name}: found sha256 .*, frozen.json says .*; it was changed"):
        open_frozen(copy)


def test_a_missing_file_is_refused(copy: Path) -> None:
    (copy / "extractor/vocabulary.json").unlink()

    with pytest.raises(Refused, match=r"extractor/vocabulary.json: no such file, and frozen.json lists it"):
        open_frozen(copy)


def test_what_is_no_frozen_set_is_refused(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"no frozen set, it has no frozen.json; `ganlib freeze --out .*` makes one"):
        open_frozen(tmp_path)
    content = json.loads((copy / CARD).read_text())
    for change, said in (
        ({"extra": 1}, "extra: unknown key"),
        ({"format": 2}, "format: found 2"),
        ({"files": {"../../elsewhere": "0"}}, "files: found '../../elsewhere'; expected a path below the folder"),
    ):
        (copy / CARD).write_text(json.dumps(content | change))
        with pytest.raises(Refused, match=said):
            open_frozen(copy)


def test_data_and_extractor_must_fit(
    make_prepared: Callable[..., Path], extractor_folder: Path, tmp_path: Path
) -> None:
    bare = make_prepared(tmp_path / "bare", classes=False)

    with pytest.raises(Refused, match="classes: the extractor has"):
        freeze(bare, extractor_folder, SETTINGS, tmp_path / "out", lambda line: None)
    assert not (tmp_path / "out").exists()
