"""Penalties against finite differences, closed forms and exact Jacobians."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.nn.utils import parametrizations

from ganlib.losses.penalties import (
    GENERATOR_PENALTIES,
    LOGIT_PENALTIES,
    PENALTIES,
    WEIGHT_PENALTIES,
    Critic,
    lecam,
    moved_anchors,
    orthogonal,
    path_length,
)

ON_GRADIENTS = ["r1", "r2", "gradient-penalty", "dragan"]
BELOW_ONE = 1 - 2**-24  # the largest float32 below 1


class Draws:
    """Random numbers of the shape `(count, *shape)` that are the same for the same seed, and what was drawn."""

    def __init__(self, count: int, seed: int = 0) -> None:
        self.count, self.random = count, torch.Generator().manual_seed(seed)
        self.drawn: list[Tensor] = []

    def uniform(self, *shape: int) -> Tensor:
        self.drawn.append(torch.rand(self.count, *shape, generator=self.random))
        return self.drawn[-1]

    def normal(self, *shape: int) -> Tensor:
        self.drawn.append(torch.randn(self.count, *shape, generator=self.random))
        return self.drawn[-1]


def constant(count: int, value: float) -> Callable[..., Tensor]:
    return lambda *shape: torch.full((count, *shape), value)


def images(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def smooth_critic(weight: Tensor) -> Callable[[Tensor], Tensor]:
    """A convolution, tanh and a dense layer of weights that differ from place to place."""

    def critic(x: Tensor) -> Tensor:
        hidden = torch.tanh(conv2d(x, weight)).flatten(1)
        return hidden @ torch.linspace(-1, 2, hidden.shape[1], dtype=x.dtype)

    return critic


def numerical_gradient_norms(critic: Callable[[Tensor], Tensor], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Central differences by every pixel of every image."""
    squares = np.zeros(len(at))
    for i in range(len(at)):
        for place in np.ndindex(at.shape[1:]):
            above, below = at[i].copy(), at[i].copy()
            above[place] += 1e-5
            below[place] -= 1e-5
            values = critic(torch.from_numpy(np.stack([above, below]))).detach().numpy()
            squares[i] += ((values[0] - values[1]) / 2e-5) ** 2
    return np.sqrt(squares)


def where_and_target(
    name: str, real: NDArray[np.float64], fake: NDArray[np.float64], drawn: list[Tensor]
) -> tuple[NDArray[np.float64], Callable[[NDArray[np.float64]], float]]:
    """Where a penalty looks at the gradient, and the penalty as a function of the norms there."""
    half_square = lambda norms: float(np.mean(norms**2) / 2)  # noqa: E731
    from_one = lambda norms: float(np.mean((norms - 1) ** 2))  # noqa: E731
    numbers = [values.numpy().astype(np.float64) for values in drawn]
    if name in ("r1", "r2"):
        return (real if name == "r1" else fake), half_square
    assert numbers[0].shape == (len(real), 1, 1, 1)
    if name == "gradient-penalty":
        return numbers[0] * real + (1 - numbers[0]) * fake, from_one
    return real + numbers[0] * 0.5 * np.std(real) * numbers[1], from_one


@pytest.mark.parametrize("name", ON_GRADIENTS)
def test_values_against_finite_differences(name: str) -> None:
    real, fake = images(0, 3, 2, 4, 4), 0.5 * images(1, 3, 2, 4, 4)
    critic, draws = smooth_critic(images(2, 3, 2, 3, 3)), Draws(3)
    value = PENALTIES[name](critic, real, fake, draws.uniform).item()
    at, of_norms = where_and_target(name, real.numpy(), fake.numpy(), draws.drawn)
    assert value == pytest.approx(of_norms(numerical_gradient_norms(critic, at)), rel=1e-7)


@pytest.mark.parametrize("name", PENALTIES)
def test_a_penalty_trains_the_critic_against_finite_differences(name: str) -> None:
    real, fake = images(0, 2, 1, 8, 8)[:, :, :, :5], images(1, 2, 1, 8, 8)[:, :, :, :5]
    weight = images(2, 2, 1, 3, 3).requires_grad_()

    def penalty(w: Tensor) -> Tensor:
        return PENALTIES[name](smooth_critic(w), real, fake, Draws(2).uniform)

    assert torch.autograd.gradcheck(penalty, (weight,))
    assert torch.autograd.gradgradcheck(penalty, (weight,))
    (gradient,) = torch.autograd.grad(penalty(weight), weight)
    assert gradient.abs().max() > 1e-3  # a penalty that trained nothing would agree with its differences too


