"""R3GAN: the published shapes, blocks that begin as the identity, and the scales that the initialisation aims at."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ganlib.card import DatasetSpec
from ganlib.config import Train
from ganlib.data.store import Batch
from ganlib.families.objective import Objective
from ganlib.families.r3gan import R3GAN, Block, Discriminator, Generator, Settings, stage_widths
from ganlib.losses.adversarial import LOSSES
from ganlib.problems import Refused


def build(size: int = 8, channels: int = 3, named: int = 5, tiny: bool = True, **network: Any) -> R3GAN:
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
    settings = Settings.model_validate((R3GAN.tiny["network"] if tiny else {}) | network)
    objective = Objective(LOSSES["relativistic"], {"penalties.r1": 0.05, "penalties.r2": 0.05})
    return R3GAN(spec, 0, settings, objective)


def batch_for(size: int = 8, channels: int = 3, count: int = 8) -> Batch:
    images = torch.rand(count, channels, size, size) * 2 - 1
    return Batch(images=images, labels=torch.arange(count) % 5)


def blocks_of(network: nn.Module) -> list[Any]:
    return [module for module in network.modules() if isinstance(module, Block)]


def stir(built: R3GAN) -> None:
    """Give the layers that begin at 0 something to do."""
    for network in built.networks.values():
        for block in blocks_of(network):
            nn.init.normal_(block.branch[4].weight, 0.0, 0.1)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def block_parameters(width: int, inner: int, groups: int) -> int:
    return width * inner + inner + 9 * inner * (inner // groups) + inner + inner * width


def test_at_32_pixels_these_are_the_published_networks() -> None:
    """Four stages of two blocks, 768 channels, between them 1536 in 96 groups, z 64."""
    with torch.device("meta"):
        built = build(32, tiny=False)
    eight = 8 * block_parameters(768, 1536, 96)
    assert parameters(built.networks["generator"]) == 64 * 768 + 768 * 16 + eight + 768 * 3
    assert parameters(built.networks["discriminator"]) == 3 * 768 + eight + 768 * 16 + 768
    for network in built.networks.values():
        grouped = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
        assert [(m.groups, m.in_channels, m.out_channels) for m in grouped] == [(96, 1536, 1536)] * 8
    assert built.latent.size == 64


def test_classes_add_an_embedding_of_the_latent_s_length_and_a_projection() -> None:
    with torch.device("meta"):
        plain, asked = build(32, tiny=False), build(32, tiny=False, named=10, classes=True)
    more = {name: parameters(asked.networks[name]) - parameters(plain.networks[name]) for name in plain.networks}
    assert more == {"generator": 10 * 64 + 64 * 768, "discriminator": 10 * 768 + 768 * 768 - 768}
    assert (asked.condition.kind, asked.condition.size, plain.condition.kind) == ("class", 10, "none")


def test_widths_of_the_stages() -> None:
    """Those of the authors for FFHQ at 256 pixels: 768 up to 32 pixels, then 384, 192, 96; groups of 16 throughout."""
    assert stage_widths(Settings(), [4, 8, 16, 32, 64, 128, 256]) == [768] * 4 + [384, 192, 96]
    assert stage_widths(Settings(), [7, 14, 28]) == [768] * 3
    assert stage_widths(Settings(), [6, 12, 24, 48]) == [768] * 3 + [384]
    built = build(16, widths=[8, 8, 4])
    in_stages = [
        (block.branch[0].in_channels, block.branch[2].groups) for block in blocks_of(built.networks["generator"])
    ]
    assert in_stages == [(8, 4), (8, 4), (4, 2)]
    assert [block.branch[0].in_channels for block in blocks_of(built.networks["discriminator"])] == [4, 8, 8]
    assert built.sample(torch.randn(2, 8), None).shape == (2, 3, 16, 16)


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (8, 3), (28, 1), (32, 3), (64, 3), (128, 3)])
def test_images_of_every_size(size: int, channels: int) -> None:
    built = build(size, channels)
    images = built.sample(torch.randn(2, 8), None)
    assert images.shape == (2, channels, size, size)
    assert images.abs().max() <= 1
    assert built.networks["discriminator"](images).shape == (2,)


def test_blocks_begin_as_the_identity() -> None:
    built = build(16, blocks=2)
    for network in built.networks.values():
        for block in blocks_of(network):
            x = torch.randn(2, 8, 4, 4)
            assert torch.equal(block(x), x)
            nn.init.normal_(block.branch[4].weight)
            assert (block(x) - x).abs().min() > 0


def test_each_block_would_add_its_share_of_the_variance() -> None:
    """With a last layer that keeps the variance, a branch has 1 / L of its input's."""
    torch.manual_seed(0)
    for blocks in (1, 8):
        block = Block(64, 16, blocks)
        nn.init.normal_(block.branch[4].weight, 0.0, 128**-0.5)
        branch = block.branch(torch.randn(64, 64, 10, 10))[:, :, 1:-1, 1:-1]  # the frame sees zeros
        assert branch.square().mean().item() == pytest.approx(1 / blocks, rel=0.1)


