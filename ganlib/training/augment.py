"""Augmentations that the discriminator sees real and generated images through, chosen by name in params.yaml.

Each takes images `(N, C, H, W)` in [-1, 1] of one or three channels, the probability p in [0, 1] (a float, or a tensor
`()` that is never read on the host) and the source of random numbers. It gives images of the same shape, whose values
may leave [-1, 1]; bfloat16 becomes float32 where values are computed and not only moved. Every image has draws of its
own. Gradients to the images exist to any order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ganlib.training.geometry import Warp

Uniform = Callable[..., Tensor]
"""`uniform(*shape)`: U[0, 1) of the shape `(N, *shape)` on the images' device. There is no other source of chance."""

Augmentation = Callable[[Tensor, Tensor | float, Uniform], Tensor]


def jitter_colour(images: Tensor, p: Tensor | float, uniform: Uniform) -> Tensor:
    """Brightness + U(-.5, .5), then saturation x U(0, 2) about each pixel's mean, then contrast x U(.5, 1.5) about the
    image's mean: "colour" of Zhao et al. 2020 (arXiv 2006.10738). Saturation leaves grey images alone."""
    chosen, brightness, saturation, contrast = uniform(4)[:, :, None, None, None].unbind(1)
    coloured = images + (brightness - 0.5)
    grey = coloured.mean(dim=1, keepdim=True)
    coloured = grey + (coloured - grey) * (2 * saturation)
    mean = coloured.mean(dim=(1, 2, 3), keepdim=True)
    coloured = mean + (coloured - mean) * (0.5 + contrast)
    return torch.where(chosen < p, coloured, images)


