"""Raw files to a prepared dataset: choose, decode, split, and write what `ganlib.data.store` reads.

What cannot be used is put aside and counted by reason; only too much of it is an error.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from ganlib.card import DatasetSpec
from ganlib.config import Ingest
from ganlib.data.choice import class_names, complete, select, split
from ganlib.data.decoding import decoded, workers
from ganlib.data.flower_source import Flowers
from ganlib.data.folder import ImageFolder
from ganlib.data.mnist import Mnist
from ganlib.data.progress import watched
from ganlib.data.source import Item, Refusal, Source
from ganlib.files import sha256_of, whole_folder
from ganlib.problems import Failed, Refused

_EXAMPLES = 5  # names kept for each reason


SOURCES: dict[str, str] = {
    "flowers": "captioned flowers, drawn, with every attribute known; needs no files",
    "mnist": "IDX files as of MNIST, Fashion-MNIST and KMNIST, gzipped or not",
    "folder": "class folders, or metadata.csv/.jsonl/.parquet with captions; a folder, zip or tar",
}
"""Every reader by its name in params.yaml. A new one is a file beside this, a line here and one in `open_source`."""


def prepare(config: Ingest, base: Path, out: Path, report: Callable[[str], None]) -> DatasetSpec:
    """Write a prepared dataset.

    Args:
        config: the `ingest` section.
        base: the project's folder, which relative paths start from.
        out: the folder to write, replaced whole when all of it is there.
        report: takes lines for the user.

    Returns:
        The description that was written as `dataset.json`.

    Raises:
        Refused: where the source cannot be found or read as what it should be, or holds nothing usable.
        Failed: where a larger share than `max_refused` is unusable.
    """
    source = open_source(config, base)
    items, refused = complete(source)
    early = len(refused) / max(len(items) + len(refused), 1)
    _check_share(refused, early, config)
    items = select(split(items, config), source.classes, config)
    report(f"{source.name}: {len(items):,} of {len(source.items):,} items to read")
    with whole_folder(out) as folder:
        kept, unread, digests = _write_images(source, items, config, folder / "images.npy", report)
        refused = [*refused, *unread]
        # of all that is listed, as far as the part that was read can tell
        _check_share(refused, early + (1 - early) * len(unread) / len(items), config)
        spec = _describe(source, kept, refused, digests, config, folder / "images.npy")
        _table(kept, spec).to_parquet(folder / "items.parquet", index=False)
        spec.save(folder / "dataset.json")
    report(_summary(spec))
    return spec


def open_source(config: Ingest, base: Path) -> Source:
    """The source that the `ingest` section names, its items listed.

    Raises:
        Refused: where its files cannot be found or read.
    """
    if config.source == "flowers":
        return Flowers(config.count, config.seed, config.size)
    path = located(config.path or "", base)
    # a bitmap of 16 bits and four channels is the largest file that so many pixels can need
    return Mnist(path) if config.source == "mnist" else ImageFolder(path, max_bytes=8 * config.max_pixels + (1 << 20))


def located(path: str, base: Path) -> Path:
    """`path` with `$NAME` and `${NAME}` taken from the environment and `~` from the user, relative to `base`.

    Raises:
        Refused: for a variable that is not set, and where nothing stands there.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if not os.environ.get(name):
            raise Refused(f"ingest.path: found {path!r}, and {name} is not set in the environment; set it")
        return os.environ[name]

    found = base / Path(re.sub(r"\$(?:(\w+)|\{(\w+)\})", value, path)).expanduser()
    if not found.exists():
        raise Refused(f"ingest.path: {found}: no such file or folder")
    return found


def _write_images(
    source: Source, items: Sequence[Item], config: Ingest, path: Path, report: Callable[[str], None]
) -> tuple[list[Item], list[Refusal], dict[str, str]]:
    """Write the pictures of `items` in their order, less those that are unusable.

    Returns:
        The items written, the others, and where items are files of their own the sha256 of each by its id.
    """
    shape = (config.size, config.size, config.channels)
    images = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(len(items), *shape))
    row = {item.id: number for number, item in enumerate(items)}
    unread: dict[int, Refusal] = {}
    digests: dict[str, str] = {}

    contents = watched(source.read(items), len(items), "images", report)
    with workers() as by:
        for item, found, digest in decoded(contents, config, source.folder is not None, by):
            if isinstance(found, Refusal):
                unread[row[item.id]] = found
            else:
                images[row[item.id]] = found
            if digest:
                digests[item.id] = digest
    images.flush()
    if len(unread) == len(items):
        raise Refused(
            f"ingest: none of {len(items):,} images at {config.path} can be used; {_reasons(unread.values())}"
        )
    if unread:
        _drop_rows(path, sorted(unread))
    kept = [item for number, item in enumerate(items) if number not in unread]
    return kept, [unread[number] for number in sorted(unread)], digests