def test_the_generator_s_output_begins_with_the_variance_of_the_filters_alone() -> None:
    """At the smallest maps it is 1; each doubling mixes neighbours, which are independent there."""
    torch.manual_seed(0)
    settings = Settings(z=64, blocks=1, group_size=4)
    start = Generator(settings, [256, 32], 4, 0, 3).start[0](torch.randn(200, 64))
    assert start.square().mean().item() == pytest.approx(1.0, rel=0.05)
    doubled = np.eye(4)
    for n in (4, 8):
        step = np.zeros((2 * n, n))
        for i in range(n):  # 1/4, 3/4, 3/4, 1/4 around the place of each value
            for offset, weight in zip(range(-1, 3), (0.25, 0.75, 0.75, 0.25), strict=True):
                if 0 <= 2 * i + offset < 2 * n:
                    step[2 * i + offset, i] = weight
        doubled = step @ doubled
    along = (doubled**2).sum(axis=1)
    expected = np.outer(along, along)
    with torch.no_grad():
        networks = [Generator(settings, [32, 32, 32], 4, 0, 3) for _ in range(100)]
        found = torch.cat([network(torch.randn(8, 64)) for network in networks]).square().mean(dim=(0, 1)).numpy()
    assert found.mean() == pytest.approx(expected.mean(), rel=0.1)
    assert np.corrcoef(found.flatten(), expected.flatten())[0, 1] > 0.6


def test_the_discriminator_s_logits_begin_at_the_scale_of_its_features() -> None:
    """The last two layers keep the variance, with classes as without: logits of maps N(0, 1) vary by 1, or by 1 / n
    where the classes' embedding is the linear layer of n one-hot classes."""
    torch.manual_seed(0)
    settings = Settings(z=8, width=64, blocks=1, group_size=16)
    for classes, expected in ((0, 1.0), (4, 1 / 4)):
        seen = []
        for _ in range(60):
            network = Discriminator(settings, [64, 64], 4, classes, 3)
            features = network.last(torch.randn(50, 64, 4, 4))
            if classes:
                features = (features * network.embed(torch.arange(50) % classes)).sum(dim=1)
            seen.append(features.detach().square().mean())
        assert torch.stack(seen).mean().item() == pytest.approx(expected, rel=0.2)


