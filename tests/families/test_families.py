"""Every registered family: the published shapes, and what its condition and its discriminator do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ganlib.card import DatasetSpec
from ganlib.data.store import Batch
from ganlib.families.base import Family
from ganlib.families.objective import Objective
from ganlib.families.registry import FAMILIES, family
from ganlib.losses.adversarial import LOSSES
from ganlib.networks.convolution import pyramid
from ganlib.problems import Refused

TEXT = 12


def kind(name: str) -> str:
    """What a tiny model of a family is conditioned on."""
    of = family(name)
    return of.condition_kind(of.Network.model_validate(of.tiny["network"]))


def spec(size: int = 32, channels: int = 3, classes: int = 5) -> DatasetSpec:
    return DatasetSpec(
        name="folder",
        size=size,
        channels=channels,  # type: ignore[arg-type]
        counts={"train": 100},
        classes=tuple(f"class {k}" for k in range(classes)),
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
    )


def build(name: str, tiny: bool = True, loss: str = "non-saturating", network: Any = None, **of_spec: Any) -> Family:
    of = family(name)
    torch.manual_seed(0)
    settings = (of.tiny["network"] if tiny else {}) | (network or {})
    weights = {"penalties.r1": 0.5, "penalties.gradient-penalty": 0.5}
    objective = Objective(LOSSES[loss], weights)
    return of(spec(**of_spec), TEXT, of.Network.model_validate(settings), objective)


def condition(built: Family, count: int) -> Tensor | None:
    kinds = {
        "none": None,
        "class": torch.arange(count) % max(built.condition.size, 1),
        "text": torch.randn(count, TEXT),
    }
    return kinds[built.condition.kind]


def batch_for(built: Family, size: int, channels: int, count: int = 8) -> Batch:
    return Batch(
        images=torch.rand(count, channels, size, size) * 2 - 1,
        labels=torch.arange(count) % 5,
        texts=torch.randn(count, TEXT),
        wrong_labels=(torch.arange(count) + 1) % 5,
        wrong_texts=torch.randn(count, TEXT),
    )


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("size", "channels"), [(28, 1), (32, 3), (64, 3)])
def test_samples_have_the_data_s_shape_and_range(name: str, size: int, channels: int) -> None:
    built = build(name, size=size, channels=channels)
    images = built.sample(torch.randn(3, built.latent.size), condition(built, 3))
    assert images.shape == (3, channels, size, size)
    assert images.abs().max() <= 1


def somewhere(built: Family) -> None:
    """Move all weights a little: where a layer begins at zero, what lies before it gets no gradient yet."""
    for network in built.networks.values():
        for parameter in network.parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)


# A loss sees logits alone, so each is tried with one family, and each family with a plain and a relativistic loss.
PAIRS = [(name, loss) for name in FAMILIES for loss in ("non-saturating", "relativistic")] + [
    ("dcgan", loss) for loss in LOSSES
]


@pytest.mark.parametrize(("name", "loss"), PAIRS)
def test_each_phase_gives_gradients_to_what_it_trains(name: str, loss: str) -> None:
    built = build(name, loss=loss)
    somewhere(built)
    for phase in built.phases():
        for key, network in built.networks.items():
            network.requires_grad_(key in phase.trains).zero_grad()
        total, _ = phase.loss(batch_for(built, 32, 3))
        total.backward()
        for key, network in built.networks.items():
            for parameter in network.parameters():
                assert (parameter.grad is not None) is (key in phase.trains)
        assert all(p.grad.abs().sum() > 0 for p in built.networks[phase.trains[0]].parameters() if p.dim() > 1)


@pytest.mark.parametrize("name", [name for name in FAMILIES if kind(name) != "none"])
def test_the_condition_and_the_latent_both_change_the_image(name: str) -> None:
    built = build(name)
    somewhere(built)
    z = torch.randn(2, built.latent.size)
    asked = condition(built, 2)
    assert asked is not None
    one, other = built.sample(z[:1].repeat(2, 1), asked)
    assert (one - other).abs().max() > 1e-4
    one, other = built.sample(z, asked[:1].repeat(2, *[1] * (asked.dim() - 1)))
    assert (one - other).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["cgan", "gan-cls"])
def test_the_discriminator_loss_counts_real_once_and_both_false_pairs_half(name: str) -> None:
    """Algorithm 1 of Reed et al. 2016 with softplus written out, on the same logits."""
    built = build(name)
    built.objective = Objective(LOSSES["non-saturating"])  # type: ignore[attr-defined]
    batch = batch_for(built, 32, 3)
    asked = batch.texts if name == "gan-cls" else batch.labels
    discriminator: Any = built.networks["discriminator"]
    torch.manual_seed(1)
    with torch.no_grad():
        total, logged = built.discriminator_loss(batch)  # type: ignore[attr-defined]
        torch.manual_seed(1)
        fake = built.sample(torch.randn(8, built.latent.size), asked)
        real, false = discriminator(batch.images, asked), discriminator(fake, asked)
        wrong = discriminator(batch.images, batch.wrong_texts if name == "gan-cls" else batch.wrong_labels)
    softplus = nn.functional.softplus
    expected = softplus(-real).mean() + softplus(wrong).mean() / 2 + softplus(false).mean() / 2
    assert total.item() == pytest.approx(expected.item(), rel=1e-4)
    assert logged["p_wrong"].item() == pytest.approx(wrong.sigmoid().mean().item(), rel=1e-4)


def test_logged_probabilities_of_a_relativistic_loss_do_not_follow_the_logits_level() -> None:
    real, wrong, fake = torch.tensor([2.0, 4.0]), torch.tensor([0.0, 0.0]), torch.tensor([-1.0, -3.0])
    for shift in (0.0, -50.0):
        found = Objective(LOSSES["relativistic"]).observe(real + shift, fake + shift, p_wrong=wrong + shift)
        middle = 0.5  # of the means 3 and -2
        expected = {"p_real": real, "p_wrong": wrong, "p_fake": fake}
        for name, logits in expected.items():
            assert found[name].item() == pytest.approx((logits - middle).sigmoid().mean().item(), rel=1e-5)
    plain = Objective(LOSSES["hinge"]).observe(real, fake)
    assert plain["p_real"].item() == pytest.approx(real.sigmoid().mean().item())


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_float32_under_autocast(name: str) -> None:
    built = build(name)
    judged: list[Tensor] = []
    for key, network in built.networks.items():
        if key.endswith("discriminator"):
            network.register_forward_hook(lambda module, inputs, output: judged.append(output))
    with torch.autocast("cpu", torch.bfloat16):
        for phase in built.phases():
            phase.loss(batch_for(built, 32, 3))
    assert judged
    for output in judged:
        logits = output[0] if isinstance(output, tuple) else output
        assert logits.dtype is torch.float32


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_dcgan_64_has_the_published_layers() -> None:
    """z 100, 512-256-128-64 maps, kernels of 4, no biases; batch norm everywhere but at the ends."""
    built = build("dcgan", tiny=False, size=64)
    generator = 100 * 512 * 16 + 16 * (512 * 256 + 256 * 128 + 128 * 64 + 64 * 3) + 2 * (512 + 256 + 128 + 64)
    discriminator = 16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512) + 64 + 2 * (128 + 256 + 512) + 512 * 16
    assert parameters(built.networks["generator"]) == generator
    assert parameters(built.networks["discriminator"]) == discriminator


def test_gan_cls_64_has_the_published_layers() -> None:
    """ngf 128, ndf 64: text to 128; a bottleneck at 4x4 and 8x8 of the generator and at 4x4 of the discriminator."""
    built = build("gan-cls", tiny=False, size=64)

    def bottleneck(width: int) -> int:
        inner = width // 4
        return width * inner + 9 * inner * inner + 9 * inner * width + 2 * (inner + inner + width)

    generator = (
        (TEXT * 128 + 128)
        + 228 * 1024 * 16 + 2 * 1024 + bottleneck(1024)
        + 16 * 1024 * 512 + 2 * 512 + bottleneck(512)
        + 16 * (512 * 256 + 256 * 128) + 2 * (256 + 128)
        + 16 * 128 * 3 + 3
    )  # fmt: skip
    discriminator = (
        16 * 3 * 64 + 64
        + 16 * (64 * 128 + 128 * 256 + 256 * 512) + 2 * (128 + 256 + 512) + bottleneck(512)
        + TEXT * 128 + 2 * 128
        + (512 + 128) * 512 + 2 * 512
        + 512 * 16 + 1
    )  # fmt: skip
    assert parameters(built.networks["generator"]) == generator
    assert parameters(built.networks["discriminator"]) == discriminator


def test_interpolated_captions_join_the_generator_s_batch() -> None:
    built = build("gan-cls", network={"interpolate": True})
    seen: list[Tensor] = []
    built.networks["generator"].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    batch = batch_for(built, 32, 3)
    built.phases()[1].loss(batch)
    assert batch.texts is not None
    assert torch.equal(seen[0][8:], (batch.texts[:4] + batch.texts[4:]) / 2)


@pytest.mark.parametrize(("size", "expected"), [(28, (7, 2)), (32, (4, 3)), (64, (4, 4)), (128, (4, 5)), (48, (6, 3))])
def test_pyramid(size: int, expected: tuple[int, int]) -> None:
    assert pyramid(size) == expected


def test_data_that_a_family_cannot_use_is_refused() -> None:
    with pytest.raises(Refused, match=r"ingest\.size: found 30 pixels; expected 4, 5, 6 or 7 doubled"):
        build("dcgan", size=30)
    with pytest.raises(Refused, match="two classes or more, and this dataset has 0; take dcgan"):
        build("cgan", classes=0)
    text = family("gan-cls")
    with pytest.raises(Refused, match="reads captions, and this dataset has none embedded"):
        text(spec(), 0, text.Network(), Objective(LOSSES["hinge"]))
    with pytest.raises(Refused, match=r"found 'dcgam'; expected one of .*dcgan"):
        family("dcgam")