@pytest.mark.parametrize("name", ON_GRADIENTS)
def test_a_linear_critic_has_its_weights_norm_everywhere(name: str) -> None:
    """D(x) = <w, x> with |w| = 3 has half the square 4.5, and is 2 away from norm 1."""
    weight = images(0, 3, 5, 5)
    weight *= 3 / weight.norm()
    critic = lambda x: (x * weight).sum(dim=(1, 2, 3))  # noqa: E731
    value = PENALTIES[name](critic, images(1, 4, 3, 5, 5), images(2, 4, 3, 5, 5), Draws(4).uniform).item()
    assert value == pytest.approx(4.5 if name in ("r1", "r2") else 4.0, rel=1e-12)


@pytest.mark.parametrize("name", ON_GRADIENTS)
def test_two_logits_of_an_image_add_up(name: str) -> None:
    real, fake = images(0, 2, 1, 4, 4), images(1, 2, 1, 4, 4)
    critic = smooth_critic(images(2, 2, 1, 3, 3))
    column = PENALTIES[name](lambda x: critic(x)[:, None] * torch.tensor([0.25, 0.75]), real, fake, Draws(2).uniform)
    assert column.item() == pytest.approx(PENALTIES[name](critic, real, fake, Draws(2).uniform).item(), rel=1e-12)


@pytest.mark.parametrize(("name", "u"), [("gradient-penalty", 0.0), ("gradient-penalty", 1.0), ("dragan", 0.0)])
def test_the_ends_are_the_images_themselves(name: str, u: float) -> None:
    real, fake, seen = images(0, 2, 1, 3, 3), images(1, 2, 1, 3, 3), []

    def critic(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return x.square().sum(dim=(1, 2, 3))

    PENALTIES[name](critic, real, fake, constant(2, u))
    assert torch.equal(seen[0], fake if (name, u) == ("gradient-penalty", 0.0) else real)


@pytest.mark.parametrize("name", ["gradient-penalty", "dragan"])
def test_a_gradient_of_zero_is_no_nan(name: str) -> None:
    """Where the critic is flat the penalty is (0 - 1)^2, and pulls nowhere."""
    scale = torch.tensor(2.0, requires_grad=True)
    flat = torch.zeros(2, 1, 3, 3)
    value = PENALTIES[name](lambda x: scale * x.square().sum(dim=(1, 2, 3)), flat, flat, constant(2, 0.5))
    (gradient,) = torch.autograd.grad(value, scale)
    assert (value.item(), gradient.item()) == (1.0, 0.0)


@pytest.mark.parametrize("name", PENALTIES)
def test_under_autocast_the_penalty_is_of_float32(name: str) -> None:
    real, fake = images(0, 4, 3, 16, 16).float(), images(1, 4, 3, 16, 16).float()
    torch.manual_seed(0)
    critic = nn.Sequential(
        nn.Conv2d(3, 8, 4, 2, 1),
        nn.Softplus(),
        nn.Conv2d(8, 8, 4, 2, 1),
        nn.Softplus(),
        nn.Flatten(),
        nn.Linear(128, 1),
    )

    def penalty() -> tuple[Tensor, Tensor]:
        value = PENALTIES[name](critic, real, fake, Draws(4).uniform)
        (gradient,) = torch.autograd.grad(value, [next(critic.parameters())])
        return value, gradient.flatten()

    exact, exact_gradient = penalty()
    with torch.autocast("cpu", torch.bfloat16):
        value, gradient = penalty()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact.item(), rel=0.05)
    assert value.item() != exact.item()  # autocast was at work
    assert torch.cosine_similarity(gradient, exact_gradient, dim=0) > 0.98


def test_the_norm_at_bfloat16_images_is_of_float32() -> None:
    """289 ones have a squared norm that bfloat16 cannot hold."""
    fake = torch.zeros(2, 1, 17, 17, dtype=torch.bfloat16)
    value = PENALTIES["r2"](lambda x: x.sum(dim=(1, 2, 3)), fake, fake, Draws(2).uniform)
    assert value.item() == 289 / 2


