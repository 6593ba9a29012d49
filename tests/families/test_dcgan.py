"""DCGAN's three pairs of networks: the published layers, which one is built, and labels that join every layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from ganlib.card import DatasetSpec, ModelCard
from ganlib.data.store import Batch
from ganlib.export.onnx import evaluating, export_generator
from ganlib.families.dcgan import DCGAN, Settings
from ganlib.families.objective import Objective
from ganlib.losses.adversarial import LOSSES
from ganlib.networks.dcgan import DigitsDiscriminator, DigitsGenerator, PyramidDiscriminator, SmallDiscriminator
from ganlib.problems import Refused

TINY = DCGAN.tiny["network"]


def build(size: int, channels: int = 3, known: int = 10, **network: Any) -> DCGAN:
    spec = DatasetSpec(
        name="folder",
        size=size,
        channels=channels,
        counts={"train": 100},
        classes=tuple(f"class {k}" for k in range(known)),
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
    )
    torch.manual_seed(0)
    return DCGAN(spec, 0, Settings.model_validate(network), Objective(LOSSES["non-saturating"]))


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("size", "discriminator"),
    [(8, PyramidDiscriminator), (28, DigitsDiscriminator), (32, SmallDiscriminator), (64, PyramidDiscriminator)],
)
def test_auto_takes_the_networks_made_for_the_size(size: int, discriminator: type[nn.Module]) -> None:
    assert type(build(size, **TINY).networks["discriminator"]) is discriminator


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 28, 32, 64])
@pytest.mark.parametrize("architecture", ["pyramid", "small", "digits"])
def test_every_architecture_is_built_for_every_size(architecture: str, size: int, channels: int) -> None:
    built = build(size, channels, architecture=architecture, **TINY)
    images = built.sample(torch.randn(2, 8), None)
    assert images.shape == (2, channels, size, size)
    assert 0 < images.abs().max() <= 1
    assert built.judge(images, None).shape == (2,)


def test_the_digits_networks_have_the_published_layers() -> None:
    """z 100, 10 classes; 1024, 128 x 7 x 7, 64 x 14 x 14 and back; kernels of 5, no biases."""
    built = build(28, 1, classes=True)
    generator = (
        (100 + 10) * 1024
        + (1024 + 10) * 128 * 7 * 7
        + 25 * (128 + 10) * 64
        + 25 * (64 + 10) * 1
        + 2 * (1024 + 128 * 7 * 7 + 64)
    )
    discriminator = (
        25 * (1 + 10) * 64 + 25 * (64 + 10) * 128 + (128 * 7 * 7 + 10) * 1024 + (1024 + 10) * 1 + 2 * (128 + 1024)
    )
    assert parameters(built.networks["generator"]) == generator
    assert parameters(built.networks["discriminator"]) == discriminator


def test_the_small_networks_have_the_published_layers() -> None:
    """512 x 4 x 4 from a dense layer, transposed convolutions to 256, 128, 64, a 3x3 convolution; the discriminator has
    3x3 and 4x4 convolutions with 64, 128 and 256 channels, 3x3 with 512 and a dense layer; a norm or else a bias."""
    built = build(32)
    generator = (
        101 * 512 * 16 + 16 * (512 * 256 + 256 * 128 + 128 * 64) + 2 * (256 + 128 + 64) + 9 * 64 * 3 + 3
    )  # fmt: skip
    discriminator = (
        9 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512)
        + 16 * (64 * 64 + 128 * 128 + 256 * 256)
        + 64 + 2 * (64 + 128 + 128 + 256 + 256 + 512)
        + 512 * 16 + 1
    )  # fmt: skip
    assert parameters(built.networks["generator"]) == generator
    assert parameters(built.networks["discriminator"]) == discriminator


def test_the_maps_of_the_small_networks_shrink_as_published() -> None:
    shapes: list[tuple[int, ...]] = []
    built = build(32)
    for layer in built.networks["discriminator"].modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape[1:])))
    built.judge(torch.randn(2, 3, 32, 32), None)
    assert shapes == [
        (64, 32, 32), (64, 16, 16), (128, 16, 16), (128, 8, 8), (256, 8, 8), (256, 4, 4), (512, 4, 4),
    ]  # fmt: skip


def batch_for(size: int, count: int = 8) -> Batch:
    return Batch(images=torch.rand(count, 3, size, size) * 2 - 1, labels=torch.arange(count) % 10)


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("network", [{"architecture": "small"}, {"architecture": "digits", "classes": True}])
def test_every_parameter_gets_a_gradient(network: dict[str, Any], norm: bool) -> None:
    built = build(8, discriminator_norm=norm, **TINY, **network)
    for phase in built.phases():
        built.networks[phase.trains[0]].zero_grad()
        phase.loss(batch_for(8))[0].backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in built.networks[phase.trains[0]].parameters())


def test_without_a_norm_the_discriminator_judges_each_image_alone() -> None:
    for architecture in ("pyramid", "small", "digits"):
        built = build(8, architecture=architecture, discriminator_norm=False, **TINY)
        images = torch.randn(4, 3, 8, 8)
        alone = torch.cat([built.judge(image[None], None) for image in images])
        assert torch.allclose(built.judge(images, None), alone, atol=1e-6)


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_a_label_is_one_more_channel_of_every_layer_s_input(network: str) -> None:
    """The layers' inputs carry the one-hot label after their own channels, the same at every pixel."""
    built = build(8, classes=True, architecture="digits", **TINY)
    inputs: list[Tensor] = []
    for layer in built.networks[network].modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    x = torch.randn(2, 8) if network == "generator" else torch.randn(2, 3, 8, 8)
    built.networks[network](x, torch.tensor([3, 7]))
    assert len(inputs) == 4
    for given in inputs:
        told = given[:, -10:].reshape(2, 10, -1)
        assert torch.equal(told.argmax(dim=1), torch.tensor([[3], [7]]).expand(-1, told.shape[2]))
        assert torch.equal(told.sum(dim=1), torch.ones(2, told.shape[2]))


