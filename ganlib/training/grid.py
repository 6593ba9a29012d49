"""Grids of samples with fixed noise and fixed conditions."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from ganlib.files import write_whole


def save_grid(images: np.ndarray, columns: int, path: Path, gap: int = 2) -> np.ndarray:
    """Write images `(N, H, W, C)` uint8 as a PNG of `columns` columns on white, small ones enlarged.

    Returns:
        the whole picture, `(height, width, C)` uint8.

    Raises:
        ValueError: where N is no multiple of `columns`.
    """
    count, height, width, channels = images.shape
    if count % columns:
        raise ValueError(f"{count} images do not fill rows of {columns}")
    scale = max(1, 96 // max(height, width))
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    padded = np.pad(images, ((0, 0), (gap, gap), (gap, gap), (0, 0)), constant_values=255)
    rows, (_, tall, wide, _) = count // columns, padded.shape
    sheet = (
        padded.reshape(rows, columns, tall, wide, channels)
        .swapaxes(1, 2)
        .reshape(rows * tall, columns * wide, channels)
    )
    content = io.BytesIO()
    Image.fromarray(sheet[:, :, 0] if channels == 1 else sheet).save(content, "PNG")
    write_whole(path, content.getvalue())
    return sheet