@pytest.mark.parametrize("name", PENALTIES)
def test_nothing_but_uniform_is_random(name: str) -> None:
    real, fake, before = images(0, 2, 1, 8, 8), images(1, 2, 1, 8, 8), torch.get_rng_state()
    critic = smooth_critic(images(2, 2, 1, 3, 3))
    values = [PENALTIES[name](critic, real, fake, Draws(2, seed).uniform).item() for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert values[0] == values[1]
    assert (values[0] == values[2]) is (name in ("r1", "r2"))


def reflected_numpy(image: NDArray[np.float64], flip: bool, down: int, right: int) -> NDArray[np.float64]:
    """The window of the padded image that is `down` and `right` of the middle."""
    height, width = image.shape[1:]
    image = image[:, :, ::-1] if flip else image
    padded = np.pad(image, ((0, 0), (8, 8), (8, 8)), mode="reflect")
    return padded[:, 8 + down : 8 + down + height, 8 + right : 8 + right + width]


def test_consistency_by_hand() -> None:
    """Sides of 16 and 24 shift by at most 2 and 3; U[0, 1) falls into 5 and 7 equal parts."""
    real = images(0, 5, 2, 16, 24)
    flips = torch.tensor([[0.0], [0.49], [0.5], [BELOW_ONE], [0.1]])
    shifts = torch.tensor([[0.0, BELOW_ONE], [0.5, 0.5], [BELOW_ONE, 0.0], [0.21, 0.3], [0.7, 0.6]])
    by_hand = [(True, -2, 3), (True, 0, 0), (False, 2, -3), (False, -1, -1), (True, 1, 1)]
    draws = iter([flips, shifts])
    weight = images(1, 2, 16, 24)
    critic = lambda x: (x * weight).sum(dim=(2, 3))  # noqa: E731, two logits an image
    value = PENALTIES["consistency"](critic, real, real, lambda *shape: next(draws)).item()
    moved = np.stack([reflected_numpy(x, *how) for x, how in zip(real.numpy(), by_hand, strict=True)])
    logits = [(x * weight.numpy()).sum(axis=(2, 3)) for x in (real.numpy(), moved)]
    assert value == pytest.approx(((logits[0] - logits[1]) ** 2).sum(axis=1).mean(), rel=1e-12)


def test_consistency_is_zero_where_the_critic_cannot_tell() -> None:
    critic = smooth_critic(images(2, 2, 1, 3, 3))
    real, flat = images(0, 6, 1, 8, 8), images(0, 6, 1, 1, 1).expand(6, 1, 8, 8)
    cases: list[tuple[Critic, Tensor]] = [
        (lambda x: 0 * x.sum(dim=(1, 2, 3)) + 3, real),
        (critic, flat),
        (critic, real),
    ]
    constant, at_flat, value = (PENALTIES["consistency"](d, x, x, Draws(6).uniform).item() for d, x in cases)
    assert (constant, at_flat) == (0, 0)
    assert value > 0.1


def test_consistency_shifts_every_way_equally_often() -> None:
    """A row counter per image says where its first row came from: -2 to 2, reflected to 2, 1, 0, 1, 2."""
    count, seen = 5000, []
    rows = torch.arange(16.0)[None, None, :, None].expand(count, 1, 16, 16)
    columns = rows.transpose(2, 3)

    def critic(x: Tensor) -> Tensor:
        seen.append(x)
        return x.sum(dim=(1, 2, 3))

    PENALTIES["consistency"](critic, torch.cat([rows, columns], dim=1), rows, Draws(count).uniform)
    (_, moved) = seen
    down = moved[:, 0, 7, 0] - 7
    flipped = moved[:, 1, 0, 7] > moved[:, 1, 0, 8]
    right = torch.where(flipped, 8 - moved[:, 1, 0, 7], moved[:, 1, 0, 7] - 7)
    for shift in (down, right):
        values, counts = shift.unique(return_counts=True)
        assert values.tolist() == [-2, -1, 0, 1, 2]
        assert (counts - count / 5).abs().max() < 5 * math.sqrt(count * 0.2 * 0.8)
    assert abs(flipped.sum().item() - count / 2) < 5 * math.sqrt(count) / 2
    assert abs(torch.corrcoef(torch.stack([down, right, flipped.float()])).triu(1)).max() < 5 / math.sqrt(count)


def test_lecam_by_hand() -> None:
    """(1 - 0.5)^2, (3 - 0.5)^2 and (-1 - 2)^2, (0 - 2)^2."""
    anchors = torch.tensor([2.0, 0.5])
    p_real, p_fake = torch.tensor([1.0, 3.0], requires_grad=True), torch.tensor([-1.0, 0.0], requires_grad=True)
    value = lecam(p_real, p_fake, anchors)
    assert value.item() == (0.25 + 6.25) / 2 + (9 + 4) / 2
    to_real, to_fake = torch.autograd.grad(value, (p_real, p_fake))
    assert (to_real.tolist(), to_fake.tolist()) == ([0.5, 2.5], [-3.0, -2.0])


def test_anchors_follow_the_means_of_logits() -> None:
    anchors = torch.tensor([2.0, 0.5])
    p_real, p_fake = torch.tensor([1.0, 3.0, 5.0], requires_grad=True), torch.tensor([-1.0, 0.0], requires_grad=True)
    moved = moved_anchors(anchors, p_real, p_fake)
    assert moved.tolist() == pytest.approx([2 * 0.99 + 3 * 0.01, 0.5 * 0.99 - 0.5 * 0.01], rel=1e-6)
    assert moved_anchors(anchors, p_real, p_fake, decay=0.5).tolist() == [2.5, 0.0]
    assert not moved.requires_grad
    assert anchors.tolist() == [2.0, 0.5]


def test_lecam_of_bfloat16_logits_is_of_float32() -> None:
    logits, anchors = torch.full((3,), 17.0, dtype=torch.bfloat16), torch.zeros(2)
    assert lecam(logits, logits, anchors).item() == 2 * 289
    assert moved_anchors(anchors, logits, logits).dtype == torch.float32


def test_path_length_against_the_exact_jacobian() -> None:
    """A generator with a Jacobian of its own at each latent; lengths by that Jacobian, the mean by its definition."""
    into, out = images(0, 4, 6), images(1, 6, 2 * 3 * 5)
    generate: Critic = lambda z: (torch.tanh(z @ into) @ out).reshape(-1, 2, 3, 5)  # noqa: E731
    z, before, draws = images(2, 3, 4), torch.tensor(0.8, dtype=torch.float64), Draws(3)
    penalty, mean = path_length(generate, z, before, draws.normal)
    (noise,) = draws.drawn
    assert noise.shape == (3, 2, 3, 5)
    lengths = []
    for one, y in zip(z, noise, strict=True):
        latent = one.clone().requires_grad_()
        values = generate(latent[None]).flatten()
        jacobian = np.stack([torch.autograd.grad(value, latent, retain_graph=True)[0].numpy() for value in values])
        lengths.append(np.linalg.norm(jacobian.T @ y.double().flatten().numpy() / math.sqrt(15)))
    expected = 0.8 + 0.01 * (np.mean(lengths) - 0.8)
    assert mean.item() == pytest.approx(expected, rel=1e-12)
    assert penalty.item() == pytest.approx(np.mean((np.array(lengths) - expected) ** 2), rel=1e-12)
    assert not z.requires_grad


def test_squared_path_lengths_over_a_basis_are_the_jacobians_squared_norm() -> None:
    """For noise e_1, e_2, ... in turn sum |J^T e_i|^2 = |J|_F^2; from the penalty, (l - a)^2 = l^2 - 2 a l + a^2."""
    jacobian = images(0, 12, 5)
    generate = lambda z: (z @ jacobian.T).reshape(-1, 3, 2, 2)  # noqa: E731
    basis = torch.eye(12, dtype=torch.float64).reshape(12, 3, 2, 2)
    value, mean = path_length(generate, images(1, 12, 5), torch.zeros((), dtype=torch.float64), lambda *shape: basis)
    squares = 12 * (value + 2 * mean * (mean / 0.01) - mean**2).item()
    assert squares == pytest.approx(jacobian.square().sum().item() / 4, rel=1e-9)


def test_path_length_trains_the_generator_and_what_the_latent_came_from() -> None:
    """z = m u and images s J z have lengths s l, whatever m is; tanh makes m matter. The mean lets no gradient pass."""
    jacobian, u = images(0, 12, 5), images(1, 3, 5)
    scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    before = torch.tensor(2.0, dtype=torch.float64)
    value, mean = path_length(lambda z: (scale * z @ jacobian.T).reshape(-1, 3, 2, 2), u, before, Draws(3).normal)
    assert not mean.requires_grad
    (gradient,) = torch.autograd.grad(value, scale)
    lengths = (Draws(3).normal(12).double() @ jacobian / 2).norm(dim=1)
    assert gradient.item() == pytest.approx((2 * (1.5 * lengths - mean) * lengths).mean().item(), rel=1e-12)

    mapping = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    generate = lambda z: (torch.tanh(z) @ jacobian.T).reshape(-1, 3, 2, 2)  # noqa: E731
    value, mean = path_length(generate, mapping * u, before, Draws(3).normal)
    (gradient,) = torch.autograd.grad(value, mapping)
    noise = Draws(3).normal(12).double() / 2
    lengths = ((noise @ jacobian) * (1 - torch.tanh(mapping * u) ** 2)).norm(dim=1)  # tanh' = 1 - tanh^2
    (expected,) = torch.autograd.grad((lengths - mean).square().mean(), mapping)
    assert gradient.item() == pytest.approx(expected.item(), rel=1e-10)


def test_path_length_under_autocast_is_of_float32() -> None:
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(8, 48), nn.Tanh(), nn.Unflatten(1, (3, 4, 4)), nn.Conv2d(3, 3, 3, padding=1))
    z, mean = images(0, 4, 8).float(), torch.zeros(())
    exact, _ = path_length(generator, z, mean, Draws(4).normal)
    with torch.autocast("cpu", torch.bfloat16):
        value, moved = path_length(generator, z, mean, Draws(4).normal)
    assert value.dtype == moved.dtype == torch.float32
    assert value.item() == pytest.approx(exact.item(), rel=0.05)
    assert value.item() != exact.item()
    assert all(
        g.isfinite().all() for g in torch.autograd.grad(value, [p for p in generator.parameters() if p.dim() > 1])
    )


