"""Packages: what is on disk is what the card says, or nothing is used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ganlib.card import ModelCard, Variant
from ganlib.inference.package import open_package
from ganlib.problems import Refused

TEXT_FILES = ("generator.onnx", "text_encoder.onnx", "tokenizer.json")


def test_opens_what_is_whole(build: Callable[..., Path]) -> None:
    for kind in ("none", "class", "text"):
        package = open_package(build(kind))
        assert package.card.condition.kind == kind
        assert package.generator.is_file()


@pytest.mark.parametrize("name", TEXT_FILES)
def test_a_changed_bit_is_refused(build: Callable[..., Path], name: str) -> None:
    folder = build("text")
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(Refused, match=rf"{name}: found sha256 .* the card says"):
        open_package(folder)


@pytest.mark.parametrize("name", TEXT_FILES)
def test_a_missing_or_cut_file_is_refused(build: Callable[..., Path], name: str) -> None:
    folder = build("text")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1])
    with pytest.raises(Refused, match=rf"{name}: found {len(content) - 1} bytes, the card says {len(content)}"):
        open_package(folder)
    (folder / name).unlink()
    with pytest.raises(Refused, match=rf"{name}: no such file"):
        open_package(folder)


@pytest.mark.parametrize("name", TEXT_FILES)
def test_a_card_that_forgets_a_file_is_refused(build: Callable[..., Path], name: str) -> None:
    folder = build("text")
    card = json.loads((folder / "card.json").read_text())
    del card["files"][name]
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(Refused, match=rf"card.json: files: {name} is missing, and a text model needs it"):
        open_package(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format: found 2"),
        ({"flavour": 1}, "flavour: unknown key"),
        ({"files": {}}, "not a package"),
        ({"classes": ["daisy"]}, "classes: found 1 names for 3 classes"),
        ({"latent": {"size": 0, "distribution": "normal"}}, "size 0"),
    ],
)
def test_an_unusable_card_is_refused(build: Callable[..., Path], changes: dict, message: str) -> None:
    folder = build("class")
    card = json.loads((folder / "card.json").read_text()) | changes
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(Refused, match=message):
        open_package(folder)


@pytest.mark.parametrize("name", ["../outside.bin", "/etc/hostname", "sub/file", "card.json"])
def test_a_card_cannot_point_elsewhere(build: Callable[..., Path], name: str) -> None:
    folder = build("none")
    card = json.loads((folder / "card.json").read_text())
    card["files"][name] = {"sha256": "0" * 64, "bytes": 1}
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(Refused, match="expected the plain name of a file"):
        open_package(folder)


def test_what_is_no_package_says_what_would_do(build: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(Refused, match="nowhere: no such folder"):
        open_package(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(Refused, match="empty: not a package"):
        open_package(tmp_path / "empty")
    model = tmp_path / "model"
    shutil.copytree(build("none"), model / "package")
    ModelCard.load(model / "package" / "card.json").model_copy(update={"files": {}}).save(model / "card.json")
    with pytest.raises(Refused, match=r"did you mean .*model/package\?"):
        open_package(model)


def test_other_files_in_the_folder_do_not_matter(build: Callable[..., Path]) -> None:
    folder = build("none")
    (folder / ".gitignore").write_text("/generator.onnx\n")
    assert open_package(folder).card.name == "tiny-none"


def with_half(folder: Path, reseal: Callable[[Path, ModelCard], None]) -> Path:
    """A package with a second graph, that its card calls float16."""
    shutil.copy(folder / "generator.onnx", folder / "generator.float16.onnx")
    card = ModelCard.load(folder / "card.json")
    half = Variant(file="generator.float16.onnx", psnr=66.0)
    reseal(folder, card.model_copy(update={"variants": {"float16": half}}))
    return folder


def test_the_graph_of_each_precision(build: Callable[..., Path], reseal: Callable[[Path, ModelCard], None]) -> None:
    folder = with_half(build("none"), reseal)
    package = open_package(folder)
    assert package.graph("float32") == folder / "generator.onnx"
    assert package.graph("float16") == folder / "generator.float16.onnx"
    with pytest.raises(Refused, match=r"^precision: found int8; .*package-none has float32, float16$"):
        package.graph("int8")
    with pytest.raises(Refused, match=r"^precision: found float16; .*package-class has float32$"):
        open_package(build("class")).graph("float16")


def test_a_variant_is_checked_like_every_file(
    build: Callable[..., Path], reseal: Callable[[Path, ModelCard], None]
) -> None:
    folder = with_half(build("none"), reseal)
    content = bytearray((folder / "generator.float16.onnx").read_bytes())
    content[100] ^= 1
    (folder / "generator.float16.onnx").write_bytes(content)
    with pytest.raises(Refused, match=r"generator\.float16\.onnx: found sha256"):
        open_package(folder)
    card = json.loads((folder / "card.json").read_text())
    del card["files"]["generator.float16.onnx"]
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(
        Refused, match=r"card\.json: variants\.float16: generator\.float16\.onnx is not among the files"
    ):
        open_package(folder)
