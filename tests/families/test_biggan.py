"""BigGAN: the published parameter counts, the hierarchical latent, the orthogonal beginning and the late average."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ganlib.card import DatasetSpec
from ganlib.config import Train
from ganlib.data.store import Batch
from ganlib.families.biggan import BigGAN
from ganlib.families.objective import Objective
from ganlib.losses.adversarial import LOSSES
from ganlib.networks.attention import SelfAttention
from ganlib.networks.spectral import SpectralEmbedding, SpectralWeight
from ganlib.problems import Refused


def build(size: int = 8, channels: int = 3, named: int = 5, tiny: bool = True, **network: Any) -> BigGAN:
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
    settings = BigGAN.Network.model_validate((BigGAN.tiny["network"] if tiny else {}) | network)
    weights = {"generator_penalties.orthogonal": 1e-4, "penalties.r1": 0.5}
    return BigGAN(spec, 0, settings, Objective(LOSSES["hinge"], weights))


def batch_for(size: int = 8, channels: int = 3, count: int = 10) -> Batch:
    images = torch.rand(count, channels, size, size) * 2 - 1
    return Batch(images=images, labels=torch.arange(count) % 5)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def block(channels: int, out: int, shortcut: bool = True) -> int:
    return 9 * channels * out + out + 9 * out * out + out + shortcut * (channels * out + out)


def test_at_128_pixels_these_are_the_published_networks() -> None:
    """Width 96 and 1,000 classes: the two counts are those that the test of compare_gan's BigGAN asserts."""
    with torch.device("meta"):
        built = build(128, named=1000, tiny=False, width=96, discriminator_width=96)
    assert parameters(built.networks["generator"]) == 70_433_988
    assert parameters(built.networks["discriminator"]) == 87_982_370
    assert (built.latent.size, built.condition.size) == (120, 1000)


def test_at_32_pixels_these_are_the_authors_networks_for_cifar() -> None:
    """256 channels everywhere; up three times; down, down, flat, flat. Attention at 16 x 16 is the paper's addition."""
    with torch.device("meta"):
        built = build(32, named=10, tiny=False)
    attention = 2 * 256 * 32 + 2 * 256 * 128 + 1
    norms = 3 * 2 * 2 * (128 + 20) * 256  # blocks, norms a block, scale and shift
    generator = (
        10 * 128 + 21 * 256 * 16 + 3 * block(256, 256) + norms + attention + 2 * 256 + 9 * 256 * 3 + 3
    )  # fmt: skip
    discriminator = (
        block(3, 256) + block(256, 256) + 2 * block(256, 256, shortcut=False) + attention + 256 + 1 + 10 * 256
    )
    assert parameters(built.networks["generator"]) == generator
    assert parameters(built.networks["discriminator"]) == discriminator
    assert built.latent.size == 4 * 20
    with torch.device("meta"):
        plain = build(32, named=10, tiny=False, attention=0)
    assert parameters(plain.networks["generator"]) == generator - attention
    assert parameters(plain.networks["discriminator"]) == discriminator - attention


@pytest.mark.parametrize(
    ("size", "up", "down"),
    [
        (8, [4, 4], [4, 4, 4]),
        (28, [4, 4, 4], [4, 4, 4, 4]),
        (64, [16, 16, 8, 4, 2], [1, 2, 4, 8, 16]),
        (128, [16, 16, 8, 4, 2, 1], [1, 2, 4, 8, 16, 16]),
        (256, [16, 16, 8, 8, 4, 2, 1], [1, 2, 4, 8, 8, 16, 16]),
        (512, [16, 16, 8, 8, 4, 2, 1, 1], [1, 1, 2, 4, 8, 8, 16, 16]),
    ],
)
def test_widths_by_resolution(size: int, up: list[int], down: list[int]) -> None:
    with torch.device("meta"):
        built = build(size, width=1, discriminator_width=1)
    generator: Any = built.networks["generator"]
    blocks = list(generator.blocks)
    assert [blocks[0].conv1.in_channels, *(b.conv1.out_channels for b in blocks)] == up
    discriminator: Any = built.networks["discriminator"]
    assert [b.conv1.out_channels for b in discriminator.features if hasattr(b, "conv1")] == down


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (28, 1), (32, 3), (64, 3), (128, 1)])
def test_samples_have_the_data_s_shape_and_range(size: int, channels: int) -> None:
    built = build(size, channels)
    images, labels = torch.randn(2, built.latent.size), torch.tensor([4, 0])
    images = built.sample(images, labels)
    assert images.shape == (2, channels, size, size)
    assert images.abs().max() <= 1
    with torch.autocast("cpu", torch.bfloat16):
        logits = built.judge(images, labels)
    assert (logits.shape, logits.dtype) == ((2,), torch.float32)
    maps = []
    for network in built.networks.values():
        for module in network.modules():
            if isinstance(module, SelfAttention):
                module.register_forward_hook(lambda _, inputs, out: maps.append(out.shape[2]))
    built.judge(built.sample(torch.zeros(1, built.latent.size), labels[:1]), labels[:1])
    assert maps == [{8: 4, 28: 14, 32: 16, 64: 32, 128: 64}[size]] * 2


