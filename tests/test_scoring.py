"""`ganlib freeze` and `ganlib score` with packages of 8 x 8 pixels, whose images are noise to an extractor that has
learnt little: the numbers mean nothing, but every way through is taken."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from flows.gate import Rules, judge
from ganlib import config, scoring
from ganlib.__main__ import main
from ganlib.card import ModelCard
from ganlib.data.store import Split, load_split
from ganlib.evaluation.extractor import train_extractor
from ganlib.evaluation.frozen import freeze, open_frozen
from ganlib.evaluation.score import measure
from ganlib.files import sha256_of
from ganlib.inference.latents import latents
from ganlib.inference.package import open_package
from ganlib.inference.request import Request
from ganlib.inference.sample import Generator
from ganlib.problems import Refused
from ganlib.score import Score
from tests.conftest import make_split, write_prepared
from tests.packages import CLASSES, build_package, seal

SETTINGS = config.Evaluate(samples=40, prompts=30, subsets=2, subset_size=10, batch=16)
EXTRACTOR = config.Extractor(width=4, features=8, steps=20, batch=16)


def silent(line: str) -> None:
    pass


def split(size: int = 8, classes: tuple[str, ...] = CLASSES) -> Split:
    """Images of three classes by brightness, with captions of which the packages' encoder knows a few words."""
    made = make_split(100, size=size, classes=len(classes))
    made = dataclasses.replace(made, spec=made.spec.model_copy(update={"classes": classes}))
    made.images[:] = made.images // 4 + 60 * made.labels[:, None, None, None].astype(np.uint8)
    captions = [["a red rose", "a blue poppy"][: 1 + i % 2] for i in range(100)]
    made.items["captions"] = captions
    first = np.concatenate([[0], np.cumsum([len(own) for own in captions])])
    return dataclasses.replace(made, embeddings=None, first_caption=first)


def write_project(folder: Path, made: Split) -> Path:
    """A project with prepared data, an extractor and a params.yaml."""
    write_prepared(made, folder)
    train_extractor(EXTRACTOR, folder / "data" / "prepared", folder / "models" / "extractor", silent)
    content = SETTINGS.model_dump(mode="json")
    (folder / "params.yaml").write_text(f"models: []\ntrain: {{}}\nevaluate: {json.dumps(content)}\n")
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("project"), split())


@pytest.fixture(scope="module")
def frozen(project: Path) -> Path:
    out = project / "frozen"
    freeze(project / "data" / "prepared", project / "models" / "extractor", SETTINGS, out, silent)
    return out


@pytest.fixture(autouse=True)
def _short_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "_SECONDS", 0.01)


def without_latency(path: Path) -> dict:
    content = json.loads(path.read_text())
    assert content.pop("latency_ms")
    return content


@pytest.mark.parametrize("kind", ["none", "class", "text"])
def test_a_package_of_each_kind_is_scored_again_to_the_byte(kind: str, frozen: Path, tmp_path: Path) -> None:
    package = build_package(tmp_path / "package", kind)
    first, again = (scoring.score(package, frozen, 3, tmp_path / f"{name}.json", silent) for name in "ab")

    assert first == again == Score.load(tmp_path / "a.json")
    assert json.dumps(without_latency(tmp_path / "a.json")) == json.dumps(without_latency(tmp_path / "b.json"))
    assert first.package == sha256_of(package / "card.json")
    assert first.frozen == sha256_of(frozen / "frozen.json")
    assert (first.name, first.seeds, first.precision) == (f"tiny-{kind}", (0, 1, 2), "float32")
    expected = {"1", "16"} | ({"prompt"} if kind == "text" else set())
    assert first.latency_ms.keys() == expected
    assert all(0 < value < 1000 for value in first.latency_ms.values())
    assert len(first.metrics["frechet_distance"]) == 3


def test_other_weights_other_seeds_and_other_times(frozen: Path, tmp_path: Path) -> None:
    first, other = (
        scoring.score(build_package(tmp_path / f"{n}", "class", seed=n), frozen, 2, tmp_path / f"{n}.json", silent)
        for n in (1, 2)
    )
    more = scoring.score(tmp_path / "1", frozen, 3, tmp_path / "more.json", silent)

    assert first != other
    assert first.metrics["frechet_distance"] != other.metrics["frechet_distance"]
    assert more.metrics["frechet_distance"][:2] == first.metrics["frechet_distance"]
    assert first == first.model_copy(update={"latency_ms": {"1": 9.0}, "machine": "another"})
    assert hash(first) == hash(first.model_copy(update={"latency_ms": {}}))
    assert first != first.model_copy(update={"frozen": "other"})


def test_scores_are_of_the_images_that_the_package_gives_to_people(frozen: Path, tmp_path: Path) -> None:
    package = open_package(build_package(tmp_path / "package", "text"))
    generator, opened = Generator(package, "cpu"), open_frozen(frozen)
    embeddings = scoring._embeddings(generator, opened, silent)
    texts = [text for own in opened.test.items["captions"] for text in own]
    sample = scoring._sampler(generator, opened.test.spec)

    assert embeddings is not None
    assert len(embeddings) == len(texts)
    for row in (0, 7, len(texts) - 1):
        request = Request(prompt=texts[row], seed=11, count=3)
        assert np.array_equal(sample(embeddings[[row]].repeat(3, axis=0), 3, 11), generator.generate(request).images)
    found = scoring.score(tmp_path / "package", frozen, 2, tmp_path / "score.json", silent)
    alone = measure(opened, sample, "text", embeddings, 1, silent)
    assert {name: values[1] for name, values in found.metrics.items()} == {name: alone[name] for name in found.metrics}


