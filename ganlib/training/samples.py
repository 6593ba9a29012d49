"""Images of a family, and the grid that is drawn again and again while training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ganlib.data.store import to_uint8
from ganlib.families.base import Family


@dataclass(frozen=True)
class Samples:
    """The grid that is drawn again and again while training: fixed latents `(N, z)` and conditions, in rows."""

    latents: Tensor
    condition: Tensor | None
    columns: int


@torch.no_grad()
def sample(family: Family, latents: Tensor, condition: Tensor | None, batch: int = 64) -> np.ndarray:
    """Images `(N, H, W, C)` uint8 of a family's networks in evaluation mode, on their device.

    Args:
        family: its `networks` are what is sampled from; they stay in the mode they were in.
        latents: `(N, z)` float32.
        condition: embeddings `(N, d)`, labels `(N,)` or None.
        batch: images at once.
    """
    networks = [family.networks[key] for key in family.averaged()]
    modes = [network.training for network in networks]
    device = next(networks[0].parameters()).device
    for network in networks:
        network.eval()
    images = []
    for first in range(0, len(latents), batch):
        part = None if condition is None else condition[first : first + batch].to(device)
        images.append(to_uint8(family.sample(latents[first : first + batch].to(device), part)).cpu().numpy())
    for network, mode in zip(networks, modes, strict=True):
        network.train(mode)
    return np.concatenate(images)
