"""LSGAN: the authors' networks at 112 pixels, layer by layer, and at other sizes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ganlib.config import Train, merge
from ganlib.families.lsgan import LSGAN
from ganlib.problems import Refused
from tests.families.plain import batch_for, build_plain, parameters

TINY = LSGAN.tiny["network"]


def build(size: int, channels: int = 3, loss: str = "least-squares", **network: Any) -> LSGAN:
    return build_plain(LSGAN, size, channels, loss, **network)


def test_the_preset_is_a_train_section_with_the_published_values() -> None:
    published = Train.model_validate_json(json.dumps({"family": "lsgan", **LSGAN.preset}))
    for player in (published.generator, published.discriminator):
        assert (player.name, player.lr, player.betas) == ("adam", 1e-3, (0.5, 0.999))
    assert (published.loss, published.batch) == ("least-squares", 64)
    tiny = Train.model_validate_json(json.dumps(merge({"family": "lsgan", **LSGAN.preset}, LSGAN.tiny)))
    assert tiny.batch == 8


def shapes(network: nn.Module, x: Tensor) -> list[tuple[int, ...]]:
    """What comes out of each layer with weights, without the batch."""
    found: list[tuple[int, ...]] = []
    hooks = [
        layer.register_forward_hook(lambda _, __, out: found.append(tuple(out.shape[1:])))
        for layer in network.modules()
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
    ]
    network(x)
    for hook in hooks:
        hook.remove()
    return found


def test_the_networks_at_112_pixels_have_the_authors_layers() -> None:
    built = build(112)
    assert shapes(built.networks["generator"], torch.rand(2, 1024)) == [
        (256 * 7 * 7,),
        (256, 14, 14), (256, 14, 14), (256, 28, 28), (256, 28, 28), (128, 56, 56), (64, 112, 112),
        (3, 112, 112),
    ]  # fmt: skip
    assert shapes(built.networks["discriminator"], torch.rand(2, 3, 112, 112)) == [
        (64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7), (1,),
    ]  # fmt: skip
    generator = (
        1024 * 256 * 49 + 2 * 256 * 49
        + 9 * (4 * 256 * 256 + 256 * 128 + 128 * 64) + 2 * (4 * 256 + 128 + 64)
        + 9 * 64 * 3 + 3
    )  # fmt: skip
    discriminator = 25 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512) + 64 + 2 * (128 + 256 + 512) + 512 * 49 + 1
    assert parameters(built.networks["generator"]) == generator
    assert parameters(built.networks["discriminator"]) == discriminator


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (8, [(16 * 16,), (4, 8, 8), (3, 8, 8)]),
        (28, [(16 * 49,), (8, 14, 14), (4, 28, 28), (3, 28, 28)]),
        (32, [(16 * 16,), (16, 8, 8), (16, 8, 8), (8, 16, 16), (4, 32, 32), (3, 32, 32)]),
    ],
)
def test_at_another_size_the_last_doublings_stay_and_earlier_ones_come_or_go(
    size: int, expected: list[tuple[int, ...]]
) -> None:
    assert shapes(build(size, **TINY).networks["generator"], torch.rand(2, 8)) == expected


def test_the_discriminator_s_channels_stop_at_eight_widths() -> None:
    found = shapes(build(128, **TINY).networks["discriminator"], torch.rand(1, 3, 128, 128).expand(2, -1, -1, -1))
    assert [shape[0] for shape in found] == [4, 8, 16, 32, 32, 1]


def test_latents_are_uniform() -> None:
    drawn = build(8, **TINY).latents(batch_for(8, 4000))
    assert -1 <= drawn.min() < -0.99
    assert 0.99 < drawn.max() <= 1


def test_a_size_without_a_pyramid_is_refused() -> None:
    with pytest.raises(Refused, match=r"ingest\.size: found 30 pixels; expected 4, 5, 6 or 7 doubled"):
        build(30)
