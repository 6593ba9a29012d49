"""WGAN: the authors' layers and values, and a critic that is not a classifier."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ganlib.config import Train, merge
from ganlib.families.wgan import WGAN
from ganlib.problems import Refused
from tests.families.plain import batch_for, build_plain, parameters

TINY = WGAN.tiny["network"]


def build(size: int, channels: int = 3, loss: str = "wasserstein", **network: Any) -> WGAN:
    return build_plain(WGAN, size, channels, loss, **network)


def test_the_preset_is_a_train_section_with_the_published_values() -> None:
    published = Train.model_validate_json(json.dumps({"family": "wgan", **WGAN.preset}))
    for player in (published.generator, published.discriminator):
        assert (player.name, player.lr) == ("rmsprop", 5e-5)
    assert (published.generator.clip_weights, published.discriminator.clip_weights) == (None, 0.01)
    assert (published.loss, published.discriminator_steps, published.batch) == ("wasserstein", 5, 64)
    boost = published.discriminator_boost
    assert boost is not None
    assert (boost.steps, boost.warm_up, boost.every) == (100, 25, 500)
    tiny = Train.model_validate_json(json.dumps(merge({"family": "wgan", **WGAN.preset}, WGAN.tiny)))
    assert tiny.batch == 8


def test_the_networks_at_64_pixels_have_the_authors_layers() -> None:
    """z 100, 512-256-128-64 maps, kernels of 4, batch norm everywhere but at the ends, no biases at all."""
    built = build(64)
    kernels = 16 * (64 * 128 + 128 * 256 + 256 * 512)
    generator = 16 * (100 * 512 + 64 * 3) + kernels + 2 * (512 + 256 + 128 + 64)
    critic = 16 * (3 * 64 + 512) + kernels + 2 * (128 + 256 + 512)
    assert parameters(built.networks["generator"]) == generator
    assert parameters(built.networks["discriminator"]) == critic
    norms = [m for m in built.networks["discriminator"].modules() if isinstance(m, nn.BatchNorm2d)]
    assert [m.num_features for m in norms] == [128, 256, 512]


def test_the_critic_s_loss_is_the_gap_of_its_means_and_real_and_fake_have_batch_norms_of_their_own() -> None:
    """Real and fake are judged apart: each half of the gap is what the critic says of that half alone."""
    built = build(16, **TINY)
    batch = batch_for(16)
    torch.manual_seed(1)
    total, _ = built.discriminator_loss(batch)
    torch.manual_seed(1)
    fake = built.sample(torch.randn(8, 8), None)
    gap = built.judge(batch.images, None).mean() - built.judge(fake, None).mean()
    assert total.item() == pytest.approx(-gap.item(), rel=1e-4)
    together: Tensor = built.judge(torch.cat([batch.images, fake]), None)
    assert abs((together[:8].mean() - together[8:].mean()).item() - gap.item()) > 1e-3


def test_a_size_without_a_pyramid_is_refused() -> None:
    with pytest.raises(Refused, match=r"ingest\.size: found 30 pixels; expected 4, 5, 6 or 7 doubled"):
        build(30)
