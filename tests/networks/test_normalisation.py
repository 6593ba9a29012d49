"""Conditional batch normalisation against batch normalisation by hand."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ganlib.networks.normalisation import BatchNorm, ConditionalBatchNorm, class_norm


def test_scale_and_shift_follow_the_class() -> None:
    torch.manual_seed(0)
    norm = class_norm(3)(4)
    assert isinstance(norm, ConditionalBatchNorm)
    nn.init.normal_(norm.scale.weight)  # type: ignore[arg-type]
    nn.init.normal_(norm.shift.weight)  # type: ignore[arg-type]
    x, labels = torch.randn(6, 4, 3, 3) * 2 + 1, torch.tensor([2, 0, 1, 1, 2, 0])
    values = x.numpy().astype(float)
    mean, variance = values.mean(axis=(0, 2, 3), keepdims=True), values.var(axis=(0, 2, 3), keepdims=True)
    scale = 1 + norm.scale.weight.detach().numpy()[labels.numpy()][:, :, None, None]  # type: ignore[operator]
    shift = norm.shift.weight.detach().numpy()[labels.numpy()][:, :, None, None]  # type: ignore[operator]
    expected = (values - mean) / np.sqrt(variance + 1e-5) * scale + shift
    np.testing.assert_allclose(norm(x, labels).detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    running = 0.1 * mean, 0.9 + 0.1 * values.var(axis=(0, 2, 3), ddof=1, keepdims=True)
    expected = (values - running[0]) / np.sqrt(running[1] + 1e-5) * scale + shift
    np.testing.assert_allclose(norm.eval()(x, labels).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_it_begins_as_the_plain_one_for_every_class() -> None:
    x = torch.randn(5, 4, 3, 3)
    plain = class_norm(0)(4)
    assert isinstance(plain, BatchNorm)
    torch.testing.assert_close(class_norm(7)(4)(x, torch.tensor([6, 0, 3, 3, 1])), nn.BatchNorm2d(4)(x))
    torch.testing.assert_close(plain(x, None), nn.BatchNorm2d(4)(x))


def test_a_condition_may_be_a_vector_and_keeps_the_precision_of_the_maps() -> None:
    norm = ConditionalBatchNorm(4, nn.Linear(3, 4), nn.Linear(3, 4))
    with torch.autocast("cpu", torch.bfloat16):
        assert norm(torch.randn(2, 4, 3, 3).bfloat16(), torch.randn(2, 3)).dtype is torch.bfloat16
