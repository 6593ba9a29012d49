"""Self-attention over the places of a map (Zhang et al. 2019, SAGAN, arXiv 1805.08318, section 3)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from ganlib.networks.convolution import pyramid
from ganlib.networks.initialisation import glorot


class SelfAttention(nn.Module):
    """x + gamma o(x), where o mixes values of all places; gamma begins at 0. Maps keep their shape `(N, c, h, w)`.

    Queries have c / 8 channels and values c / 2; keys and values are max-pooled 2x2. No biases.
    """

    def __init__(self, channels: int, conv: Callable[..., nn.Conv2d] = nn.Conv2d) -> None:
        super().__init__()
        inner, half = max(channels // 8, 1), max(channels // 2, 1)
        self.query = glorot(conv(channels, inner, 1, bias=False))  # the paper's f, theta in its code
        self.key = glorot(conv(channels, inner, 1, bias=False))  # g, phi
        self.value = glorot(conv(channels, half, 1, bias=False))  # h, g
        self.out = glorot(conv(half, channels, 1, bias=False))  # v
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x).flatten(2)
        key = max_pool2d(self.key(x), 2).flatten(2)
        value = max_pool2d(self.value(x), 2).flatten(2)
        attention = (query.transpose(1, 2) @ key).softmax(dim=2)  # (N, places, pooled places): eq. 1
        mixed = (value @ attention.transpose(1, 2)).unflatten(2, x.shape[2:])  # eq. 2
        return x + self.gamma * self.out(mixed)  # eq. 3


def attended(size: int, largest: int) -> int | None:
    """Where attention goes in networks for images of `size` pixels: how many doublings of the smallest map lead to the
    largest map that has at most `largest` pixels a side and fewer than the image; None where there is no such map.

    At 128 px and 32 that is 3 (4, 8, 16, 32), at 32 px and 32 it is 2 (16 x 16).

    Raises:
        ValueError: as `pyramid`.
    """
    base, doublings = pyramid(size)
    return max((k for k in range(doublings) if base * 2**k <= largest), default=None)
