"""Which items of a source are taken, and into which split: pure functions of the items and the `ingest` section."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from ganlib.config import Ingest
from ganlib.data.chance import uniform_of
from ganlib.data.source import Item, Refusal, Source
from ganlib.problems import Refused


def complete(source: Source) -> tuple[list[Item], list[Refusal]]:
    """The items that have a label, where any has one, and captions, where any has some; and what is refused so far."""
    labelled = any(item.label is not None for item in source.items)
    captioned = any(item.captions for item in source.items)
    items, refused = [], list(source.refused)
    for item in source.items:
        if labelled and item.label is None:
            refused.append(Refusal(item.id, "no_label", "others have one"))
        elif captioned and not item.captions:
            refused.append(Refusal(item.id, "no_caption", "others have some"))
        else:
            items.append(item)
    return items, refused


def class_names(items: Sequence[Item], order: Sequence[str] | None) -> tuple[str, ...]:
    """The labels that occur, in the source's own order, or sorted: as numbers where all are numbers."""
    present = {item.label for item in items if item.label is not None}
    if order is None:
        order = sorted(present, key=int if all(name.isdecimal() for name in present) else None)
    return tuple(name for name in order if name in present)


def select(items: Sequence[Item], order: Sequence[str] | None, config: Ingest) -> list[Item]:
    """The classes and the number that the configuration asks for, in the order of `items`.

    The number is cut by a hash of (seed, id): the choice depends neither on the order nor on what else is there.

    Raises:
        Refused: for a class that does not occur, and where nothing is left.
    """
    if config.classes is not None:
        known = class_names(items, order)
        for name in config.classes:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                advice = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known) or 'none'}"
                raise Refused(f"ingest.classes: found {name!r}; {advice}")
        items = [item for item in items if item.label in config.classes]
    if not items:
        raise Refused(f"ingest: nothing to take from {config.path}; the {config.source} reader found no usable items")
    if config.limit is None or config.limit >= len(items):
        return list(items)
    rank = sorted(range(len(items)), key=lambda i: (uniform_of(config.seed, f"limit/{items[i].id}"), items[i].id))
    return [items[i] for i in sorted(rank[: config.limit])]


def split(items: Sequence[Item], config: Ingest) -> list[Item]:
    """Every item with a split, train before test.

    The source's own splits are kept where it has both; else `test_share` of the items is held out by a hash of
    (seed, id), so that adding files moves none from one split to the other.

    Raises:
        Refused: where some items have a split of the source's own and others have none.
    """
    own = Counter(item.split for item in items)
    if own["train"] and own["test"]:
        if own[None]:
            raise Refused(f"ingest: {own[None]:,} of {len(items):,} items at {config.path} have no split, others do")
        divided = list(items)
    else:
        divided = [
            replace(item, split="test" if uniform_of(config.seed, f"split/{item.id}") < config.test_share else "train")
            for item in items
        ]
    return sorted(divided, key=lambda item: item.split != "train")
