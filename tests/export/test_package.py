"""Packages as `ganlib export` writes them: whole or not there, and used without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ganlib.card import Latency, ModelCard
from ganlib.config import Export
from ganlib.data.store import to_uint8
from ganlib.export import package, variants
from ganlib.export.latency import described
from ganlib.export.onnx import evaluating
from ganlib.export.package import write_package
from ganlib.inference.images import read_facts
from ganlib.inference.latents import latents
from ganlib.inference.package import open_package
from ganlib.inference.request import Request
from ganlib.inference.sample import Generator
from ganlib.inference.session import open_session
from ganlib.inference.verify import Reference, verify
from ganlib.problems import Failed, Refused

METRICS = {"frechet_distance": 12.5, "attribute_accuracy/petal_colour": 1}
PROTOCOL = {"frechet_distance": {"samples": 2000, "floor": 0.1}}


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    folder = tmp_path / "reports"
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    (folder / "protocol.json").write_text(json.dumps(PROTOCOL))
    return folder


def write(
    family: Any, out: Path, embedded: Path | None = None, reports: Path | None = None, **config: Any
) -> ModelCard:
    return write_package(family, family.card(), embedded, reports, Export(**config), out, lambda line: None)


def test_text_package_holds_all_that_a_server_needs(
    tiny: SimpleNamespace, tmp_path: Path, embedded: Path, reports: Path
) -> None:
    family, out = tiny.Family("text"), tmp_path / "models" / "tiny-text" / "package"
    card = write(family, out, embedded, reports, licence="CC-BY-4.0")
    names = {"card.json", "generator.onnx", "generator.float16.onnx", "preview.png", "reference.safetensors"}
    names |= {"text_encoder.onnx", "tokenizer.json"}
    assert {path.name for path in out.iterdir()} == names
    assert [path.name for path in out.parent.iterdir()] == ["package"]
    assert open_package(out).card == card == ModelCard.load(out / "card.json")
    assert set(card.files) == names - {"card.json"}
    assert (card.metrics, card.protocol, card.licence) == (METRICS, PROTOCOL, "CC-BY-4.0")
    keys = [f"{batch}{end}" for batch in (1, 7, 64) for end in ("", "@0.05")]
    assert all(0 < card.parity[f"error/{key}"] < 1e-5 for key in keys)
    for name in ("text_encoder.onnx", "tokenizer.json"):
        assert (out / name).read_bytes() == (embedded / name).read_bytes()


@pytest.mark.parametrize("kind", ["none", "class", "text"])
def test_the_runtimes_images_are_torchs(tiny: SimpleNamespace, packed: Callable[[str], Path], kind: str) -> None:
    family = tiny.Family(kind)
    generator = Generator(open_package(packed(kind)), "cpu", threads=1)
    request = {"none": Request(), "class": Request(class_name="rose"), "text": Request(prompt="a red rose")}[kind]
    request = Request(request.prompt, request.class_name, seed=11, count=9, truncation=0.8)
    condition = generator.condition(request)
    with evaluating(family):
        z = torch.from_numpy(latents(range(11, 20), family.latent, 0.8))
        repeated = None if condition is None else torch.from_numpy(np.repeat(condition, 9, axis=0))
        expected = to_uint8(family.sample(z, repeated)).numpy().astype(int)
    assert np.abs(generator.generate(request).images - expected).max() <= 1


def test_preview_is_the_runtimes_grid(tiny: SimpleNamespace, tmp_path: Path) -> None:
    write(tiny.Family("class", channels=1), tmp_path / "package")
    opened = open_package(tmp_path / "package")
    preview = tmp_path / "package" / "preview.png"
    facts = read_facts(preview)
    assert (facts.model, facts.seed, facts.count) == ("tiny-class", 0, 24)
    assert facts.model_sha256 == opened.sha256("generator.onnx")
    with Image.open(preview) as image:
        sheet = np.asarray(image)
    assert sheet.shape == (3 * 98 - 2, 8 * 98 - 2)  # a row for each of 3 classes, 8 pixels enlarged to 96
    images = Generator(opened, "cpu").generate(Request(class_name="poppy", count=8)).images
    np.testing.assert_array_equal(sheet[98:194:12, 0:96:12], images[0, :, :, 0])
    np.testing.assert_array_equal(sheet[98:194:12, 7 * 98 : 7 * 98 + 96 : 12], images[7, :, :, 0])


def test_the_same_weights_are_the_same_package(
    tiny: SimpleNamespace, packed: Callable[[str], Path], tmp_path: Path, embedded: Path
) -> None:
    write(tiny.Family("text"), tmp_path / "package", embedded)
    one, other = (ModelCard.load(folder / "card.json") for folder in (packed("text"), tmp_path / "package"))
    assert one.latency is not None  # which alone is another each time
    assert one.model_copy(update={"latency": None}) == other.model_copy(update={"latency": None})
    for path in packed("text").iterdir():
        assert path.name == "card.json" or path.read_bytes() == (tmp_path / "package" / path.name).read_bytes()


@pytest.mark.parametrize("kind", ["none", "class", "text"])
def test_the_reference_holds_torchs_images_at_both_ends_of_truncation(
    tiny: SimpleNamespace, packed: Callable[[str], Path], kind: str
) -> None:
    family, opened = tiny.Family(kind), open_package(packed(kind))
    found = Reference.of(opened)
    assert found is not None
    np.testing.assert_array_equal(found.truncation, [1.0] * 8 + [0.05] * 8)
    assert len(set(found.seeds)) == 16
    for i in (0, 7, 8, 15):
        z = latents([int(found.seeds[i])], family.latent, float(found.truncation[i]))
        np.testing.assert_array_equal(found.z[i], z[0])
    condition = None if found.condition is None else torch.from_numpy(found.condition)
    with evaluating(family):
        expected = to_uint8(family.sample(torch.from_numpy(found.z), condition)).numpy()
    np.testing.assert_array_equal(found.images, expected)
    assert np.abs(found.z[:8]).max() > 1 > 0.1 > np.abs(found.z[8:]).max()
    if kind == "text":
        assert found.prompt == "red rose with"
        generator = Generator(opened, "cpu", precision="float32")
        np.testing.assert_array_equal(found.embedding, generator.embed(found.prompt))
    else:
        assert (found.prompt, found.embedding) == (None, None)


def test_every_graph_says_what_it_is(packed: Callable[[str], Path]) -> None:
    opened = open_package(packed("class"))
    said = {precision: open_session(opened.graph(precision), "cpu").metadata for precision in ("float32", "float16")}
    assert {precision: one["precision"] for precision, one in said.items()} == {p: p for p in said}
    for key in ("name", "family", "weights_sha256", "latent", "condition", "classes", "steps", "commit", "licence"):
        assert said["float16"][key] == said["float32"][key], key
    assert (opened.folder / "generator.float16.onnx").stat().st_size < opened.generator.stat().st_size


def test_the_latency_is_said_and_recorded(tiny: SimpleNamespace, tmp_path: Path) -> None:
    family, lines = tiny.Family("none"), list[str]()
    card = write_package(family, family.card(), None, None, Export(), tmp_path / "package", lines.append)
    assert card.latency is not None
    assert f"tiny-none: {described(card.latency)}" in lines
    assert "float16 " in described(card.latency)


def test_a_broken_package_is_not_written(
    tiny: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `ganlib export --check` would find fails the export itself."""
    family = tiny.Family("none")
    kept = package.write_reference

    def other(family: Any, drawing: Any, tokenizer: Path | None, path: Path) -> None:
        family.networks["generator"].layers[3].bias.data += 0.1
        kept(family, drawing, tokenizer, path)

    monkeypatch.setattr(package, "write_reference", other)
    with pytest.raises(Failed, match="tiny-none: float32 on cpu: images differ from torch's by up to"):
        write(family, tmp_path / "out" / "package")
    assert list((tmp_path / "out").iterdir()) == []


