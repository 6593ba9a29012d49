"""A package checked anywhere: what is as at export passes line by line, and the first fault is one line."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper
from safetensors.numpy import load_file, save_file

from ganlib.card import ModelCard, Variant
from ganlib.inference import verify as module
from ganlib.inference.latents import latents
from ganlib.inference.package import REFERENCE, open_package
from ganlib.inference.sample import Generator
from ganlib.inference.verify import psnr, smoke, verify
from ganlib.problems import Failed, Refused
from tests.packages import CLASSES, build_package, save_encoder, save_generator, seal

KINDS = ("none", "class", "text")
COUNT = 6
PSNR = 60.0  # recorded of the float16 graph


def card_of(folder: Path) -> ModelCard:
    return ModelCard.load(folder / "card.json")


def say(path: Path, **metadata: str) -> None:
    """Let a graph say something of itself, beside what it says already."""
    model = onnx.load(path)
    helper.set_model_props(model, {one.key: one.value for one in model.metadata_props} | metadata)
    onnx.save(model, path)


def complete(folder: Path) -> Path:
    """Give a package all that `ganlib export` gives: metadata, a float16 graph (here in float32) and a reference."""
    card = card_of(folder)
    shutil.copy(folder / "generator.onnx", folder / "generator.float16.onnx")
    for precision, name in (("float32", "generator.onnx"), ("float16", "generator.float16.onnx")):
        say(
            folder / name,
            name=card.name,
            precision=precision,
            weights_sha256="a" * 64,
            latent=card.latent.model_dump_json(),
            condition=card.condition.model_dump_json(),
            classes=json.dumps(card.classes),
        )
    seal(folder, card)
    generator, kind = Generator(open_package(folder), "cpu"), card.condition.kind
    seeds, truncation = np.arange(COUNT, dtype=np.int64), np.array([1.0, 0.05] * (COUNT // 2))
    z = np.concatenate([latents([int(s)], card.latent, t) for s, t in zip(seeds, truncation, strict=True)])
    condition: NDArray[Any] | None = None
    if kind == "class":
        condition = np.arange(COUNT) % len(CLASSES)
    elif kind == "text":
        condition = np.random.default_rng(0).standard_normal((COUNT, card.condition.size)).astype(np.float32)
    tensors = {"seeds": seeds, "truncation": truncation, "z": z, "images": generator.render(z, condition)}
    if condition is not None:
        tensors["condition"] = condition
    if kind == "text":
        tensors["embedding"] = generator.embed("red rose")
    save_file(tensors, folder / REFERENCE, {"prompt": "red rose"} if kind == "text" else None)
    variants = {"float16": Variant(file="generator.float16.onnx", psnr=PSNR)}
    seal(folder, card.model_copy(update={"variants": variants}))
    return folder


@pytest.fixture
def whole(tmp_path: Path) -> Callable[[str], Path]:
    """A package with everything, of a kind of condition."""
    return lambda kind: complete(build_package(tmp_path / kind, kind))


def reference(folder: Path, **changes: NDArray[Any] | None) -> None:
    """Change tensors of a package's reference, or drop them, and seal it again."""
    tensors = load_file(folder / REFERENCE) | changes
    text = card_of(folder).condition.kind == "text"
    kept = {name: value for name, value in tensors.items() if value is not None}
    save_file(kept, folder / REFERENCE, {"prompt": "red rose"} if text else None)
    seal(folder, card_of(folder))


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_package_passes_a_line_a_check(whole: Callable[[str], Path], kind: str) -> None:
    folder, lines = whole(kind), list[str]()
    package = verify(folder, lines.append, "cpu")
    assert package == open_package(folder)
    graphs = "generator.onnx, generator.float16.onnx" + (", text_encoder.onnx" if kind == "text" else "")
    expected = [
        f"tiny-{kind}: {len(package.card.files)} files are those that the card lists, to the byte",
        f"tiny-{kind}: onnx.checker finds {graphs} sound",
        f"tiny-{kind}: each graph says of itself what the card says, and all are of the same weights",
        f"tiny-{kind}: seeds give the latents that they gave at export, within 0",
        f"tiny-{kind}: the prompt 'red rose' is encoded as at export, within 0 of its largest number",
        f"tiny-{kind}: float32 on cpu: images differ from torch's by 0 of 255 levels at most, on 0.00% of the values, "
        "in batches of 1, 7, 64",
    ]
    if kind != "text":
        del expected[4]
    assert lines[:-1] == expected
    # All are equal: as if one of 6 images' values, 6 * 8 * 8 * 3, were a level off.
    assert lines[-1].startswith(f"tiny-{kind}: float16 on cpu: images are at {10 * np.log10(255**2 * 1152):.1f} dB")
    smoke(Generator(package, "cpu"))
    smoke(Generator(package, "cpu", precision="float16"))


