"""A prepared dataset of noisy squares, small enough to learn in seconds: three colours, two sides, captions of both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ganlib import config
from ganlib.card import DatasetSpec
from ganlib.evaluation.extractor import train_extractor

COLOURS = ("red", "green", "blue")
SIDES = ("left", "right")
SIZE = 12
TRAIN, TEST = 300, 120
EXTRACTOR = config.Extractor(width=8, features=16, steps=120, batch=64, lr=5e-3)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def squares(colour: np.ndarray, side: np.ndarray, seed: int) -> np.ndarray:
    """Images `(N, 12, 12, 3)` uint8 of a square of a colour on a side, at a random height, with noise."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 60, (len(colour), SIZE, SIZE, 3))
    for image, channel, right, top in zip(images, colour, side, random.integers(0, 7, len(colour)), strict=True):
        image[top : top + 5, 6 * right : 6 * right + 5, channel] += 180
    return images.astype(np.uint8)


def write_prepared(folder: Path, classes: bool = True, attributes: bool = True, captions: bool = True) -> Path:
    """Write a prepared dataset that has only what is asked for. Half of the captions leave the side out."""
    random = np.random.default_rng(0)
    count = TRAIN + TEST
    colour, side = random.integers(0, 3, count), random.integers(0, 2, count)
    folder.mkdir(parents=True)
    np.save(folder / "images.npy", squares(colour, side, seed=1))
    items = pd.DataFrame({"id": [f"{i}" for i in range(count)], "split": ["train"] * TRAIN + ["test"] * TEST})
    items["label"] = colour.astype(np.int64) if classes else np.int64(-1)
    both = [
        [f"A {COLOURS[c]} square.", f"a {COLOURS[c]} square on the {SIDES[s]}"]
        for c, s in zip(colour, side, strict=True)
    ]
    items["captions"] = both if captions else [[]] * count
    items["source"] = "made"
    if attributes:
        items["attribute/colour"], items["attribute/side"] = colour.astype(np.int64), side.astype(np.int64)
        items["mentions"] = [[["colour"], ["colour", "side"]]] * count if captions else [[]] * count
    items.to_parquet(folder / "items.parquet", index=False)
    DatasetSpec(
        name="squares",
        size=SIZE,
        channels=3,
        counts={"train": TRAIN, "test": TEST},
        classes=COLOURS if classes else (),
        captions_per_image=2.0 if captions else 0.0,
        attributes={"colour": COLOURS, "side": SIDES} if attributes else {},
        mean=(60.0,) * 3,
        std=(60.0,) * 3,
    ).save(folder / "dataset.json")
    return folder


@pytest.fixture(scope="session")
def make_prepared() -> Callable[..., Path]:
    """`write_prepared`."""
    return write_prepared


@pytest.fixture(scope="session")
def draw_squares() -> Callable[[np.ndarray, np.ndarray, int], np.ndarray]:
    """`squares`."""
    return squares


@pytest.fixture(scope="session")
def settings() -> config.Extractor:
    """An extractor that learns the squares in a second."""
    return EXTRACTOR


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset with classes, attributes and captions."""
    return write_prepared(tmp_path_factory.mktemp("data") / "prepared")


@pytest.fixture(scope="session")
def extractor_folder(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An extractor trained on it."""
    out = tmp_path_factory.mktemp("models") / "extractor"
    train_extractor(EXTRACTOR, prepared, out, lambda line: None)
    return out
