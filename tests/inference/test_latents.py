"""Latents: exact values, the laws that they follow and their independence of a batch."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from scipy import stats
from scipy.spatial import geometric_slerp

from ganlib.card import Latent
from ganlib.inference.latents import LAST_SEED, interpolated, latents, normal_quantile

NORMAL = Latent(size=100, distribution="normal")
UNIFORM = Latent(size=100, distribution="uniform")


def test_quantile_is_the_standard_librarys_everywhere() -> None:
    ends = np.concatenate([10.0 ** -np.arange(1, 301, 7), 1 - 10.0 ** -np.arange(1, 16)])
    probability = np.concatenate([np.linspace(1e-4, 1 - 1e-4, 5001), ends, [0.5, 0.075, 0.925, np.exp(-25.0)]])
    expected = [NormalDist().inv_cdf(float(p)) for p in probability]
    np.testing.assert_allclose(normal_quantile(probability), expected, rtol=4e-15, atol=1e-16)


def test_quantile_has_published_values() -> None:
    # Tables of the normal distribution: the 97.5 %, 99.5 % and 99.9 % points.
    np.testing.assert_allclose(
        normal_quantile(np.array([0.975, 0.995, 0.999, 0.5])),
        [1.959963984540054, 2.5758293035489, 3.090232306167813, 0],
    )


def philox(key: int, count: int) -> list[int]:
    """Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), from counter 1 on."""
    numbers: list[int] = []
    mask = 2**64 - 1
    for block in range(1, count // 4 + 2):
        c, k = [block, 0, 0, 0], [key, 0]
        for _ in range(10):
            first, second = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
            c = [(second >> 64) ^ c[1] ^ k[0], second & mask, (first >> 64) ^ c[3] ^ k[1], first & mask]
            k = [(k[0] + 0x9E3779B97F4A7C15) & mask, (k[1] + 0xBB67AE8584CAA73B) & mask]
        numbers += c
    return numbers[:count]


@pytest.mark.parametrize("seed", [0, 42, LAST_SEED])
def test_latents_are_the_inverse_distribution_of_the_philox_stream(seed: int) -> None:
    uniform = [((bits >> 12) + 0.5) / 2**52 for bits in philox(seed, 100)]
    for truncation in (1.0, 0.5, 1e-3):
        central = [0.5 + truncation * (u - 0.5) for u in uniform]
        expected = np.array([NormalDist().inv_cdf(p) for p in central], np.float32)
        np.testing.assert_allclose(latents([seed], NORMAL, truncation)[0], expected, rtol=2e-7)  # an ulp of float32
        expected = np.array([2 * p - 1 for p in central], np.float32)
        np.testing.assert_array_equal(latents([seed], UNIFORM, truncation)[0], expected)


@pytest.mark.parametrize("latent", [NORMAL, UNIFORM])
def test_a_seed_gives_the_same_alone_and_in_any_batch(latent: Latent) -> None:
    seeds = [5, 0, LAST_SEED, 5, 123]
    together = latents(seeds, latent, 0.8)
    assert together.dtype == np.float32
    assert together.shape == (5, 100)
    for seed, row in zip(seeds, together, strict=True):
        np.testing.assert_array_equal(latents([seed], latent, 0.8)[0], row)
    assert len(np.unique(together, axis=0)) == 4
    assert latents([], latent).shape == (0, 100)


def test_full_truncation_is_the_whole_distribution() -> None:
    # Kolmogorov-Smirnov over 200,000 values of consecutive seeds: a statistic above 0.0046 has p < 0.0005.
    assert stats.kstest(latents(range(2000), NORMAL).ravel(), "norm").statistic < 0.0046
    assert stats.kstest(latents(range(2000), UNIFORM).ravel(), "uniform", args=(-1, 2)).statistic < 0.0046


def test_consecutive_seeds_are_independent() -> None:
    z = latents(range(1000), NORMAL)
    correlation = np.corrcoef(z[:-1].ravel(), z[1:].ravel())[0, 1]
    assert abs(correlation) < 4 / np.sqrt(z[1:].size)


def test_truncation_draws_from_the_central_mass() -> None:
    z = latents(range(500), NORMAL, 0.5)
    bound = NormalDist().inv_cdf(0.75)
    assert 0.999 * bound < np.abs(z).max() <= np.float32(bound)
    assert stats.kstest(z.ravel(), stats.truncnorm(-bound, bound).cdf).statistic < 0.0092  # 50,000 values, p < 0.0005
    np.testing.assert_allclose(latents([3], UNIFORM, 0.25), 0.25 * latents([3], UNIFORM), rtol=1e-5, atol=1e-9)


def test_a_seed_moves_continuously_with_the_truncation() -> None:
    steps = np.stack([latents([9], NORMAL, t)[0] for t in np.linspace(0.01, 1, 400)])
    assert np.all(np.diff(np.abs(steps), axis=0) >= 0)  # towards the mean as the truncation falls
    assert np.all(np.sign(steps[0]) == np.sign(steps[-1]))
    assert np.abs(np.diff(steps, axis=0)).max() < 0.2
    assert np.abs(steps[0]).max() < 0.0126  # quantile of 1/2 + 0.01/2


def normal_scores(seed: int, truncation: float) -> np.ndarray:
    """The normal latent of a seed in double precision, by the independent Philox and the standard library."""
    central = [0.5 + truncation * (((bits >> 12) + 0.5) / 2**52 - 0.5) for bits in philox(seed, 100)]
    return np.array([NormalDist().inv_cdf(p) for p in central])


@pytest.mark.parametrize("truncation", [1.0, 0.6])
@pytest.mark.parametrize("position", [0.25, 0.5, 0.9])
def test_between_two_seeds_lies_the_great_circle(position: float, truncation: float) -> None:
    a, b = normal_scores(3, truncation), normal_scores(LAST_SEED, truncation)
    directions = np.stack([a / np.linalg.norm(a), b / np.linalg.norm(b)])
    point = geometric_slerp(*directions, position)  # SciPy's, of unit vectors; its weights are those of any lengths
    weights = np.linalg.lstsq(directions.T, point, rcond=None)[0]
    expected = weights[0] * a + weights[1] * b
    (z,) = interpolated([3], [LAST_SEED], position, NORMAL, truncation)
    np.testing.assert_allclose(z, expected.astype(np.float32), rtol=1e-5, atol=1e-6)
    (z,) = interpolated([3], [LAST_SEED], position, UNIFORM, truncation)
    expected = [2 * NormalDist().cdf(value) - 1 for value in expected]
    np.testing.assert_allclose(z, np.array(expected, np.float32), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("latent", [NORMAL, UNIFORM])
def test_the_ends_are_the_seeds_own_to_the_bit_and_the_way_there_has_no_jump(latent: Latent) -> None:
    seeds, to = [5, 6, 7], [7, 0, 5]
    np.testing.assert_array_equal(interpolated(seeds, to, 0, latent, 0.7), latents(seeds, latent, 0.7))
    np.testing.assert_array_equal(interpolated(seeds, to, 1.0, latent, 0.7), latents(to, latent, 0.7))
    for position, end in ((1e-9, seeds), (1 - 1e-9, to)):
        near = interpolated(seeds, to, position, latent, 0.7)
        np.testing.assert_allclose(near, latents(end, latent, 0.7), rtol=1e-6, atol=1e-7)
    there = interpolated(seeds, to, 0.3, latent)
    np.testing.assert_allclose(interpolated(to, seeds, 0.7, latent), there, rtol=1e-6, atol=1e-7)
    assert there.dtype == np.float32
    for i in range(3):  # each depends on its own two seeds alone
        np.testing.assert_array_equal(interpolated(seeds[i : i + 1], to[i : i + 1], 0.3, latent)[0], there[i])
    assert interpolated([], [], 0.5, latent).shape == (0, 100)


@pytest.mark.parametrize("latent", [NORMAL, UNIFORM])
def test_from_a_seed_to_itself_nothing_moves(latent: Latent) -> None:
    z = interpolated([9], [9], 0.4, latent)
    np.testing.assert_allclose(z, latents([9], latent), rtol=1e-6, atol=1e-7)


def test_between_opposite_latents_the_way_is_straight(monkeypatch: pytest.MonkeyPatch) -> None:
    middle = np.linspace(0.1, 0.4, 100)
    probabilities = {0: middle, 1: 1 - middle}  # z and -z
    monkeypatch.setattr(
        "ganlib.inference.latents._probabilities",
        lambda seeds, latent, truncation: np.stack([probabilities[s] for s in seeds]),
    )
    (z,) = interpolated([0], [1], 0.25, NORMAL)
    np.testing.assert_allclose(z, 0.5 * normal_quantile(middle), rtol=1e-6)


def test_what_lies_between_has_the_law_of_the_ends() -> None:
    # Kolmogorov-Smirnov over 200,000 values: a statistic above 0.0046 has p < 0.0005.
    ends = range(2000), range(10_000, 12_000)
    uniform = interpolated(*ends, 0.5, UNIFORM).ravel()
    assert stats.kstest(uniform, "uniform", args=(-1, 2)).statistic < 0.0046
    assert stats.kstest(interpolated(*ends, 0.5, NORMAL).ravel(), "norm").statistic < 0.0046
    straight = (latents(ends[0], UNIFORM) + latents(ends[1], UNIFORM)).ravel() / 2
    assert stats.kstest(straight, "uniform", args=(-1, 2)).statistic > 0.1  # what the straight line would give
    lengths = np.linalg.norm(interpolated(*ends, 0.5, NORMAL), axis=1)
    assert abs(lengths.mean() / np.linalg.norm(latents(ends[0], NORMAL), axis=1).mean() - 1) < 0.005
