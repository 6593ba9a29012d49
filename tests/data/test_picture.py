"""Pictures of every kind that datasets hold, and what is wrong with those that cannot be used."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from ganlib.data.picture import decode
from ganlib.data.source import Unusable

Encode = Callable[..., bytes]


def noise(height: int = 40, width: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def reason(content: bytes, max_pixels: int = 10_000) -> tuple[str, str]:
    with pytest.raises(Unusable) as problem:
        decode(content, 8, 3, max_pixels)
    return problem.value.reason, problem.value.detail


def test_a_picture_of_the_right_size_is_left_as_it_is(encode: Encode) -> None:
    np.testing.assert_array_equal(decode(encode(noise()), 40, 3, 10_000), noise())


def test_the_square_in_the_middle_is_taken(encode: Encode) -> None:
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = (10, 200, 30)
    assert (decode(encode(wide), 20, 3, 10_000) == (10, 200, 30)).all()
    assert (decode(encode(wide.transpose(1, 0, 2)), 20, 3, 10_000) == (10, 200, 30)).all()


def test_reducing_is_antialiased(encode: Encode) -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = decode(encode(stripes), 16, 3, 10_000)
    assert np.abs(small.astype(int) - 127).max() < 12  # taking every fourth pixel would give black or white


def test_exif_orientation_is_respected(encode: Encode) -> None:
    image = Image.new("RGB", (32, 32), "black")
    image.paste("red", (0, 0, 32, 16))  # red above
    exif = Image.Exif()
    exif[0x0112] = 6  # "the top of the picture is on its right": turn clockwise to see it
    pixels = decode(encode(image, "JPEG", exif=exif, quality=95), 32, 3, 10_000)
    assert pixels[16, 28, 0] > 200
    assert pixels[16, 4, 0] < 50
    assert reason(encode(image), max_pixels=1023)[0] == "oversized"


def test_transparency_is_white(encode: Encode) -> None:
    clear = np.zeros((8, 8, 4), np.uint8)
    clear[:4] = (255, 0, 0, 255)
    clear[4:, :4, 3] = 128
    pixels = decode(encode(clear), 8, 3, 10_000)
    assert (pixels[0] == (255, 0, 0)).all()
    assert (pixels[7, 7] == 255).all()
    assert np.abs(pixels[7, 0].astype(int) - 127).max() <= 1
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 9, 8, 7])
    assert (decode(encode(palette), 8, 3, 10_000) == (9, 8, 7)).all()
    assert (decode(encode(palette, transparency=1), 8, 3, 10_000) == 255).all()
    assert (decode(encode(palette, "GIF", transparency=1), 8, 3, 10_000) == 255).all()


def test_grey_one_bit_and_sixteen_bits(encode: Encode) -> None:
    levels = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)
    for kind in ("PNG", "TIFF"):
        pixels = decode(encode(levels, kind), 8, 1, 10_000)
        np.testing.assert_array_equal(pixels[..., 0], np.round(levels / 257.0))
    assert (decode(encode(levels), 8, 3, 10_000)[..., 1] == np.round(levels / 257.0)).all()
    bits = Image.fromarray(np.eye(8, dtype=bool))
    np.testing.assert_array_equal(decode(encode(bits), 8, 1, 10_000)[..., 0], np.eye(8) * 255)
    grey = decode(encode(np.full((8, 8, 3), (255, 0, 0), np.uint8)), 8, 1, 10_000)
    assert grey.shape == (8, 8, 1)
    assert (grey == 76).all()  # 0.299 of 255


def test_cmyk_jpeg_keeps_its_colours(encode: Encode) -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert np.abs(decode(encode(image, "JPEG"), 8, 3, 10_000).astype(int) - (255, 0, 0)).max() < 8


def test_a_large_jpeg_comes_out_as_without_the_shortcut(encode: Encode) -> None:
    y, x = np.mgrid[:512, :512] / 512
    smooth = np.stack([255 * x, 255 * y, 127 + 127 * np.sin(9 * x)], -1).astype(np.uint8)
    content = encode(smooth, "JPEG", quality=95)
    whole = Image.open(io.BytesIO(content)).resize((32, 32), Image.Resampling.LANCZOS)
    assert np.abs(decode(content, 32, 3, 1 << 20).astype(int) - np.asarray(whole)).max() <= 3


@pytest.mark.filterwarnings("ignore:Truncated File Read:UserWarning")  # Pillow on TIFF, beside its exception
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_any_beginning_of_a_file_is_named_and_not_fatal(kind: str, encode: Encode) -> None:
    content = encode(noise(), kind)
    for share in (0.02, 0.1, 0.5, 0.9):
        try:
            decode(content[: int(len(content) * share)], 8, 3, 10_000)
        except Unusable as problem:
            assert problem.reason in ("truncated", "undecodable", "not_an_image")
        else:
            pytest.fail(f"{share:.0%} of a {kind} was taken for a picture")


def test_truncated_jpeg_and_png(encode: Encode) -> None:
    for kind in ("JPEG", "PNG"):
        content = encode(noise(), kind)
        assert {reason(content[:length])[0] for length in (60, 300, len(content) - 40)} == {"truncated"}
    assert reason(b"") == ("truncated", "an empty file")


def test_bytes_decide_and_not_the_name() -> None:
    assert reason(b"\n<!DOCTYPE html><html>404</html>") == ("not_an_image", "HTML text, not pixels")
    assert reason(b'<svg xmlns="x"/>') == ("not_an_image", "SVG text, not pixels")
    assert reason(b"\x7fELF" + bytes(400))[0] == "not_an_image"


def test_damage_in_the_middle(encode: Encode) -> None:
    content = bytearray(encode(noise(), "PNG"))
    content[len(content) // 2] ^= 0xFF  # the checksum of the chunk no longer fits
    assert reason(bytes(content))[0] == "undecodable"


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_decompression_bomb_is_refused_by_what_it_declares(side: int) -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10_000))) + chunk(b"IEND", b"")
    assert reason(bomb, max_pixels=50_000_000)[0] == "oversized"


def test_ranges_that_are_unknown_are_refused(encode: Encode) -> None:
    assert "floating-point" in reason(encode(np.ones((8, 8), np.float32), "TIFF"))[1]
    assert "32-bit" in reason(encode(np.full((8, 8), 1 << 20, np.int32), "TIFF"))[1]