def test_a_change_after_export_is_refused(whole: Callable[[str], Path]) -> None:
    folder = whole("none")
    with (folder / "generator.float16.onnx").open("ab") as file:
        file.write(b"more")
    with pytest.raises(Refused, match=r"generator\.float16\.onnx: found \d+ bytes, the card says"):
        verify(folder, print, "cpu")


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("name", "other", "says name 'other' of itself, the card says 'tiny-class'"),
        ("precision", "int8", "says precision 'int8' of itself, the card says 'float16'"),
        ("weights_sha256", "b" * 64, f"says weights_sha256 '{'b' * 64}' of itself, generator.onnx says '{'a' * 64}'"),
        ("classes", '["rose", "poppy", "daisy"]', "says classes ['rose', 'poppy', 'daisy'] of itself, the card says"),
        ("latent", '{"size": 6, "distribution": "uniform"}', "says latent {'size': 6, 'distribution': 'uniform'}"),
        ("condition", "class", "says condition 'class' of itself, the card says {'kind': 'class', 'size': 3}"),
    ],
)
def test_a_graph_of_another_model_is_refused(whole: Callable[[str], Path], key: str, value: str, line: str) -> None:
    folder = whole("class")
    say(folder / "generator.float16.onnx", **{key: value})
    seal(folder, card_of(folder))
    with pytest.raises(Refused) as refused:
        verify(folder, lambda line: None, "cpu")
    assert f"generator.float16.onnx: {line}" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_graph_that_says_nothing_beside_a_reference_is_refused(whole: Callable[[str], Path]) -> None:
    folder = whole("none")
    save_generator("none", 3, folder / "generator.onnx")
    seal(folder, card_of(folder))
    with pytest.raises(Refused, match=r"generator\.onnx: says no name of itself; export the model again"):
        verify(folder, lambda line: None, "cpu")


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_other_weights_under_the_same_name_fail(whole: Callable[[str], Path], precision: str) -> None:
    """With metadata and card that agree: what remains are the images."""
    folder = whole("class")
    name = {"float32": "generator.onnx", "float16": "generator.float16.onnx"}[precision]
    metadata = {one.key: one.value for one in onnx.load(folder / name).metadata_props}
    save_generator("class", 3, folder / name, seed=2)
    say(folder / name, **metadata)
    seal(folder, card_of(folder))
    found = {
        "float32": r"images differ from torch's by up to \d+ levels of 255, \d\d\.\d\d% of the values; at most 1 level",
        "float16": r"images are at \d+\.\d dB of torch's; export found 60\.0, and from 54\.0 on it is rounding",
    }[precision]
    lines: list[str] = []
    with pytest.raises(Failed, match=rf"^tiny-class: {precision} on cpu: {found}"):
        verify(folder, lines.append, "cpu")
    assert len(lines) == (4 if precision == "float32" else 5)
    with pytest.raises(Failed, match=found):
        smoke(Generator(open_package(folder), "cpu", precision=precision))  # type: ignore[arg-type]


