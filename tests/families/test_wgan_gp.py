"""WGAN-GP: the published networks, noise on real images, and the auxiliary classifier's losses by hand."""

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
from ganlib.families.wgan_gp import WGANGP, accuracy
from ganlib.losses.adversarial import LOSSES
from ganlib.losses.penalties import gradient_penalty
from ganlib.problems import Refused


def build(
    size: int = 8, channels: int = 3, named: int = 5, loss: str = "wasserstein", tiny: bool = True, **network: Any
) -> WGANGP:
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
    settings = WGANGP.Network.model_validate((WGANGP.tiny["network"] if tiny else {}) | network)
    return WGANGP(spec, 0, settings, Objective(LOSSES[loss], {"penalties.gradient-penalty": 10.0}, generator_batches=2))


def batch_for(size: int = 8, channels: int = 3, count: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, channels, size, size, generator=generator) * 2 - 1
    return Batch(images=images, labels=torch.arange(count) % 5, generator=generator)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def conv(channels: int, out: int, kernel: int = 3) -> int:
    return kernel * kernel * channels * out + out


def test_at_32_pixels_these_are_the_published_networks() -> None:
    """128 channels everywhere; three blocks up with batch norm; down, down, flat, flat without."""
    built = build(32, tiny=False)
    norm = 2 * 128
    up = 2 * norm + 2 * conv(128, 128) + conv(128, 128, 1)
    assert parameters(built.networks["generator"]) == 129 * 2048 + 3 * up + norm + conv(128, 3)
    first = conv(3, 128) + conv(128, 128) + conv(3, 128, 1)
    down, flat = 2 * conv(128, 128) + conv(128, 128, 1), 2 * conv(128, 128)
    assert parameters(built.networks["discriminator"]) == first + down + 2 * flat + 129
    assert not any(isinstance(m, nn.BatchNorm2d) for m in built.networks["discriminator"].modules())
    assert built.latent.size == 128
    maps: list[tuple[int, ...]] = []
    for block in built.networks["discriminator"].features[:4]:  # type: ignore[index,union-attr]
        block.register_forward_hook(lambda _, inputs, out: maps.append(tuple(out.shape[1:])))
    built.networks["discriminator"](torch.zeros(1, 3, 32, 32))
    assert maps == [(128, 16, 16), (128, 8, 8), (128, 8, 8), (128, 8, 8)]


def test_the_auxiliary_model_has_tables_in_two_norms_a_block_and_a_classifier() -> None:
    plain, asked = build(32, tiny=False), build(32, tiny=False, named=10, auxiliary=True)
    more = {name: parameters(asked.networks[name]) - parameters(plain.networks[name]) for name in plain.networks}
    assert more == {"generator": 3 * 2 * (10 - 1) * 2 * 128, "discriminator": 128 * 10 + 10}
    assert (asked.condition.kind, asked.condition.size, plain.condition.kind) == ("class", 10, "none")
    assert WGANGP.condition_kind(asked.settings) == "class"


def test_the_preset_is_the_published_training() -> None:
    train = Train.model_validate({"family": "wgan-gp", **WGANGP.preset})
    for optimiser in (train.generator, train.discriminator):
        assert (optimiser.name, optimiser.lr, tuple(optimiser.betas)) == ("adam", 2e-4, (0.0, 0.9))
    assert (train.loss, train.penalties, train.penalty_every) == ("wasserstein", {"gradient-penalty": 10.0}, 1)
    assert (train.batch, train.discriminator_steps, train.generator_batches, train.decay_from) == (64, 5, 2, 0.0)


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (28, 1), (32, 3), (64, 3), (128, 1)])
@pytest.mark.parametrize("auxiliary", [False, True])
def test_samples_have_the_data_s_shape_and_range(size: int, channels: int, auxiliary: bool) -> None:
    built = build(size, channels, auxiliary=auxiliary)
    labels = torch.tensor([4, 0]) if auxiliary else None
    images = built.sample(torch.randn(2, built.latent.size), labels)
    assert images.shape == (2, channels, size, size)
    assert images.abs().max() <= 1
    assert built.judge(images, labels).shape == (2,)


@pytest.mark.parametrize("auxiliary", [False, True])
@pytest.mark.parametrize("loss", ["wasserstein", "relativistic-average-hinge"])
def test_every_parameter_learns(auxiliary: bool, loss: str) -> None:
    built = build(auxiliary=auxiliary, loss=loss)
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