def test_the_smallest_maps_are_float32_and_the_others_bfloat16_under_autocast() -> None:
    built = build(16, classes=True)
    stir(built)
    seen: dict[str, set[torch.dtype]] = {}

    def watch(name: str, module: nn.Module) -> None:
        def note(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            seen.setdefault(name, set()).update({inputs[0].dtype, output.dtype})

        module.register_forward_hook(note)

    parts: dict[str, Any] = dict(built.networks)
    for name in ("start", "last", "stages"):
        for network in parts.values():
            for block in blocks_of(getattr(network, name, nn.Identity())):
                watch(name, block.branch)
    with torch.autocast("cpu", torch.bfloat16):
        labels = torch.tensor([0, 1])
        logits = parts["discriminator"](parts["generator"](torch.randn(2, 8), labels), labels)
    assert logits.dtype is torch.float32
    assert seen == {"start": {torch.float32}, "last": {torch.float32}, "stages": {torch.bfloat16}}


def test_the_logit_with_classes_is_a_product_with_the_class_s_embedding() -> None:
    built = build(classes=True)
    discriminator: Any = built.networks["discriminator"]
    images, labels = torch.randn(3, 3, 8, 8), torch.tensor([1, 4, 1])
    features = discriminator.last(discriminator.stages(discriminator.image(images)))
    expected = torch.einsum("nd,nd->n", features, discriminator.embed.weight[labels])
    torch.testing.assert_close(discriminator(images, labels), expected)


@pytest.mark.parametrize("classes", [False, True])
def test_each_phase_gives_gradients_to_all_that_it_trains_and_to_nothing_else(classes: bool) -> None:
    built = build(16, classes=classes)
    stir(built)
    for phase in built.phases():
        for key, network in built.networks.items():
            network.requires_grad_(key in phase.trains).zero_grad()
        total, _ = phase.loss(batch_for(16))
        total.backward()
        for key, network in built.networks.items():
            for parameter in network.parameters():
                assert (parameter.grad is not None and bool(parameter.grad.any())) is (key in phase.trains)


def test_the_generator_s_step_alone_takes_real_images_of_its_own() -> None:
    built = build()
    assert {phase.name: phase.fresh for phase in built.phases()} == {"discriminator": False, "generator": True}
    generator_loss = built.phases()[1].loss
    batch = batch_for()
    losses = []
    for images in (batch.images, batch.images.flip(0) * 3):
        torch.manual_seed(1)
        losses.append(generator_loss(Batch(images=images))[0].item())
    assert losses[0] != losses[1]


def test_the_discriminator_s_loss_is_the_pairs_and_both_halves_of_the_squared_gradients() -> None:
    """softplus(fake - real) + gamma / 2 (|grad at real|^2 + |grad at fake|^2), fakes beyond [-1, 1] as they are."""
    built = build()
    stir(built)
    batch, generator, discriminator = batch_for(), built.networks["generator"], built.networks["discriminator"]
    torch.manual_seed(1)
    total, _ = built.phases()[0].loss(batch)
    torch.manual_seed(1)
    fake = generator(torch.randn(8, 8)).detach()
    assert fake.abs().max() > 1
    squared = []
    for images in (batch.images, fake):
        images = images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(discriminator(images).sum(), images)
        squared.append(gradient.flatten(1).square().sum(dim=1).mean())
    pairs = nn.functional.softplus(discriminator(fake) - discriminator(batch.images)).mean()
    expected = pairs + 0.05 / 2 * (squared[0] + squared[1])
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert squared[0] > 1e-3


def test_the_generator_s_penalties_see_images_without_bounds() -> None:
    built = build()
    stir(built)
    generator: Any = built.networks["generator"]
    nn.init.constant_(generator.image.weight, 5.0)
    built.objective = Objective(LOSSES["relativistic"], {"generator_penalties.path-length": 1.0})
    batch = batch_for()
    torch.manual_seed(1)
    total, _ = built.generator_penalty_loss(batch)
    torch.manual_seed(1)
    z = torch.randn(8, 8).requires_grad_()
    images = generator(z)
    assert images.abs().gt(1).float().mean() > 0.5
    (gradient,) = torch.autograd.grad((images * torch.randn(8, 3, 8, 8) / 8).sum(), z)
    lengths = gradient.norm(dim=1)
    moved = 0.01 * lengths.mean()
    assert built.objective.state["path-length"].item() == pytest.approx(moved.item(), rel=1e-4)
    assert total.item() == pytest.approx((lengths - moved).square().mean().item(), rel=1e-4)


def test_the_preset_s_values_move_as_published() -> None:
    train = Train.model_validate({"family": "r3gan", **R3GAN.preset})
    keys = ("generator.lr", "discriminator.betas.1", "penalties.r1", "penalties.r2", "ema.half_life", "augment.p")
    expected = {
        0: (2e-4, 0.9, 0.05, 0.05, 0, 0),
        10e6: (1.25e-4, 0.945, 0.0275, 0.0275, 2500, 0.275),
        20e6: (5e-5, 0.99, 0.005, 0.005, 5000, 0.55),
        50e6: (5e-5, 0.99, 0.005, 0.005, 5000, 0.55),
    }
    for images, values in expected.items():
        numbers = train.numbers_at(images)
        assert [numbers[key] for key in keys] == pytest.approx(values)
    assert train.numbers_at(5e6)["augment.p"] == pytest.approx(0.55 * (1 - 0.5**0.5) / 2)
    assert (train.loss, train.batch, train.penalty_every, train.generator.betas[0]) == ("relativistic", 512, 1, 0.0)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(Refused, match=r"ingest\.size: found 30 pixels"):
        build(30)
    with pytest.raises(Refused, match=r"r3gan needs two classes or more, .* has 1; set network\.classes: false"):
        build(named=1, classes=True)
    with pytest.raises(
        Refused, match=r"network\.widths: found \[8\]; expected a width above 0 for each of 4, 8 pixels"
    ):
        build(widths=[8])
    with pytest.raises(Refused, match=r"network\.widths: found \[8, 0\]"):
        build(widths=[8, 0])
    with pytest.raises(Refused, match=r"network\.group_size: found 5; a stage of 8 channels has 16 between"):
        build(group_size=5)
    with pytest.raises(Refused, match=r"network\.width: found 2; it halves away towards 128 pixels"):
        build(128, width=2, group_size=1)
