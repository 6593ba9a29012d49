"""What a reader hands to `ganlib.data.prepare`: a list of items, and then the content of those that were chosen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

Reason = Literal[
    "truncated",  # it ends too early
    "oversized",  # more pixels or bytes than allowed
    "not_an_image",  # other bytes than an image's, whatever its name says
    "undecodable",  # an image that its decoder gives up on
    "missing",  # the metadata names it and it is not there
    "duplicate_id",  # a second item of that name
    "no_label",  # others have a label
    "no_caption",  # others have captions
    "unsafe",  # in an archive: a link, a device, an absolute name or one with ".."
]


@dataclass(frozen=True, slots=True)
class Item:
    """One picture, without its content.

    Attributes:
        id: unique in the dataset; a file's name relative to the source.
        source: the file, or how it was made.
        label: name of its class.
        captions: what it shows, in words.
        split: "train" or "test" where the source says so.
        attributes: index of the value of each known attribute.
        mentions: for each caption the attributes that it states.
    """

    id: str
    source: str
    label: str | None = None
    captions: tuple[str, ...] = ()
    split: str | None = None
    attributes: Mapping[str, int] = field(default_factory=dict)
    mentions: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """An item that cannot be used, and why."""

    id: str
    reason: Reason
    detail: str


class Unusable(ValueError):
    """The content of one item cannot be used; the others may well be."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Reason = reason
        self.detail = detail


Content = np.ndarray | bytes | Unusable
"""Pixels `(H, W)` or `(H, W, 3)` uint8, an encoded image file, or why there is neither."""


class Source(Protocol):
    """A dataset as its author published it."""

    @property
    def name(self) -> str:
        """The reader, as params.yaml names it."""
        ...

    @property
    def items(self) -> Sequence[Item]:
        """Everything listed that looks usable."""
        ...

    @property
    def refused(self) -> Sequence[Refusal]:
        """What is not, as far as it shows without opening an image."""
        ...

    @property
    def classes(self) -> Sequence[str] | None:
        """Class names in the source's own order; None takes the labels in alphabetical order."""
        ...

    @property
    def attributes(self) -> Mapping[str, tuple[str, ...]]:
        """Known attributes and their values."""
        ...

    @property
    def files(self) -> Sequence[Path]:
        """Files that are hashed whole."""
        ...

    @property
    def folder(self) -> Path | None:
        """Where items are files of their own, which are hashed one by one."""
        ...

    def read(self, chosen: Sequence[Item]) -> Iterator[tuple[Item, Content]]:
        """The content of `chosen`, in the order that is quickest for the source; each of them once."""
        ...