@pytest.mark.parametrize("auxiliary", [False, True])
def test_real_images_get_noise_as_wide_as_a_level_everywhere(auxiliary: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The critic's own view and the penalty's: x_hat lies between the noisy real images and the fakes."""
    built, batch, seen = build(auxiliary=auxiliary), batch_for(count=64), []
    plain = built.objective.penalty

    def penalty(critic: Any, network: nn.Module, real: Tensor, fake: Tensor, of: Batch) -> Tensor:
        seen.append(real)
        return plain(critic, network, real, fake, of)

    monkeypatch.setattr(built.objective, "penalty", penalty)
    built.networks["discriminator"].features.register_forward_pre_hook(  # type: ignore[union-attr]
        lambda _, inputs: seen.append(inputs[0])
    )
    built.discriminator_loss(batch)
    viewed, given = seen[0], seen[2]
    assert torch.equal(viewed, given)
    noise = viewed - batch.images
    assert -1e-6 < noise.min() < 1e-4
    assert 1 / 128 - 1e-4 < noise.max() < 1 / 128 + 1e-6
    assert noise.mean().item() == pytest.approx(1 / 256, rel=0.03)
    assert noise.std().item() == pytest.approx(1 / 128 / np.sqrt(12), rel=0.03)
    seen.clear()
    built.penalty_loss(batch)
    assert 0 < (seen[0] - batch.images).mean() < 1 / 128


def test_the_auxiliary_losses_by_hand() -> None:
    """Critic: f - r + penalty + cross entropy of real images; generator: -f + 0.1 cross entropy of its own."""
    built = build(auxiliary=True)
    critic: Any = built.networks["discriminator"]
    assert built.settings.auxiliary_weight == 1.0
    total, logged = built.discriminator_loss(batch_for())

    batch = batch_for()
    assert batch.labels is not None
    real = batch.images + batch.uniform(3, 8, 8) / 128
    with torch.no_grad():
        fake = built.sample(batch.normal(8), batch.labels)
    (r, of_real), (f, of_fake) = critic.judge_and_classify(real), critic.judge_and_classify(fake)
    chosen = of_real.detach().numpy()
    likelihood = np.exp(chosen)[np.arange(6), batch.labels.numpy()] / np.exp(chosen).sum(axis=1)
    slope = gradient_penalty(critic, real, fake, batch.uniform)
    expected = f.mean() - r.mean() + 10 * slope - np.log(likelihood).mean()
    assert total.item() == pytest.approx(expected.item(), rel=1e-4)
    right = (chosen.argmax(axis=1) == batch.labels.numpy()).mean()
    assert logged["class_accuracy"].item() == pytest.approx(right)
    assert logged["class_accuracy_fake"].item() == pytest.approx(
        (of_fake.argmax(dim=1) == batch.labels).double().mean().item()
    )

    total, _ = built.generator_loss(batch_for())
    batch = batch_for()
    batch.uniform(3, 8, 8)
    asked = batch.extended(12)
    assert asked.labels is not None
    f, of_fake = critic.judge_and_classify(built.sample(asked.normal(8), asked.labels))
    logs = of_fake.detach().numpy().astype(float)
    logs = logs - np.log(np.exp(logs).sum(axis=1, keepdims=True))
    expected = -f.mean().item() - 0.1 * logs[np.arange(12), asked.labels.numpy()].mean()
    assert total.item() == pytest.approx(expected, rel=1e-4)


def test_accuracy_counts_the_largest_logit() -> None:
    logits = torch.tensor([[1.0, 2.0, 0.0], [5.0, -1.0, 2.0], [0.0, 0.0, 3.0], [9.0, 1.0, 1.0]])
    assert accuracy(logits, torch.tensor([1, 2, 2, 0])).item() == 0.75


def test_the_critic_judges_images_alone_and_in_float32() -> None:
    built = build(auxiliary=True)
    images = torch.rand(3, 3, 8, 8) * 2 - 1
    assert torch.equal(built.judge(images, torch.tensor([0, 1, 2])), built.judge(images, torch.tensor([3, 3, 3])))
    with torch.autocast("cpu", torch.bfloat16):
        assert built.judge(images, None).dtype is torch.float32


def test_data_that_it_cannot_use_is_refused() -> None:
    with pytest.raises(Refused, match=r"ingest\.size: found 30 pixels; expected 4, 5, 6 or 7 doubled"):
        build(30)
    with pytest.raises(Refused, match=r"wgan-gp with network\.auxiliary needs two classes or more.* set it to false"):
        build(named=1, auxiliary=True)
    assert build(named=0).condition.kind == "none"
