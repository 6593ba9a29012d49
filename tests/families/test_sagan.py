"""SAGAN: the published networks, where attention sits, and spectral normalisation of every layer of both."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ganlib.card import DatasetSpec
from ganlib.config import Train
from ganlib.data.store import Batch
from ganlib.families.objective import Objective
from ganlib.families.sagan import SAGAN
from ganlib.losses.adversarial import LOSSES
from ganlib.networks.attention import SelfAttention
from ganlib.networks.spectral import SpectralWeight
from ganlib.problems import Refused


def build(size: int = 8, channels: int = 3, named: int = 5, tiny: bool = True, **network: Any) -> SAGAN:
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
    settings = SAGAN.Network.model_validate((SAGAN.tiny["network"] if tiny else {}) | network)
    return SAGAN(spec, 0, settings, Objective(LOSSES["hinge"], {"penalties.r1": 0.5}))


def batch_for(size: int = 8, channels: int = 3, count: int = 10) -> Batch:
    images = torch.rand(count, channels, size, size) * 2 - 1
    return Batch(images=images, labels=torch.arange(count) % 5)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def block(channels: int, out: int, shortcut: bool = True) -> int:
    return 9 * channels * out + out + 9 * out * out + out + shortcut * (channels * out + out)


def attention(channels: int) -> int:
    return 2 * channels * channels // 8 + 2 * channels * channels // 2 + 1


def test_at_128_pixels_these_are_the_published_networks() -> None:
    with torch.device("meta"):
        built = build(128, named=1000, tiny=False)
    up = [(1024, 1024), (1024, 512), (512, 256), (256, 128), (128, 64)]
    generator = (
        129 * 1024 * 16
        + sum(block(*widths) + 1000 * 2 * sum(widths) for widths in up)
        + attention(256)
        + 2 * 64 + 9 * 64 * 3 + 3
    )  # fmt: skip
    down = [(3, 64), (64, 128), (128, 256), (256, 512), (512, 1024)]
    discriminator = (
        sum(block(*widths) for widths in down) + attention(128) + block(1024, 1024, shortcut=False)
        + 1024 + 1 + 1000 * 1024
    )  # fmt: skip
    assert parameters(built.networks["generator"]) == generator
    assert parameters(built.networks["discriminator"]) == discriminator
    assert (built.latent.size, built.condition.size) == (128, 1000)


@pytest.mark.parametrize(
    ("size", "asked", "side"), [(128, 32, 32), (64, 32, 32), (64, 16, 16), (32, 32, 16), (28, 32, 14), (8, 32, 4)]
)
def test_attention_sits_on_the_same_map_of_both_networks(size: int, asked: int, side: int) -> None:
    built = build(size, attention=asked)
    seen: dict[str, tuple[int, ...]] = {}
    for name, network in built.networks.items():
        (found,) = (m for m in network.modules() if isinstance(m, SelfAttention))
        found.register_forward_hook(lambda _, inputs, out, name=name: seen.update({name: tuple(out.shape[2:])}))
    built.judge(built.sample(torch.zeros(1, 8), torch.tensor([0])), torch.tensor([0]))
    assert seen == {"generator": (side, side), "discriminator": (side, side)}


def test_without_attention_there_is_none_and_at_first_it_changes_nothing() -> None:
    having, without = build(16), build(16, attention=0)
    assert not any(isinstance(m, SelfAttention) for n in without.networks.values() for m in n.modules())
    z, labels = torch.randn(2, 8), torch.tensor([1, 4])
    missing, unexpected = without.networks["generator"].load_state_dict(
        having.networks["generator"].state_dict(), strict=False
    )
    assert not missing
    assert unexpected
    assert all(key.startswith("attention.") for key in unexpected)
    assert torch.equal(having.sample(z, labels), without.sample(z, labels))


def test_every_layer_is_spectrally_normalised() -> None:
    for network in build().networks.values():
        weighted = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        assert len(weighted) >= 9
        assert all(isinstance(m, SpectralWeight) for m in weighted)


def test_the_preset_is_the_published_training() -> None:
    train = Train.model_validate({"family": "sagan", **SAGAN.preset})
    for optimiser, lr in ((train.generator, 1e-4), (train.discriminator, 4e-4)):
        assert (optimiser.name, optimiser.lr, tuple(optimiser.betas)) == ("adam", lr, (0.0, 0.9))
    assert (train.loss, train.penalties) == ("hinge", {})
    assert (train.batch, train.discriminator_steps, train.generator_batches, train.decay_from) == (256, 1, 1, 1.0)


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (28, 1), (32, 3), (64, 3)])
@pytest.mark.parametrize("classes", [False, True])
def test_samples_have_the_data_s_shape_and_range(size: int, channels: int, classes: bool) -> None:
    built = build(size, channels, classes=classes)
    assert built.condition.kind == ("class" if classes else "none")
    assert SAGAN.condition_kind(built.settings) == built.condition.kind
    labels = torch.tensor([4, 0]) if classes else None
    images = built.sample(torch.randn(2, built.latent.size), labels)
    assert images.shape == (2, channels, size, size)
    assert images.abs().max() <= 1
    with torch.autocast("cpu", torch.bfloat16):
        logits = built.judge(images, labels)
    assert (logits.shape, logits.dtype) == ((2,), torch.float32)


@pytest.mark.parametrize("classes", [False, True])
def test_every_parameter_learns_through_penalties_too(classes: bool) -> None:
    built = build(classes=classes)
    for network in built.networks.values():
        for module in network.modules():
            if isinstance(module, SelfAttention):
                nn.init.constant_(module.gamma, 0.5)  # at 0 the layers behind it do not learn yet
    for phase in built.phases():
        for key, network in built.networks.items():
            network.requires_grad_(key in phase.trains).zero_grad()
        phase.loss(batch_for())[0].backward()
        for key, network in built.networks.items():
            for name, parameter in network.named_parameters():
                assert (parameter.grad is not None) is (key in phase.trains), name
                if parameter.dim() != 1 and key in phase.trains:
                    assert parameter.grad is not None
                    assert parameter.grad.abs().sum() > 0, name


def test_data_that_it_cannot_use_is_refused() -> None:
    with pytest.raises(Refused, match=r"ingest\.size: found 30 pixels; expected 4, 5, 6 or 7 doubled"):
        build(30)
    with pytest.raises(Refused, match=r"sagan needs two classes or more.* set network\.classes to false"):
        build(named=1)
    assert build(named=0, classes=False).condition.kind == "none"
