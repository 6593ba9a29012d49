"""PNG files: what they say of themselves, by Pillow and by their raw chunks."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganlib.inference.images import Facts, add_png, grid, png, read_facts, unsigned, write_png
from ganlib.problems import Refused

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
FACTS = Facts(
    model="flowers-text",
    model_sha256="0123456789abcdef" * 4,
    text_encoder_sha256="f" * 64,
    prompt="a red  rose,\nwith petals",
    unknown_words=("zorp",),
    seed=2**63 - 1,
    truncation=0.7,
    size=8,
    version="0.1.0",
)


def chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    """Type and data of each chunk, the checksums verified (PNG specification, section 5.3)."""
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    found, at = [], 8
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        kind, data = content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        assert struct.unpack(">I", content[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + data)
        found.append((kind, data))
        at += 12 + length
    return found


def test_pixels_and_facts_come_back(tmp_path: Path) -> None:
    path = write_png(tmp_path / "image.png", PIXELS, FACTS)
    assert read_facts(path) == FACTS
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), PIXELS)
    grey = write_png(tmp_path / "grey.png", PIXELS[..., :1], FACTS)
    with Image.open(grey) as image:
        assert image.mode == "L"
        np.testing.assert_array_equal(np.asarray(image), PIXELS[..., 0])


def test_raw_chunks_are_what_other_programs_read() -> None:
    found = chunks(png(PIXELS, FACTS))
    ((keyword, text),) = [data.split(b"\0", 1) for kind, data in found if kind == b"tEXt"]
    assert keyword == b"parameters"
    assert text.decode("latin-1") == (
        "a red rose, with petals\nSteps: 1, Sampler: GAN, Seed: 9223372036854775807, Size: 8x8, "
        "Model hash: 0123456789, Model: flowers-text, Truncation: 0.7, Version: ganlib 0.1.0"
    )
    (itxt,) = [data for kind, data in found if kind == b"iTXt"]
    keyword, rest = itxt.split(b"\0", 1)
    assert keyword == b"ganlib"
    assert rest[:4] == b"\0\0\0\0"  # not compressed, no method, no language, no translated keyword
    assert json.loads(rest[4:]) == {
        "model": "flowers-text",
        "model_sha256": "0123456789abcdef" * 4,
        "text_encoder_sha256": "f" * 64,
        "prompt": "a red  rose,\nwith petals",
        "unknown_words": ["zorp"],
        "class_name": None,
        "seed": 2**63 - 1,
        "count": 1,
        "truncation": 0.7,
        "to_seed": None,
        "to_prompt": None,
        "position": None,
        "precision": "float32",
        "size": 8,
        "version": "0.1.0",
    }
    assert [kind for kind, _ in found].index(b"tEXt") < [kind for kind, _ in found].index(b"IDAT")


def test_other_scripts_and_classes_survive(tmp_path: Path) -> None:
    facts = FACTS.model_copy(update={"prompt": "красная роза 赤い", "count": 4})
    path = write_png(tmp_path / "image.png", PIXELS, facts)
    assert read_facts(path).prompt == "красная роза 赤い"
    with Image.open(path) as image:
        assert image.text["parameters"].startswith("красная роза 赤い\nSteps: 1")  # type: ignore[attr-defined]
    named = FACTS.model_copy(update={"prompt": None, "class_name": 'rose, "wild"'})
    assert named.parameters() == (
        "Steps: 1, Sampler: GAN, Seed: 9223372036854775807, Size: 8x8, Model hash: 0123456789, Model: flowers-text, "
        'Truncation: 0.7, Class: "rose, \\"wild\\"", Version: ganlib 0.1.0'
    )


def test_the_same_image_is_the_same_file() -> None:
    assert png(PIXELS, FACTS) == png(PIXELS.copy(), FACTS.model_copy())


def test_files_without_facts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no such file"):
        read_facts(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(Refused, match=r"text\.png: not a readable PNG file"):
        read_facts(tmp_path / "text.png")
    Image.fromarray(PIXELS).save(tmp_path / "plain.png")
    with pytest.raises(Refused, match=r"plain\.png: says nothing of ganlib"):
        read_facts(tmp_path / "plain.png")
    (tmp_path / "cut.png").write_bytes(png(PIXELS, FACTS)[:-40])
    with pytest.raises(Refused, match=r"cut\.png: not a readable PNG file"):
        read_facts(tmp_path / "cut.png")


def test_an_image_never_takes_the_place_of_another(tmp_path: Path) -> None:
    first = add_png(tmp_path, "flowers-7", PIXELS, FACTS)
    assert first.name == "flowers-7.png"
    assert add_png(tmp_path, "flowers-7", PIXELS, FACTS) == first  # the same image is the same file
    other = FACTS.model_copy(update={"prompt": "a blue rose"})
    second, third = add_png(tmp_path, "flowers-7", PIXELS, other), add_png(tmp_path, "flowers-7", 255 - PIXELS, FACTS)
    assert (second.name, third.name) == ("flowers-7-2.png", "flowers-7-3.png")
    assert [read_facts(path).prompt for path in (first, second, third)] == [FACTS.prompt, "a blue rose", FACTS.prompt]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flowers-7-2.png", "flowers-7-3.png", "flowers-7.png"]


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 1), (2, 1, 2), (5, 2, 3), (9, 3, 3), (10, 3, 4)])
def test_grid_holds_every_image_in_order(count: int, rows: int, columns: int) -> None:
    images = np.random.default_rng(count).integers(0, 255, (count, 4, 6, 3), np.uint8)
    sheet = grid(images)
    assert sheet.shape == (rows * 6 - 2, columns * 8 - 2, 3)
    for i, image in enumerate(images):
        top, left = i // columns * 6, i % columns * 8
        np.testing.assert_array_equal(sheet[top : top + 4, left : left + 6], image)
    shown = count * 4 * 6 * 3
    assert int((sheet == 255).sum()) == sheet.size - shown  # all else is white


def test_parameters_tell_of_an_interpolation_and_of_other_numbers() -> None:
    facts = FACTS.model_copy(
        update={"to_seed": 9, "to_prompt": "blue, small", "position": 0.25, "precision": "float16", "seed": 7}
    )
    assert facts.parameters() == (
        "a red rose, with petals\nSteps: 1, Sampler: GAN, Seed: 7, Size: 8x8, Model hash: 0123456789, "
        'Model: flowers-text, Truncation: 0.7, To seed: 9, To prompt: "blue, small", Position: 0.25, '
        "Precision: float16, Version: ganlib 0.1.0"
    )
    frames = facts.model_copy(update={"to_prompt": None, "position": None, "count": 5, "precision": "float32"})
    assert frames.parameters().endswith("Truncation: 0.7, Batch size: 5, To seed: 9, Version: ganlib 0.1.0")


def marked(content: bytes, facts: Facts) -> bytes:
    """Stands for a signature: a chunk `caBX` after the header, another one each time."""
    marked.calls += 1  # type: ignore[attr-defined]
    data = b"caBX" + f"{facts.seed} {marked.calls}".encode()  # type: ignore[attr-defined]
    chunk = struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    return content[:33] + chunk + content[33:]  # 8 bytes of signature, 25 of IHDR


marked.calls = 0  # type: ignore[attr-defined]


def test_signed_files_hold_the_same_image(tmp_path: Path) -> None:
    content = png(PIXELS, FACTS)
    assert unsigned(marked(content, FACTS)) == unsigned(content) == content
    assert [kind for kind, _ in chunks(marked(content, FACTS))][:2] == [b"IHDR", b"caBX"]
    assert unsigned(b"hello") == b"hello"
    assert unsigned(content[:40]) == content[:40]
    path = write_png(tmp_path / "image.png", PIXELS, FACTS, marked)
    assert read_facts(path) == FACTS
    assert unsigned(path.read_bytes()) == content


def test_an_image_is_signed_once_and_kept(tmp_path: Path) -> None:
    plain = add_png(tmp_path, "flowers-7", PIXELS, FACTS)
    assert add_png(tmp_path, "flowers-7", PIXELS, FACTS, marked) == plain  # the signature was missing
    signed = plain.read_bytes()
    assert b"caBX" in signed
    assert add_png(tmp_path, "flowers-7", PIXELS, FACTS, marked) == plain
    assert add_png(tmp_path, "flowers-7", PIXELS, FACTS) == plain
    assert plain.read_bytes() == signed  # and not taken away or made anew
    other = add_png(tmp_path, "flowers-7", 255 - PIXELS, FACTS, marked)
    assert other.name == "flowers-7-2.png"
    assert plain.read_bytes() == signed
