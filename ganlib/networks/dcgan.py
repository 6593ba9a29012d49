"""The networks of DCGAN (Radford et al. 2016, arXiv 1511.06434), for every family that trains them with another loss.

- pyramid: the authors' Torch code at 64 pixels (kernels of 4 where the paper's figure has 5); at another resolution the
  number of doublings changes and nothing else.
- small: the 32 pixel networks of Miyato et al. 2018 (arXiv 1802.05957, table 3), to which DCGAN's recipe is often
  applied; at another resolution the number of doublings changes.
- digits: the 28 pixel networks of the authors' Theano code, which can read a class at every layer.

Widths are in channels. Weights begin at N(0, 0.02), batch norms at N(1, 0.02), biases at 0 (section 4); a discriminator
without a norm keeps torch's initialisation, for the signal would die out.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.nn.utils.parametrizations import spectral_norm

from ganlib.networks.convolution import down, pyramid, up
from ganlib.networks.initialisation import dcgan_normal
from ganlib.networks.precision import in_float32


class PyramidGenerator(nn.Module):
    """Latent `(N, z)` to images `(N, channels, size, size)` in [-1, 1]; `width` channels before the last layer.

    Raises:
        ValueError: for a size that is no base of 4 to 7 pixels doubled.
    """

    def __init__(self, z: int, width: int, size: int, channels: int) -> None:
        super().__init__()
        base, doublings = pyramid(size)
        widths = [width * 2**i for i in reversed(range(doublings))]
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(z, widths[0], base, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
            *(up(wide, narrow) for wide, narrow in pairwise(widths)),
            nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1, bias=False),
            nn.Tanh(),
        )
        self.apply(dcgan_normal)

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z[:, :, None, None])


class PyramidDiscriminator(nn.Module):
    """Images to one logit each, `(N,)`; `width` channels after the first layer, which has no batch norm.

    `norm` is for the others; `bias` for the first, which Torch's DCGAN has and WGAN's has not. `ValueError` as the
    generator.
    """

    def __init__(self, width: int, size: int, channels: int, norm: bool = True, bias: bool = True) -> None:
        super().__init__()
        base, doublings = pyramid(size)
        widths = [width * 2**i for i in range(doublings)]
        self.layers = nn.Sequential(
            nn.Sequential(nn.Conv2d(channels, width, 4, 2, 1, bias=bias), nn.LeakyReLU(0.2)),
            *(down(narrow, wide, norm) for narrow, wide in pairwise(widths)),
        )
        self.logit = nn.Conv2d(widths[-1], 1, base, bias=False)
        if norm:
            self.apply(dcgan_normal)

    def forward(self, images: Tensor) -> Tensor:
        return in_float32(self.logit, self.layers(images)).flatten()


class SmallGenerator(nn.Module):
    """Latent `(N, z)` to images `(N, channels, size, size)` in [-1, 1]: a dense layer, one transposed convolution for
    each doubling and a convolution, before which there are `width` channels. `ValueError` as the pyramid's."""

    def __init__(self, z: int, width: int, size: int, channels: int) -> None:
        super().__init__()
        base, doublings = pyramid(size)
        widths = [width * 2**i for i in reversed(range(doublings + 1))]  # at 32 px: 8, 4, 2, 1 times the width
        self.start = nn.Sequential(nn.Linear(z, widths[0] * base**2), nn.Unflatten(1, (widths[0], base, base)))
        self.layers = nn.Sequential(
            *(up(wide, narrow) for wide, narrow in pairwise(widths)),
            nn.Conv2d(width, channels, 3, padding=1),
            nn.Tanh(),
        )
        self.apply(dcgan_normal)

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(self.start(z))