def test_int8_is_preferred_and_drawn_where_it_is_good(
    tiny: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = {f"{p}/{b}": t for p, t in (("float32", 2.0), ("float16", 2.0), ("int8", 1.0)) for b in (1, 7, 64)}
    measured = Latency(machine="a machine", threads=1, milliseconds=figures)
    monkeypatch.setattr(variants, "measure_latency", lambda graphs, drawing: measured)
    family, out = tiny.Family("class"), tmp_path / "package"
    arguments = (family, family.card(), None, None, Export(), out, lambda line: None)
    card = write_package(*arguments, measure=lambda sample: {"frechet_distance": 3.0})
    assert (card.preferred, card.variants["int8"].value) == ({"cpu": "int8"}, 3.0)
    assert Generator(open_package(out), "cpu").precision == "int8"
    facts = read_facts(out / "preview.png")
    assert (facts.precision, facts.model_sha256) == ("int8", card.files["generator.int8.onnx"].sha256)
    assert verify(out, lambda line: None, "cpu").card == card


def test_a_violation_leaves_nothing_and_keeps_what_stood_there(tiny: SimpleNamespace, tmp_path: Path) -> None:
    family, out = tiny.Family("none"), tmp_path / "models" / "package"
    plain = family.sample
    family.sample = lambda z, condition: plain(z, condition) * (1.0 if z.shape[0] < 50 else 0.5)
    with pytest.raises(Failed, match="tiny-none: batch 64: ONNX and torch differ by"):
        write(family, out)
    assert list(out.parent.iterdir()) == []
    family.sample = plain
    card = write(family, out)
    with pytest.raises(Failed, match="tolerance 1e-12"):
        write(family, out, tolerance=1e-12)
    assert open_package(out).card == card
    assert list(out.parent.iterdir()) == [out]


def test_weights_that_are_no_numbers_are_not_packed(tiny: SimpleNamespace, tmp_path: Path) -> None:
    family = tiny.Family("none")
    with torch.no_grad():
        family.networks["generator"].layers[0].weight[0, 0] = torch.nan
    with pytest.raises(Failed, match="differ by nan"):
        write(family, tmp_path / "out" / "package")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_missing_report_is_said_and_a_broken_one_refused(
    tiny: SimpleNamespace, tmp_path: Path, reports: Path
) -> None:
    family, lines = tiny.Family("none"), list[str]()
    card = write_package(family, family.card(), None, tmp_path / "none", Export(), tmp_path / "package", lines.append)
    assert card.metrics == {}
    assert lines[0] == "tiny-none: not evaluated, so the card has no metrics; `ganlib evaluate tiny-none` measures them"
    for content, message in (
        ("{", "metrics.json: "),
        ("[1]", "metrics.json: found list; expected an object"),
        ('{"frechet_distance": "low"}', "metrics.json: frechet_distance: found 'low'; expected a finite number"),
        ('{"frechet_distance": NaN}', "metrics.json: frechet_distance: found nan; expected a finite number"),
    ):
        (reports / "metrics.json").write_text(content)
        with pytest.raises(Refused, match=message):
            write(family, tmp_path / "other", reports=reports)
    (reports / "metrics.json").write_text("{}")
    (reports / "protocol.json").unlink()
    with pytest.raises(Refused, match=r"protocol.json: .*run `ganlib evaluate tiny-none` again"):
        write(family, tmp_path / "other", reports=reports)
    assert not (tmp_path / "other").exists()


def test_a_text_model_needs_its_encoder(tiny: SimpleNamespace, tmp_path: Path, embedded: Path) -> None:
    family = tiny.Family("text")
    with pytest.raises(Refused, match="tiny-text: reads text, and no embedded captions were given"):
        write(family, tmp_path / "package")
    with pytest.raises(Refused, match=r"text_encoder.onnx: no such file; run `ganlib embed`"):
        write(family, tmp_path / "package", tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    for name in ("text_encoder.onnx", "tokenizer.json"):
        (other / name).write_bytes((embedded / name).read_bytes())
    np.save(other / "embeddings.npy", np.zeros((4, 7), np.float32))
    with pytest.raises(Refused, match=r"embeddings.npy: found \(4, 7\); tiny-text was trained on vectors of 5"):
        write(family, tmp_path / "package", other)
    assert not (tmp_path / "package").exists()


def test_the_package_works_where_torch_is_not(packed: Callable[[str], Path], tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; "  # an import of torch raises
        "from pathlib import Path; from ganlib.inference.command import generate; "
        "generate(Path(sys.argv[1]), 'a red rose', None, 1, 7, 1.0, Path(sys.argv[2]), print)"
    )
    arguments = [str(packed("text")), str(tmp_path / "rose.png")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert read_facts(tmp_path / "rose.png").prompt == "a red rose"
