"""The convolution blocks of DCGAN and its descendants (Radford et al. 2016, arXiv 1511.06434).

LeakyReLU slopes are 0.2; convolutions before a batch norm carry no bias. No activation works in place, so that
gradients can be looked at.
"""

from __future__ import annotations

from torch import Tensor, nn


def pyramid(size: int) -> tuple[int, int]:
    """The smallest map and the number of doublings that lead to `size`: 64 -> (4, 4), 32 -> (4, 3), 28 -> (7, 2).

    Raises:
        ValueError: where `size` is no base of 4 to 7 pixels doubled at least once.
    """
    base, doublings = size, 0
    while base % 2 == 0 and base > 7:
        base, doublings = base // 2, doublings + 1
    if not 4 <= base <= 7 or not doublings:
        raise ValueError(f"found {size} pixels; expected 4, 5, 6 or 7 doubled some times: 28, 32, 40, 48, 64, 128 ...")
    return base, doublings


def up(channels: int, out: int) -> nn.Sequential:
    """Doubles height and width: transposed convolution 4x4 stride 2, batch norm, ReLU."""
    return nn.Sequential(nn.ConvTranspose2d(channels, out, 4, 2, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())


def down(channels: int, out: int, norm: bool = True) -> nn.Sequential:
    """Halves height and width: convolution 4x4 stride 2, batch norm (without it, a bias), LeakyReLU."""
    layers: list[nn.Module] = [nn.Conv2d(channels, out, 4, 2, 1, bias=not norm)]
    if norm:
        layers.append(nn.BatchNorm2d(out))
    return nn.Sequential(*layers, nn.LeakyReLU(0.2))


class Bottleneck(nn.Module):
    """The residual bottleneck of GAN-CLS: 1x1 to a quarter of the width, 3x3, 3x3 back, added (Reed et al. 2016)."""

    def __init__(self, channels: int, activation: nn.Module, norm: bool = True) -> None:
        super().__init__()
        inner = channels // 4

        def after(out: int) -> nn.Module:
            return nn.BatchNorm2d(out) if norm else nn.Identity()

        self.body = nn.Sequential(
            nn.Conv2d(channels, inner, 1, bias=not norm),
            after(inner),
            activation,
            nn.Conv2d(inner, inner, 3, padding=1, bias=not norm),
            after(inner),
            activation,
            nn.Conv2d(inner, channels, 3, padding=1, bias=not norm),
            after(channels),
        )
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x + self.body(x))