def dense(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    layer.weight = nn.Parameter(weight)
    return layer


def test_orthogonal_by_hand() -> None:
    """Rows (1, 2) and (3, 4) have the product 11, which stands twice in W W^T; a third, (5, 6), has 17 and 39."""
    assert orthogonal(dense(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))).item() == 2 * 11**2
    tall = dense(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    assert orthogonal(tall).item() == 2 * (11**2 + 17**2 + 39**2)
    wide = dense(torch.tensor([[1.0, 2.0, 0.0], [3.0, 4.0, 7.0]]))
    assert orthogonal(nn.Sequential(tall, nn.Sequential(wide))).item() == 2 * (11**2 + 17**2 + 39**2) + 2 * 11**2


def test_orthogonal_is_zero_for_orthogonal_rows_of_any_length() -> None:
    network = nn.Conv2d(3, 4, 3, dtype=torch.float64)
    nn.init.orthogonal_(network.weight)
    assert orthogonal(network).item() == pytest.approx(0, abs=1e-24)
    with torch.no_grad():
        network.weight *= torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)[:, None, None, None]
    assert orthogonal(network).item() == pytest.approx(0, abs=1e-24)
    with torch.no_grad():
        network.weight[0] = network.weight[1]  # both of length 2
    assert orthogonal(network).item() == pytest.approx(2 * 4**2, rel=1e-12)


