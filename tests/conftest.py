"""What all tests share: their order, one thread for torch, so that tests side by side do not fight for cores, and tiny
data.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ganlib.card import DatasetSpec
from ganlib.data.store import Split

LONGEST = ("flows", "training", "test_registry_matrix.py")
"""Of the tests, what takes minutes: it begins first, so that no process is left with it at the end."""


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What tests of a file share is made once: they go to one process, and so do all of the retraining."""
    parts = {item: item.path.relative_to(Path(__file__).parent).parts for item in items}
    items.sort(key=lambda item: LONGEST.index(parts[item][0]) if parts[item][0] in LONGEST else len(LONGEST))
    for item in items:
        where = parts[item][:-1] if "retraining" in parts[item] else parts[item]
        item.add_marker(pytest.mark.xdist_group("/".join(where)))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


def make_split(count: int = 40, size: int = 8, channels: int = 3, classes: int = 4, text: int = 6) -> Split:
    """A made-up split in memory: random images, labels in turn, 1 to 3 captions an image."""
    random = np.random.default_rng(0)
    captions = [[f"item {i} number {k}" for k in range(1 + i % 3)] for i in range(count)]
    first = np.concatenate([[0], np.cumsum([len(c) for c in captions])])
    labels = np.arange(count, dtype=np.int64) % max(classes, 1) if classes else np.full(count, -1, dtype=np.int64)
    return Split(
        spec=DatasetSpec(
            name="folder",
            size=size,
            channels=channels,  # type: ignore[arg-type]
            counts={"train": count},
            classes=tuple(f"class {k}" for k in range(classes)),
            captions_per_image=2.0,
            mean=(0.0,) * channels,
            std=(1.0,) * channels,
        ),
        items=pd.DataFrame({"captions": captions, "label": labels}),
        images=random.integers(0, 256, (count, size, size, channels), dtype=np.uint8),
        labels=labels,
        embeddings=random.normal(size=(int(first[-1]), text)).astype(np.float32) if text else None,
        first_caption=first,
    )


def write_prepared(split: Split, folder: Path) -> None:
    """Write a made-up split as a project's data/prepared and data/embedded, a fifth of it as the test split."""
    prepared, embedded = folder / "data" / "prepared", folder / "data" / "embedded"
    prepared.mkdir(parents=True)
    embedded.mkdir(parents=True)
    count = len(split.images)
    test = count // 5
    items = split.items.assign(
        id=[f"{i:05d}" for i in range(count)], split=["train"] * (count - test) + ["test"] * test, source="made up"
    )
    items.to_parquet(prepared / "items.parquet", index=False)
    np.save(prepared / "images.npy", split.images)
    counts = {"train": count - test, "test": test}
    split.spec.model_copy(update={"counts": counts}).save(prepared / "dataset.json")
    if split.embeddings is not None:
        np.save(embedded / "embeddings.npy", split.embeddings)
    dimension = 0 if split.embeddings is None else split.embeddings.shape[1]
    (embedded / "encoder.json").write_text(f'{{"encoder": "skip-thought", "dimension": {dimension}}}')
