"""Families of a plain critic without a condition, built small, and a batch for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ganlib.card import DatasetSpec
from ganlib.data.store import Batch
from ganlib.families.base import TwoPlayers
from ganlib.families.objective import Objective
from ganlib.losses.adversarial import LOSSES


def build_plain(kind: type[TwoPlayers], size: int, channels: int = 3, loss: str | None = None, **network: Any) -> Any:
    """A family for images of that shape; its own loss unless one is named, published networks unless told otherwise."""
    spec = DatasetSpec(
        name="folder",
        size=size,
        channels=channels,  # type: ignore[arg-type]
        counts={"train": 100},
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
    )
    torch.manual_seed(0)
    return kind(spec, 0, kind.Network.model_validate(network), Objective(LOSSES[loss or kind.preset["loss"]]))


def batch_for(size: int, count: int = 8) -> Batch:
    return Batch(images=torch.rand(count, 3, size, size) * 2 - 1)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())
