"""Where in a curriculum a step stands, and which real batches are its own: pure functions of the step's number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ganlib.families.base import Chapter, Phase


@dataclass(frozen=True)
class Place:
    """A step's place.

    Attributes:
        chapter: index into the curriculum.
        step: from 0 on within the chapter.
        steps: of the chapter.
    """

    chapter: int
    step: int
    steps: int


class Course:
    """A curriculum laid over the steps of a run."""

    def __init__(self, chapters: Sequence[Chapter], steps: int) -> None:
        """
        Args:
            chapters: the family's curriculum.
            steps: of the whole run.

        Raises:
            ValueError: where the shares do not sum to 1.
        """
        shares = [chapter.share for chapter in chapters]
        if abs(sum(shares) - 1) > 1e-6:
            raise ValueError(f"the shares of a curriculum sum to {sum(shares)}, not to 1")
        self.chapters = chapters
        self.ends = [round(steps * sum(shares[: i + 1])) for i in range(len(shares))]

    def place(self, step: int) -> Place:
        """The place of step `step`, from 0 on."""
        chapter = next(i for i, end in enumerate(self.ends) if step < end)
        start = self.ends[chapter - 1] if chapter else 0
        return Place(chapter, step - start, self.ends[chapter] - start)

    def batches_before(self, step: int) -> int:
        """How many real batches the steps before `step` take: each as many as its most repeated phase, and one more
        for each phase that asks for a fresh one."""
        total, start = 0, 0
        for chapter, end in zip(self.chapters, self.ends, strict=True):
            within = max(min(step, end) - start, 0)
            total += max(phase.repeats.before(within) for phase in chapter.phases)
            total += within * sum(phase.fresh for phase in chapter.phases)
            start = end
        return total


def by_what_they_train(phases: Sequence[Phase]) -> dict[str, list[Phase]]:
    """Phases that train the same networks share an optimiser; its name joins theirs."""
    shared: dict[str, list[Phase]] = {}
    for phase in phases:
        shared.setdefault("+".join(phase.trains), []).append(phase)
    return shared