def test_each_piece_of_the_latent_reaches_its_own_block() -> None:
    """The first piece goes into the first layer, piece k into the norms of block k, beside the class's vector."""
    built = build(32)
    generator: Any = built.networks["generator"].eval()
    seen: list[torch.Tensor] = []
    generator.start.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for at in generator.blocks:
        at.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    z, labels = torch.randn(3, 16), torch.tensor([1, 0, 4])
    plain = built.sample(z, labels)
    assert torch.equal(seen[0], z[:, :4])
    vectors = generator.shared.weight[labels]
    for k in (1, 2, 3):
        assert torch.equal(seen[k], torch.cat([vectors, z[:, 4 * k : 4 * k + 4]], dim=1))
        moved = z.clone()
        moved[:, 4 * k : 4 * k + 4] += 1
        assert (built.sample(moved, labels) - plain).abs().max() > 1e-4


def test_weights_begin_orthogonal_and_all_but_the_class_s_vectors_are_normalised() -> None:
    built = build(32)
    for network in built.networks.values():
        weighted = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.Embedding)]
        for layer in weighted:
            matrix = layer.weight.detach().flatten(1)
            gram = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix
            torch.testing.assert_close(gram, torch.eye(len(gram)), rtol=0, atol=1e-5)
        plain = [m for m in weighted if not isinstance(m, SpectralWeight)]
        assert [type(m) for m in plain] == ([nn.Embedding] if network is built.networks["generator"] else [])
    assert isinstance(built.networks["discriminator"].logit.table, SpectralEmbedding)  # type: ignore[union-attr]


def test_every_parameter_learns_through_penalties_too() -> None:
    built = build()
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


def test_the_preset_averages_from_step_1000_with_a_decay_of_0_9999() -> None:
    train = Train.model_validate({"family": "biggan", **BigGAN.preset})
    for optimiser in (train.generator, train.discriminator):
        assert (optimiser.name, optimiser.lr, tuple(optimiser.betas)) == ("adam", 2e-4, (0.0, 0.999))
    assert (train.batch, train.discriminator_steps, train.generator_batches) == (50, 4, 1)
    assert (train.loss, train.generator_penalties, train.penalties) == ("hinge", {"orthogonal": 1e-4}, {})
    assert train.ema.ramp_up is None
    assert train.numbers_at(1000 * 50)["ema.half_life"] == 0
    for step in (1001, 100_000):
        half_life = 1000 * train.numbers_at(step * 50)["ema.half_life"]
        assert 0.5 ** (50 / half_life) == pytest.approx(0.9999, abs=1e-9)


def test_data_that_it_cannot_use_is_refused() -> None:
    with pytest.raises(Refused, match=r"ingest\.size: found 30 pixels; expected 4, 5, 6 or 7 doubled"):
        build(30)
    with pytest.raises(Refused, match=r"ingest\.size: found 1024 pixels; biggan has layouts of up to 7 doublings"):
        build(1024)
    with pytest.raises(Refused, match=r"biggan needs two classes or more.* take sngan, or sagan"):
        build(named=1)
