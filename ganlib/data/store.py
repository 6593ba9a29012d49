"""The prepared dataset as batches: what lies on disk, what a batch holds, and an order that needs no state.

Files of a prepared dataset (written by `ganlib.data.prepare`):
    images.npy     uint8, `(N, H, W, C)`; train and test items in one array
    items.parquet  a row for each image, in the order of images.npy: `id` (str), `split` ("train" or "test"),
                   `label` (int64, -1 where there are no classes), `captions` (list of str, may be empty),
                   `source` (str: the file or how it was made), and where attributes are known
                   `attribute/NAME` (int64, index into the spec's values) for each of them and `mentions`
                   (list of list of str: the attributes that each caption states)
    dataset.json   `ganlib.card.DatasetSpec`
Files of embedded captions (written by `ganlib.text.embed`):
    embeddings.npy float32, `(number of captions, d)`: the captions of the first item, of the second, and so on
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ganlib.card import DatasetSpec
from ganlib.problems import Refused


@dataclass(frozen=True)
class Batch:
    """Real data for one phase, on the training device, and the random numbers that go with it.

    Where several processes share a batch, or one takes it in parts, this is a slice of the whole batch. Random numbers
    are drawn for the whole batch and sliced alike, so that how a batch is shared does not change what is learnt.

    Attributes:
        images: `(N, C, H, W)` float32 in [-1, 1].
        labels: `(N,)` int64, or None where the data has no classes.
        texts: `(N, d)` float32, each an embedding of the image's own captions, or None.
        wrong_labels: `(N,)` int64, classes that the images do not have, or None.
        wrong_texts: `(N, d)` float32, embeddings of captions that do not describe the images, or None.
        first: place of the first item in the whole batch.
        whole: items in the whole batch; None where this is the whole.
        drawn: how many random numbers are drawn at once; None for one an item. Further items get further draws.
        generator: of the random numbers; None for torch's own.
    """

    images: Tensor
    labels: Tensor | None = None
    texts: Tensor | None = None
    wrong_labels: Tensor | None = None
    wrong_texts: Tensor | None = None
    first: int = 0
    whole: int | None = None
    drawn: int | None = None
    generator: torch.Generator | None = None

    def __len__(self) -> int:
        return len(self.images)

    def uniform(self, *shape: int) -> Tensor:
        """U[0, 1) of the shape `(N, *shape)`."""
        return self._draw(torch.rand, shape)

    def normal(self, *shape: int) -> Tensor:
        """N(0, 1) of the shape `(N, *shape)`."""
        return self._draw(torch.randn, shape)

    def part(self, index: int, parts: int) -> Batch:
        """The slice `index` of `parts` equal ones."""
        count, whole = len(self) // parts, len(self) if self.whole is None else self.whole
        sliced = self._each(lambda value: value[index * count : (index + 1) * count])
        return replace(self, **sliced, first=self.first + index * count, whole=whole)

    def extended(self, count: int) -> Batch:
        """`count` items: these again and again, with random numbers of their own each time."""
        if count == len(self):
            return self
        again = torch.arange(count, device=self.images.device) % len(self)
        whole = len(self) if self.whole is None else self.whole
        return replace(self, **self._each(lambda value: value[again]), whole=whole, drawn=len(self))

    def _each(self, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        names = ("images", "labels", "texts", "wrong_labels", "wrong_texts")
        return {name: change(value) for name in names if (value := getattr(self, name)) is not None}

    def _draw(self, draw: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
        count = len(self) if self.drawn is None else self.drawn
        whole = count if self.whole is None else self.whole
        draws = [
            draw(whole, *shape, generator=self.generator, device=self.images.device)[self.first : self.first + count]
            for _ in range(-(-len(self) // count))
        ]
        return draws[0] if len(draws) == 1 else torch.cat(draws)[: len(self)]


@dataclass(frozen=True)
class Split:
    """One split of a prepared dataset with its embedded captions, in main memory."""

    spec: DatasetSpec
    items: pd.DataFrame
    images: np.ndarray
    labels: np.ndarray
    embeddings: np.ndarray | None
    first_caption: np.ndarray

    def captions(self, item: int) -> list[str]:
        """The captions of an item of this split."""
        return list(self.items["captions"].iloc[item])


def load_split(prepared: Path, embedded: Path | None, split: str) -> Split:
    """Read one split.

    Args:
        prepared: folder of the prepared dataset.
        embedded: folder of the embedded captions; None to go without.
        split: "train" or "test".

    Returns:
        images `(n, H, W, C)` uint8, memory-mapped where the split is contiguous; labels `(n,)` int64; embeddings
        `(captions of the split, d)` float32 and `first_caption` `(n + 1,)`: captions of item i are the rows
        `first_caption[i]:first_caption[i + 1]`.

    Raises:
        Refused: where a file is missing or the files do not fit one another.
    """
    spec = DatasetSpec.load(prepared / "dataset.json")
    items = pd.read_parquet(prepared / "items.parquet")
    images = np.load(prepared / "images.npy", mmap_mode="r")
    if len(items) != len(images):
        raise Refused(f"{prepared}: images.npy has {len(images)} images, items.parquet {len(items)} rows; ingest again")
    chosen = np.flatnonzero((items["split"] == split).to_numpy())
    if not len(chosen):
        raise Refused(f"{prepared}: no images in the split {split!r}; it has {spec.counts}")
    rows = slice(chosen[0], chosen[-1] + 1) if chosen[-1] - chosen[0] + 1 == len(chosen) else chosen
    count = items["captions"].map(len).to_numpy()
    first = np.concatenate([[0], np.cumsum(count)])
    embeddings = None
    if embedded is not None and (embedded / "embeddings.npy").is_file():
        every = np.load(embedded / "embeddings.npy", mmap_mode="r")
        if len(every) != first[-1]:
            raise Refused(f"{embedded}: {len(every)} embeddings for {first[-1]} captions in {prepared}; embed again")
        embeddings = np.concatenate([every[first[i] : first[i + 1]] for i in chosen])
    return Split(
        spec=spec,
        items=items.iloc[chosen].reset_index(drop=True),
        images=images[rows],
        labels=items["label"].to_numpy()[chosen],
        embeddings=embeddings,
        first_caption=np.concatenate([[0], np.cumsum(count[chosen])]),
    )


def to_unit(images: Tensor) -> Tensor:
    """uint8 `(N, H, W, C)` to float32 `(N, C, H, W)` in [-1, 1]: 0 becomes -1 and 255 becomes 1."""
    return images.permute(0, 3, 1, 2).float().div(127.5).sub(1.0)


def to_uint8(images: Tensor) -> Tensor:
    """float `(N, C, H, W)` in [-1, 1] to uint8 `(N, H, W, C)`, rounded to the nearest level."""
    return images.float().add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
