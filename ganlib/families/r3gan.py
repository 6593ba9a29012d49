"""R3GAN: residual networks without normalisation, a relativistic loss, R1 and R2 (Huang et al. 2025, arXiv 2501.05441).

The defaults are the authors' networks and training for CIFAR-10: four stages of 4, 8, 16 and 32 pixels with two blocks
of 768 channels each. Above 32 pixels the width halves with each doubling, as in their networks for FFHQ; at 28 pixels
the stages are of 7, 14 and 28. Everything but the stage of the smallest maps may run in bfloat16.

The penalties' weights are the paper's gamma: R1 and R2 are halves here, too. Other data want another one (the authors
begin at 0.05 for CIFAR-10, 0.5 and 1 for ImageNet at 32 and 64 pixels, 2 and 150 for FFHQ at 64 and 256).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from ganlib.card import Condition, DatasetSpec, Latent
from ganlib.data.store import Batch
from ganlib.families.base import ConditionKind, NetworkSettings, Phase, TwoPlayers, class_count
from ganlib.families.objective import Objective
from ganlib.networks.convolution import pyramid
from ganlib.networks.precision import in_float32
from ganlib.networks.resampling import downsample, upsample
from ganlib.problems import Refused

EXPANSION = 2  # of a block's channels between its 1x1 convolutions
FULL_WIDTH = 32  # pixels up to which stages have the full width
BURN_IN = 20_000.0  # thousands of images over which the authors move their settings, along a cosine

Weighted = TypeVar("Weighted", nn.Conv2d, nn.Linear)


class Settings(NetworkSettings):
    """`network` of an r3gan model."""

    z: int = Field(64, ge=1, description="length of the latent")
    width: int = Field(768, ge=1, description="channels of a stage; above 32 pixels half as many with each doubling")
    widths: list[int] | None = Field(None, description="channels of each stage instead, from the smallest maps on")
    blocks: int = Field(2, ge=1, description="residual blocks of a stage")
    group_size: int = Field(16, ge=1, description="channels in a group of the 3x3 convolutions, which have 2 x width")
    classes: bool = Field(False, description="whether a class is asked for")


def scaled_normal(layer: Weighted, gain: float = 1.0) -> Weighted:
    """Weights N(0, gain / sqrt(fan-in)), biases 0: an output's variance is gain^2 times the inputs' mean square."""
    nn.init.normal_(layer.weight, 0.0, gain / layer.weight[0].numel() ** 0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def pointwise(channels: int, out: int) -> nn.Conv2d:
    """1x1 convolution without bias that keeps the variance."""
    return scaled_normal(nn.Conv2d(channels, out, 1, bias=False))


class Block(nn.Module):
    """x + the branch 1x1 -> grouped 3x3 -> 1x1 of it, twice as wide inside; the identity before training.

    The branch begins at 0 by its last layer. Were that layer to keep the variance, each branch would have 1 / L of its
    input's, for L blocks in the network: LeakyReLU(0.2) leaves (1 + 0.2^2) / 2 = 0.52 of a normal value's mean square,
    so a layer before it with the gain sqrt(1 / 0.52) keeps that, and L^(-1/4) in both of the two leaves
    (L^(-1/4))^4 = 1 / L (Zhang et al. 2019, Fixup, arXiv 1901.09321; L^(-1 / (2m - 2)) for m = 3 layers).
    """

    def __init__(self, width: int, group_size: int, blocks: int) -> None:
        """
        Args:
            width: channels.
            group_size: channels in a group of the 3x3 convolution.
            blocks: L.

        Raises:
            Refused: where the inner channels do not fall into such groups.
        """
        super().__init__()
        inner = EXPANSION * width
        if inner % group_size:
            raise Refused(
                f"network.group_size: found {group_size}; a stage of {width} channels has {inner} between its 1x1 "
                "convolutions, take a divisor of that"
            )
        gain = (2 / (1 + 0.2**2)) ** 0.5 * blocks**-0.25
        last = nn.Conv2d(inner, width, 1, bias=False)
        nn.init.zeros_(last.weight)
        self.branch = nn.Sequential(
            scaled_normal(nn.Conv2d(width, inner, 1), gain),
            nn.LeakyReLU(0.2),
            scaled_normal(nn.Conv2d(inner, inner, 3, padding=1, groups=inner // group_size), gain),
            nn.LeakyReLU(0.2),
            last,
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class Up(nn.Module):
    """Another width where it changes, then twice the side."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.width = pointwise(width, out) if width != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return upsample(self.width(x))


class Down(nn.Module):
    """Half the side, then another width where it changes."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.width = pointwise(width, out) if width != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.width(downsample(x))


class Basis(nn.Module):
    """Vectors `(N, d)` to maps `(N, width, base, base)`: a learned map of each channel times a linear function."""

    def __init__(self, inputs: int, width: int, base: int) -> None:
        super().__init__()
        self.maps = nn.Parameter(torch.randn(width, base, base))
        self.scale = scaled_normal(nn.Linear(inputs, width, bias=False))

    def forward(self, vectors: Tensor) -> Tensor:
        return self.maps * self.scale(vectors)[:, :, None, None]


class Generator(nn.Module):
    """Latent `(N, z)` and classes `(N,)` int64, or no classes, to images `(N, channels, size, size)` without bounds."""

    def __init__(self, settings: Settings, widths: Sequence[int], base: int, classes: int, channels: int) -> None:
        super().__init__()
        count = settings.blocks * len(widths)

        def blocks(width: int) -> list[nn.Module]:
            return [Block(width, settings.group_size, count) for _ in range(settings.blocks)]

        if classes:
            self.embed = nn.Embedding(classes, settings.z)
            nn.init.normal_(self.embed.weight, 0.0, classes**-0.5)  # a linear layer of one-hot classes
        inputs = 2 * settings.z if classes else settings.z
        self.start = nn.Sequential(Basis(inputs, widths[0], base), *blocks(widths[0]))
        self.stages = nn.Sequential(*(nn.Sequential(Up(*pair), *blocks(pair[1])) for pair in pairwise(widths)))
        self.image = pointwise(widths[-1], channels)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        vectors = z if labels is None else torch.cat([z, self.embed(labels)], dim=1)
        return self.image(self.stages(in_autocast(in_float32(self.start, vectors))))


def in_autocast(x: Tensor) -> Tensor:
    """x in the type that autocast computes in; added to what is left in float32, the blocks' results would be, too."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


