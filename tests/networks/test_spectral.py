"""Spectral normalisation against numpy's singular values, its gradients, and what averaging and export make of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from ganlib.networks.spectral import ProjectionLogit, SpectralConv2d, SpectralEmbedding, SpectralLinear
from ganlib.training.ema import Average

MAKERS: list[Callable[[], Any]] = [
    lambda: SpectralConv2d(3, 8, 3, padding=1),
    lambda: SpectralConv2d(8, 2, 1, bias=False),
    lambda: SpectralLinear(5, 7),
    lambda: SpectralLinear(6, 1),
    lambda: SpectralEmbedding(4, 9),
]


def largest(weight: Tensor) -> float:
    return float(np.linalg.svd(weight.detach().flatten(1).numpy().astype(np.float64), compute_uv=False)[0])


def settled(layer: Any, steps: int = 200) -> Any:
    """The layer after so many training steps of the power iteration."""
    torch.manual_seed(0)
    layer.train()
    for _ in range(steps):
        layer.normalised()
    return layer


@pytest.mark.parametrize("make", MAKERS)
def test_the_largest_singular_value_becomes_1(make: Callable[[], Any]) -> None:
    layer = make()
    with torch.no_grad():
        layer.weight.mul_(7)
    settled(layer)
    assert largest(layer.weight) > 2
    assert largest(layer.normalised()) == pytest.approx(1, abs=1e-4)
    expected = layer.weight.detach() / largest(layer.weight)
    torch.testing.assert_close(layer.normalised().detach(), expected, rtol=1e-4, atol=1e-6)


def test_one_training_step_is_one_step_of_the_power_iteration() -> None:
    layer = SpectralLinear(5, 3)
    before, matrix = layer.direction.numpy().astype(float), layer.weight.detach().numpy().astype(float)
    after = matrix @ matrix.T @ before
    after /= np.linalg.norm(after)
    weight = layer.normalised().detach().numpy()
    np.testing.assert_allclose(layer.direction.numpy(), after, rtol=1e-5)
    np.testing.assert_allclose(weight, matrix / np.linalg.norm(matrix.T @ after), rtol=1e-5)


def test_a_dense_layer_is_1_lipschitz_and_reaches_it() -> None:
    torch.manual_seed(0)
    layer = settled(SpectralLinear(12, 8))
    x, y = torch.randn(500, 12), torch.randn(500, 12)
    slopes = (layer(x) - layer(y)).norm(dim=1) / (x - y).norm(dim=1)
    assert slopes.max() <= 1 + 1e-5
    _, _, right = torch.linalg.svd(layer.weight.detach())
    assert ((layer(right[0]) - layer(torch.zeros(12))).norm()).item() == pytest.approx(1, abs=1e-4)


def test_evaluation_keeps_nothing_and_says_the_same_each_time() -> None:
    layer = SpectralConv2d(3, 4, 3).eval()
    x, before = torch.randn(2, 3, 5, 5), layer.direction.clone()
    assert torch.equal(layer(x), layer(x))
    assert torch.equal(layer.direction, before)
    layer.train()(x)
    assert not torch.equal(layer.direction, before)


def test_copies_and_saved_states_compute_the_same() -> None:
    torch.manual_seed(0)
    layer = SpectralConv2d(3, 4, 3)
    x = torch.randn(2, 3, 5, 5)
    layer(x)
    copied, loaded = copy.deepcopy(layer), SpectralConv2d(3, 4, 3)
    loaded.load_state_dict(layer.state_dict())
    assert set(layer.state_dict()) == {"weight", "bias", "direction"}
    for _ in range(3):
        expected = layer(x)
        assert torch.equal(copied(x), expected)
        assert torch.equal(loaded(x), expected)


@pytest.mark.parametrize("make", MAKERS[:3])
def test_gradients_against_finite_differences(make: Callable[[], Any]) -> None:
    """Where the power iteration has converged, sigma does not depend on u to first order."""
    layer = settled(make().double(), 2000).eval()

    def normalised(weight: Tensor) -> Tensor:
        return torch.func.functional_call(Normalised(layer), {"layer.weight": weight})

    assert torch.autograd.gradcheck(normalised, (layer.weight.detach().clone().requires_grad_(),), atol=1e-5)


def test_gradients_of_a_gradient_against_finite_differences() -> None:
    """A gradient penalty is a function of W / sigma alone, and is differentiated through it."""
    torch.manual_seed(0)
    layer, x = settled(SpectralLinear(4, 3).double(), 2000).eval(), torch.randn(5, 4, dtype=torch.float64)

    def penalty(weight: Tensor) -> Tensor:
        images = x.clone().requires_grad_()
        logits = torch.func.functional_call(layer, {"weight": weight}, (images,)).tanh().sum()
        (gradient,) = torch.autograd.grad(logits, images, create_graph=True)
        return gradient.square().sum()

    assert torch.autograd.gradcheck(penalty, (layer.weight.detach().clone().requires_grad_(),), atol=1e-5)


class Normalised(nn.Module):
    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self) -> Tensor:
        return self.layer.normalised()


def test_an_average_of_weights_keeps_the_norm_of_1() -> None:
    """The averaged direction is shorter than 1: taken as it is it would make the layer steeper."""
    torch.manual_seed(0)
    network = nn.Sequential(SpectralConv2d(3, 16, 3, 1), nn.ReLU(), SpectralConv2d(16, 3, 3, 1))
    average = Average(network)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3, betas=(0.0, 0.9))
    mixing = torch.randn(3, 3)
    for _ in range(150):
        x = torch.randn(8, 3, 6, 6)
        loss = (network(x) - torch.einsum("ij,njhw->nihw", mixing, x)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        average.update(network, 1, 1000, half_life=69.0)  # 0.99 a step
    layers: list[Any] = [average.network[0], average.network[2]]  # type: ignore[index]
    assert min(layer.direction.norm().item() for layer in layers) < 0.9
    for layer in layers:
        matrix = layer.weight.flatten(1)
        as_it_is = (matrix.T @ layer.direction).norm().item()
        assert largest(matrix) / as_it_is > 1.1
        assert 0.999 < largest(layer.normalised()) < 1.06


def test_projection_adds_the_inner_product_with_the_class_s_vector() -> None:
    torch.manual_seed(0)
    head = ProjectionLogit(6, 4).eval()
    assert head.table is not None
    features, labels = torch.randn(5, 6), torch.tensor([0, 3, 1, 3, 2])
    weight, bias = head.linear.normalised().detach().numpy(), head.linear.bias.detach().numpy()
    table, x = head.table.normalised().detach().numpy(), features.numpy()
    plain = x @ weight[0] + bias[0]
    with torch.autocast("cpu", torch.bfloat16):
        with_class, without = head(features, labels), head(features)
    np.testing.assert_allclose(without.detach(), plain, rtol=1e-5)
    np.testing.assert_allclose(with_class.detach(), plain + (x * table[labels.numpy()]).sum(axis=1), rtol=1e-5)
    assert ProjectionLogit(6, 0, bias=False).table is None
    assert sum(p.numel() for p in ProjectionLogit(6, 0, bias=False).parameters()) == 6


def test_under_autocast_the_norm_is_found_in_float32() -> None:
    layer = settled(SpectralConv2d(3, 8, 3))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.normalised().dtype is torch.float32
        assert layer(torch.randn(1, 3, 5, 5)).dtype is torch.bfloat16
        assert largest(layer.normalised()) == pytest.approx(1, abs=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_onnx_computes_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(SpectralConv2d(3, 4, 3, 1), nn.ReLU(), nn.Flatten(), SpectralLinear(64, 5))
    for _ in range(3):
        network(torch.randn(2, 3, 4, 4))
    network.eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    file = tmp_path / "network.onnx"
    program = torch.onnx.export(
        network,
        (torch.zeros(2, 3, 4, 4),),
        dynamo=True,
        dynamic_shapes=({0: batch},),
        input_names=["x"],
        opset_version=20,
        verbose=False,
    )
    assert program is not None
    program.save(str(file))
    x = torch.randn(7, 3, 4, 4)
    (found,) = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"]).run(None, {"x": x.numpy()})
    np.testing.assert_allclose(found, network(x).detach().numpy(), atol=1e-5)