def test_a_level_here_and_there_is_rounding_and_more_is_not(whole: Callable[[str], Path]) -> None:
    folder = whole("none")
    images = load_file(folder / REFERENCE)["images"]
    few, many = images.copy(), images.copy()
    few.reshape(-1)[:: images.size // 10] ^= 1  # an image in six is the most: 10 or 11 of 1152
    many.reshape(-1)[::20] ^= 1
    reference(folder, images=few)
    verify(folder, lambda line: None, "cpu")
    reference(folder, images=many)
    with pytest.raises(Failed, match=r"by up to 1 levels of 255, 5\.\d\d% of the values; at most 1 level on 1\.00%"):
        verify(folder, lambda line: None, "cpu")
    noisy = card_of(folder).model_copy(update={"parity": {"error/1": 1.0, "differing/7": 0.03, "differing/64": 0.001}})
    seal(folder, noisy)  # as export has found it itself
    verify(folder, lambda line: None, "cpu")
    two = images.copy()
    two.reshape(-1)[0] ^= 2
    reference(folder, images=two)
    with pytest.raises(Failed, match="by up to 2 levels of 255"):
        verify(folder, lambda line: None, "cpu")


def test_a_variant_may_be_half_as_near_as_recorded(whole: Callable[[str], Path]) -> None:
    folder = whole("none")
    best = psnr(*(load_file(folder / REFERENCE)["images"],) * 2)
    for recorded, sound in ((best + 5.9, True), (best + 6.1, False)):
        variants = {"float16": Variant(file="generator.float16.onnx", psnr=recorded)}
        seal(folder, card_of(folder).model_copy(update={"variants": variants}))
        if sound:
            verify(folder, lambda line: None, "cpu")
        else:
            with pytest.raises(Failed, match="float16 on cpu: images are at"):
                verify(folder, lambda line: None, "cpu")


def test_other_latents_or_another_embedding_fail(whole: Callable[[str], Path]) -> None:
    folder = whole("text")
    reference(folder, seeds=np.arange(1, COUNT + 1))
    with pytest.raises(Failed, match="tiny-text: seeds give other latents than at export, by"):
        verify(folder, lambda line: None, "cpu")
    smoke(Generator(open_package(folder), "cpu"))  # which runs z as it stands
    reference(folder, seeds=np.arange(COUNT))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    save_encoder(len(tokenizer["vocabulary"]), folder / "text_encoder.onnx")
    vectors = load_file(folder / REFERENCE)["embedding"]
    reference(folder, embedding=vectors * np.float32(1.002))
    for check in (
        lambda: verify(folder, lambda line: None, "cpu"), lambda: smoke(Generator(open_package(folder), "cpu"))
    ):  # fmt: skip
        with pytest.raises(Failed, match=r"the prompt 'red rose' is encoded otherwise than at export, by 0\.00"):
            check()


@pytest.mark.parametrize(
    "changes",
    [
        {"z": None},
        {"z": np.zeros((COUNT, 7), np.float32)},
        {"images": np.zeros((COUNT, 8, 8, 1), np.uint8)},
        {"condition": np.zeros(COUNT, np.int32)},
        {"embedding": np.zeros((1, 5), np.float32)},
        {
            "seeds": np.zeros(0, np.int64), "truncation": np.zeros(0), "z": np.zeros((0, 6), np.float32),
            "images": np.zeros((0, 8, 8, 3), np.uint8), "condition": np.zeros(0, np.int64),
        },
    ],
)  # fmt: skip
def test_a_reference_of_another_shape_is_refused(whole: Callable[[str], Path], changes: dict[str, Any]) -> None:
    folder = whole("class")
    reference(folder, **changes)
    with pytest.raises(Refused, match=r"reference\.safetensors: found .*; the card describes .*; export the model"):
        verify(folder, lambda line: None, "cpu")


def test_a_reference_that_is_none_is_refused(whole: Callable[[str], Path]) -> None:
    folder = whole("none")
    (folder / REFERENCE).write_bytes(b"no safetensors")
    seal(folder, card_of(folder))
    with pytest.raises(Refused, match=r"reference\.safetensors: .*; export the model again"):
        verify(folder, lambda line: None, "cpu")


def test_an_unsound_graph_is_refused(whole: Callable[[str], Path]) -> None:
    folder = whole("none")
    model = onnx.load(folder / "generator.onnx")
    model.graph.node[1].input[0] = "nowhere"
    onnx.save(model, folder / "generator.onnx")
    seal(folder, card_of(folder))
    with pytest.raises(Refused, match=r"generator\.onnx: onnx\.checker says: [^\n]+; export the model again$"):
        verify(folder, lambda line: None, "cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_without_a_reference_is_looked_at(tmp_path: Path, kind: str) -> None:
    folder, lines = build_package(tmp_path / "package", kind), list[str]()
    verify(folder, lines.append, "cpu")
    assert lines[2:] == [
        f"tiny-{kind}: 1 of 1 graphs say nothing of themselves",
        f"tiny-{kind}: no reference.safetensors, so its images are only looked at; `ganlib export` writes one",
        f"tiny-{kind}: float32 on cpu: images are of the card's shape, and two seeds differ",
    ]
    smoke(Generator(open_package(folder), "cpu"))
    say(folder / "generator.onnx", name="other")
    seal(folder, card_of(folder))
    with pytest.raises(Refused, match="says name 'other' of itself"):
        verify(folder, lambda line: None, "cpu")


def test_a_latent_that_is_not_read_is_seen_without_a_reference(tmp_path: Path) -> None:
    folder = build_package(tmp_path / "package", "none")
    model = onnx.load(folder / "generator.onnx")
    (weights,) = [constant for constant in model.graph.initializer if constant.name == "dense"]
    weights.CopyFrom(onnx.numpy_helper.from_array(np.zeros((6, 96 * 16), np.float32), "dense"))
    onnx.save(model, folder / "generator.onnx")
    seal(folder, card_of(folder))
    with pytest.raises(Failed, match="tiny-none: float32: two seeds give the same image; the latent is not read"):
        smoke(Generator(open_package(folder), "cpu"))


def test_without_onnx_the_runtime_alone_checks_the_structure(
    whole: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None if name == "onnx" else found(name))
    lines: list[str] = []
    verify(whole("none"), lines.append, "cpu")
    assert lines[1] == ("tiny-none: onnx is not installed, so the graphs' structure is checked by the runtime alone")


def test_psnr_is_that_of_the_mean_squared_difference() -> None:
    images = np.zeros((2, 5, 5, 1), np.uint8)
    other = images.copy()
    other[0, 0, 0, 0] = 255
    assert psnr(other, images) == pytest.approx(10 * np.log10(50))  # 255^2 over 255^2 / 50
    assert psnr(images, other) == psnr(other, images)  # no wrapping of uint8
    other[0, 0, 0, 0] = 1
    assert psnr(images, images) == psnr(other, images) == pytest.approx(20 * np.log10(255) + 10 * np.log10(50))
