from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from scipy.stats import wasserstein_distance

from ganlib.evaluation import sliced_wasserstein as module
from ganlib.evaluation.sliced_wasserstein import (
    doubled,
    halved,
    laplacian_pyramid,
    level_shapes,
    normalised,
    sliced_wasserstein,
    sliced_wasserstein_distance,
    unit_directions,
)
from ganlib.problems import Refused

KERNEL = np.array([1, 4, 6, 4, 1]) / 16


def smooth(count: int, seed: int, side: int = 28, channels: int = 3) -> np.ndarray:
    """Images `(count, side, side, channels)` uint8 of a few soft patches of colour."""
    coarse = np.random.default_rng(seed).normal(size=(count, 4, 4, channels))
    return (128 + 40 * ndimage.zoom(coarse, (1, side / 4, side / 4, 1), order=1)).clip(0, 255).astype(np.uint8)


def noise(count: int, seed: int, side: int = 28, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def flat(greys: np.ndarray, side: int) -> np.ndarray:
    """Images `(count, side, side, 1)` uint8, each of one grey."""
    return np.broadcast_to(greys.astype(np.uint8)[:, None, None, None], (len(greys), side, side, 1))


def standardised(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std()


def literally(
    real: np.ndarray, generated: np.ndarray, seed: int, patches: int, directions: int, patch: int
) -> tuple[float, ...]:
    """The distance at each of two levels: patch by patch and direction by direction, with the same draws."""
    random = np.random.default_rng(seed)
    sides = (real.shape[1], real.shape[1] // 2)
    corners = [random.integers(0, side - patch + 1, (len(real), patches, 2)) for side in sides]
    distances = []
    for level, places in enumerate(corners):
        sets = []
        for images in (real, generated):
            coarse = literally_halved(images.astype(np.float64))
            pyramid = (images - literally_doubled(coarse, *images.shape[1:3]), coarse)
            cut = [
                pyramid[level][i, top : top + patch, left : left + patch]
                for i in range(len(images))
                for top, left in places[i]
            ]
            vectors = np.stack(cut)
            for channel in range(images.shape[3]):
                vectors[..., channel] = standardised(vectors[..., channel])
            sets.append(vectors.reshape(len(vectors), -1))
        axes = unit_directions(directions, sets[0].shape[1], random).astype(np.float64)
        distances.append(float(np.mean([wasserstein_distance(sets[0] @ u, sets[1] @ u) for u in axes])))
    return tuple(distances)


def literally_halved(images: np.ndarray) -> np.ndarray:
    for axis in (1, 2):
        images = ndimage.convolve1d(images, KERNEL, axis=axis, mode="mirror")
    return images[:, ::2, ::2]


def literally_doubled(images: np.ndarray, height: int, width: int) -> np.ndarray:
    spread = np.zeros((len(images), height, width, images.shape[3]))
    spread[:, ::2, ::2] = images
    for axis in (1, 2):
        spread = ndimage.convolve1d(spread, 2 * KERNEL, axis=axis, mode="mirror")
    return spread


def test_agrees_with_the_definition_patch_by_patch() -> None:
    real, generated = smooth(5, seed=0), noise(5, seed=1)
    choice = {"seed": 3, "patches": 4, "directions": 6, "patch": 5}

    found = sliced_wasserstein_distance(real, generated, **choice)

    assert found == pytest.approx(1000 * np.mean(literally(real, generated, **choice)), rel=1e-5)


def test_flat_images_leave_the_distance_of_their_standardised_greys() -> None:
    random = np.random.default_rng(2)
    a, b = random.integers(0, 256, 40), np.where(random.random(40) < 0.2, 250, 10)
    expected = 1000 * wasserstein_distance(standardised(a), standardised(b))

    single_level = sliced_wasserstein_distance(flat(a, 8), flat(b, 8), seed=0, patch=1)
    two_levels = sliced_wasserstein_distance(flat(a, 28), flat(b, 28), seed=0, patch=1)  # the finer has no detail

    assert expected > 100
    assert single_level == pytest.approx(expected, rel=1e-5)
    assert two_levels == pytest.approx(expected / 2, rel=1e-5)


@pytest.mark.parametrize(("side", "channels"), [(12, 3), (28, 1), (32, 3)])
def test_of_a_set_with_itself_is_zero(side: int, channels: int) -> None:
    images = noise(10, seed=0, side=side, channels=channels)

    assert sliced_wasserstein_distance(images, images.copy(), seed=0) == 0


@pytest.mark.parametrize("count", [30, 50])
def test_is_symmetric_also_where_the_larger_set_is_drawn_from(count: int) -> None:
    a, b = smooth(30, seed=0), noise(count, seed=1)

    assert sliced_wasserstein_distance(a, b, seed=0) == sliced_wasserstein_distance(b, a, seed=0) > 0


def test_the_larger_set_is_drawn_from_without_repetition() -> None:
    few, many = np.array([0, 1, 2, 3, 50]), np.array([0, 1, 4, 20, 60, 200])
    possible = [1000 * wasserstein_distance(standardised(few), standardised(np.delete(many, i))) for i in range(6)]

    found = [sliced_wasserstein_distance(flat(few, 8), flat(many, 8), seed=seed, patch=1) for seed in range(20)]
    left_out = [int(np.argmin(np.abs(np.subtract(possible, distance)))) for distance in found]

    np.testing.assert_allclose(found, np.take(possible, left_out), rtol=1e-5)
    assert len(set(left_out)) > 3


def test_is_a_function_of_the_seed() -> None:
    a, b = smooth(20, seed=0), smooth(20, seed=1)
    first = sliced_wasserstein_distance(a, b, seed=0)

    assert first == sliced_wasserstein_distance(a, b, seed=0)
    assert first != sliced_wasserstein_distance(a, b, seed=1)


def test_each_set_is_normalised_by_its_own_mean_and_deviation() -> None:
    images = noise(20, seed=0, channels=3) // 4
    lighter = images * np.array([2, 3, 4], dtype=np.uint8) + np.array([60, 30, 0], dtype=np.uint8)

    assert sliced_wasserstein_distance(images, lighter, seed=0) == pytest.approx(0, abs=1e-2)


def test_noise_is_farther_from_smooth_images_than_other_smooth_images_are() -> None:
    real = smooth(300, seed=0)
    blurred = ndimage.gaussian_filter(noise(300, seed=1).astype(float), (0, 1, 1, 0)).astype(np.uint8)

    others, between, far = (
        sliced_wasserstein_distance(real, images, seed=0) for images in (smooth(300, seed=2), blurred, noise(300, 1))
    )

    assert 0 < 2 * others < between < far


def test_one_image_again_and_again_is_farther_than_a_varied_sample() -> None:
    real, varied = smooth(300, seed=0), smooth(300, seed=1)
    few = varied[np.arange(300) % 10]

    near, some, collapsed = (
        sliced_wasserstein_distance(real, images, seed=0) for images in (varied, few, varied[[0] * 300])
    )

    assert 2 * near < some
    assert 2 * some < collapsed


def test_blocks_do_not_change_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = smooth(23, seed=0), noise(23, seed=1)
    whole = sliced_wasserstein_distance(a, b, seed=0, patches=4, directions=9)

    monkeypatch.setattr(module, "_IMAGES", 5)
    monkeypatch.setattr(module, "_DIRECTIONS", 2)

    assert sliced_wasserstein_distance(a, b, seed=0, patches=4, directions=9) == pytest.approx(whole, rel=1e-6)


def test_on_a_line_is_the_wasserstein_distance() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(60, 1)), random.exponential(size=(60, 1))

    found = sliced_wasserstein(a, b, np.array([[1.0], [-1.0]]))

    assert found == pytest.approx(wasserstein_distance(a[:, 0], b[:, 0]), rel=1e-12)


def test_is_the_mean_over_the_directions() -> None:
    random = np.random.default_rng(1)
    a, b, directions = random.normal(size=(40, 4)), random.exponential(size=(40, 4)), unit_directions(70, 4, random)
    expected = np.mean([wasserstein_distance(a @ u, b @ u) for u in directions])

    assert sliced_wasserstein(a, b, directions) == pytest.approx(expected, rel=1e-9)


def test_a_shifted_point_mass_is_as_far_as_the_shift_along_each_direction() -> None:
    shift, directions = np.array([3.0, -4.0, 12.0]), unit_directions(50, 3, np.random.default_rng(2))
    a = np.tile([1.0, 2.0, 3.0], (20, 1))

    found = sliced_wasserstein(a, a + shift, directions)

    assert found == pytest.approx(np.mean(np.abs(directions @ shift)), rel=1e-12)


def test_directions_are_uniform_on_the_sphere() -> None:
    directions = unit_directions(20_000, 3, np.random.default_rng(3))

    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, atol=1e-6)
    # Archimedes: every coordinate is uniform on [-1, 1], so that |x| has mean 1/2 and deviation 1/sqrt(12)
    np.testing.assert_allclose(np.abs(directions).mean(0), 0.5, atol=4 / np.sqrt(12 * 20_000))
    np.testing.assert_allclose(directions.mean(0), 0, atol=4 / np.sqrt(3 * 20_000))


def test_normalised_patches_have_mean_0_and_deviation_1_in_each_channel() -> None:
    patches = np.random.default_rng(4).normal([5, -200, 0.1], [1, 30, 0.01], (500, 9, 3)).astype(np.float32)

    found = normalised(patches)

    np.testing.assert_allclose(found.mean((0, 1), dtype=np.float64), 0, atol=1e-5)
    np.testing.assert_allclose(found.std((0, 1), dtype=np.float64), 1, atol=1e-5)
    np.testing.assert_allclose(
        found, (patches - patches.mean((0, 1))) / patches.std((0, 1)), rtol=0, atol=1e-3
    )  # no mixing of pixels


def test_a_channel_of_one_value_is_zero_after_normalisation() -> None:
    patches = np.random.default_rng(5).normal(size=(200, 4, 3)).astype(np.float32)
    patches[..., 1] = 77.3

    found = normalised(patches)

    assert not found[..., 1].any()
    assert found[..., [0, 2]].std() == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize(
    ("shape", "sides"),
    [
        ((12, 12), [(12, 12)]),
        ((22, 22), [(22, 22)]),
        ((23, 23), [(23, 23), (12, 12)]),
        ((28, 28), [(28, 28), (14, 14)]),
        ((32, 32), [(32, 32), (16, 16)]),
        ((96, 65), [(96, 65), (48, 33), (24, 17)]),
        ((128, 128), [(128, 128), (64, 64), (32, 32), (16, 16)]),
    ],
)
def test_the_pyramid_ends_nearest_to_16_pixels(shape: tuple[int, int], sides: list[tuple[int, int]]) -> None:
    pyramid = laplacian_pyramid(np.zeros((1, *shape, 1)), len(sides))

    assert level_shapes(*shape) == sides
    assert [level.shape[1:3] for level in pyramid] == sides


@pytest.mark.parametrize(
    ("height", "width", "levels", "dtype"), [(28, 28, 2, np.float32), (32, 32, 2, np.float32), (64, 45, 3, np.float64)]
)
def test_the_pyramid_gives_the_images_back_to_the_bit(height: int, width: int, levels: int, dtype: Any) -> None:
    # sixteenths and eighths of bytes: 8 + 14 binary digits after one halving, 8 + 22 after two
    images = np.random.default_rng(6).integers(0, 256, (3, height, width, 3)).astype(dtype)

    *details, back = laplacian_pyramid(images, levels)
    for detail in reversed(details):
        back = detail + doubled(back, *detail.shape[1:3])

    assert back.dtype == dtype
    np.testing.assert_array_equal(back, images)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 10), (13, 9)])
