"""Residual blocks against their layers written out in the papers' order."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, relu

from ganlib.networks.normalisation import BatchNorm, class_norm
from ganlib.networks.residual import DownBlock, FirstDownBlock, UpBlock, halvings
from ganlib.networks.spectral import SpectralConv2d


def through(layer: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(layer, nn.Conv2d)
    return conv2d(x, layer.weight, layer.bias, padding=layer.kernel_size[0] // 2)


def twice(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def noisy_biases(block: nn.Module) -> None:
    for name, parameter in block.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)


def test_up_block() -> None:
    torch.manual_seed(0)
    block = UpBlock(6, 4, BatchNorm)
    noisy_biases(block)
    x = torch.randn(3, 6, 5, 5)
    h = through(block.conv1, twice(relu(nn.BatchNorm2d(6)(x) + block.norm1.normalise.bias[:, None, None])))  # type: ignore[union-attr,index]
    h = through(block.conv2, relu(nn.BatchNorm2d(4)(h) + block.norm2.normalise.bias[:, None, None]))  # type: ignore[union-attr,index]
    expected = h + through(block.shortcut, twice(x))
    assert expected.shape == (3, 4, 10, 10)
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def test_down_blocks() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 6, 8, 8)
    for block, expected_shape in (
        (DownBlock(6, 4, halve=True), (3, 4, 4, 4)),
        (DownBlock(6, 6, halve=True), (3, 6, 4, 4)),
        (DownBlock(6, 4, halve=False), (3, 4, 8, 8)),
    ):
        noisy_biases(block)
        h = through(block.conv2, relu(through(block.conv1, relu(x)))) + through(block.shortcut, x)
        expected = avg_pool2d(h, 2) if block.halve else h  # the paper's order: the shortcut's convolution comes first
        assert block(x).shape == expected_shape
        torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)
    flat = DownBlock(6, 6, halve=False)
    torch.testing.assert_close(flat(x), x + through(flat.conv2, relu(through(flat.conv1, relu(x)))))


def test_the_first_block_reads_dark_pixels_too() -> None:
    torch.manual_seed(0)
    block, x = FirstDownBlock(3, 4), torch.randn(2, 3, 8, 8)
    noisy_biases(block)
    h = through(block.conv2, relu(through(block.conv1, x)))
    torch.testing.assert_close(
        block(x), avg_pool2d(h, 2) + through(block.shortcut, avg_pool2d(x, 2)), rtol=1e-4, atol=1e-5
    )


def test_weights_begin_with_gain_sqrt_2_in_the_branch_and_1_in_the_shortcut() -> None:
    torch.manual_seed(0)
    for block in (UpBlock(32, 64, class_norm(2)), DownBlock(32, 64, True), FirstDownBlock(32, 64, SpectralConv2d)):
        for layer, gain, fans in (
            (block.conv1, sqrt(2), 9 * (32 + 64)),
            (block.conv2, sqrt(2), 9 * (64 + 64)),
            (block.shortcut, 1.0, 32 + 64),
        ):
            assert isinstance(layer, nn.Conv2d)
            assert layer.weight.std().item() == pytest.approx(gain * sqrt(2 / fans), rel=0.05)
            assert layer.weight.abs().max().item() <= gain * sqrt(6 / fans)
            assert layer.bias is not None
            assert not layer.bias.any()


@pytest.mark.parametrize(
    ("size", "expected"), [(8, 1), (10, 1), (16, 1), (28, 2), (32, 2), (40, 3), (48, 3), (64, 3), (128, 4)]
)
def test_how_often_a_critic_halves(size: int, expected: int) -> None:
    assert halvings(size) == expected