def _drop_rows(path: Path, rows: Sequence[int]) -> None:
    """Write the array in `path` again without some of its rows, a block at a time."""
    images = np.load(path, mmap_mode="r")
    keep = np.delete(np.arange(len(images)), rows)
    shorter = path.with_name("kept.npy")
    kept = np.lib.format.open_memmap(shorter, mode="w+", dtype=np.uint8, shape=(len(keep), *images.shape[1:]))
    for start in range(0, len(keep), 1024):
        kept[start : start + 1024] = images[keep[start : start + 1024]]
    kept.flush()
    shorter.replace(path)


def _describe(
    source: Source,
    items: Sequence[Item],
    refused: Sequence[Refusal],
    digests: dict[str, str],
    config: Ingest,
    images: Path,
) -> DatasetSpec:
    counts = Counter(item.split for item in items)
    if not counts["train"]:
        raise Refused(f"ingest: no training images among {len(items)}; ingest.test_share is {config.test_share}")
    mean, std = _statistics(np.load(images, mmap_mode="r")[: counts["train"]])
    hashes = {path.name: sha256_of(path) for path in source.files}
    if source.folder is not None:
        listing = "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))
        hashes[f"{source.folder.name}/ ({len(digests)} files)"] = hashlib.sha256(listing.encode()).hexdigest()
    reasons = Counter(refusal.reason for refusal in refused)
    return DatasetSpec(
        name=source.name,
        size=config.size,
        channels=config.channels,
        counts={"train": counts["train"], "test": counts["test"]},
        classes=class_names(items, source.classes),
        captions_per_image=sum(len(item.captions) for item in items) / len(items),
        attributes=dict(source.attributes),
        mean=mean,
        std=std,
        parameters=config.model_dump(mode="json"),
        sources=hashes,
        refused=dict(sorted(reasons.items())),
        refused_examples={
            reason: tuple(islice((refusal.id for refusal in refused if refusal.reason == reason), _EXAMPLES))
            for reason in sorted(reasons)
        },
    )


def _statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of `(N, H, W, C)` uint8, exact, from counts of the 256 levels."""
    channels = images.shape[-1]
    counts = np.zeros((channels, 256), dtype=np.int64)
    for start in range(0, len(images), 1024):
        for channel in range(channels):
            counts[channel] += np.bincount(images[start : start + 1024, ..., channel].ravel(), minlength=256)
    levels = np.arange(256)
    mean = counts @ levels / counts.sum(1)
    variance = counts @ np.square(levels) / counts.sum(1) - np.square(mean)
    return tuple(mean.tolist()), tuple(np.sqrt(np.maximum(variance, 0)).tolist())


def _table(items: Sequence[Item], spec: DatasetSpec) -> pd.DataFrame:
    """`items.parquet`, as `ganlib.data.store` describes it."""
    label = {name: number for number, name in enumerate(spec.classes)}
    columns: dict[str, Sequence[object] | np.ndarray] = {
        "id": [item.id for item in items],
        "split": [item.split for item in items],
        "label": np.array([-1 if item.label is None else label[item.label] for item in items], dtype=np.int64),
        "captions": [list(item.captions) for item in items],
        "source": [item.source for item in items],
    }
    if spec.attributes:
        for name in spec.attributes:
            columns[f"attribute/{name}"] = np.array([item.attributes[name] for item in items], dtype=np.int64)
        columns["mentions"] = [[list(stated) for stated in item.mentions] for item in items]
    return pd.DataFrame(columns)


def _check_share(refused: Sequence[Refusal], share: float, config: Ingest) -> None:
    if share > config.max_refused:
        raise Failed(
            f"ingest: {share:.1%} of {config.path} is unusable, and ingest.max_refused is {config.max_refused:.1%}: "
            + _reasons(refused)
        )


def _reasons(refused: Collection[Refusal]) -> str:
    """How many for which reason, with an example each: `2 truncated (a.jpg: 80 bytes without an end mark)`."""
    parts = []
    for reason, count in Counter(refusal.reason for refusal in refused).most_common():
        first = next(refusal for refusal in refused if refusal.reason == reason)
        parts.append(f"{count:,} {reason} ({first.id}: {first.detail})")
    return ", ".join(parts)


def _summary(spec: DatasetSpec) -> str:
    text = (
        f"{spec.name}: {sum(spec.counts.values()):,} images of {spec.size} x {spec.size} x {spec.channels} "
        f"({spec.counts['train']:,} train, {spec.counts['test']:,} test), {len(spec.classes)} classes, "
        f"{spec.captions_per_image:.1f} captions an image"
    )
    if not spec.refused:
        return text
    parts = [
        f"{count:,} {reason} ({', '.join(spec.refused_examples[reason])})" for reason, count in spec.refused.items()
    ]
    return f"{text}; refused: {', '.join(parts)}"
