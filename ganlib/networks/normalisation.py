"""Batch normalisation with a condition, and without one under the same call."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

Norm = Callable[[int], nn.Module]
"""From a number of channels to a module that is called with maps `(N, c, h, w)` and the condition, or None."""


class BatchNorm(nn.Module):
    """Batch normalisation that leaves the condition alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.normalise = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.normalise(x)


class ConditionalBatchNorm(nn.Module):
    """Batch normalisation whose scale and shift follow a condition: Dumoulin et al. 2017 (arXiv 1610.07629), eq. 5.

    The scale is 1 + `scale(condition)`, the shift `shift(condition)`, each `(N, channels)`.
    """

    def __init__(self, channels: int, scale: nn.Module, shift: nn.Module) -> None:
        super().__init__()
        self.normalise = nn.BatchNorm2d(channels, affine=False)
        self.scale, self.shift = scale, shift

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        x = self.normalise(x)
        scale, shift = (of(condition).to(x.dtype)[:, :, None, None] for of in (self.scale, self.shift))
        return x * (1 + scale) + shift


def class_norm(classes: int) -> Norm:
    """Batch normalisation with a scale (at first 1) and a shift (0) for each class; for 0 classes the plain one."""

    def table(channels: int) -> nn.Embedding:
        layer = nn.Embedding(classes, channels)
        nn.init.zeros_(layer.weight)
        return layer

    if not classes:
        return BatchNorm
    return lambda channels: ConditionalBatchNorm(channels, table(channels), table(channels))