class Discriminator(nn.Module):
    """Images and classes, or no classes, to one logit each, `(N,)`: the generator in reverse.

    With classes the logit is the product of an embedding and the last layer (Miyato & Koyama 2018, arXiv 1802.05637,
    without its unconditional part).
    """

    def __init__(self, settings: Settings, widths: Sequence[int], base: int, classes: int, channels: int) -> None:
        super().__init__()
        count = settings.blocks * len(widths)

        def blocks(width: int) -> list[nn.Module]:
            return [Block(width, settings.group_size, count) for _ in range(settings.blocks)]

        wide = widths[0]
        self.image = pointwise(channels, widths[-1])
        self.stages = nn.Sequential(
            *(nn.Sequential(*blocks(pair[0]), Down(*pair)) for pair in pairwise(reversed(widths)))
        )
        self.last = nn.Sequential(
            *blocks(wide),
            scaled_normal(nn.Conv2d(wide, wide, base, groups=wide, bias=False)),  # each channel by a map of its own
            nn.Flatten(),
            scaled_normal(nn.Linear(wide, wide if classes else 1, bias=False)),
        )
        if classes:
            self.embed = nn.Embedding(classes, wide)
            nn.init.normal_(self.embed.weight, 0.0, (classes * wide) ** -0.5)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        features = in_float32(self.last, self.stages(self.image(images)))
        return features[:, 0] if labels is None else (features * self.embed(labels)).sum(dim=1)


class R3GAN(TwoPlayers):
    """The modern baseline: relativistic pairing, R1 and R2 in every step."""

    preset = {
        "loss": "relativistic",
        "penalties": {"r1": 0.05, "r2": 0.05},
        "generator": {"name": "adam", "lr": 2e-4, "betas": [0.0, 0.9]},
        "discriminator": {"name": "adam", "lr": 2e-4, "betas": [0.0, 0.9]},
        "ema": {"half_life": 0.0, "ramp_up": None},
        "augment": {"name": "r3gan", "p": 0.0},
        "schedules": {
            key: {"to": to, "kimg": BURN_IN, "shape": "cosine"}
            for key, to in {
                "generator.lr": 5e-5,
                "discriminator.lr": 5e-5,
                "generator.betas.1": 0.99,
                "discriminator.betas.1": 0.99,
                "penalties.r1": 0.005,
                "penalties.r2": 0.005,
                "ema.half_life": 5000.0,
                "augment.p": 0.55,
            }.items()
        },
        "batch": 512,
    }
    tiny = {"network": {"z": 8, "width": 8, "blocks": 1, "group_size": 4}, "batch": 8}
    Network = Settings

    @classmethod
    def condition_kind(cls, network: Any) -> ConditionKind:
        return "class" if network.classes else "none"

    def __init__(self, spec: DatasetSpec, text_dimension: int, network: Settings, objective: Objective) -> None:
        classes = class_count(spec, "r3gan", "set network.classes: false") if network.classes else 0
        try:
            base, doublings = pyramid(spec.size)
        except ValueError as error:
            raise Refused(f"ingest.size: {error}") from error
        widths = stage_widths(network, [base * 2**i for i in range(doublings + 1)])
        self.networks = {
            "generator": Generator(network, widths, base, classes, spec.channels),
            "discriminator": Discriminator(network, widths, base, classes, spec.channels),
        }
        self.settings = network
        self.objective = objective
        self.latent = Latent(size=network.z, distribution="normal")
        self.condition = Condition(kind="class", size=classes) if classes else Condition(kind="none")

    def sample(self, z: Tensor, condition: Tensor | None) -> Tensor:
        return self.networks["generator"](z, condition).clamp(-1, 1)

    def making(self, batch: Batch) -> Callable[[Tensor], Tensor]:
        """Images as they are: beyond [-1, 1] the discriminator calls them back, and gradients do not vanish."""
        generator, asked = self.networks["generator"], self.asked(batch)
        return lambda z: generator(z, asked)

    def phases(self) -> tuple[Phase, ...]:
        """The generator compares its fakes with real images that the discriminator has not just been trained on."""
        return tuple(replace(phase, fresh=phase.name == "generator") for phase in super().phases())


def stage_widths(settings: Settings, sizes: Sequence[int]) -> list[int]:
    """Channels of the stages.

    Args:
        settings: of the model.
        sizes: sides of the stages' maps in pixels, from the smallest on.

    Raises:
        Refused: for another number of widths than of stages, or a stage without channels.
    """
    if settings.widths is not None:
        if len(settings.widths) != len(sizes) or min(settings.widths) < 1:
            stages = ", ".join(map(str, sizes))
            raise Refused(
                f"network.widths: found {settings.widths}; expected a width above 0 for each of {stages} pixels"
            )
        return settings.widths
    widths = [settings.width >> ((size - 1) // FULL_WIDTH).bit_length() for size in sizes]
    if not widths[-1]:
        raise Refused(f"network.width: found {settings.width}; it halves away towards {sizes[-1]} pixels, set widths")
    return widths