class SmallDiscriminator(nn.Module):
    """Images to one logit each, `(N,)`: for each halving a 3x3 and a 4x4 convolution with stride 2, then one more 3x3.

    Args:
        width: channels of the first layer; they double with each halving.
        size: height and width of the images in pixels; `ValueError` as the pyramid's.
        channels: of the images.
        norm: batch norm in all layers but the first and the last.
        spectral: spectral norm of the convolutions, and then no batch norm (Miyato et al. 2018, arXiv 1802.05957).
        slope: of the leaky ReLUs.
    """

    def __init__(
        self,
        width: int,
        size: int,
        channels: int,
        norm: bool = True,
        spectral: bool = False,
        slope: float = 0.2,
    ) -> None:
        super().__init__()
        base, doublings = pyramid(size)
        norm = norm and not spectral
        convolutions: list[nn.Conv2d] = []
        narrow = channels
        for wide in (width * 2**i for i in range(doublings)):
            convolutions.append(nn.Conv2d(narrow, wide, 3, padding=1, bias=not norm or not convolutions))
            convolutions.append(nn.Conv2d(wide, wide, 4, 2, 1, bias=not norm))
            narrow = wide
        convolutions.append(nn.Conv2d(narrow, 2 * narrow, 3, padding=1, bias=not norm))
        layers: list[nn.Module] = []
        for i, convolution in enumerate(convolutions):
            layers.append(convolution)
            if norm and i > 0:
                layers.append(nn.BatchNorm2d(convolution.out_channels))
            layers.append(nn.LeakyReLU(slope))
        self.layers = nn.Sequential(*layers)
        self.logit = nn.Linear(2 * narrow * base**2, 1)
        if norm or spectral:
            self.apply(dcgan_normal)
        if spectral:
            for convolution in convolutions:
                spectral_norm(convolution)

    def forward(self, images: Tensor) -> Tensor:
        return in_float32(self.logit, self.layers(images).flatten(1)).flatten()


class DigitsGenerator(nn.Module):
    """Latent `(N, z)` and, with `classes`, labels `(N,)` int64 to images `(N, channels, size, size)` in [-1, 1].

    Two dense layers and two transposed convolutions 5x5; one-hot labels join the input of all four. At width 64 and 28
    pixels these are 1024 units, 128 channels of 7 x 7, 64 channels of 14 x 14 and the image.

    Raises:
        ValueError: for a size that is no multiple of 4.
    """

    def __init__(self, z: int, width: int, size: int, channels: int, classes: int = 0) -> None:
        super().__init__()
        self.classes, base = classes, _quarter(size)
        maps = 2 * width * base**2
        self.first = nn.Sequential(
            nn.Linear(z + classes, 16 * width, bias=False), nn.BatchNorm1d(16 * width), nn.ReLU()
        )
        self.second = nn.Sequential(
            nn.Linear(16 * width + classes, maps, bias=False),
            nn.BatchNorm1d(maps),
            nn.ReLU(),
            nn.Unflatten(1, (2 * width, base, base)),
        )
        self.third = nn.Sequential(
            nn.ConvTranspose2d(2 * width + classes, width, 5, 2, 2, output_padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.image = nn.Sequential(
            nn.ConvTranspose2d(width + classes, channels, 5, 2, 2, output_padding=1, bias=False), nn.Tanh()
        )
        self.apply(dcgan_normal)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        x = z
        for layer in (self.first, self.second, self.third, self.image):
            x = layer(_joined(x, labels, self.classes))
        return x


class DigitsDiscriminator(nn.Module):
    """Images and, with `classes`, labels `(N,)` int64 to one logit each, `(N,)`: two convolutions 5x5 with stride 2 and
    two dense layers; one-hot labels join the input of all four. `norm` is for the two in the middle. `ValueError` as
    the generator."""

    def __init__(self, width: int, size: int, channels: int, classes: int = 0, norm: bool = True) -> None:
        super().__init__()
        self.classes, base = classes, _quarter(size)
        self.first = nn.Sequential(nn.Conv2d(channels + classes, width, 5, 2, 2, bias=False), nn.LeakyReLU(0.2))
        self.second = nn.Sequential(
            nn.Conv2d(width + classes, 2 * width, 5, 2, 2, bias=not norm),
            nn.BatchNorm2d(2 * width) if norm else nn.Identity(),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
        )
        self.third = nn.Sequential(
            nn.Linear(2 * width * base**2 + classes, 16 * width, bias=not norm),
            nn.BatchNorm1d(16 * width) if norm else nn.Identity(),
            nn.LeakyReLU(0.2),
        )
        self.logit = nn.Linear(16 * width + classes, 1, bias=False)
        if norm:
            self.apply(dcgan_normal)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        x = images
        for layer in (self.first, self.second, self.third):
            x = layer(_joined(x, labels, self.classes))
        return in_float32(self.logit, _joined(x, labels, self.classes)).flatten()


def _joined(x: Tensor, labels: Tensor | None, classes: int) -> Tensor:
    """`(N, c)` or `(N, c, h, w)` with one-hot labels as further channels."""
    if labels is None:
        return x
    further = one_hot(labels, classes).to(x.dtype)
    if x.dim() == 4:
        further = further[:, :, None, None].expand(-1, -1, *x.shape[2:])
    return torch.cat([x, further], dim=1)


def _quarter(size: int) -> int:
    if size % 4:
        raise ValueError(f"found {size} pixels; the digits networks double twice: expected a multiple of 4")
    return size // 4
