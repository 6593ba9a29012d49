"""What holds for every family of a plain critic without a condition."""

from __future__ import annotations

import pytest

from ganlib.families.base import TwoPlayers
from ganlib.families.f_gan import FGAN
from ganlib.families.gan import GAN
from ganlib.families.geometric_gan import GeometricGAN
from ganlib.families.lsgan import LSGAN
from ganlib.families.relativistic_gan import RelativisticGAN
from ganlib.families.wgan import WGAN
from tests.families.plain import batch_for, build_plain

KINDS = [FGAN, GAN, GeometricGAN, LSGAN, RelativisticGAN, WGAN]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 28, 32, 64])
def test_it_is_built_for_every_size(kind: type[TwoPlayers], size: int, channels: int) -> None:
    built = build_plain(kind, size, channels, **kind.tiny["network"])
    images = built.sample(built.latents(batch_for(size, 2)), None)
    assert images.shape == (2, channels, size, size)
    assert 0 < images.abs().max() <= 1
    assert built.judge(images, None).shape == (2,)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient(kind: type[TwoPlayers]) -> None:
    built = build_plain(kind, 8, **kind.tiny["network"])
    for phase in built.phases():
        built.networks[phase.trains[0]].zero_grad()
        phase.loss(batch_for(8))[0].backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in built.networks[phase.trains[0]].parameters())
