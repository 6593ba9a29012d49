"""f-GAN: the dense networks of its MNIST experiment, DCGAN's beyond, and every divergence."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ganlib.config import Train, merge
from ganlib.families.f_gan import FGAN
from ganlib.losses.adversarial import LOSSES
from ganlib.problems import Refused
from tests.families.plain import batch_for, build_plain, parameters

TINY = FGAN.tiny["network"]


def build(size: int, channels: int = 3, loss: str = "f-kl", **network: Any) -> FGAN:
    return build_plain(FGAN, size, channels, loss, **network)


def test_the_preset_is_a_train_section_with_the_published_values() -> None:
    published = Train.model_validate_json(json.dumps({"family": "f-gan", **FGAN.preset}))
    for player in (published.generator, published.discriminator):
        assert (player.name, player.lr, player.betas[0]) == ("adam", 2e-4, 0.5)
    assert (published.loss, published.batch) == ("f-kl", 4096)
    tiny = Train.model_validate_json(json.dumps(merge({"family": "f-gan", **FGAN.preset}, FGAN.tiny)))
    assert tiny.batch == 8


def test_the_dense_networks_for_28_grey_pixels_have_the_published_layers() -> None:
    """100-1200-1200-784 with batch norms in place of the hidden biases; 784-240-240-1."""
    built = build(28, 1)
    assert parameters(built.networks["generator"]) == 100 * 1200 + 1200 * 1200 + 4 * 1200 + 1201 * 784
    assert parameters(built.networks["discriminator"]) == 785 * 240 + 241 * 240 + 241
    for name, deviation in (("generator", 0.05), ("discriminator", 0.005)):
        for module in built.networks[name].modules():
            if isinstance(module, nn.Linear):
                assert module.weight.std().item() == pytest.approx(deviation, rel=0.15)
                assert module.bias is None or module.bias.abs().max() == 0


def test_the_discriminator_is_two_layers_of_elus_on_pixels_from_0_to_1() -> None:
    """Written out in numpy."""
    built = build(8, 1, **TINY)
    discriminator: Any = built.networks["discriminator"]
    for layer in (discriminator.layers[0], discriminator.layers[2], discriminator.logit):
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    images = torch.rand(4, 1, 8, 8) * 2 - 1
    x = (images.flatten(1).numpy() + 1) / 2
    for layer in (discriminator.layers[0], discriminator.layers[2]):
        x = x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        x = np.where(x > 0, x, np.expm1(x))
    expected = x @ discriminator.logit.weight.detach().numpy()[0] + discriminator.logit.bias.item()
    assert built.judge(images, None).detach().numpy() == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(
    ("size", "architecture", "convolutional"),
    [(32, "auto", False), (40, "auto", True), (64, "auto", True), (8, "dcgan", True), (64, "mlp", False)],
)
def test_which_networks_are_built(size: int, architecture: str, convolutional: bool) -> None:
    built = build(size, architecture=architecture, **TINY)
    for network in built.networks.values():
        found = any(isinstance(m, nn.Conv2d | nn.ConvTranspose2d) for m in network.modules())
        assert found is convolutional


@pytest.mark.parametrize("loss", [name for name in LOSSES if name.startswith("f-")])
def test_every_divergence_moves_both_players(loss: str) -> None:
    built = build(8, loss=loss, **TINY)
    for phase in built.phases():
        network = built.networks[phase.trains[0]]
        network.zero_grad()
        total, _ = phase.loss(batch_for(8))
        total.backward()
        assert torch.isfinite(total)
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters() if p.dim() > 1)


def test_the_discriminator_s_optimum_under_kl_is_the_divergence() -> None:
    """Two known distributions of flat images: v = f'(p/q) = 1 + log(p/q) makes the bound KL(P || Q), eq. 4 and 5."""
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    v = torch.from_numpy(1 + np.log(p / q))
    bound = (torch.from_numpy(p) * v).sum() - (torch.from_numpy(q) * torch.exp(v - 1)).sum()
    counts = 10 * np.array([p, q])
    real, fake = (v.repeat_interleave(torch.from_numpy(count.round().astype(int))) for count in counts)
    assert -LOSSES["f-kl"].discriminator(real, fake).item() == pytest.approx(bound.item())
    assert bound.item() == pytest.approx((p * np.log(p / q)).sum())


def test_latents_are_uniform() -> None:
    drawn = build(8, **TINY).latents(batch_for(8, 4000))
    assert -1 <= drawn.min() < -0.99
    assert 0.99 < drawn.max() <= 1


def test_a_size_without_a_pyramid_is_refused_where_one_is_needed() -> None:
    assert build(30, **TINY).sample(torch.rand(2, 8), None).shape == (2, 3, 30, 30)
    with pytest.raises(Refused, match=r"ingest\.size: found 34 pixels; expected .*; or take network\.architecture mlp"):
        build(34)