@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (9, 2, 2, 1)])
def test_orthogonal_pulls_as_its_derivative(shape: tuple[int, int, int, int]) -> None:
    """d |W W^T * (1 - I)|_F^2 = 4 (W W^T * (1 - I)) W, for few rows and for many."""
    network = nn.Conv2d(shape[1], shape[0], (shape[2], shape[3]), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(orthogonal(network), network.weight)
    rows = network.weight.detach().numpy().reshape(shape[0], -1)
    expected = 4 * ((rows @ rows.T) * (1 - np.eye(len(rows)))) @ rows
    np.testing.assert_allclose(gradient.numpy().reshape(shape[0], -1), expected, rtol=1e-10, atol=1e-12)


def test_orthogonal_leaves_out_embeddings_frozen_weights_and_vectors() -> None:
    network = nn.Sequential(nn.Embedding(5, 3), parametrizations.spectral_norm(nn.Embedding(4, 3)), nn.BatchNorm2d(3))
    assert orthogonal(network).item() == 0
    network.append(dense(torch.tensor([[1.0, 2.0], [3.0, 4.0]])))
    assert orthogonal(network).item() == 242
    assert orthogonal(network.requires_grad_(False)).item() == 0


def test_orthogonal_sees_the_weight_below_a_parametrization() -> None:
    layer = dense(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    parametrizations.spectral_norm(layer)
    value = orthogonal(layer)
    assert value.item() == 242
    (gradient,) = torch.autograd.grad(value, [dict(layer.named_parameters())["parametrizations.weight.original"]])
    assert gradient.tolist() == [[4 * 11 * 3, 4 * 11 * 4], [4 * 11 * 1, 4 * 11 * 2]]


@pytest.mark.parametrize("shape", [(4, 9), (9, 4)])
def test_orthogonal_is_the_same_under_autocast(shape: tuple[int, int]) -> None:
    layer = dense(images(0, *shape).float())
    with torch.autocast("cpu", torch.bfloat16):
        value = orthogonal(layer)
    assert value.dtype == torch.float32
    assert value.item() == orthogonal(layer).item() > 1


def test_the_first_line_of_each_names_its_paper() -> None:
    entries = {
        **PENALTIES,
        **LOGIT_PENALTIES,
        **GENERATOR_PENALTIES,
        **WEIGHT_PENALTIES,
    }
    assert len(entries) == len(PENALTIES) + 3
    for name, penalty in entries.items():
        assert re.search(r": .+ 20\d\d.* \(arXiv \d{4}\.\d{5}\)", (penalty.__doc__ or "").splitlines()[0]), name
