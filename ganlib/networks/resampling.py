"""Doubling and halving of images and feature maps through the low-pass filter [1, 3, 3, 1].

As weighted means of shifted maps, one direction after the other: no filter is stored or moved to a device, and
gradients exist to every order.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

Edges = Literal["zero", "replicate"]
HEIGHT, WIDTH = 2, 3


def upsample(x: Tensor, edges: Edges = "zero") -> Tensor:
    """Maps `(N, C, H, W)` to `(N, C, 2H, 2W)`: zeros between the values, then [1, 3, 3, 1] / 4 in both directions.

    With replicated edges this is bilinear interpolation.

    Args:
        x: the maps.
        edges: what lies around them: zeros, as around convolutions, or the outermost values again.
    """
    for axis in (HEIGHT, WIDTH):
        count = x.shape[axis]
        around = _framed(x, axis, edges)
        before, after = around.narrow(axis, 0, count), around.narrow(axis, 2, count)
        x = torch.stack([x.lerp(before, 1 / 4), x.lerp(after, 1 / 4)], axis + 1).flatten(axis, axis + 1)
    return x


def downsample(x: Tensor, edges: Edges = "zero") -> Tensor:
    """Maps `(N, C, H, W)` of even sides to `(N, C, H/2, W/2)`: [1, 3, 3, 1] / 8 in both directions, every second kept.

    With zeros around the maps this is a quarter of the transpose of `upsample`.

    Args:
        x: the maps.
        edges: as in `upsample`.
    """
    for axis in (HEIGHT, WIDTH):
        count = x.shape[axis] // 2
        first, second = _framed(x, axis, edges).unflatten(axis, (count + 1, 2)).unbind(axis + 1)
        outer = first.narrow(axis, 0, count) + second.narrow(axis, 1, count)
        inner = second.narrow(axis, 0, count) + first.narrow(axis, 1, count)
        x = inner.lerp(outer, 1 / 4) / 2
    return x


def _framed(x: Tensor, axis: int, edges: Edges) -> Tensor:
    """Maps with a further row or column at both ends of an axis."""
    sides = (0, 0, 1, 1) if axis == HEIGHT else (1, 1, 0, 0)
    return pad(x, sides, mode="constant" if edges == "zero" else "replicate")
