"""LAPGAN: an exact pyramid, levels that are trained apart, and samples that go from coarse to fine."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ganlib.card import DatasetSpec
from ganlib.config import Train
from ganlib.data.store import Batch
from ganlib.families.lapgan import LAPGAN, Settings, level_sizes
from ganlib.families.objective import Objective
from ganlib.losses.adversarial import LOSSES
from ganlib.networks.resampling import downsample, upsample
from ganlib.problems import Refused


def build(
    size: int = 16,
    channels: int = 3,
    named: int = 5,
    tiny: bool = True,
    loss: str = "non-saturating",
    values: dict[str, float] | None = None,
    **network: Any,
) -> LAPGAN:
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
    settings = Settings.model_validate((LAPGAN.tiny["network"] if tiny else {}) | network)
    return LAPGAN(spec, 0, settings, Objective(LOSSES[loss], dict(values or {})))


def batch_for(size: int = 16, channels: int = 3, count: int = 8) -> Batch:
    return Batch(images=torch.rand(count, channels, size, size) * 2 - 1, labels=torch.arange(count) % 5)


def uniform(count: int, size: int) -> Tensor:
    return 2 * torch.rand(count, size) - 1


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("size", "expected"),
    [(8, [4, 8]), (16, [8, 16]), (28, [7, 14, 28]), (32, [8, 16, 32]), (48, [6, 12, 24, 48]), (64, [8, 16, 32, 64])],
)
def test_levels(size: int, expected: list[int]) -> None:
    assert level_sizes(size) == expected
    assert [level.size for level in build(size).levels] == expected


@pytest.mark.parametrize("size", [28, 32])
def test_residuals_and_the_coarsest_image_give_the_image_back(size: int) -> None:
    torch.manual_seed(0)
    image = torch.rand(2, 3, size, size) * 2 - 1
    gaussian = [image]
    while gaussian[-1].shape[2] > level_sizes(size)[0]:
        gaussian.append(downsample(gaussian[-1], "replicate"))
    residuals = [fine - upsample(coarse, "replicate") for fine, coarse in pairwise(gaussian)]
    back = gaussian[-1]
    for residual in reversed(residuals):
        back = upsample(back, "replicate") + residual
    assert len(residuals) == 2
    assert (back - image).abs().max() <= 1e-6


def inputs_of(network: nn.Module) -> list[tuple[Tensor, ...]]:
    """What a network is called with from now on."""
    seen: list[tuple[Tensor, ...]] = []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    return seen


def outputs_of(network: nn.Module) -> list[Tensor]:
    """What a network answers from now on."""
    seen: list[Tensor] = []
    network.register_forward_hook(lambda _, inputs, output: seen.append(output))
    return seen


def test_a_level_is_trained_on_real_images_of_its_size_and_on_what_is_left_of_them_without_residuals() -> None:
    built = build(32)
    batch = batch_for(32)
    half = downsample(batch.images, "replicate")
    for level, real in zip(built.levels, (downsample(half, "replicate"), half, batch.images), strict=True):
        generator, discriminator = built.networks[level.its("generator")], built.networks[level.its("discriminator")]
        asked, made, judged = inputs_of(generator), outputs_of(generator), inputs_of(discriminator)
        level.phases()[0].loss(batch)
        if level.below is None:
            noise, labels = asked[0]
            fake = made[0]
            assert noise.shape == (8, 8)
        else:
            noise, blurred, labels = asked[0]
            torch.testing.assert_close(blurred, upsample(downsample(real, "replicate"), "replicate"))
            fake = blurred + made[0]
            assert noise.shape == (8, 1, level.size, level.size)
        assert -1 <= noise.min() < -0.5 < 0.5 < noise.max() <= 1
        assert torch.equal(labels, torch.arange(8) % 5)
        assert len(judged) == 2
        torch.testing.assert_close(judged[0][0], real)
        torch.testing.assert_close(judged[1][0], fake)


def test_the_curriculum_goes_from_coarse_to_fine_one_level_a_chapter() -> None:
    chapters = build(32).curriculum()
    assert [chapter.name for chapter in chapters] == ["8 pixels", "16 pixels", "32 pixels"]
    assert sum(chapter.share for chapter in chapters) == pytest.approx(1, abs=1e-9)
    for index, chapter in enumerate(chapters):
        players = [f"level{index}_discriminator", f"level{index}_generator"]
        assert [phase.name for phase in chapter.phases] == players
        assert [phase.trains for phase in chapter.phases] == [(player,) for player in players]
        assert [phase.optimiser for phase in chapter.phases] == ["discriminator", "generator"]


@pytest.mark.parametrize("loss", ["non-saturating", "relativistic", "wasserstein"])
@pytest.mark.parametrize("classes", [False, True])
def test_gradients_reach_all_of_what_a_phase_trains_and_no_other_level(loss: str, classes: bool) -> None:
    of_one = {"penalties.r1": 0.1, "penalties.lecam": 0.1, "penalties.orthogonal": 0.1}
    values = of_one | {"generator_penalties.path-length": 0.1, "generator_penalties.orthogonal": 0.1}
    built = build(16, loss=loss, values=values, classes=classes)
    batch = batch_for(16)
    for chapter in built.curriculum():
        for phase in chapter.phases:
            for network in built.networks.values():
                network.requires_grad_(True).zero_grad()
            phase.loss(batch)[0].backward()
            (trained,) = phase.trains
            assert all(p.grad is not None and bool(p.grad.any()) for p in built.networks[trained].parameters())
            level = trained.partition("_")[0]
            for key, network in built.networks.items():
                if not key.startswith(level):
                    assert all(p.grad is None for p in network.parameters())


def test_the_discriminator_s_loss_and_penalty_of_a_level_by_hand() -> None:
    built = build(16, values={"penalties.r1": 0.5})
    batch = batch_for(16)
    for level in built.levels:
        discriminator = built.networks[level.its("discriminator")].eval()  # no dropout
        torch.manual_seed(1)
        total, logged = level.phases()[0].loss(batch)
        torch.manual_seed(1)
        real = batch.images if level.size == 16 else downsample(batch.images, "replicate")
        with torch.no_grad():
            z = uniform(8, level.latent.size)
            blurred = upsample(downsample(real, "replicate"), "replicate")
            fake = level.made(z, None if level.below is None else blurred, batch.labels)
        real.requires_grad_()
        p_real, p_fake = discriminator(real, batch.labels), discriminator(fake, batch.labels)
        (gradient,) = torch.autograd.grad(p_real.sum(), real)
        expected = softplus(-p_real).mean() + softplus(p_fake).mean()
        expected = expected + 0.5 * gradient.flatten(1).square().sum(dim=1).mean() / 2
        assert total.item() == pytest.approx(expected.item(), rel=1e-5)
        assert logged["p_real"].item() == pytest.approx(p_real.sigmoid().mean().item(), rel=1e-5)
        real.requires_grad_(False)


def test_lazy_penalties_get_a_phase_in_each_chapter() -> None:
    built = build(16, values={"penalties.r1": 0.5})
    built.objective.penalty_every = 4
    for index, chapter in enumerate(built.curriculum()):
        phase = chapter.phases[1]
        assert (phase.name, phase.every) == (f"level{index}_penalty", 4)
        assert phase.trains == (f"level{index}_discriminator",)
        assert phase.loss(batch_for(16))[0] > 0


def test_a_generator_step_of_two_batches_completes_each_real_image_twice() -> None:
    built = build(16)
    built.objective.generator_batches = 2
    seen = inputs_of(built.networks["level1_generator"])
    built.curriculum()[1].phases[1].loss(batch_for(16))
    ((noise, blurred, labels),) = seen
    assert len(noise) == len(labels) == 16
    assert torch.equal(blurred[:8], blurred[8:])
    assert not torch.equal(noise[:8], noise[8:])


def test_samples_go_from_coarse_to_fine_each_level_by_its_own_part_of_the_latent() -> None:
    built = build(32)
    assert built.latent.size == 8 + 16 * 16 + 32 * 32
    assert built.latent.distribution == "uniform"
    z, labels = uniform(3, built.latent.size), torch.tensor([0, 4, 2])
    own, middle, fine = z.split([8, 256, 1024], dim=1)
    parts: dict[str, Any] = built.networks
    images = parts["level0_generator"](own, labels)
    for name, noise, size in (("level1_generator", middle, 16), ("level2_generator", fine, 32)):
        blurred = upsample(images, "replicate")
        images = blurred + parts[name](noise.reshape(3, 1, size, size), blurred, labels)
    found = built.sample(z, labels)
    torch.testing.assert_close(found, images.clamp(-1, 1))
    assert torch.equal(found, built.sample(z, labels))


def test_levels_that_are_not_trained_yet_add_nothing_to_samples() -> None:
    built = build(32)
    z, labels = uniform(2, built.latent.size), torch.tensor([1, 3])
    whole = built.sample(z, labels)
    built.enter(0, 0.5)
    coarse = built.networks["level0_generator"](z[:, :8], labels)
    expected = upsample(upsample(coarse, "replicate"), "replicate")
    torch.testing.assert_close(built.sample(z, labels), expected.clamp(-1, 1))
    built.enter(1, 0.0)
    assert not torch.equal(built.sample(z, labels), whole)
    built.enter(2, 0.0)
    assert torch.equal(built.sample(z, labels), whole)


def test_samples_are_of_the_networks_that_are_there() -> None:
    """The engine puts averages in their place, and the result is all generators."""
    built = build(16)
    assert built.averaged() == ("level0_generator", "level1_generator")
    z, labels = uniform(2, built.latent.size), torch.tensor([1, 3])
    before = built.sample(z, labels)
    for name in built.averaged():
        average = copy.deepcopy(built.networks[name])
        nn.init.normal_(next(average.parameters()), 0.0, 0.5)
        built.networks.update({name: average})
        after = built.sample(z, labels)
        assert not torch.equal(before, after)
        before = after


def test_class_and_every_part_of_the_latent_change_the_image() -> None:
    built = build(16)
    z, labels = uniform(1, built.latent.size), torch.tensor([1])
    image = built.sample(z, labels)
    assert (image - built.sample(z, torch.tensor([2]))).abs().max() > 1e-4
    for part in (slice(0, 8), slice(8, None)):
        other = z.clone()
        other[:, part] *= -1
        assert (image - built.sample(other, labels)).abs().max() > 1e-4


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (8, 3), (28, 1), (32, 3), (64, 1)])
@pytest.mark.parametrize("classes", [False, True])
def test_images_of_every_size(size: int, channels: int, classes: bool) -> None:
    built = build(size, channels, classes=classes)
    labels = torch.tensor([0, 1]) if classes else None
    images = built.sample(uniform(2, built.latent.size), labels)
    assert images.shape == (2, channels, size, size)
    assert images.abs().max() <= 1
    for level in built.levels:
        with torch.autocast("cpu", torch.bfloat16):
            logits = level.judge(torch.randn(2, channels, level.size, level.size), labels)
        assert (logits.shape, logits.dtype) == ((2,), torch.float32)


def test_at_32_pixels_with_10_classes_these_are_the_published_networks() -> None:
    """z 100; 1200 and 600 units; kernels of 7, 7, 5 and of 5, 5 without padding, 64 maps, the class a further plane."""
    with torch.device("meta"):
        built = build(32, named=10, tiny=False)
    found = {name: parameters(network) for name, network in built.networks.items()}

    def dense(inputs: int, out: int) -> int:
        return inputs * out + out

    def kernels(inputs: int, out: int, side: int) -> int:
        return inputs * out * side * side + out

    def fine(size: int, left: int) -> tuple[int, int]:
        plane = dense(10, size * size)
        generator = kernels(1 + 1 + 3, 64, 7) + kernels(64, 64, 7) + kernels(64, 3, 5)
        return plane + generator, plane + kernels(3 + 1, 64, 5) + kernels(64, 64, 5) + dense(64 * left * left, 1)

    assert found == {
        "level0_generator": dense(110, 1200) + dense(1200, 1200) + dense(1200, 192),
        "level0_discriminator": dense(192 + 10, 600) + dense(600, 600) + dense(600, 1),
        "level1_generator": fine(16, 4)[0],
        "level1_discriminator": fine(16, 4)[1],  # 16 -> 12 -> 4
        "level2_generator": fine(32, 12)[0],
        "level2_discriminator": fine(32, 12)[1],  # 32 -> 28 -> 12
    }
    assert built.latent.size == 100 + 256 + 1024


def test_a_discriminator_drops_half_of_its_features_in_training_alone() -> None:
    built = build(16)
    for level in built.levels:
        images, labels = torch.randn(4, 3, level.size, level.size), torch.arange(4)
        assert not torch.equal(level.judge(images, labels), level.judge(images, labels))
        built.networks[level.its("discriminator")].eval()
        assert torch.equal(level.judge(images, labels), level.judge(images, labels))


def test_the_preset_is_a_train_section() -> None:
    train = Train.model_validate({"family": "lapgan", **LAPGAN.preset})
    assert (train.generator.name, train.generator.lr, train.generator.momentum) == ("sgd", 0.02, 0.5)
    assert (train.batch, train.generator_batches, train.loss) == (64, 2, "non-saturating")


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(Refused, match=r"ingest\.size: found 30 pixels"):
        build(30)
    with pytest.raises(Refused, match=r"lapgan needs two classes or more, .* has 0; set network\.classes: false"):
        build(named=0)
    assert build(named=0, classes=False).condition.kind == "none"