def test_halving_and_doubling_agree_with_scipy(height: int, width: int) -> None:
    images = np.random.default_rng(7).normal(size=(2, height, width, 3))
    coarse = halved(images)

    np.testing.assert_allclose(coarse, literally_halved(images), atol=1e-12)
    np.testing.assert_allclose(doubled(coarse, height, width), literally_doubled(coarse, height, width), atol=1e-12)


IMAGES = np.zeros((4, 28, 28, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("real", "generated", "how", "message"),
    [
        (IMAGES, IMAGES.astype(np.float32), {}, r"found generated images float32 \(4, 28, 28, 3\)"),
        (IMAGES[0], IMAGES, {}, r"found real images uint8 \(28, 28, 3\)"),
        (IMAGES, IMAGES[..., :2], {}, r"found generated images uint8 \(4, 28, 28, 2\)"),
        (IMAGES, IMAGES[:0], {}, r"found generated images uint8 \(0, 28, 28, 3\)"),
        (IMAGES, IMAGES[..., :1], {}, r"found real images \(28, 28, 3\) and generated ones \(28, 28, 1\)"),
        (IMAGES, IMAGES[:, :27], {}, r"found real images \(28, 28, 3\) and generated ones \(27, 28, 3\)"),
        (IMAGES, IMAGES, {"patch": 15}, "found patches of 15 pixels; take 1 to 14"),
        (IMAGES, IMAGES, {"patch": 0}, "found patches of 0 pixels; take 1 to 14"),
        (IMAGES, IMAGES, {"patches": 0}, "found 0 patches and 128 directions"),
        (IMAGES, IMAGES, {"directions": 0}, "found 32 patches and 0 directions"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(
    real: np.ndarray, generated: np.ndarray, how: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        sliced_wasserstein_distance(real, generated, seed=0, **how)

    assert isinstance(caught.value, Refused)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("other", [(5, 3), (4, 2)])
def test_vectors_of_other_counts_or_lengths_are_refused(other: tuple[int, int]) -> None:
    with pytest.raises(Refused, match=r"found vectors \(4, 3\) and"):
        sliced_wasserstein(np.zeros((4, 3)), np.zeros(other), np.eye(3))


def test_no_vectors_are_refused() -> None:
    with pytest.raises(Refused, match=r"found vectors \(0, 3\)"):
        sliced_wasserstein(np.zeros((0, 3)), np.zeros((0, 3)), np.eye(3))
