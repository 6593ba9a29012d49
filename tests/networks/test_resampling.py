"""Resampling against zero-stuffing, convolution and decimation written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ganlib.networks.resampling import Edges, downsample, upsample

TAPS = np.array([1.0, 3.0, 3.0, 1.0])
MODES: dict[Edges, str] = {"zero": "constant", "replicate": "edge"}


def up_reference(signal: np.ndarray, edges: Edges) -> np.ndarray:
    """A signal `(n,)` to `(2n,)`: one value beyond each end, zeros between, filter of gain 2."""
    padded = np.pad(signal, 1, mode=MODES[edges])  # type: ignore[call-overload]
    stuffed = np.zeros(2 * len(padded))
    stuffed[::2] = padded
    return np.convolve(stuffed, TAPS / 4)[3 : 3 + 2 * len(signal)]


def down_reference(signal: np.ndarray, edges: Edges) -> np.ndarray:
    """A signal `(2n,)` to `(n,)`: filter of gain 1, every second value kept."""
    padded = np.pad(signal, 1, mode=MODES[edges])  # type: ignore[call-overload]
    return np.convolve(padded, TAPS / 8, mode="valid")[::2]


def in_both_directions(images: Tensor, reference: object, edges: Edges) -> Tensor:
    values = images.numpy()
    for axis in (2, 3):
        values = np.apply_along_axis(reference, axis, values, edges)  # type: ignore[call-overload]
    return torch.from_numpy(values)


@pytest.mark.parametrize("edges", MODES)
@pytest.mark.parametrize(("height", "width"), [(8, 8), (4, 6), (14, 2)])
def test_against_numpy(edges: Edges, height: int, width: int) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, height, width, dtype=torch.float64)
    torch.testing.assert_close(upsample(images, edges), in_both_directions(images, up_reference, edges))
    torch.testing.assert_close(downsample(images, edges), in_both_directions(images, down_reference, edges))


def test_replicated_edges_give_bilinear_interpolation() -> None:
    images = torch.randn(1, 2, 5, 7, dtype=torch.float64)
    expected = torch.nn.functional.interpolate(images, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(upsample(images, "replicate"), expected)


def test_constants_stay_up_and_down() -> None:
    flat = torch.full((1, 2, 6, 6), 0.7)
    torch.testing.assert_close(downsample(upsample(flat, "replicate"), "replicate"), flat)
    framed = downsample(upsample(flat))
    torch.testing.assert_close(framed[:, :, 1:-1, 1:-1], flat[:, :, 1:-1, 1:-1])
    edge = 0.7 * (1 * 0 + 3 * 3 / 4 + 3 + 1) / 8  # of the doubled row 3/4, 1, 1, 1 ... beside a zero
    assert framed[0, 0, 0, 3].item() == pytest.approx(edge, rel=1e-6)


def test_with_zeros_around_one_is_the_other_s_transpose() -> None:
    torch.manual_seed(0)
    small, large = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randn(2, 3, 8, 10, dtype=torch.float64)
    products = (upsample(small) * large).sum(), 4 * (small * downsample(large)).sum()
    assert products[0].item() == pytest.approx(products[1].item(), rel=1e-12)


@pytest.mark.parametrize("edges", MODES)
def test_gradients_of_two_orders(edges: Edges) -> None:
    torch.manual_seed(0)
    for change in (upsample, downsample):
        images = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x, change=change: change(x, edges), images)
        assert torch.autograd.gradgradcheck(lambda x, change=change: change(x, edges).square(), images)


def test_bfloat16_stays_bfloat16() -> None:
    images = torch.randn(1, 2, 4, 4).bfloat16()
    for change in (upsample, downsample):
        found = change(images)
        assert found.dtype is torch.bfloat16
        torch.testing.assert_close(found.float(), change(images.float()), atol=0.02, rtol=0.02)
