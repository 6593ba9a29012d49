"""Images as the files that clients ask for, each with how it was made."""

from __future__ import annotations

import io
import json
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ganlib.inference.images import Facts, png

Format = Literal["png", "webp", "jpeg"]
_EXIF_SUB_DIRECTORY, _USER_COMMENT = 0x8769, 0x9286  # tags of EXIF 2.3
_ASCII = b"ASCII\0\0\0"  # how a UserComment says what its text is written in


def encoded(pixels: NDArray[np.uint8], facts: Facts, form: Format, quality: int) -> bytes:
    """An image's file.

    Args:
        pixels: `(H, W, C)` uint8 with C 1 (grey) or 3 (RGB).
        facts: how it was made. PNG has them as `ganlib generate` writes them; WebP and JPEG as JSON in EXIF's
            UserComment.
        form: of the file. A PNG file is that of `ganlib generate`, to the byte.
        quality: 0 to 100, of WebP and JPEG. WebP of 100 keeps every level; JPEG keeps colours in full resolution, which
            images this small need.
    """
    if form == "png":
        return png(pixels, facts)
    exif = Image.Exif()
    exif.get_ifd(_EXIF_SUB_DIRECTORY)[_USER_COMMENT] = _ASCII + json.dumps(facts.model_dump(mode="json")).encode()
    content = io.BytesIO()
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if form == "webp":
        image.save(content, "WEBP", quality=quality, lossless=quality == 100, exif=exif)
    else:
        image.save(content, "JPEG", quality=quality, subsampling=0, exif=exif)
    return content.getvalue()


def facts_of(content: bytes) -> Facts:
    """What a WebP or JPEG file of `encoded` says of itself."""
    with Image.open(io.BytesIO(content)) as image:
        comment: bytes = image.getexif().get_ifd(_EXIF_SUB_DIRECTORY)[_USER_COMMENT]
    return Facts.model_validate_json(comment.removeprefix(_ASCII))