def test_classes_are_asked_for_by_name(frozen: Path, tmp_path: Path) -> None:
    """A package that numbers its classes otherwise, and has one more, is asked for the same flowers."""
    folder = build_package(tmp_path / "package", "class")
    card = ModelCard.load(folder / "card.json")
    renamed = ("rose", "daisy", "poppy")  # what the package calls 0, 1 and 2
    seal(folder, card.model_copy(update={"classes": renamed}))
    generator = Generator(open_package(folder), "cpu")
    labels = np.array([0, 1, 2])  # daisy, poppy, rose of the frozen set

    images = scoring._sampler(generator, open_frozen(frozen).test.spec)(labels, 3, 5)

    z = latents(range(5, 8), card.latent)
    assert np.array_equal(images, generator.render(z, np.array([1, 2, 0])))
    seal(folder, card.model_copy(update={"classes": ("rose", "daisy", "tulip")}))
    with pytest.raises(Refused, match="classes: found no 'poppy', and the frozen set asks for it"):
        scoring.score(folder, frozen, 2, tmp_path / "score.json", silent)
    assert not (tmp_path / "score.json").exists()


def test_images_of_another_size_are_refused(frozen: Path, tmp_path: Path) -> None:
    package = build_package(tmp_path / "grey", "none", channels=1)

    with pytest.raises(Refused, match="its images have 8 pixels and 1 channels, those of the frozen set 8 and 3"):
        scoring.score(package, frozen, 2, tmp_path / "score.json", silent)
    with pytest.raises(Refused, match="seeds: found 0"):
        scoring.score(package, frozen, 0, tmp_path / "score.json", silent)


def test_a_generator_with_one_image_is_scored_and_not_promoted(frozen: Path, tmp_path: Path) -> None:
    """What weights that are not numbers give: the runtime makes one grey image of them, and no error."""
    import onnx
    from onnx import numpy_helper

    folder = build_package(tmp_path / "package", "class")
    model = onnx.load(folder / "generator.onnx")
    for initializer in model.graph.initializer:
        if initializer.name == "dense":
            content = np.full_like(numpy_helper.to_array(initializer), np.nan)
            initializer.CopyFrom(numpy_helper.from_array(content, "dense"))
    onnx.save(model, folder / "generator.onnx")
    seal(folder, ModelCard.load(folder / "card.json"))

    found = scoring.score(folder, frozen, 2, tmp_path / "score.json", silent)
    verdict = judge(found, None, Rules(floor=1e9))

    assert found.metrics["diversity"] == pytest.approx((0.0, 0.0), abs=1e-6)
    assert not verdict.promote
    unmet = " ".join(row[1] for row in verdict.rows if row[0] == "**no**")
    assert "least diversity least diversity_within_class least diversity_within_class/daisy" in unmet


def test_a_score_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"score.json: no such file; `ganlib score` writes it"):
        Score.load(tmp_path / "score.json")
    for content, said in (("{", "score.json"), ('{"format": 1}', "name: missing"), ("[]", "score.json")):
        (tmp_path / "score.json").write_text(content)
        with pytest.raises(Refused, match=said):
            Score.load(tmp_path / "score.json")


def test_values_that_are_not_finite_survive_the_file(tmp_path: Path) -> None:
    found = Score(
        name="a", package="b", frozen="c", version="1", precision="float32", seeds=(0, 1),
        metrics={"frechet_distance": (float("nan"), float("inf"))},
    )  # fmt: skip
    found.save(tmp_path / "score.json")
    back = Score.load(tmp_path / "score.json").metrics["frechet_distance"]

    assert np.isnan(back[0])
    assert np.isposinf(back[1])


def test_the_commands(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ganlib(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ganlib", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err  # type: ignore[return-value]

    monkeypatch.chdir(tmp_path)
    build_package(tmp_path / "package", "class")
    params = str(project / "params.yaml")

    code, out, _ = ganlib("freeze", "--out", "frozen", "--params", params)
    assert code == 0
    assert "20 real images" in out
    assert len(load_split(tmp_path / "frozen" / "prepared", None, "test").images) == 20
    code, _, error = ganlib("freeze", "--out", "frozen", "--params", params)
    assert (code, error.count("\n")) == (2, 1)
    assert "is there already" in error

    code, out, _ = ganlib("score", "package", "--frozen", "frozen", "--seeds", "2", "--out", "a.json")
    assert code == 0
    assert out.rstrip().endswith("wrote a.json")
    assert Score.load(tmp_path / "a.json").seeds == (0, 1)
    changed = tmp_path / "frozen" / "prepared" / "images.npy"
    changed.write_bytes(changed.read_bytes()[:-1] + b"x")
    code, _, error = ganlib("score", "package", "--frozen", "frozen", "--out", "b.json")
    assert (code, error.count("\n")) == (2, 1)
    assert "it was changed" in error
    assert not (tmp_path / "b.json").exists()