def translate(images: Tensor, p: Tensor | float, uniform: Uniform) -> Tensor:
    """Moved by whole pixels, at most 1/8 of the size (rounded down) either way, with zeros moving in: "translation" of
    Zhao et al. 2020 (arXiv 2006.10738)."""
    height, width = images.shape[2:]
    chosen, right, down = uniform(3).unbind(1)
    rows, within_rows = _sources(torch.where(chosen < p, _whole_steps(down, height // 8), 0), height)
    columns, within_columns = _sources(torch.where(chosen < p, _whole_steps(right, width // 8), 0), width)
    source = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)[:, None].expand(-1, images.shape[1], -1)
    moved = images.flatten(2).gather(2, source).view_as(images)
    return moved.masked_fill(~(within_rows[:, :, None] & within_columns[:, None, :])[:, None], 0.0)


def cut_out(images: Tensor, p: Tensor | float, uniform: Uniform) -> Tensor:
    """Zeros in a rectangle of half the height and half the width, its centre anywhere in the image: "cutout" of Zhao et
    al. 2020 (arXiv 2006.10738) and of Karras et al. 2020 (arXiv 2006.06676, appendix B).

    The centre is not bound to pixels, as in the latter; a pixel is hidden where its own centre is.
    """
    height, width = images.shape[2:]
    chosen, x, y = uniform(3)[:, :, None].unbind(1)
    rows = (_pixel_centres(height, images) - y).abs() < 0.25
    columns = (_pixel_centres(width, images) - x).abs() < 0.25
    return images.masked_fill(((chosen < p) & rows)[:, None, :, None] & columns[:, None, None, :], 0.0)


def warp(images: Tensor, p: Tensor | float, uniform: Uniform) -> Tensor:
    """Pixel blitting and general geometric transformations of Karras et al. 2020 (arXiv 2006.06676, appendix B), each
    with probability p, as one affine map.

    In this order: horizontal flip (half of the time), rotation by 0 to 3 right angles, translation by whole pixels
    U(-1/8, 1/8) of the size, scaling 2^N(0, .2^2), rotation U(-pi, pi), scaling of width against height 2^N(0, .2^2),
    rotation again, translation N(0, .125^2) of the size. Either rotation has probability 1 - sqrt(1 - p), so that one
    of them or both happen with probability p.

    Simplified: the paper doubles the resolution with wavelet filters around the map, against aliasing, and pads by one
    reflection about the centres of border pixels; here the map samples bilinearly at the images' resolution, and the
    reflection is about their outer edges, and without end.
    """
    height, width = images.shape[2:]
    (flip,) = _drawn(uniform, p, lambda u: 1 - 2 * (2 * u).floor(), 1.0)
    (quarters,) = _drawn(uniform, p, lambda u: (4 * u).floor(), 0.0)
    right, down = _drawn(uniform, p, lambda u: (2 * u - 1) / 8, 0.0, numbers=2)
    done = Warp.identity(flip).scaled(flip, torch.ones_like(flip)).turned(quarters)
    done = done.moved((right * width).round(), (down * height).round())
    one_rotation = 1 - (1 - p) ** 0.5  # 1 - (1 - one_rotation)^2 = p
    (scale,) = _drawn(uniform, p, lambda u: torch.exp2(0.2 * _normal(u)), 1.0)
    (before,) = _drawn(uniform, one_rotation, _any_angle, 0.0)
    (stretch,) = _drawn(uniform, p, lambda u: torch.exp2(0.2 * _normal(u)), 1.0)
    (after,) = _drawn(uniform, one_rotation, _any_angle, 0.0)
    right, down = _drawn(uniform, p, lambda u: 0.125 * _normal(u), 0.0, numbers=2)
    done = done.scaled(scale, scale).rotated(before).scaled(stretch, 1 / stretch).rotated(after)
    return done.moved(right * width, down * height).apply(images)


def recolour(images: Tensor, p: Tensor | float, uniform: Uniform) -> Tensor:
    """Colour transformations of Karras et al. 2020 (arXiv 2006.06676, appendix B), each with probability p.

    In this order: brightness + N(0, .2^2), contrast x 2^N(0, .5^2), luma flip (half of the time), hue rotation
    U(-pi, pi), saturation x 2^N(0, 1).

    The paper multiplies 4 x 4 matrices. All of them map the grey axis to itself and the plane across it to itself, so
    their product is known without: a gain and an offset for luma; a gain and a rotation for chroma, which grey images
    do not have.
    """
    images = images.to(torch.promote_types(images.dtype, torch.float32))
    (brightness,) = _drawn(uniform, p, lambda u: 0.2 * _normal(u), 0.0)
    (contrast,) = _drawn(uniform, p, lambda u: torch.exp2(0.5 * _normal(u)), 1.0)
    (flip,) = _drawn(uniform, p, lambda u: 1 - 2 * (2 * u).floor(), 1.0)
    (hue,) = _drawn(uniform, p, _any_angle, 0.0)
    (saturation,) = _drawn(uniform, p, lambda u: torch.exp2(_normal(u)), 1.0)
    luma = images.mean(dim=1, keepdim=True)
    chroma = images - luma
    across = (chroma.roll(1, dims=1) - chroma.roll(-1, dims=1)) / math.sqrt(3)  # (1, 1, 1) / sqrt(3) x chroma
    chroma = chroma * _each(contrast * saturation * hue.cos()) + across * _each(contrast * saturation * hue.sin())
    return (luma + _each(brightness)) * _each(flip * contrast) + chroma


def bgc(images: Tensor, p: Tensor | float, uniform: Uniform) -> Tensor:
    """Pixel blitting, geometric and colour transformations: the pipeline "bgc" of Karras et al. 2020 (arXiv 2006.06676,
    appendix B), as `warp` and `recolour` have it."""
    return recolour(warp(images, p, uniform), p, uniform)


def r3gan(images: Tensor, p: Tensor | float, uniform: Uniform) -> Tensor:
    """What R3GAN is trained through (Huang et al. 2025, arXiv 2501.05441; the values are those of its published code):
    `bgc` with the colour transformations half as often, probability p / 2 each, then `cut_out`."""
    return cut_out(recolour(warp(images, p, uniform), p / 2, uniform), p, uniform)


def diffaugment(images: Tensor, p: Tensor | float, uniform: Uniform) -> Tensor:
    """Colour, translation and cutout, each with probability p; 1 in the paper: Zhao et al. 2020 (arXiv 2006.10738)."""
    return cut_out(translate(jitter_colour(images, p, uniform), p, uniform), p, uniform)


def translate_and_cut_out(images: Tensor, p: Tensor | float, uniform: Uniform) -> Tensor:
    """Translation and cutout, for pictures whose colours say what they show: Zhao et al. 2020 (arXiv 2006.10738)."""
    return cut_out(translate(images, p, uniform), p, uniform)


AUGMENTATIONS: dict[str, Augmentation] = {
    "diffaugment": diffaugment,
    "diffaugment-colour": jitter_colour,
    "diffaugment-translation": translate,
    "diffaugment-cutout": cut_out,
    "diffaugment-translation-cutout": translate_and_cut_out,
    "ada-bgc": bgc,
    "r3gan": r3gan,
}


@dataclass(frozen=True)
class Adaptive:
    """The controller of p: Karras et al. 2020 (arXiv 2006.06676, section 3), with r_t = E[sign(D(real))] (eq. 1).

    Its state is three float32 tensors `()` that change in place, on whatever device they are, and are never read on
    the host: `p`; `signs` and `count`, the sum of the signs of real logits and their number since p last moved.

    Attributes:
        target: of r_t. Above it p rises, below it p falls.
        every: training steps between moves of p.
        ramp_kimg: thousands of images in which p can go from 0 to 1.
    """

    target: float = 0.6
    every: int = 4
    ramp_kimg: float = 500.0

    def start(self) -> dict[str, Tensor]:
        """The state before the first step: p = 0, nothing seen."""
        return {"p": torch.zeros(()), "signs": torch.zeros(()), "count": torch.zeros(())}

    @torch.no_grad()
    def observe(self, state: Mapping[str, Tensor], signs: Tensor) -> None:
        """Take account of the signs, -1, 0 or 1, of the discriminator's logits for some real images."""
        state["signs"] += signs.sum()
        state["count"] += signs.numel()

    @torch.no_grad()
    def after_step(self, state: Mapping[str, Tensor], step: int, images: int) -> None:
        """Move p where `step` is the last of `every`, and forget the signs.

        Args:
            state: changed in place.
            step: training steps done.
            images: by which a training step counts in `ramp_kimg`.
        """
        if step % self.every:
            return
        images *= self.every
        towards = (state["signs"] - self.target * state["count"]).sign()  # of r_t - target, r_t = signs / count
        state["p"].add_(towards * (images / (self.ramp_kimg * 1000))).clamp_(0, 1)
        state["signs"].zero_()
        state["count"].zero_()


def _drawn(
    uniform: Uniform, p: Tensor | float, value: Callable[[Tensor], Tensor], usual: float, numbers: int = 1
) -> Tensor:
    """`(numbers, N)`: for each image `value` of U[0, 1) with probability p, `usual` otherwise."""
    drawn = uniform(1 + numbers).T
    return torch.where(drawn[0] < p, value(drawn[1:]), usual)


def _normal(u: Tensor) -> Tensor:
    step = 2.0**-24  # of the float32 numbers in [0, 1) that are drawn: 0 becomes the first after it, so no infinity
    return torch.special.ndtri(u.clamp(step, 1 - step))


def _any_angle(u: Tensor) -> Tensor:
    return (2 * u - 1) * math.pi


def _each(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _whole_steps(u: Tensor, most: int) -> Tensor:
    """The whole numbers from `-most` to `most`, each as often."""
    return (u * (2 * most + 1)).floor().long() - most


def _sources(steps: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """For pixels moved by `steps` `(N,)` along an axis: where each of the `size` new ones comes from, and whether that
    lies in the image, `(N, size)` both; where it does not, an index that does stands in."""
    source = torch.arange(size, device=steps.device) - steps[:, None]
    return source.clamp(0, size - 1), (source >= 0) & (source < size)


def _pixel_centres(size: int, like: Tensor) -> Tensor:
    return (torch.arange(size, device=like.device) + 0.5) / size
