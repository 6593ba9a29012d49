"""Affine warps of images, one a batch item, by bilinear resampling that can be differentiated any number of times."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import grid_sample


@dataclass(frozen=True)
class Warp:
    """For each image, where in the input a pixel of the output comes from: `linear @ (x, y) + offset`.

    Positions are in pixels from the image's centre, x to the right and y down. Each method but `apply` gives the warp
    that does one thing more to the image, after what was done before: its inverse is multiplied on the right.

    Attributes:
        linear: `(N, 2, 2)`.
        offset: `(N, 2)`.
    """

    linear: Tensor
    offset: Tensor

    @classmethod
    def identity(cls, like: Tensor) -> Warp:
        """Nothing done; `like` is `(N,)`, of the device and type of the numbers to come."""
        linear = torch.eye(2, dtype=like.dtype, device=like.device).expand(len(like), 2, 2)
        return cls(linear, like.new_zeros(len(like), 2))

    def scaled(self, x: Tensor, y: Tensor) -> Warp:
        """Enlarged by the factors `x` and `y`, `(N,)` each; negative ones mirror."""
        return Warp(self.linear / torch.stack((x, y), dim=1)[:, None], self.offset)

    def rotated(self, angle: Tensor) -> Warp:
        """Turned anticlockwise by `angle` `(N,)` in radians."""
        return self._rotated(angle.cos(), angle.sin())

    def turned(self, quarters: Tensor) -> Warp:
        """Turned anticlockwise by `quarters` `(N,)` right angles, whole numbers, without rounding errors."""
        angle = quarters * (math.pi / 2)
        return self._rotated(angle.cos().round(), angle.sin().round())

    def moved(self, x: Tensor, y: Tensor) -> Warp:
        """Moved by `x` pixels to the right and `y` down, `(N,)` each."""
        right, down = self.linear.unbind(2)
        return Warp(self.linear, self.offset - right * x[:, None] - down * y[:, None])

    def apply(self, images: Tensor) -> Tensor:
        """Images `(N, C, H, W)` warped, bilinearly interpolated at their own resolution.

        What lies outside an image is its reflection about the outer edge of its border pixels, again and again. Images
        that stay as they are come back to the bit. Gradients go to `images`, not to the warp.
        """
        height, width = images.shape[2:]
        images = images.to(torch.promote_types(images.dtype, self.linear.dtype))
        right, down = (column[:, :, None, None] for column in self.linear.unbind(2))
        x = torch.arange(width, dtype=self.linear.dtype, device=images.device) - (width - 1) / 2
        y = torch.arange(height, dtype=self.linear.dtype, device=images.device)[:, None] - (height - 1) / 2
        source_x, source_y = (right * x + down * y + self.offset[:, :, None, None]).unbind(1)
        grid = torch.stack((source_x * (2 / width), source_y * (2 / height)), dim=3)  # edges of the image at -1 and 1
        still = (self.linear == torch.eye(2, device=images.device)).flatten(1).all(1) & (self.offset == 0).all(1)
        warped = _resampled(images, grid.detach().to(images.dtype), False)
        return torch.where(still[:, None, None, None], images, warped)

    def _rotated(self, cos: Tensor, sin: Tensor) -> Warp:
        right, down = self.linear.unbind(2)
        cos, sin = cos[:, None], sin[:, None]
        return Warp(torch.stack((right * cos + down * sin, down * cos - right * sin), dim=2), self.offset)


class _Resampling(torch.autograd.Function):
    """grid_sample as the linear map of images that it is: its derivative is its adjoint, whose derivative is the map.

    Written down because not every release of torch that this package takes differentiates grid_sample twice.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, grid: Tensor, adjoint: bool) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.adjoint = adjoint
        if not adjoint:
            return grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        bilinear, reflection, align_corners, of_images_alone = 0, 2, False, [True, False]
        return torch.ops.aten.grid_sampler_2d_backward(  # the second `images` gives the shape of the result
            images, images, grid, bilinear, reflection, align_corners, of_images_alone
        )[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (grid,) = ctx.saved_tensors
        return _resampled(gradient, grid, not ctx.adjoint), None, None


_resampled: Callable[[Tensor, Tensor, bool], Tensor] = _Resampling.apply
