"""The benchmark of Gaussian mixtures: it learns, its data are fixed by their number, its table is whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import mixtures
from benchmarks.mixtures import BASE, REAL, SETTINGS, Row, compare, draw, table, trained
from benchmarks.points import GRID, RING, Mixture, Reals
from ganlib.evaluation.modes import Modes, find_modes


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("mixture", "count", "apart"), [(RING, 8, 2 * np.sin(np.pi / 8)), (GRID, 25, 2.0)])
def test_the_centres_are_those_of_the_papers(mixture: Mixture, count: int, apart: float) -> None:
    distances = np.linalg.norm(mixture.centres[:, None] - mixture.centres, axis=2) + 9 * np.eye(count)

    assert mixture.centres.shape == (count, 2)
    assert distances.min(axis=1) == pytest.approx(np.full(count, apart), rel=1e-12)
    assert mixture.centres.mean(axis=0) == pytest.approx(np.zeros(2), abs=1e-12)


def test_a_batch_is_a_pure_function_of_seed_and_number() -> None:
    forwards, backwards = Reals(GRID, 64, seed=3), Reals(GRID, 64, seed=3)
    batches = {number: forwards[number].images for number in (0, 1, 7)}

    assert all(torch.equal(backwards[number].images, batches[number]) for number in (7, 1, 0))
    assert not torch.equal(batches[0], batches[1])
    assert not torch.equal(Reals(GRID, 64, seed=4)[0].images, batches[0])


@pytest.mark.parametrize("mixture", [RING, GRID])
def test_a_batch_holds_points_of_every_mode_with_its_deviation(mixture: Mixture) -> None:
    images = Reals(mixture, 20_000, seed=0)[5].images
    points = mixture.as_points(images)
    modes = find_modes(points, mixture.centres, mixture.deviation)
    nearest = np.linalg.norm(points[:, None] - mixture.centres, axis=2).argmin(axis=1)

    assert images.shape == (20_000, 1, 1, 2)
    assert images.abs().max() < 1
    assert modes.found == len(mixture.centres)
    assert modes.high_quality == pytest.approx(1 - np.exp(-4.5), abs=4e-3)
    assert modes.reverse_kl is not None
    assert modes.reverse_kl < 4 * len(mixture.centres) / (2 * 20_000)
    assert np.std(points - mixture.centres[nearest]) == pytest.approx(mixture.deviation, rel=0.03)


def test_a_few_hundred_steps_find_the_ring() -> None:
    before = find_modes(trained(RING, SETTINGS[0], 1, seed=0)[0], RING.centres, RING.deviation)
    points, seconds = trained(RING, SETTINGS[0], 250, seed=0)
    after = find_modes(points, RING.centres, RING.deviation)

    assert points.shape == (2500, 2)
    assert seconds > 0
    assert before.high_quality < 0.05
    assert after.high_quality > 0.15
    assert after.found == 8


def test_a_run_depends_on_its_seed_alone() -> None:
    one, same, other = (trained(GRID, SETTINGS[3], 3, seed)[0] for seed in (1, 1, 2))

    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_the_penalty_falls_and_the_average_stays_with_its_share() -> None:
    config = SETTINGS[0].section(steps=1000, seed=0)

    assert [config.numbers_at(images)["penalties.r1"] for images in (0, 76_800, 153_600, 256_000)] == pytest.approx(
        [0.05, (0.05 * 0.0003) ** 0.5, 0.0003, 0.0003]
    )
    assert config.ema.half_life == pytest.approx(12.8)
    assert SETTINGS[2].section(steps=1000, seed=0).ema.half_life == 0


def test_every_setting_is_compared_in_steps_that_take_as_long() -> None:
    rows = compare(RING, steps=5, seeds=2)

    assert [row.setting for row in rows] == [REAL, *(setting.name for setting in SETTINGS)]
    assert [row.steps for row in rows] == [0, *(round(5 / setting.cost) for setting in SETTINGS)]
    assert all(len(row.modes) == len(row.seconds) == 2 for row in rows)
    assert rows[0].modes[0].high_quality == pytest.approx(1 - np.exp(-4.5), abs=0.01)


def test_the_table_has_its_columns_and_the_ratio_of_means() -> None:
    points = np.zeros((4, 2))
    even, uneven, none = Modes(np.array([2, 2]), 5), Modes(np.array([3, 1]), 4), Modes(np.array([0, 0]), 4)
    rows = [
        Row("ring", "relativistic", 100, points, [10.0, 14.0], [even, uneven]),
        Row("ring", BASE, 200, points, [11.0, 11.0], [uneven, uneven]),
        Row("ring", "nothing", 300, points, [1.0, 1.0], [none, even]),
    ]

    head, *lines = table(rows).splitlines()

    assert head.split("  ")[0] == "mixture"
    for column in ("setting", "steps", "seconds", "modes", "high quality", "reverse KL", "of each seed", "ratio"):
        assert column in head
    # 3/4 log 3/2 + 1/4 log 1/2 = 0.1308, beside half of it
    assert [" ".join(line.split()) for line in lines] == [
        "ring relativistic 100 12 2.0 90.0% 0.0654 0.0000 0.1308 0.50",
        "ring non-saturating 200 11 2.0 100.0% 0.1308 0.1308 0.1308 1.00",
        "ring nothing 300 1 1.0 40.0% - - 0.0000 -",
    ]


def test_the_picture_has_a_row_for_each_mixture(tmp_path: Path) -> None:
    found = Modes(np.ones(8, dtype=np.int64), 10)
    names = [REAL, *(setting.name for setting in mixtures.SETTINGS)]
    rows = [Row(mixture.name, name, 1, mixture.centres, [1.0], [found]) for mixture in (RING, GRID) for name in names]

    draw(rows, tmp_path / "both" / "mixtures.png")
    draw(rows[:5], tmp_path / "one.png")

    with Image.open(tmp_path / "both" / "mixtures.png") as both, Image.open(tmp_path / "one.png") as one:
        assert both.width == pytest.approx(5 * 3 * 120, rel=0.03)
        assert one.width == both.width
        assert both.height == pytest.approx(2 * one.height, rel=0.03)
