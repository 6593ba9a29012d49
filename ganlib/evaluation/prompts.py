"""Held-out captions as prompts: which are asked for, what each states, and which other captions are wrong for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ganlib.data.store import Split


@dataclass(frozen=True)
class Prompts:
    """Captions of a split's images, n of them.

    Attributes:
        texts: the captions.
        items: `(n,)`, each caption's image, as an index into the split.
        rows: `(n,)`, each caption's row in the split's embeddings.
        labels: `(n,)`, the label of each caption's image, -1 where there are no classes.
        values: for each attribute `(n,)`, the value of each caption's image, as an index.
        stated: for each attribute `(n,)` bool, whether the caption says it.
    """

    texts: tuple[str, ...]
    items: np.ndarray
    rows: np.ndarray
    labels: np.ndarray
    values: dict[str, np.ndarray]
    stated: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, chosen: np.ndarray) -> Prompts:
        """The captions `chosen` (indices), in that order."""
        return Prompts(
            texts=tuple(self.texts[i] for i in chosen),
            items=self.items[chosen],
            rows=self.rows[chosen],
            labels=self.labels[chosen],
            values={name: values[chosen] for name, values in self.values.items()},
            stated={name: stated[chosen] for name, stated in self.stated.items()},
        )


def every_caption(split: Split) -> Prompts:
    """All captions of a split, in the order of its embeddings."""
    captions = [list(own) for own in split.items["captions"]]
    items = np.repeat(np.arange(len(captions)), [len(own) for own in captions])
    mentions = [set(said) for own in split.items["mentions"] for said in own] if split.spec.attributes else []
    return Prompts(
        texts=tuple(text for own in captions for text in own),
        items=items,
        rows=np.arange(len(items)),
        labels=split.labels[items],
        values={name: split.items[f"attribute/{name}"].to_numpy()[items] for name in split.spec.attributes},
        stated={name: np.array([name in said for said in mentions], dtype=bool) for name in split.spec.attributes},
    )


def in_random_order(captions: Prompts, seed: int) -> Prompts:
    """The captions shuffled so that every image has its first before any has its second."""
    random = np.random.default_rng(seed)
    shuffled = random.permutation(len(captions))
    turn = np.empty(len(captions), dtype=np.int64)  # how many captions of the same image stand before
    seen: dict[int, int] = {}
    for place, item in enumerate(captions.items[shuffled]):
        turn[place] = seen.get(int(item), 0)
        seen[int(item)] = int(turn[place]) + 1
    return captions.take(shuffled[np.argsort(turn, kind="stable")])


def wrong_captions(prompts: Prompts, pool: Prompts) -> list[np.ndarray]:
    """For each prompt the captions of `pool` that do not describe an image made for it, as indices.

    Where attributes are known: captions that contradict the prompt, stating another value of an attribute that both
    state. What only one of them states does not count, since an image may show both. Otherwise: captions of other
    images, of another class where there are classes, with another text.
    """
    wrong: list[np.ndarray] = []
    texts = np.array([text.casefold() for text in pool.texts])
    for i in range(len(prompts)):
        if prompts.values:
            is_wrong = np.zeros(len(pool), dtype=bool)
            for name, values in pool.values.items():
                if prompts.stated[name][i]:
                    is_wrong |= pool.stated[name] & (values != prompts.values[name][i])
        else:
            is_wrong = (pool.items != prompts.items[i]) & (texts != prompts.texts[i].casefold())
            if prompts.labels[i] >= 0:
                is_wrong &= pool.labels != prompts.labels[i]
        wrong.append(np.flatnonzero(is_wrong))
    return wrong
