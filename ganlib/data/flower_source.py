"""The drawn flowers as a source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ganlib.data import flowers
from ganlib.data.flower_captions import captions
from ganlib.data.source import Content, Item, Refusal


class Flowers:
    """`count` flowers with class, attributes and captions, drawn when they are read.

    Args:
        count: how many.
        seed: of the drawing and of the captions.
        size: height and width, in pixels.
    """

    name = "flowers"
    refused: Sequence[Refusal] = ()
    classes: Sequence[str] | None = flowers.CLASSES
    attributes: Mapping[str, tuple[str, ...]] = flowers.ATTRIBUTES
    files: Sequence[Path] = ()
    folder: Path | None = None

    def __init__(self, count: int, seed: int, size: int) -> None:
        self._seed, self._size = seed, size
        drawn = flowers.attributes_of(np.arange(count), seed)
        self.items = [
            self._item(index, {name: int(values[index]) for name, values in drawn.items()}) for index in range(count)
        ]

    def read(self, chosen: Sequence[Item]) -> Iterator[tuple[Item, Content]]:
        """`(size, size, 3)` uint8 for each of `chosen`."""
        block = 192
        for start in range(0, len(chosen), block):
            part = chosen[start : start + block]
            index = np.array([int(item.id.removeprefix("flower-")) for item in part])
            images, _ = flowers.draw(index, self._seed, self._size)
            yield from zip(part, images, strict=True)

    def _item(self, index: int, attributes: dict[str, int]) -> Item:
        values = {name: flowers.ATTRIBUTES[name][value] for name, value in attributes.items()}
        texts, mentions = captions(index, self._seed, values)
        return Item(
            id=f"flower-{index:06d}",
            source=f"drawn with seed {self._seed}",
            label=f"{values['petal_colour']} {values['petal_shape']}",
            captions=texts,
            attributes=attributes,
            mentions=mentions,
        )
