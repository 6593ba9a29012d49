"""The residual blocks of WGAN-GP (Gulrajani et al. 2017, arXiv 1704.00028) and its descendants.

3x3 convolutions begin with Glorot's uniform distribution at gain sqrt 2, 1x1 shortcuts at gain 1. Shortcuts run at the
smaller of the two sizes: a 1x1 convolution commutes with averaging and with repeating pixels. No activation works in
place. `conv` makes the convolutions: plain, or spectrally normalised ones.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, relu

from ganlib.networks.initialisation import glorot
from ganlib.networks.normalisation import Norm

Convolution = Callable[..., nn.Conv2d]


class UpBlock(nn.Module):
    """Doubles height and width: norm, ReLU, pixels repeated, 3x3, norm, ReLU, 3x3; with a 1x1 shortcut."""

    def __init__(self, channels: int, out: int, norm: Norm, conv: Convolution = nn.Conv2d) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(channels), norm(out)
        self.conv1, self.conv2, self.shortcut = _convolutions(channels, out, conv)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        h = self.conv1(_doubled(relu(self.norm1(x, condition))))
        h = self.conv2(relu(self.norm2(h, condition)))
        return h + _doubled(self.shortcut(x))


class DownBlock(nn.Module):
    """ReLU, 3x3, ReLU, 3x3, and where it halves an average over 2x2; the shortcut is x where the shapes agree."""

    def __init__(self, channels: int, out: int, halve: bool, conv: Convolution = nn.Conv2d) -> None:
        super().__init__()
        self.conv1, self.conv2, shortcut = _convolutions(channels, out, conv)
        self.shortcut = shortcut if halve or channels != out else nn.Identity()
        self.halve = halve

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(relu(self.conv1(relu(x))))
        if self.halve:
            x, h = avg_pool2d(x, 2), avg_pool2d(h, 2)
        return h + self.shortcut(x)


class FirstDownBlock(nn.Module):
    """Halves images: a `DownBlock` without the first ReLU, which would cut off what is dark."""

    def __init__(self, channels: int, out: int, conv: Convolution = nn.Conv2d) -> None:
        super().__init__()
        self.conv1, self.conv2, self.shortcut = _convolutions(channels, out, conv)

    def forward(self, images: Tensor) -> Tensor:
        h = self.conv2(relu(self.conv1(images)))
        return avg_pool2d(h, 2) + self.shortcut(avg_pool2d(images, 2))


def halvings(size: int) -> int:
    """How often a critic of the 32-pixel design halves images: to a map of at most 8 pixels, and once at least.

    32 px gives 2 (8 x 8), 28 px 2 (7 x 7), 64 px 3, 8 px 1 (4 x 4). Flat blocks follow.
    """
    count = 1
    while size / 2**count > 8:
        count += 1
    return count


def _convolutions(channels: int, out: int, conv: Convolution) -> tuple[nn.Conv2d, nn.Conv2d, nn.Conv2d]:
    return (
        glorot(conv(channels, out, 3, padding=1), sqrt(2)),
        glorot(conv(out, out, 3, padding=1), sqrt(2)),
        glorot(conv(channels, out, 1)),
    )


def _doubled(x: Tensor) -> Tensor:
    return interpolate(x, scale_factor=2.0, mode="nearest")
