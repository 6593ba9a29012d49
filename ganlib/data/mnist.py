"""MNIST, Fashion-MNIST, KMNIST: IDX files of images and labels, by their usual names in a folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ganlib.data.idx import read_idx
from ganlib.data.source import Content, Item, Refusal
from ganlib.problems import Refused

_SPLITS = {"train": "train", "test": "t10k"}


class Mnist:
    """Grey images with a digit as label, in the published splits.

    Args:
        path: a folder with `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and, where there is a test split,
            `t10k-images-idx3-ubyte` and `t10k-labels-idx1-ubyte`; each may end in `.gz`.

    Raises:
        Refused: where a file is missing or is not what it should be.
    """

    name = "mnist"
    refused: Sequence[Refusal] = ()
    attributes: Mapping[str, tuple[str, ...]] = {}
    folder: Path | None = None

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise Refused(f"{path}: the mnist reader takes the folder that the IDX files are in")
        self.items: list[Item] = []
        self.files: list[Path] = []
        self._images: list[np.ndarray] = []
        for split, prefix in _SPLITS.items():
            files = _find(path, f"{prefix}-images", 3), _find(path, f"{prefix}-labels", 1)
            if files[0] is None and files[1] is None and split == "test":
                continue
            if files[0] is None or files[1] is None:
                missing = f"{prefix}-images-idx3-ubyte" if files[0] is None else f"{prefix}-labels-idx1-ubyte"
                raise Refused(f"{path}: {missing}: missing, plain or with .gz")
            self._add(split, files[0], files[1])
        used = {item.label for item in self.items if item.label is not None}
        self.classes: Sequence[str] | None = sorted(used, key=int)

    def read(self, chosen: Sequence[Item]) -> Iterator[tuple[Item, Content]]:
        """`(H, W)` uint8 for each of `chosen`."""
        place = {item.id: number for number, item in enumerate(self.items)}
        starts = np.cumsum([0, *map(len, self._images)])
        for item in chosen:
            number = place[item.id]
            part = int(np.searchsorted(starts, number, side="right")) - 1
            yield item, self._images[part][number - starts[part]]

    def _add(self, split: str, images_file: Path, labels_file: Path) -> None:
        images, labels = read_idx(images_file), read_idx(labels_file)
        if images.dtype != np.uint8 or images.ndim != 3 or 0 in images.shape[1:]:
            raise Refused(f"{images_file}: found {images.dtype} of shape {images.shape}; images are uint8, N x H x W")
        if labels.ndim != 1 or labels.dtype.kind not in "iu" or (len(labels) and labels.min() < 0):
            raise Refused(f"{labels_file}: found {labels.dtype} of shape {labels.shape}; labels are integers from 0")
        if len(images) != len(labels):
            raise Refused(f"{labels_file}: {len(labels):,} labels for {len(images):,} images in {images_file.name}")
        self.files += [images_file, labels_file]
        self._images.append(images)
        self.items += [
            Item(id=f"{split}-{number:05d}", source=images_file.name, label=str(label), split=split)
            for number, label in enumerate(labels.tolist())
        ]


def _find(folder: Path, stem: str, rank: int) -> Path | None:
    """The file of that stem in `folder` or where torchvision puts it, as published, unpacked or with a dot."""
    names = [f"{stem}{mark}idx{rank}-ubyte{end}" for mark in "-." for end in ("", ".gz")]
    places = [folder / part / name for part in ("", "raw", "MNIST/raw") for name in names]
    return next((place for place in places if place.is_file()), None)
