"""SNGAN: the published networks, the projection, and a discriminator whose layers all have norm 1."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ganlib.card import DatasetSpec
from ganlib.config import Train
from ganlib.data.store import Batch
from ganlib.families.objective import Objective
from ganlib.families.sngan import SNGAN
from ganlib.losses.adversarial import LOSSES
from ganlib.networks.spectral import SpectralWeight
from ganlib.problems import Refused


def build(size: int = 8, channels: int = 3, named: int = 5, tiny: bool = True, **network: Any) -> SNGAN:
    spec = DatasetSpec(
        name="folder",
        size=size,
        channels=channels,  # type: ignore[arg-type]
        counts={"train": 100},
        classes=tuple(f"class {k}" for k in range(named)),
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
    )
    torch.manual_seed(0)
    settings = SNGAN.Network.model_validate((SNGAN.tiny["network"] if tiny else {}) | network)
    return SNGAN(spec, 0, settings, Objective(LOSSES["hinge"], {"penalties.r1": 0.5}, generator_batches=2))


def batch_for(size: int = 8, channels: int = 3, count: int = 10) -> Batch:
    images = torch.rand(count, channels, size, size) * 2 - 1
    return Batch(images=images, labels=torch.arange(count) % 5)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def conv(channels: int, out: int, kernel: int = 3) -> int:
    return kernel * kernel * channels * out + out


def test_at_32_pixels_these_are_the_published_networks() -> None:
    """256 channels up, 128 down, down, flat, flat; the last layer has no bias."""
    built = build(32, tiny=False)
    norm = 2 * 256
    up = 2 * norm + 2 * conv(256, 256) + conv(256, 256, 1)
    assert parameters(built.networks["generator"]) == 129 * 4096 + 3 * up + norm + conv(256, 3)
    first = conv(3, 128) + conv(128, 128) + conv(3, 128, 1)
    down, flat = 2 * conv(128, 128) + conv(128, 128, 1), 2 * conv(128, 128)
    assert parameters(built.networks["discriminator"]) == first + down + 2 * flat + 128
    weighted = [m for m in built.networks["discriminator"].modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(weighted) == 3 + 3 + 2 + 2 + 1
    assert all(isinstance(m, SpectralWeight) for m in weighted)
    assert not any(isinstance(m, SpectralWeight) for m in built.networks["generator"].modules())


def test_with_classes_there_are_tables_in_two_norms_a_block_and_one_for_the_projection() -> None:
    plain, asked = build(32, tiny=False), build(32, tiny=False, named=10, classes=True)
    more = {name: parameters(asked.networks[name]) - parameters(plain.networks[name]) for name in plain.networks}
    assert more == {"generator": 3 * 2 * (10 - 1) * 2 * 256, "discriminator": 10 * 128}
    assert (asked.condition.kind, asked.condition.size, plain.condition.kind) == ("class", 10, "none")
    assert SNGAN.condition_kind(asked.settings) == "class"


def test_the_preset_is_the_published_training() -> None:
    train = Train.model_validate({"family": "sngan", **SNGAN.preset})
    for optimiser in (train.generator, train.discriminator):
        assert (optimiser.name, optimiser.lr, tuple(optimiser.betas)) == ("adam", 2e-4, (0.0, 0.9))
    assert (train.loss, train.penalties) == ("hinge", {})
    assert (train.batch, train.discriminator_steps, train.generator_batches, train.decay_from) == (64, 5, 2, 0.0)


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (28, 1), (32, 3), (64, 3), (128, 1)])
@pytest.mark.parametrize("classes", [False, True])
def test_samples_have_the_data_s_shape_and_range(size: int, channels: int, classes: bool) -> None:
    built = build(size, channels, classes=classes)
    labels = torch.tensor([4, 0]) if classes else None
    images = built.sample(torch.randn(2, built.latent.size), labels)
    assert images.shape == (2, channels, size, size)
    assert images.abs().max() <= 1
    assert built.judge(images, labels).shape == (2,)


@pytest.mark.parametrize("classes", [False, True])
def test_every_parameter_learns_through_penalties_too(classes: bool) -> None:
    built = build(classes=classes)
    for phase in built.phases():
        for key, network in built.networks.items():
            network.requires_grad_(key in phase.trains).zero_grad()
        phase.loss(batch_for())[0].backward()
        for key, network in built.networks.items():
            for name, parameter in network.named_parameters():
                assert (parameter.grad is not None) is (key in phase.trains), name
                if parameter.dim() > 1 and key in phase.trains:
                    assert parameter.grad is not None
                    assert parameter.grad.abs().sum() > 0, name


def test_the_logit_sums_features_over_the_map_and_projects_them() -> None:
    built = build(classes=True)
    discriminator: Any = built.networks["discriminator"].eval()
    images, labels = torch.rand(4, 3, 8, 8) * 2 - 1, torch.tensor([0, 4, 2, 2])
    with torch.no_grad():
        features = discriminator.features(images).numpy()
        found = discriminator(images, labels).numpy()
        weight = discriminator.logit.linear.normalised().numpy()[0]
        table = discriminator.logit.table.normalised().numpy()
    assert features.shape == (4, 4, 4, 4)
    assert features.min() >= 0
    summed = features.sum(axis=(2, 3))
    np.testing.assert_allclose(found, summed @ weight + (summed * table[labels.numpy()]).sum(axis=1), rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert discriminator(images, labels).dtype is torch.float32


def test_the_slope_is_bounded_by_the_layers_norms() -> None:
    """A 3x3 convolution with matrix norm 1 has at most norm 3; a block with its shortcut 3 * 3 + 1, averaging 2x2
    divides by 2, and the sum over 4 x 4 places multiplies by 4. At 8 pixels: one halving block, two flat ones."""
    built = build()
    discriminator = built.networks["discriminator"]
    for _ in range(100):
        discriminator(torch.zeros(1, 3, 8, 8))
    discriminator.eval()
    images = (torch.rand(64, 3, 8, 8) * 2 - 1).requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(images).sum(), images)
    slopes = gradient.flatten(1).norm(dim=1)
    assert 0 < slopes.max() < (9 / 2 + 1 / 2) * (9 + 1) ** 2 * 4
    with torch.no_grad():
        for layer in discriminator.modules():
            if isinstance(layer, SpectralWeight):
                layer.weight.mul_(30)
    (again,) = torch.autograd.grad(discriminator(images).sum(), images)
    weights = [p for name, p in discriminator.named_parameters() if name.endswith("bias")]
    assert all(not bias.any() for bias in weights)
    torch.testing.assert_close(again, gradient, rtol=1e-3, atol=1e-5)  # the scale of weights does not matter


def test_data_that_it_cannot_use_is_refused() -> None:
    with pytest.raises(Refused, match=r"ingest\.size: found 30 pixels; expected 4, 5, 6 or 7 doubled"):
        build(30)
    with pytest.raises(Refused, match=r"sngan with network\.classes needs two classes or more.* set it to false"):
        build(named=1, classes=True)
    assert build(named=0).condition.kind == "none"
