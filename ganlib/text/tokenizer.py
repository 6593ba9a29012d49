"""Captions to word numbers: what `tokenizer.json` holds, and how a text is split into words. Needs no torch.

A token is a word or a symbol. Letters and digits of any script make words, an apostrophe inside a word belongs to it
(`men's`) and a hyphen separates two (`five-petalled` reads as `five petalled`). Symbols that say something are tokens
of their own (`+ * # & % @`, `✓`). Sentence punctuation states nothing that could be seen in an image: it separates
words and is not read, so that a prompt means the same with and without its full stop.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ganlib.files import write_whole
from ganlib.problems import Refused, first_problem

PADDING = 0
UNKNOWN = 1
SPECIAL = ("<padding>", "<unknown>")  # no text splits into these: < and > are symbols of their own

# Vowel signs and accents that stand for themselves (Indic, Thai, Hebrew, ...) belong to the word; \w leaves them out.
_MARKS = "".join(chr(c) for c in range(0x300, 0x3000) if unicodedata.category(chr(c)).startswith("M"))
_LETTERS = f"(?:[^\\W_]|[{_MARKS}])+"
_TOKEN = re.compile(f"{_LETTERS}(?:'{_LETTERS})*|[^\\w\\s]")
_SYMBOLS_OF_PUNCTUATION = frozenset("*#&%@")  # Unicode counts these as punctuation (Po)


def split(text: str) -> list[str]:
    """The tokens of a text, lower-cased and in Unicode's compatibility form (NFKC); empty where there are none."""
    normal = unicodedata.normalize("NFKC", text).lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return [token for token in _TOKEN.findall(normal) if _is_read(token)]


class Tokenizer(BaseModel):
    """A vocabulary and how much of a text is read. The number of a word is its place in `vocabulary`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal[1] = Field(1, description="version of this file's form")
    max_words: int = Field(ge=1, description="tokens of a text that are read; the rest is cut")
    vocabulary: tuple[str, ...] = Field(description="the special tokens, then the words, most frequent first")

    @model_validator(mode="after")
    def _vocabulary_is_usable(self) -> Self:
        if self.vocabulary[: len(SPECIAL)] != SPECIAL:
            raise ValueError(f"vocabulary: found {self.vocabulary[: len(SPECIAL)]} first; expected {SPECIAL}")
        if len(set(self.vocabulary)) < len(self.vocabulary):
            twice = next(word for word, count in Counter(self.vocabulary).items() if count > 1)
            raise ValueError(f"vocabulary: found {twice!r} twice; each word once")
        for word in self.vocabulary[len(SPECIAL) :]:
            if split(word) != [word]:
                raise ValueError(f"vocabulary: found {word!r}, which no text splits into")
        return self

    @classmethod
    def build(cls, captions: Iterable[str], vocabulary: int, max_words: int) -> Self:
        """The tokenizer of a corpus.

        Args:
            captions: the texts whose words are counted.
            vocabulary: how many words to keep, the special tokens apart: the most frequent, equals in code point order.
            max_words: tokens of a text that are read.

        Raises:
            Refused: where the captions have no words at all.
        """
        counts: Counter[str] = Counter()
        for caption in captions:
            counts.update(split(caption))
        if not counts:
            raise Refused("captions: found no words; a text encoder needs some")
        words = sorted(counts, key=lambda word: (-counts[word], word))[:vocabulary]
        return cls(max_words=max_words, vocabulary=(*SPECIAL, *words))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a `tokenizer.json`.

        Raises:
            Refused: where it is missing or not one.
        """
        if not path.is_file():
            raise Refused(f"{path}: no such file; `ganlib embed` writes it")
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise Refused(f"{path}: {first_problem(error, cls.model_fields)}") from error

    def save(self, path: Path) -> None:
        """Write `tokenizer.json` whole or not at all."""
        write_whole(path, (self.model_dump_json(indent=1) + "\n").encode())

    def __len__(self) -> int:
        """How many numbers there are, the special ones included."""
        return len(self.vocabulary)

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Texts to numbers.

        Returns:
            ids `(N, T)` int64, padded with `PADDING` up to the longest of these texts, and lengths `(N,)` int64, each 1
            to `max_words`.

        Raises:
            Refused: for a text without a word.
        """
        rows = [self._numbers(text) for text in texts]
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        ids = np.full((len(rows), max(map(len, rows), default=0)), PADDING, dtype=np.int64)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
        return ids, lengths

    def unknown_words(self, text: str) -> list[str]:
        """The words of a text that are not in the vocabulary, in their order, each once; all of the text counts."""
        return list(dict.fromkeys(word for word in split(text) if word not in self._number))

    def cut(self, text: str) -> bool:
        """Whether a text has more words than are read."""
        return len(split(text)) > self.max_words

    @cached_property
    def _number(self) -> dict[str, int]:
        first = len(SPECIAL)
        return {word: number for number, word in enumerate(self.vocabulary[first:], start=first)}

    def _numbers(self, text: str) -> list[int]:
        words = split(text)
        if not words:
            raise Refused(f"text: found {text[:60]!r}; a caption or prompt needs at least one word")
        return [self._number.get(word, UNKNOWN) for word in words[: self.max_words]]


def _is_read(token: str) -> bool:
    """Words, and symbols that are not sentence punctuation or invisible."""
    return len(token) > 1 or token in _SYMBOLS_OF_PUNCTUATION or unicodedata.category(token)[0] in "LNS"
