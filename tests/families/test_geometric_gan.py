"""Geometric GAN: the soft-margin support vector machine in its last layer, and ten generator steps to one."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from ganlib.config import Train, merge
from ganlib.data.store import Batch
from ganlib.families.geometric_gan import GeometricGAN
from ganlib.losses.adversarial import LOSSES
from ganlib.problems import Refused
from tests.families.plain import batch_for, build_plain, parameters

TINY = GeometricGAN.tiny["network"]


def build(size: int, channels: int = 3, loss: str = "hinge", **network: Any) -> GeometricGAN:
    return build_plain(GeometricGAN, size, channels, loss, **network)


def test_the_preset_is_a_train_section_with_the_published_values() -> None:
    published = Train.model_validate_json(json.dumps({"family": "geometric-gan", **GeometricGAN.preset}))
    for player in (published.generator, published.discriminator):
        assert (player.name, player.lr, player.clip_weights) == ("rmsprop", 2e-4, None)
    assert (published.loss, published.discriminator_steps, published.batch) == ("hinge", 1, 64)
    tiny = Train.model_validate_json(
        json.dumps(merge({"family": "geometric-gan", **GeometricGAN.preset}, GeometricGAN.tiny))
    )
    assert tiny.batch == 8


def test_the_discriminator_minimises_the_soft_margin_svm_s_objective() -> None:
    """||w||^2 / (2 C n) + mean relu(1 - v) over the real + mean relu(1 + v) over the fake."""
    built = build(8, margin_cost=0.25, **TINY)
    batch = batch_for(8)
    torch.manual_seed(1)
    total, _ = built.discriminator_loss(batch)
    torch.manual_seed(1)
    fake = built.sample(torch.randn(8, 8), None)
    real_values, fake_values = built.judge(batch.images, None), built.judge(fake, None)
    hinge = sum(max(0.0, 1 - v) for v in real_values.tolist()) / 8
    hinge += sum(max(0.0, 1 + v) for v in fake_values.tolist()) / 8
    discriminator: Any = built.networks["discriminator"]
    squares = sum(w * w for w in discriminator.logit.weight.flatten().tolist())
    assert total.item() == pytest.approx(hinge + squares / (2 * 0.25 * 8), rel=1e-5)
    assert squares / (2 * 0.25 * 8) > 1e-3 * hinge  # so large that it would be missed


def test_the_margin_counts_the_same_in_the_parts_of_a_batch() -> None:
    """Its share of the mean over two parts is that of the whole batch; one part of 4 on its own would have twice it."""
    built = build(8, **TINY)
    built.objective.loss = LOSSES["wasserstein"]  # linear: the parts' hinge could differ, their margins may not
    discriminator: Any = built.networks["discriminator"]
    discriminator.eval()
    whole = batch_for(8)
    squares = discriminator.logit.weight.square().sum().item()

    def margin(batch: Batch) -> float:
        torch.manual_seed(2)
        total, _ = built.discriminator_loss(batch)
        torch.manual_seed(2)
        fake = built.fakes(batch)
        return (total - (built.judge(fake, None).mean() - built.judge(batch.images, None).mean())).item()

    for batch in (whole, whole.part(0, 2), whole.part(1, 2)):
        assert margin(batch) == pytest.approx(squares / 16, rel=1e-3)
    assert margin(batch_for(8, 4)) == pytest.approx(squares / 8, rel=1e-3)


def test_a_training_step_has_one_step_of_the_discriminator_and_ten_of_the_generator() -> None:
    repeats = {phase.name: phase.repeats.at(0) for phase in build(64, 1, width=4, discriminator_width=4).phases()}
    assert repeats == {"discriminator": 1, "generator": 10}
    assert {phase.name: phase.repeats.at(7) for phase in build(8, **TINY).phases()}["generator"] == 2


def test_the_networks_at_64_pixels_have_the_authors_layers() -> None:
    built = build(64)
    kernels = 16 * (64 * 128 + 128 * 256 + 256 * 512)
    generator = 16 * (100 * 512 + 64 * 3) + kernels + 2 * (512 + 256 + 128 + 64)
    discriminator = 16 * (3 * 64 + 512) + kernels + 2 * (128 + 256 + 512)
    assert parameters(built.networks["generator"]) == generator
    assert parameters(built.networks["discriminator"]) == discriminator


def test_a_size_without_a_pyramid_is_refused() -> None:
    with pytest.raises(Refused, match=r"ingest\.size: found 30 pixels; expected 4, 5, 6 or 7 doubled"):
        build(30)
