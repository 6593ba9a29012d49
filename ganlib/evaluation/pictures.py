"""Pictures for a person to compare by: real above generated under one condition, and a grid of samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_TILE = 112  # pixels that a small image is enlarged towards, by a whole factor
_GAP = 6
_TEXT = 11  # height of letters
_LINE = 14  # height of a line


def grid(rows: Sequence[np.ndarray]) -> Image.Image:
    """Rows of images, each `(n, H, W, C)` uint8, small ones enlarged by a whole factor without smoothing."""
    tiles = [[_tile(image) for image in row] for row in rows]
    side = tiles[0][0].width + _GAP
    sheet = Image.new("RGB", (max(len(row) for row in tiles) * side + _GAP, len(tiles) * side + _GAP), "white")
    for y, row in enumerate(tiles):
        for x, tile in enumerate(row):
            sheet.paste(tile, (_GAP + x * side, _GAP + y * side))
    return sheet


def columns(
    headings: Sequence[str], real: Sequence[np.ndarray], generated: Sequence[np.ndarray], across: int
) -> Image.Image:
    """One column for each condition: its heading, real images, a line, generated images.

    Args:
        headings: what was asked for, wrapped to the column's width.
        real: for each condition `(r, H, W, C)` uint8.
        generated: for each condition `(g, H, W, C)` uint8.
        across: columns side by side; more conditions go below.
    """
    tile = _tile(generated[0][0]).width
    font = ImageFont.load_default(size=_TEXT)
    wrapped = [_wrap(text, tile, font) for text in headings]
    above, below = max(map(len, real)), max(map(len, generated))
    head = max(map(len, wrapped)) * _LINE + _GAP
    left = 72  # for the names of the rows
    block = head + (above + below) * (tile + _GAP) + 3 * _GAP
    blocks = -(-len(headings) // across)
    sheet = Image.new("RGB", (left + min(across, len(headings)) * (tile + _GAP), blocks * block + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for i, lines in enumerate(wrapped):
        x, y = left + (i % across) * (tile + _GAP), _GAP + (i // across) * block
        draw.multiline_text((x, y), "\n".join(lines), fill="black", font=font, spacing=_LINE - _TEXT)
        y += head
        divide = y + above * (tile + _GAP)
        for name, images, start in (("real", real[i], y), ("generated", generated[i], divide + _GAP)):
            if i % across == 0:
                draw.text((_GAP, start + tile // 2), name, fill="black", font=font)
            for k, image in enumerate(images):
                sheet.paste(_tile(image), (x, start + k * (tile + _GAP)))
        draw.line((x, divide, x + tile, divide), fill="grey")
    return sheet


def _wrap(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """`text` in lines of at most `width` pixels; a single longer word keeps a line of its own."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _tile(image: np.ndarray) -> Image.Image:
    factor = max(1, round(_TILE / image.shape[0]))
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).convert("RGB")
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
