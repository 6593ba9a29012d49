"""Augmentations against hand-chosen random numbers, numpy and scipy; and the controller of p by its published rule."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import affine_transform
from scipy.spatial.transform import Rotation
from scipy.stats import norm
from torch import Tensor

from ganlib.training.augment import (
    AUGMENTATIONS,
    Adaptive,
    Augmentation,
    Uniform,
    cut_out,
    jitter_colour,
    recolour,
    translate,
    warp,
)

ON, OFF = 0.0, 1.0  # numbers that decide whether a transform is done, at p = 1: 0 < 1, and not 1 < 1
WARP = {"flip": 1, "quarters": 1, "whole": 2, "scale": 1, "before": 1, "stretch": 1, "after": 1, "fraction": 2}
COLOUR = {"brightness": 1, "contrast": 1, "flip": 1, "hue": 1, "saturation": 1}


def seeded(count: int, seed: int = 0) -> Uniform:
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.rand(count, *shape, generator=generator)


def sliced(whole: Uniform, part: slice) -> Uniform:
    return lambda *shape: whole(*shape)[part]


def scripted(count: int, *numbers: float) -> Uniform:
    """Gives the numbers in order, the same ones to each image; all of them must be asked for."""
    left = list(numbers)

    def uniform(amount: int) -> Tensor:
        given = [left.pop(0) for _ in range(amount)]
        return torch.tensor(given).expand(count, amount)

    return uniform


def only(order: dict[str, int], count: int, **given: tuple[float, ...]) -> Uniform:
    """The transforms in `given` with these numbers, and none of the others."""
    numbers: list[float] = []
    for name, amount in order.items():
        numbers += [ON, *given[name]] if name in given else [OFF] + [0.3] * amount
    return scripted(count, *numbers)


def take_step(adaptive: Adaptive, state: dict[str, Tensor], signs: Tensor, images: int, step: int) -> None:
    adaptive.observe(state, signs)
    adaptive.after_step(state, step, images)


def pictures(count: int, channels: int, height: int = 8, width: int = 8, seed: int = 1) -> Tensor:
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", AUGMENTATIONS)
class TestEvery:
    """What holds for every augmentation."""

    @pytest.mark.parametrize("p", [0.0, torch.tensor(0.0)])
    def test_is_the_identity_at_p_0_and_not_at_p_1(self, name: str, channels: int, p: float | Tensor) -> None:
        images = pictures(32, channels, 28, 28)
        for uniform in (seeded(32), lambda *shape: torch.zeros(32, *shape)):  # 0 is a number of U[0, 1)
            torch.testing.assert_close(AUGMENTATIONS[name](images, p, uniform), images, rtol=0, atol=1e-6)
        changed = AUGMENTATIONS[name](images, p + 1, seeded(32)) != images
        assert changed.flatten(1).any(1).float().mean() > 0.9  # some are moved by 0 pixels

    def test_follows_its_random_numbers_alone(self, name: str, channels: int) -> None:
        images = pictures(8, channels)
        first, again, other = (AUGMENTATIONS[name](images, 0.7, seeded(8, seed)) for seed in (0, 0, 1))
        assert torch.equal(first, again)
        assert not torch.allclose(first, other)

    def test_draws_for_each_image_alone(self, name: str, channels: int) -> None:
        images = pictures(8, channels)
        whole = AUGMENTATIONS[name](images, 0.7, seeded(8))
        for part in (slice(0, 4), slice(4, 8)):
            alone = AUGMENTATIONS[name](images[part], 0.7, sliced(seeded(8), part))
            torch.testing.assert_close(alone, whole[part], rtol=0, atol=1e-6)

    def test_has_first_and_second_derivatives(self, name: str, channels: int) -> None:
        images = pictures(2, channels, 4, 5).double().requires_grad_()

        def view(images: Tensor) -> Tensor:
            return AUGMENTATIONS[name](images, 0.9, seeded(2, 3))

        assert torch.autograd.gradcheck(view, (images,))
        assert torch.autograd.gradgradcheck(view, (images,))

    def test_never_reads_the_device(self, name: str, channels: int) -> None:
        # tensors of the meta device have no values: reading one raises
        images, p = torch.empty(4, channels, 8, 8, device="meta"), torch.empty((), device="meta")
        seen = AUGMENTATIONS[name](images, p, lambda *shape: torch.empty(4, *shape, device="meta"))
        assert seen.shape == images.shape

    def test_is_as_exact_under_autocast(self, name: str, channels: int) -> None:
        images = pictures(8, channels)
        with torch.autocast("cpu", torch.bfloat16):
            inside = AUGMENTATIONS[name](images, 0.7, seeded(8))
        assert torch.equal(inside, AUGMENTATIONS[name](images, 0.7, seeded(8)))


@pytest.mark.parametrize("augmentation", [jitter_colour, warp, recolour])
def test_low_precision_is_left_before_any_arithmetic(augmentation: Augmentation) -> None:
    images = pictures(4, 3).bfloat16()
    seen = augmentation(images, 1.0, seeded(4))
    assert seen.dtype == torch.float32
    assert torch.equal(seen, augmentation(images.float(), 1.0, seeded(4)))


@pytest.mark.parametrize(("name", "of_p"), [("ada-bgc", 1.0), ("r3gan", 0.5)])
def test_colours_change_with_their_probability(name: str, of_p: float) -> None:
    # A warp keeps an even image and cutout leaves some pixel; brightness, contrast and every other luma flip change it.
    seen = AUGMENTATIONS[name](torch.full((2000, 1, 4, 4), 0.5), 0.6, seeded(2000)).flatten(1)
    unchanged = (seen - 0.5).abs().min(dim=1).values < 1e-6
    q = 0.6 * of_p
    assert unchanged.float().mean().item() == pytest.approx((1 - q) ** 2 * (1 - q / 2), abs=0.04)


class TestDiffAugment:
    def test_p_is_the_share_of_images_that_are_augmented(self) -> None:
        images = pictures(2000, 1, 2, 2)
        changed = (jitter_colour(images, torch.tensor(0.3), seeded(2000)) != images).flatten(1).any(1)
        assert changed.float().mean().item() == pytest.approx(0.3, abs=0.04)

    @pytest.mark.parametrize(("u", "added"), [(1.0, 0.5), (0.0, -0.5), (0.25, -0.25)])
    def test_brightness_is_added(self, u: float, added: float) -> None:
        images = pictures(2, 3)
        seen = jitter_colour(images, 1.0, scripted(2, ON, u, 0.5, 0.5))
        torch.testing.assert_close(seen, images + added, rtol=0, atol=1e-6)

    @pytest.mark.parametrize(("u", "factor"), [(0.0, 0.0), (0.25, 0.5), (1.0, 2.0)])
    def test_saturation_scales_about_the_grey_of_each_pixel(self, u: float, factor: float) -> None:
        images = pictures(2, 3).numpy()
        grey = images.mean(axis=1, keepdims=True)
        seen = jitter_colour(torch.from_numpy(images), 1.0, scripted(2, ON, 0.5, u, 0.5))
        np.testing.assert_allclose(seen.numpy(), grey + factor * (images - grey), rtol=0, atol=1e-6)

    @pytest.mark.parametrize(("u", "factor"), [(0.0, 0.5), (0.25, 0.75), (1.0, 1.5)])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_contrast_scales_about_the_mean_of_each_image(self, u: float, factor: float, channels: int) -> None:
        images = pictures(2, channels).numpy()
        mean = images.mean(axis=(1, 2, 3), keepdims=True)
        seen = jitter_colour(torch.from_numpy(images), 1.0, scripted(2, ON, 0.5, 0.5, u))
        np.testing.assert_allclose(seen.numpy(), mean + factor * (images - mean), rtol=0, atol=1e-6)

    def test_grey_images_have_no_saturation(self) -> None:
        images = pictures(2, 1)
        seen = jitter_colour(images, 1.0, scripted(2, ON, 0.5, 1.0, 0.5))
        torch.testing.assert_close(seen, images, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("right", range(-2, 3))
    @pytest.mark.parametrize("down", range(-1, 2))
    def test_translation_is_a_roll_with_zeros(self, right: int, down: int) -> None:
        images = pictures(2, 3, height=8, width=16)
        seen = translate(images, 1.0, scripted(2, ON, (right + 2.5) / 5, (down + 1.5) / 3))
        rolled = images.roll((down, right), dims=(2, 3))
        rolled[:, :, : max(down, 0)] = 0
        rolled[:, :, 8 + min(down, 0) :] = 0
        rolled[:, :, :, : max(right, 0)] = 0
        rolled[:, :, :, 16 + min(right, 0) :] = 0
        assert torch.equal(seen, rolled)

    def test_translation_takes_all_steps_up_to_an_eighth_alike(self) -> None:
        images = torch.zeros(3000, 1, 28, 28)
        images[:, :, 14, 14] = 1
        peak = translate(images, 1.0, seeded(3000)).flatten(1).argmax(1)
        for place in (peak // 28 - 14, peak % 28 - 14):
            steps, counts = place.unique(return_counts=True)
            assert steps.tolist() == list(range(-3, 4))  # 28 / 8 = 3.5, rounded down
            assert (counts / 3000).tolist() == pytest.approx([1 / 7] * 7, abs=0.03)

    @pytest.mark.parametrize(
        ("x", "y", "rows", "columns"),
        [
            (0.5, 0.5, slice(2, 6), slice(4, 12)),
            (0.3, 0.7, slice(4, 8), slice(1, 9)),
            (0.0, 0.999, slice(6, 8), slice(0, 4)),
        ],
    )
    def test_cutout_hides_half_the_height_and_width_about_its_centre(
        self, x: float, y: float, rows: slice, columns: slice
    ) -> None:
        images = pictures(2, 3, height=8, width=16) + 2
        seen = cut_out(images, 1.0, scripted(2, ON, x, y))
        hidden = torch.zeros(8, 16, dtype=torch.bool)
        hidden[rows, columns] = True
        assert (seen[:, :, hidden] == 0).all()
        assert torch.equal(seen[:, :, ~hidden], images[:, :, ~hidden])


class TestWarp:
    def test_flip(self) -> None:
        images = pictures(2, 3, height=7, width=10)
        for u, expected in ((0.2, images), (0.7, images.flip(3))):
            seen = warp(images, 1.0, only(WARP, 2, flip=(u,)))
            torch.testing.assert_close(seen, expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("quarters", range(4))
    def test_right_angles(self, quarters: int) -> None:
        images = pictures(2, 1, 8, 8)
        seen = warp(images, 1.0, only(WARP, 2, quarters=((quarters + 0.5) / 4,)))
        assert torch.equal(seen, images.rot90(quarters, dims=(2, 3)))

    def test_a_quarter_of_a_full_rotation_is_a_right_angle(self) -> None:
        images = pictures(2, 1, 8, 8)
        for name in ("before", "after"):
            seen = warp(images, 1.0, only(WARP, 2, **{name: (0.75,)}))  # pi / 2
            torch.testing.assert_close(seen, images.rot90(1, dims=(2, 3)), rtol=0, atol=1e-5)

    def test_translation_by_whole_pixels_reflects(self) -> None:
        images = pictures(2, 3, height=16, width=64)
        seen = warp(images, 1.0, only(WARP, 2, whole=(0.95, 0.05)))  # .9 of 8 pixels right, .9 of 2 up, rounded
        padded = np.pad(images.numpy(), ((0, 0), (0, 0), (8, 8), (8, 8)), mode="symmetric")
        np.testing.assert_allclose(seen.numpy(), padded[:, :, 10:26, 1:65], rtol=0, atol=1e-5)

    def test_all_together_against_scipy(self) -> None:
        height, width = 12, 16
        images = pictures(2, 3, height, width).double()
        numbers = {
            "flip": (0.8,),
            "quarters": (0.3,),
            "whole": (0.9, 0.2),
            "scale": (0.7,),
            "before": (0.6,),
            "stretch": (0.1,),
            "after": (0.2,),
            "fraction": (0.6, 0.3),
        }
        scale, stretch = 2 ** (0.2 * norm.ppf(0.7)), 2 ** (0.2 * norm.ppf(0.1))
        forward = [  # what happens to a point (x right, y down) about the centre, in turn
            _scaling(-1, 1),
            _anticlockwise(math.pi / 2),
            _shift(round(0.1 * width), round(-0.075 * height)),
            _scaling(scale, scale),
            _anticlockwise(0.2 * math.pi),
            _scaling(stretch, 1 / stretch),
            _anticlockwise(-0.6 * math.pi),
            _shift(0.125 * norm.ppf(0.6) * width, 0.125 * norm.ppf(0.3) * height),
        ]
        whole = np.eye(3)
        for step in forward:
            whole = step @ whole
        to_pixels = np.array([[0, 1, (height - 1) / 2], [1, 0, (width - 1) / 2], [0, 0, 1]])  # (x, y) to (row, column)
        back = to_pixels @ np.linalg.inv(whole) @ np.linalg.inv(to_pixels)
        expected = [[affine_transform(c, back, order=1, mode="reflect") for c in image] for image in images.numpy()]
        seen = warp(images, 1.0, only(WARP, 2, **numbers))
        np.testing.assert_allclose(seen.numpy(), np.array(expected), rtol=0, atol=1e-5)

    def test_either_rotation_has_its_share_of_p(self) -> None:
        images = pictures(1, 1)
        others = [OFF, 0.3, OFF, 0.3, OFF, 0.3, 0.3, OFF, 0.3]  # up to the first rotation
        rest = [OFF, 0.3, OFF, 0.3, OFF, 0.3, 0.3]
        share = 1 - math.sqrt(1 - 0.64)  # 0.4
        for u, rotated in ((share - 0.01, True), (share + 0.01, False)):
            seen = warp(images, torch.tensor(0.64), scripted(1, *others, u, 0.8, *rest))
            assert torch.equal(seen, images) is not rotated

    def test_images_that_stay_come_back_to_the_bit(self) -> None:
        images = pictures(4, 3, 27, 31)
        assert torch.equal(warp(images, 1.0, only(WARP, 4)), images)


def _scaling(x: float, y: float) -> np.ndarray:
    return np.diag([x, y, 1.0])


def _shift(x: float, y: float) -> np.ndarray:
    return np.array([[1.0, 0, x], [0, 1.0, y], [0, 0, 1.0]])


def _anticlockwise(angle: float) -> np.ndarray:
    """With y down, from (1, 0) up to (0, -1)."""
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1.0]])


class TestRecolour:
    NUMBERS = {"brightness": (0.9,), "contrast": (0.3,), "flip": (0.6,), "hue": (0.4,), "saturation": (0.8,)}

    @pytest.mark.parametrize("names", [(name,) for name in COLOUR] + [tuple(COLOUR)])
    def test_against_the_matrices_of_the_paper(self, names: tuple[str, ...]) -> None:
        images = pictures(2, 3).double()
        grey = np.ones(3) / math.sqrt(3)
        onto_grey = np.outer(grey, grey)
        steps = {
            "brightness": (np.eye(3), np.full(3, 0.2 * norm.ppf(0.9))),
            "contrast": (np.eye(3) * 2 ** (0.5 * norm.ppf(0.3)), np.zeros(3)),
            "flip": (np.eye(3) - 2 * onto_grey, np.zeros(3)),
            "hue": (Rotation.from_rotvec(-0.2 * math.pi * grey).as_matrix(), np.zeros(3)),
            "saturation": (onto_grey + (np.eye(3) - onto_grey) * 2 ** norm.ppf(0.8), np.zeros(3)),
        }
        expected = images.numpy()
        for name in names:
            matrix, offset = steps[name]
            expected = np.einsum("ij,njhw->nihw", matrix, expected) + offset[:, None, None]
        seen = recolour(images, 1.0, only(COLOUR, 2, **{name: self.NUMBERS[name] for name in names}))
        np.testing.assert_allclose(seen.numpy(), expected, rtol=0, atol=1e-6)

    def test_grey_images_become_what_their_colour_copies_become(self) -> None:
        images = pictures(2, 1)
        one = recolour(images, 1.0, only(COLOUR, 2, **self.NUMBERS))
        three = recolour(images.expand(2, 3, 8, 8), 1.0, only(COLOUR, 2, **self.NUMBERS))
        torch.testing.assert_close(one.expand(2, 3, 8, 8), three, rtol=0, atol=1e-6)
        flipped = recolour(images, 1.0, only(COLOUR, 2, flip=(0.6,)))
        torch.testing.assert_close(flipped, -images, rtol=0, atol=1e-6)

    def test_no_number_is_infinite(self) -> None:
        images = torch.zeros(1, 1, 2, 2)
        lowest = recolour(images, 1.0, only(COLOUR, 1, brightness=(0.0,)))
        highest = recolour(images, 1.0, only(COLOUR, 1, brightness=(1 - 2.0**-24,)))
        torch.testing.assert_close(lowest, torch.full_like(images, 0.2 * norm.ppf(2.0**-24)), rtol=1e-4, atol=0)
        torch.testing.assert_close(highest, -lowest, rtol=1e-4, atol=0)


class TestAdaptive:
    def test_p_rises_above_the_target_and_falls_below_it_by_the_images_seen(self) -> None:
        adaptive = Adaptive(target=0.6, every=4, ramp_kimg=500)
        state = adaptive.start()
        state["p"] += 0.25
        above, below = torch.tensor([1.0] * 9 + [-1.0]), torch.tensor([1.0] * 7 + [-1.0] * 3)  # r_t = .8 and .4
        for step in (1, 2, 3):
            take_step(adaptive, state, above, images=64, step=step)
        assert state["p"].item() == 0.25
        assert (state["signs"].item(), state["count"].item()) == (24, 30)
        take_step(adaptive, state, above, images=64, step=4)
        assert state["p"].item() == pytest.approx(0.25 + 4 * 64 / 500_000, rel=1e-6)
        assert (state["signs"].item(), state["count"].item()) == (0, 0)
        for step in (5, 6, 7, 8, 9, 10, 11, 12):
            take_step(adaptive, state, below, images=64, step=step)
        assert state["p"].item() == pytest.approx(0.25 - 4 * 64 / 500_000, rel=1e-6)

    def test_signs_of_all_steps_since_the_last_move_count(self) -> None:
        adaptive = Adaptive(target=0.5, every=2, ramp_kimg=1)
        state = adaptive.start()
        state["p"] += 0.5
        take_step(adaptive, state, torch.ones(30), images=10, step=1)
        take_step(adaptive, state, -torch.ones(10), images=10, step=2)  # r_t = 20 / 40, on target
        assert state["p"].item() == 0.5
        take_step(adaptive, state, torch.ones(29), images=10, step=3)
        take_step(adaptive, state, -torch.ones(11), images=10, step=4)
        assert state["p"].item() == pytest.approx(0.48, rel=1e-6)

    def test_p_goes_from_0_to_1_in_the_ramp_and_no_further(self) -> None:
        adaptive = Adaptive()
        state = adaptive.start()
        half = 0.0
        for step in range(1, 2001):  # 2,000 steps of 250 images: 500 kimg
            take_step(adaptive, state, torch.ones(2), images=250, step=step)
            half = state["p"].item() if step == 1000 else half
        assert half == pytest.approx(0.5, abs=1e-4)
        assert state["p"].item() == pytest.approx(1.0, abs=1e-4)
        for step in range(2001, 2041):
            take_step(adaptive, state, torch.ones(2), images=250, step=step)
        assert state["p"].item() == 1.0
        state = adaptive.start()
        take_step(adaptive, state, -torch.ones(2), images=250, step=4)
        assert state["p"].item() == 0.0

    def test_the_state_is_tensors_that_change_in_place_and_are_never_read(self) -> None:
        adaptive = Adaptive(every=1)
        state = adaptive.start()
        assert {name: (value.shape, value.dtype) for name, value in state.items()} == dict.fromkeys(
            ("p", "signs", "count"), ((), torch.float32)
        )
        before = dict(state)
        take_step(adaptive, state, torch.ones(4), images=4, step=1)
        assert all(state[name] is before[name] for name in state)
        nowhere = {name: value.to("meta") for name, value in state.items()}
        take_step(adaptive, nowhere, torch.ones(4, device="meta"), images=4, step=2)
