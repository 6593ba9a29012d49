"""Where a network needs float32 under autocast."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def in_float32(layer: nn.Module, x: Tensor) -> Tensor:
    """`layer(x)` in float32, whatever autocast says.

    For logits: a relativistic loss leaves their common level free, and bfloat16 resolves 0.25 at a level of 50.
    """
    with torch.autocast(x.device.type, enabled=False):
        return layer(x.float())
