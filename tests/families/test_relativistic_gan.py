"""Relativistic GAN: the paper's CNN for 32 pixels, its spectral norm, and logits that are compared."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from ganlib.config import Train, merge
from ganlib.data.store import Batch
from ganlib.families.relativistic_gan import RelativisticGAN
from ganlib.losses.adversarial import LOSSES
from ganlib.problems import Refused
from tests.families.plain import batch_for, build_plain, parameters

TINY = RelativisticGAN.tiny["network"]


def build(size: int, channels: int = 3, loss: str = "relativistic-average", **network: Any) -> RelativisticGAN:
    return build_plain(RelativisticGAN, size, channels, loss, **network)


def test_the_preset_is_a_train_section_with_the_published_values() -> None:
    published = Train.model_validate_json(json.dumps({"family": "relativistic-gan", **RelativisticGAN.preset}))
    for player in (published.generator, published.discriminator):
        assert (player.name, player.lr, player.betas) == ("adam", 2e-4, (0.5, 0.999))
    assert (published.loss, published.discriminator_steps, published.batch) == ("relativistic-average", 1, 32)
    tiny = Train.model_validate_json(
        json.dumps(merge({"family": "relativistic-gan", **RelativisticGAN.preset}, RelativisticGAN.tiny))
    )
    assert tiny.batch == 8


def test_the_standard_cnn_has_the_published_layers() -> None:
    """z 128 to 512 x 4 x 4, transposed convolutions to 256, 128, 64, 3x3; the discriminator's seven convolutions have
    64, 64, 128, 128, 256, 256, 512 channels, biases and no batch norm."""
    built = build(32)
    generator = 129 * 8192 + 16 * (512 * 256 + 256 * 128 + 128 * 64) + 2 * (256 + 128 + 64) + 9 * 64 * 3 + 3
    discriminator = (
        9 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512)
        + 16 * (64 * 64 + 128 * 128 + 256 * 256)
        + 2 * (64 + 128 + 256) + 512
        + 8192 + 1
    )  # fmt: skip
    assert parameters(built.networks["generator"]) == generator
    assert parameters(built.networks["discriminator"]) == discriminator
    leaky = [m for m in built.networks["discriminator"].modules() if isinstance(m, nn.LeakyReLU)]
    assert [m.negative_slope for m in leaky] == [0.1] * 7


def test_the_convolutions_have_a_spectral_norm_of_1_and_the_last_layer_is_free() -> None:
    """The largest singular value of each kernel as a matrix, by its whole decomposition."""
    built = build(8, **(TINY | {"discriminator_width": 16}))
    discriminator: Any = built.networks["discriminator"]
    for _ in range(200):  # one power iteration each
        built.judge(torch.randn(2, 3, 8, 8), None)
    kernels = [m.weight.detach() for m in discriminator.modules() if isinstance(m, nn.Conv2d)]
    assert len(kernels) == 3
    for kernel in kernels:
        largest = torch.linalg.svdvals(kernel.flatten(1))[0].item()
        assert largest == pytest.approx(1.0, rel=2e-3)
    with torch.no_grad():
        before = built.judge(torch.ones(1, 3, 8, 8), None) - discriminator.logit.bias
        discriminator.logit.weight *= 3
        after = built.judge(torch.ones(1, 3, 8, 8), None) - discriminator.logit.bias
    assert after.item() == pytest.approx(3 * before.item(), rel=1e-2)


def test_the_scale_of_a_kernel_does_not_matter() -> None:
    built = build(8, **TINY)
    discriminator: Any = built.networks["discriminator"].eval()
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        before = discriminator(images)
        discriminator.layers[2].parametrizations.weight.original *= 7
        after = discriminator(images)
    assert torch.allclose(before, after, atol=1e-5)


def test_without_a_spectral_norm_there_is_a_batch_norm() -> None:
    norms = [m for m in build(32, spectral_norm=False).networks["discriminator"].modules() if hasattr(m, "running_var")]
    assert [m.num_features for m in norms] == [64, 128, 128, 256, 256, 512]


@pytest.mark.parametrize("loss", [name for name, loss in LOSSES.items() if loss.needs_real])
def test_both_players_see_real_beside_fake(loss: str) -> None:
    """A common level of all logits changes neither loss, and the generator's depends on the real images."""
    built = build(8, loss=loss, **TINY)
    discriminator: Any = built.networks["discriminator"].eval()
    batch, other = batch_for(8), batch_for(8)

    def losses(batch: Batch) -> list[float]:
        found = []
        for phase in built.phases():
            torch.manual_seed(3)
            found.append(phase.loss(batch)[0].item())
        return found

    before = losses(batch)
    with torch.no_grad():
        discriminator.logit.bias += 5
    assert losses(batch) == pytest.approx(before, rel=1e-4)
    assert losses(other)[1] != pytest.approx(before[1], rel=1e-6)


def test_a_size_without_a_pyramid_is_refused() -> None:
    with pytest.raises(Refused, match=r"ingest\.size: found 30 pixels; expected 4, 5, 6 or 7 doubled"):
        build(30)
