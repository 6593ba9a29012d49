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

from ganlib.networks.convolution import pyramid
from ganlib.networks.initialisation import glorot
from ganlib.networks.normalisation import BatchNorm, Norm, class_norm

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


class ResidualGenerator(nn.Module):
    """Latent `(N, z)`, and classes `(N,)` where there are any, to images `(N, channels, size, size)` in [-1, 1].

    The generator of WGAN-GP and SNGAN at 32 pixels: a dense layer to 4x4, three blocks of one width that double, batch
    norm, ReLU, 3x3, tanh. At another resolution the number of blocks changes.
    """

    def __init__(self, z: int, width: int, classes: int, size: int, channels: int) -> None:
        """
        Args:
            z: length of the latent.
            width: channels of every layer.
            classes: 0 for batch norm, otherwise class-conditional batch norm.
            size: height and width of an image.
            channels: of an image.

        Raises:
            ValueError: where `size` is no base of 4 to 7 pixels doubled.
        """
        super().__init__()
        base, doublings = pyramid(size)
        self.start = nn.Sequential(glorot(nn.Linear(z, width * base * base)), nn.Unflatten(1, (width, base, base)))
        self.blocks = nn.ModuleList(UpBlock(width, width, class_norm(classes)) for _ in range(doublings))
        self.norm = BatchNorm(width)
        self.image = glorot(nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        h = self.start(z)
        for block in self.blocks:
            h = block(h, labels)
        return self.image(relu(self.norm(h))).tanh()


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
