"""GAN: the authors' MNIST networks, maxout, and dropout from the batch's own random numbers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ganlib.config import Train, merge
from ganlib.data.store import Batch
from ganlib.families.gan import GAN, Maxout
from tests.families.plain import batch_for, build_plain, parameters

TINY = GAN.tiny["network"]


def build(size: int, channels: int = 3, loss: str = "non-saturating", **network: Any) -> GAN:
    return build_plain(GAN, size, channels, loss, **network)


def test_the_preset_is_a_train_section_with_the_published_values() -> None:
    published = Train.model_validate_json(json.dumps({"family": "gan", **GAN.preset}))
    assert (published.generator.name, published.generator.lr, published.generator.momentum) == ("sgd", 0.1, 0.5)
    # the authors' discriminator minimises half of what ours does: half the rate makes the step as long
    assert (published.discriminator.name, published.discriminator.lr) == ("sgd", 0.05)
    assert (published.loss, published.batch) == ("non-saturating", 100)
    for images, steps in ((100, 1), (1_000_000, 10_000), (400_000_000, None)):
        rates = published.numbers_at(images)
        expected = 0.1 / 1.000004**steps if steps else 1e-6
        assert rates["generator.lr"] == pytest.approx(expected, rel=1e-6)
        assert rates["discriminator.lr"] == pytest.approx(expected / 2, rel=1e-6)
    tiny = Train.model_validate_json(json.dumps(merge({"family": "gan", **GAN.preset}, GAN.tiny)))
    assert tiny.batch == 8


def test_the_networks_for_28_grey_pixels_have_the_authors_layers() -> None:
    """100-1200-1200-784 against 784-240-240-1 with 5 pieces, all with biases."""
    built = build(28, 1)
    assert parameters(built.networks["generator"]) == 101 * 1200 + 1201 * 1200 + 1201 * 784
    assert parameters(built.networks["discriminator"]) == 785 * 1200 + 241 * 1200 + 241
    for name, limit in (("generator", 0.05), ("discriminator", 0.005)):
        for key, value in built.networks[name].named_parameters():
            if key.endswith("bias"):
                assert value.abs().max() == 0
            else:
                assert 0.9 * limit < value.abs().max() <= limit


def test_maxout_is_the_largest_of_its_affine_maps() -> None:
    """Against numpy: unit u has the rows u * pieces to u * pieces + pieces - 1."""
    torch.manual_seed(0)
    layer = Maxout(6, 4, 3)
    x = torch.randn(5, 6)
    weight, bias = layer.maps.weight.detach().numpy(), layer.maps.bias.detach().numpy()
    maps = np.einsum("ni,oi->no", x.numpy(), weight) + bias
    expected = maps.reshape(5, 4, 3).max(axis=2)
    assert layer(x).detach().numpy() == pytest.approx(expected, abs=1e-6)


def test_pixels_are_0_to_1_inside_the_networks() -> None:
    """A black image is all zeros, and so brings no gradient to the first weights; the output is 2 sigmoid(a) - 1."""
    built = build(8, **TINY)
    built.judge(-torch.ones(2, 3, 8, 8), None).sum().backward()
    discriminator: Any = built.networks["discriminator"]
    assert discriminator.first.maps.weight.grad.abs().max() == 0
    built.judge(torch.ones(2, 3, 8, 8), None).sum().backward()
    assert discriminator.first.maps.weight.grad.abs().max() > 0
    generator: Any = built.networks["generator"]
    z = torch.randn(2, 8)
    logits = generator.layers[:5](z)
    assert torch.allclose(built.sample(z, None).flatten(1), torch.tanh(logits / 2), atol=1e-6)


def seen(built: GAN, batch: Batch) -> list[Tensor]:
    """What the discriminator's three layers get from the batch's images."""
    discriminator: Any = built.networks["discriminator"]
    inputs: list[Tensor] = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0].detach()))
        for layer in (discriminator.first, discriminator.second, discriminator.logit)
    ]
    built.critic(batch)(batch.images)
    for hook in hooks:
        hook.remove()
    return inputs


def test_dropout_leaves_out_a_fifth_of_the_pixels_and_half_of_the_units() -> None:
    built = build(8, discriminator_width=400, **{k: v for k, v in TINY.items() if k != "discriminator_width"})
    discriminator: Any = built.networks["discriminator"]
    nn.init.ones_(discriminator.first.maps.bias)  # so that no unit is 0 of itself
    nn.init.ones_(discriminator.second.maps.bias)
    batch = Batch(images=torch.ones(100, 3, 8, 8))
    for x, share in zip(seen(built, batch), (0.2, 0.5, 0.5), strict=True):
        out = (x == 0).float().mean().item()
        assert out == pytest.approx(share, abs=0.02)
    pixels = seen(built, batch)[0]
    assert pixels.unique().tolist() == [0, 1.25]  # kept values are scaled so that the mean stays
    assert not torch.equal(pixels, seen(built, batch)[0])


def test_a_part_of_a_batch_has_the_whole_batch_s_dropout() -> None:
    built = build(8, **TINY)
    whole = batch_for(8)
    torch.manual_seed(4)
    expected = seen(built, whole)
    for index in (0, 1):
        torch.manual_seed(4)
        for part, of_whole in zip(seen(built, whole.part(index, 2)), expected, strict=True):
            assert torch.equal(part, of_whole[4 * index : 4 * index + 4])


def test_dropout_follows_the_settings_and_is_for_training_alone() -> None:
    built = build(8, **TINY)
    batch = batch_for(8)
    plain = built.judge(batch.images, None)
    assert torch.equal(plain, built.judge(batch.images, None))
    assert not torch.allclose(built.critic(batch)(batch.images), plain)
    built.settings = built.settings.model_copy(update={"pixel_dropout": 0.0, "dropout": 0.0})
    assert torch.allclose(built.critic(batch)(batch.images), plain)


def test_both_players_steps_have_dropout() -> None:
    built = build(8, **TINY)
    for phase in built.phases():
        masked: list[bool] = []
        hook = built.networks["discriminator"].register_forward_pre_hook(
            lambda _, given, masked=masked: masked.append(len(given) == 3)
        )
        phase.loss(batch_for(8))
        hook.remove()
        assert masked == [True] * (2 if phase.name == "discriminator" else 1)


def test_any_size_will_do() -> None:
    assert build(30, **TINY).sample(torch.randn(1, 8), None).shape == (1, 3, 30, 30)
