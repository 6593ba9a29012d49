"""How far a job is: a bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Counts images, and says how many a second there are and how long the rest takes.

    Args:
        images: of the whole job.
        there: of them that an earlier run has made; they count for neither rate nor time.
        report: takes a line for the user.
    """

    def __init__(self, images: int, there: int, report: Callable[[str], None]) -> None:
        self._images, self._first, self._report = images, there, report
        self.done = there
        self._bar = tqdm(total=images, initial=there, unit="image", disable=not sys.stderr.isatty())
        self._started = self._said = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def add(self, images: int) -> None:
        """So many more are made."""
        self.done += images
        self._bar.update(images)
        now = time.monotonic()
        if self._bar.disable and now - self._said > SECONDS_BETWEEN_LINES:
            self._said = now
            left = (self._images - self.done) / self.rate()
            self._report(f"{self.done} of {self._images} images, {self.rate():.0f} a second, {left:.0f} s left")

    def rate(self) -> float:
        """Images a second of this run."""
        return (self.done - self._first) / max(time.monotonic() - self._started, 1e-9)