def test_a_conditional_phase_judges_real_images_with_their_own_labels() -> None:
    built = build(8, classes=True, architecture="digits", **TINY)
    assert (built.condition.kind, built.condition.size) == ("class", 10)
    batch = batch_for(8)
    seen: list[Tensor] = []
    built.networks["discriminator"].register_forward_pre_hook(lambda _, given: seen.append(given[1]))
    built.discriminator_loss(batch)
    assert len(seen) == 2
    assert all(torch.equal(labels, batch.labels) for labels in seen if batch.labels is not None)


def test_a_conditional_generator_is_the_same_in_onnx(tmp_path: Path) -> None:
    built = build(8, classes=True, architecture="digits", **TINY)
    generator = built.networks["generator"]
    assert isinstance(generator, DigitsGenerator)
    for _ in range(3):
        generator(torch.randn(16, 8), torch.arange(16) % 10)  # moves the batch norms' statistics from their start
    card = ModelCard(
        name="digits", family="dcgan", latent=built.latent, condition=built.condition, size=8, channels=3, steps=0,
        images_seen=0, parameters={}, data={},
    )  # fmt: skip
    export_generator(built, card, tmp_path / "generator.onnx", 20)
    session = onnxruntime.InferenceSession(tmp_path / "generator.onnx", providers=["CPUExecutionProvider"])
    z, labels = torch.randn(5, 8), torch.arange(5)
    with evaluating(built):
        expected = built.sample(z, labels)
    (found,) = session.run(["images"], {"z": z.numpy(), "class": labels.numpy()})
    levels = ((expected + 1) * 127.5).permute(0, 2, 3, 1).numpy()
    assert np.abs(found - levels).max() <= 0.5 + 1e-3


def test_latents_follow_the_setting() -> None:
    drawn = build(8, latent="uniform", **TINY).latents(batch_for(8, 4000))
    assert drawn.abs().max() <= 1
    assert drawn.std().item() == pytest.approx(3**-0.5, rel=0.02)
    assert build(8, **TINY).latents(batch_for(8, 4000)).std().item() == pytest.approx(1, rel=0.02)


def test_what_the_settings_and_the_data_rule_out_is_refused() -> None:
    with pytest.raises(Refused, match=r"network\.classes: found true, and the small networks for 32 pixels read no"):
        build(32, classes=True)
    with pytest.raises(Refused, match=r"dcgan with network\.classes needs two classes or more, and this dataset has 0"):
        build(28, known=0, classes=True)
    with pytest.raises(Refused, match=r"ingest\.size: found 30 pixels; the digits networks double twice: expected a"):
        build(30, architecture="digits")
    with pytest.raises(Refused, match=r"ingest\.size: found 30 pixels; expected 4, 5, 6 or 7 doubled"):
        build(30, architecture="small")
