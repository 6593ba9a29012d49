"""Chapters, phases and batches: which step does what, as pure functions of its number."""

from __future__ import annotations

import pytest

from ganlib.families.base import Chapter, Phase
from ganlib.families.objective import Repeats
from ganlib.training.course import Course, Place, by_what_they_train


def phase(name: str, **given) -> Phase:
    return Phase(name, (given.pop("trains", name),), "generator", lambda batch: (batch, {}), **given)


def test_repeats_are_boosted_at_first_and_every_so_often() -> None:
    """The critic of Arjovsky et al. 2017: 100 steps for the first 25 generator steps and for every 500th."""
    critic = Repeats(usual=5, boosted=100, warm_up=25, every=500)
    at = [critic.at(step) for step in range(1501)]
    assert at[:25] == [100] * 25
    assert [step for step in range(25, 1501) if at[step] == 100] == [500, 1000, 1500]
    for step in (0, 1, 25, 26, 500, 501, 1500):
        assert critic.before(step) == sum(at[:step])


@pytest.mark.parametrize(("warm_up", "every"), [(0, 0), (3, 0), (0, 4), (4, 4), (5, 4), (9, 4)])
def test_the_closed_form_of_repeats_is_their_sum(warm_up: int, every: int) -> None:
    repeats = Repeats(usual=2, boosted=7, warm_up=warm_up, every=every)
    for step in range(40):
        assert repeats.before(step) == sum(repeats.at(earlier) for earlier in range(step))


def test_chapters_share_the_steps() -> None:
    course = Course([Chapter("coarse", 0.25, (phase("a"),)), Chapter("fine", 0.75, (phase("b"),))], 40)
    assert course.place(0) == Place(0, 0, 10)
    assert course.place(9) == Place(0, 9, 10)
    assert course.place(10) == Place(1, 0, 30)
    assert course.place(39) == Place(1, 29, 30)
    with pytest.raises(ValueError, match=r"sum to 0\.5"):
        Course([Chapter("half", 0.5, ())], 10)


def test_every_step_has_batches_that_no_other_has() -> None:
    first = Chapter("first", 0.5, (phase("critic", repeats=Repeats(3)), phase("generator", fresh=True)))
    second = Chapter("second", 0.5, (phase("critic", repeats=Repeats(2, 5, 2)), phase("generator")))
    course = Course([first, second], 8)
    assert [course.batches_before(step) for step in range(9)] == [0, 4, 8, 12, 16, 21, 26, 28, 30]


def test_phases_that_train_the_same_share_an_optimiser() -> None:
    phases = [phase("a", trains="critic"), phase("b", trains="critic"), phase("c", trains="generator")]
    assert {key: [p.name for p in of] for key, of in by_what_they_train(phases).items()} == {
        "critic": ["a", "b"],
        "generator": ["c"],
    }
