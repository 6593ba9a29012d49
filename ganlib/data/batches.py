"""Batches in an order that needs no state: batch k is a pure function of (seed, k), so a resumed run sees what an
uninterrupted one would have seen."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ganlib.data.store import Batch, Split, to_unit
from ganlib.problems import Refused

Mismatch = Literal["class", "any", "near"]
NEAREST = 4  # captions of a batch that a near mismatch is chosen from
RESIDENT_SHARE = 0.4  # of the device's free memory that the images may take


class Batches:
    """Random batches of a split on a device, by number.

    The epochs' permutations follow one another without a gap, so every batch is full. Images that fit stay on a CUDA
    device as uint8; otherwise the next batch is read ahead from the memory map by one thread, into pinned memory.
    """

    def __init__(
        self,
        split: Split,
        batch: int,
        seed: int,
        device: torch.device,
        mismatch: Mismatch = "class",
        captions: int = 1,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        """
        Args:
            split: the data; its classes or captions tell what does not match.
            batch: images a batch.
            seed: of the order, the captions and the mismatches.
            device: where batches are wanted.
            mismatch: see `config.Train`.
            captions: random captions of an image averaged into its embedding (all of them where it has fewer).
            share: (r, n): of each batch the r-th of n equal slices.

        Raises:
            Refused: for a split smaller than a batch, one in which nothing fails to match, or unequal slices.
        """
        rank, ranks = share
        if batch % ranks:
            raise Refused(f"train.*.batch: found {batch}; {ranks} processes share it: take a multiple of {ranks}")
        if len(split.images) < batch:
            raise Refused(f"train.*.batch: found {batch}; the train split has {len(split.images)} images")
        if mismatch == "near" and split.embeddings is None:
            raise Refused("train.*.mismatch: found near, and there are no embedded captions to be near by; take class")
        self.split, self.batch, self.seed, self.device = split, batch, seed, device
        self.own = slice(rank * batch // ranks, (rank + 1) * batch // ranks)
        self.mismatch, self.caption_count = mismatch, captions
        self.classes = bool(split.spec.classes)
        self.captions = None if self.classes else _caption_codes(split)
        if mismatch != "any" and self.classes and len(np.unique(split.labels)) < 2:
            raise Refused("train.*.mismatch: found class, but the train split has one class alone; take any")
        self.permutation = lru_cache(maxsize=2)(self._permutation)
        self.resident: Tensor | None = None
        if device.type == "cuda" and split.images.nbytes < RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
            self.resident = torch.from_numpy(np.ascontiguousarray(split.images)).to(device)
        self.reader = ThreadPoolExecutor(max_workers=1) if self.resident is None and device.type == "cuda" else None
        self.ahead: tuple[int, Future[Tensor]] | None = None

    def __getitem__(self, number: int) -> Batch:
        """Batch `number`, from 0 on without end."""
        rows = self.rows(number)
        random = np.random.Generator(np.random.Philox(key=[self.seed, number + (1 << 32)]))
        texts = self._texts(rows, random)
        mismatched = self._mismatched(rows, texts, random)
        labels = self.split.labels[rows] if self.classes else None
        return Batch(
            images=to_unit(self._images(number, rows[self.own])),
            labels=self._to_device(labels),
            texts=self._to_device(texts),
            wrong_labels=None if labels is None else self._to_device(labels[mismatched]),
            wrong_texts=None if texts is None else self._to_device(texts[mismatched]),
            first=self.own.start,
            whole=self.batch,
        )

    def _to_device(self, values: np.ndarray | None) -> Tensor | None:
        return None if values is None else torch.from_numpy(values[self.own]).to(self.device)

    def rows(self, number: int) -> np.ndarray:
        """Which items of the split batch `number` holds, `(batch,)` int64."""
        first, count = number * self.batch, len(self.split.images)
        positions = np.arange(first, first + self.batch)
        epochs = positions // count
        rows = np.concatenate(
            [self.permutation(int(epoch))[positions[epochs == epoch] % count] for epoch in np.unique(epochs)]
        )
        if self.classes and self.mismatch != "any":
            labels = self.split.labels
            if (labels[rows] == labels[rows[0]]).all():  # nothing to mismatch with: one item gives way to another class
                others = np.flatnonzero(labels != labels[rows[0]])
                rows[-1] = others[number % len(others)]
        return rows

    def _permutation(self, epoch: int) -> np.ndarray:
        random = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
        return random.permutation(len(self.split.images))

    def _images(self, number: int, rows: np.ndarray) -> Tensor:
        if self.resident is not None:
            return self.resident[torch.from_numpy(rows).to(self.device)]
        if self.reader is None:
            return torch.from_numpy(self.split.images[rows]).to(self.device)
        ready = self.ahead[1] if self.ahead is not None and self.ahead[0] == number else None
        images = ready.result() if ready is not None else self._pinned(rows)
        self.ahead = (number + 1, self.reader.submit(self._pinned, self.rows(number + 1)[self.own]))
        return images.to(self.device, non_blocking=True)

    def _pinned(self, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(self.split.images[rows]).pin_memory()

    def _texts(self, rows: np.ndarray, random: np.random.Generator) -> np.ndarray | None:
        """The mean embedding of some random captions of each item, `(batch, d)` float32."""
        embeddings, first = self.split.embeddings, self.split.first_caption
        if embeddings is None:
            return None
        count = first[rows + 1] - first[rows]
        order = np.argsort(
            random.random((len(rows), int(count.max()))) + (np.arange(count.max()) >= count[:, None]), axis=1
        )
        taken = order[:, : self.caption_count]
        weight = (np.arange(taken.shape[1]) < count[:, None]).astype(np.float32)
        chosen = embeddings[first[rows][:, None] + np.where(weight > 0, taken, 0)]
        return ((chosen * weight[:, :, None]).sum(axis=1) / weight.sum(axis=1, keepdims=True)).astype(np.float32)

    def _mismatched(self, rows: np.ndarray, texts: np.ndarray | None, random: np.random.Generator) -> np.ndarray:
        """For each item a random other one of the batch that does not match its condition, `(batch,)` int64."""
        other = rows[:, None] != rows[None, :]
        allowed = other
        if self.classes and self.mismatch != "any":
            labels = self.split.labels[rows]
            allowed = labels[:, None] != labels[None, :]
        elif self.captions is not None:
            shared = (self.captions[rows][:, None, :, None] == self.captions[rows][None, :, None, :]).any(axis=(2, 3))
            allowed = np.where((other & ~shared).any(axis=1, keepdims=True), other & ~shared, other)
        if self.mismatch == "near" and texts is not None:
            similarity = np.where(other, texts @ texts.T, -np.inf)
            nearest = similarity >= np.partition(similarity, -NEAREST, axis=1)[:, -NEAREST:][:, :1]
            allowed = np.where((random.random(len(rows)) < 0.5)[:, None], nearest & other, allowed)
        return np.where(allowed, random.random(allowed.shape), -1.0).argmax(axis=1)


def _caption_codes(split: Split) -> np.ndarray | None:
    """The captions of each item as numbers, `(n, most captions)`; equal numbers are equal captions, and the padding of
    an item equals nothing else. None where there are no captions."""
    count = np.diff(split.first_caption)
    if not count.any():
        return None
    codes = pd.factorize(split.items["captions"].explode().dropna())[0]
    table = -1 - np.arange(len(count) * int(count.max())).reshape(len(count), -1)
    table[np.arange(count.max())[None, :] < count[:, None]] = codes
    return table
