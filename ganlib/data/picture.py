"""Bytes or pixels of one picture to a square array; what cannot be used says why."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ganlib.data.source import Unusable

_BROKEN = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError),
    *(AssertionError, NotImplementedError, struct.error, zlib.error),
)
"""What Pillow's decoders raise on bytes that are not what their header promised."""

_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF")
_MARKUP = ((b"<!doctype html", "HTML"), (b"<html", "HTML"), (b"<head", "HTML"), (b"<svg", "SVG"), (b"<?xml", "XML"))


def decode(content: bytes, size: int, channels: int, max_pixels: int) -> np.ndarray:
    """An image file's bytes to pixels.

    The picture is turned as its EXIF orientation says, composited on white where it is transparent, cropped to the
    square in its middle and resized with an antialiased Lanczos filter. Of an animation the first frame is taken;
    colour profiles are not applied; 16 bits are scaled to 8.

    Args:
        content: the file, whatever its name was.
        size: height and width wanted, in pixels.
        channels: 1 for grey (ITU-R 601 luma), 3 for RGB.
        max_pixels: a picture that declares more is not decoded.

    Returns:
        `(size, size, channels)` uint8.

    Raises:
        Unusable: truncated, oversized, not_an_image or undecodable.
    """
    _recognise(content)
    try:
        image: Image.Image = Image.open(io.BytesIO(content))
        width, height = image.size
        if width * height > max_pixels:
            raise Unusable("oversized", f"{width} x {height} pixels, and {max_pixels:,} are allowed")
        image.draft(None, (4 * size, 4 * size))  # JPEG alone: decode at a half, quarter or eighth where that is ample
        image.load()
        return fit(_flat(ImageOps.exif_transpose(image)), size, channels)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Unusable("oversized", f"more pixels than Pillow opens; {max_pixels:,} are allowed") from error
    except Unusable:
        raise
    except _BROKEN as error:
        raise _reason(content, error) from error


def fit(image: Image.Image, size: int, channels: int) -> np.ndarray:
    """The square in the middle of an opaque picture, resized: `(size, size, channels)` uint8."""
    image = image.convert("L" if channels == 1 else "RGB")
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    if image.size != (size, size):
        box = (left, top, left + side, top + side)
        image = image.resize((size, size), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
    return np.asarray(image, dtype=np.uint8).reshape(size, size, channels)


def _flat(image: Image.Image) -> Image.Image:
    """Without transparency and with 8 bits a channel."""
    if image.mode == "F":
        raise Unusable("undecodable", "floating-point pixels, whose range is unknown; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 65535:
            raise Unusable("undecodable", "32-bit pixels beyond 16 bits; save it with 8 or 16 bits")
        return Image.fromarray(np.round(levels / 257.0).astype(np.uint8))  # 65535 / 255
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _recognise(content: bytes) -> None:
    if not content:
        raise Unusable("truncated", "an empty file")
    start = content[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for mark, name in _MARKUP:
        if start.startswith(mark):
            raise Unusable("not_an_image", f"{name} text, not pixels")


def _reason(content: bytes, error: Exception) -> Unusable:
    """Why an image file did not decode, from its bytes before its decoder's words."""
    detail = " ".join(str(error).split())[:120] or type(error).__name__
    if not content.startswith(_SIGNATURES):
        return Unusable("not_an_image" if isinstance(error, UnidentifiedImageError) else "undecodable", detail)
    if isinstance(error, UnidentifiedImageError):
        detail = "its header cannot be read"
    ends = {b"\xff\xd8\xff": b"\xff\xd9", b"\x89PNG": b"IEND"}
    for start, end in ends.items():
        if content.startswith(start) and end not in content[-64:]:
            return Unusable("truncated", f"{len(content):,} bytes without an end mark")
    return Unusable("truncated" if "truncated" in detail.lower() else "undecodable", detail)
