"""The caption matcher's own words: a caption is the bag of its words and of its pairs of neighbouring words.

It shares nothing with the caption encoders of `ganlib.text`, so that an error of theirs cannot hide in the judgement.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from ganlib.files import write_whole
from ganlib.problems import Refused

_WORD = re.compile(r"\w+")
_LARGEST = 20_000  # terms kept
_RAREST = 2  # a term seen once cannot be learned

Bags = tuple[np.ndarray, np.ndarray]
"""Captions as numbers: the terms of all captions one after another `(total,)` int64, and where each caption's begin and
end `(captions + 1,)` int64."""


def terms(caption: str) -> list[str]:
    """The words of a caption in lower case, then its pairs of neighbouring words."""
    words = _WORD.findall(caption.lower())
    return words + [f"{first} {second}" for first, second in pairwise(words)]


class Vocabulary:
    """The terms that the matcher knows, by number. Others are left out of a bag, which may be empty."""

    def __init__(self, known: Sequence[str]) -> None:
        self.known = tuple(known)
        self._number = {term: number for number, term in enumerate(self.known)}

    def __len__(self) -> int:
        return len(self.known)

    @classmethod
    def build(cls, captions: Iterable[str]) -> Vocabulary:
        """The most frequent terms of a corpus, equals in code point order.

        Raises:
            Refused: where no term occurs twice.
        """
        counts = Counter(term for caption in captions for term in terms(caption))
        known = sorted((t for t, n in counts.items() if n >= _RAREST), key=lambda term: (-counts[term], term))
        if not known:
            raise Refused("captions: no word occurs twice; the caption matcher has nothing to learn")
        return cls(known[:_LARGEST])

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read what `save` wrote."""
        return cls(json.loads(path.read_text()))

    def save(self, path: Path) -> None:
        """Write `path` whole: a JSON list of terms in the order of their numbers."""
        write_whole(path, (json.dumps(self.known, ensure_ascii=False) + "\n").encode())

    def bags(self, captions: Iterable[str]) -> Bags:
        """The known terms of each caption, as numbers."""
        numbers = [[self._number[term] for term in terms(caption) if term in self._number] for caption in captions]
        ends = np.cumsum([0, *map(len, numbers)])
        return np.fromiter((n for bag in numbers for n in bag), dtype=np.int64, count=ends[-1]), ends


def take(bags: Bags, chosen: np.ndarray) -> Bags:
    """The bags of the captions `chosen` `(n,)`, in that order."""
    numbers, ends = bags
    lengths = ends[chosen + 1] - ends[chosen]
    new_ends = np.concatenate([[0], np.cumsum(lengths)])
    within = np.arange(new_ends[-1]) - np.repeat(new_ends[:-1], lengths)
    return numbers[np.repeat(ends[chosen], lengths) + within], new_ends
