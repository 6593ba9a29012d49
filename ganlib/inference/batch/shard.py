"""A shard of a job: `00000.tar` (WebDataset), `00000.parquet` (its manifest) and `00000_stats.json`, the mark that it
is done. The first two are the same bytes whenever and by whomever they are written; the third has times.

The runtime works in the calling thread, PNG files are made in others meanwhile: both leave Python's lock alone.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
import math
import tarfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from ganlib.files import sha256_of, whole_file, write_whole
from ganlib.inference.batch.job import OWN, ROWS, Job
from ganlib.inference.images import Facts, png
from ganlib.inference.latents import latents
from ganlib.inference.request import Request
from ganlib.inference.sample import BATCH, Generator
from ganlib.problems import Failed

ENCODERS = 2  # threads for PNG files: small ones are made under Python's lock, and more gain nothing
_BUFFER = 1 << 20  # bytes of a tar that are written at once
_CONDITIONS = 4096  # prompts whose embeddings are kept
_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
# Of a tar member without name and size; where POSIX has the size and the checksum in it.
_HEADER = tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT)
_SIZE, _CHECKSUM = slice(124, 135), slice(148, 155)
_SUM = sum(_HEADER) - sum(_HEADER[148:156]) + 8 * ord(" ")


class Written(BaseModel):
    """A file of a shard."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    bytes: int


class Stats(BaseModel):
    """00000_stats.json: the shard is done."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shard: int
    images: int
    unknown_words: int = Field(description="images whose prompt has words that the model does not know")
    seconds: float = Field(description="that it took, from first image to last file")
    images_per_second: float
    tar: Written
    parquet: Written


_Encoded = tuple[list[bytes], list[str], int]
"""A batch in a tar: its content, the PNG files' hashes, and how many of its prompts have unknown words."""


@dataclass(frozen=True)
class _Plan:
    """The images of a shard: for each the row that asks for it, and what differs between images of one row."""

    rows: pa.Table
    row: NDArray[np.int64]
    seed: NDArray[np.int64]
    truncation: NDArray[np.float64]
    condition: list[str | None]
    own: list[str]
    keys: list[str]


class Writer:
    """Writes shards of jobs of one generator; several threads may use one writer.

    Args:
        generator: of the job's package, device and precision.
        encoders: threads that make PNG files for one shard.
    """

    def __init__(self, generator: Generator, encoders: int = ENCODERS) -> None:
        self._generator = generator
        self._encoders = encoders
        card = generator.package.card
        classes = card.classes[0] if card.condition.kind == "class" else None
        self._facts = generator.facts(Request("a" if card.condition.kind == "text" else None, classes))
        self._condition = functools.lru_cache(_CONDITIONS)(self._of_condition)

    def write(
        self,
        folder: Path,
        job: Job,
        shard: int,
        done: Callable[[int], None] = lambda images: None,
    ) -> Stats:
        """Write a shard, its stats last; nothing is left where this raises.

        Args:
            folder: of the job.
            job: its plan.
            shard: which one.
            done: told of each batch of images that is in the tar; it may raise to stop.

        Raises:
            Failed: where the folder lacks a part of the plan, or an encoder gives no numbers.
            OSError: where a file cannot be written.
        """
        started, plan, name = time.monotonic(), _read(folder, job, shard), job.name_of(shard)
        tar, manifest = folder / f"{name}.tar", folder / f"{name}.parquet"
        hashes: list[str] = []
        unknown = 0
        with whole_file(tar) as temporary, temporary.open("wb", buffering=_BUFFER) as file:
            for members, sha256, with_unknown in self._members(plan):
                file.writelines(members)
                hashes += sha256
                unknown += with_unknown
                done(len(sha256))
            file.write(bytes(2 * tarfile.BLOCKSIZE))
            file.write(bytes(-file.tell() % tarfile.RECORDSIZE))
        table = self._manifest(plan, hashes)
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer)
        write_whole(manifest, buffer.getvalue().to_pybytes())
        seconds = time.monotonic() - started
        stats = Stats(
            shard=shard, images=len(hashes), unknown_words=unknown, seconds=round(seconds, 3),
            images_per_second=round(len(hashes) / seconds, 1), tar=_written(tar), parquet=_written(manifest),
        )  # fmt: skip
        write_whole(_stats(folder, job, shard), (stats.model_dump_json(indent=2) + "\n").encode())
        return stats

    def _members(self, plan: _Plan) -> Iterator[_Encoded]:
        """The tar's content in order, a batch at a time, with the PNG files' hashes and how many have unknown words."""
        waiting: deque[Future[_Encoded]] = deque()
        pool = ThreadPoolExecutor(self._encoders, thread_name_prefix="png")
        own = _own_columns(plan)
        try:
            for first in range(0, len(plan.row), BATCH):
                some = slice(first, first + BATCH)
                conditions = [self._condition(text) for text in plan.condition[some]]
                images = self._render(plan, some, [condition for condition, _ in conditions])
                facts = [facts for _, facts in conditions]
                waiting.append(pool.submit(_encode, images, facts, plan, some, own))
                if len(waiting) > self._encoders:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _render(self, plan: _Plan, some: slice, conditions: list[NDArray[Any] | None]) -> NDArray[np.uint8]:
        seeds, truncations = plan.seed[some], plan.truncation[some]
        latent = self._generator.package.card.latent
        z = np.empty((len(seeds), latent.size), np.float32)
        for truncation in np.unique(truncations):
            these = truncations == truncation
            z[these] = latents(seeds[these].tolist(), latent, float(truncation))
        condition = None if conditions[0] is None else np.concatenate([c for c in conditions if c is not None])
        return self._generator.render(z, condition)

    def _of_condition(self, text: str | None) -> tuple[NDArray[Any] | None, Facts]:
        """What the graph takes for a prompt or class, `(1, ...)`, and the facts that its images share."""
        kind = self._generator.package.card.condition.kind
        if kind == "text" and text is not None:
            unknown = self._generator.unknown_words(text)
            return self._generator.embed(text), self._facts.model_copy(
                update={"prompt": text, "unknown_words": unknown}
            )
        condition = self._generator.condition(Request(class_name=text))
        return condition, self._facts.model_copy(update={"class_name": text})

    def _manifest(self, plan: _Plan, hashes: list[str]) -> pa.Table:
        card, count = self._generator.package.card, len(hashes)
        name = {"none": None, "class": "class", "text": "prompt"}[card.condition.kind]
        columns: dict[str, Any] = {"key": pa.array(plan.keys), "row": plan.rows["row"].take(plan.row)}
        if name:
            columns[name] = plan.rows["condition"].take(plan.row)
        columns |= {"seed": pa.array(plan.seed), "truncation": pa.array(plan.truncation), "sha256": pa.array(hashes)}
        columns |= {side: pa.array([card.size] * count, pa.int32()) for side in ("width", "height")}
        columns |= {own.removeprefix(OWN): plan.rows[own].take(plan.row) for own in plan.own}
        return pa.table(columns)


def is_done(folder: Path, job: Job, shard: int) -> Stats | None:
    """What a shard says of itself, if it is done and its files are there."""
    path = _stats(folder, job, shard)
    try:
        stats = Stats.model_validate_json(path.read_bytes())
        sizes = [(folder / f"{job.name_of(shard)}{suffix}").stat().st_size for suffix in (".tar", ".parquet")]
    except (FileNotFoundError, ValueError):
        return None
    return stats if sizes == [stats.tar.bytes, stats.parquet.bytes] else None


def _read(folder: Path, job: Job, shard: int) -> _Plan:
    images = job.images_of(shard)
    try:
        rows = pq.read_table(
            folder / ROWS,
            filters=[("first", "<", images.stop), ("end", ">", images.start)],
            use_threads=False,
            memory_map=False,
        )
    except (FileNotFoundError, pa.ArrowException) as error:
        raise Failed(f"{folder / ROWS}: {' '.join(str(error).split())}; name another folder") from error
    first, end = rows["first"].to_numpy(), rows["end"].to_numpy()
    counts = np.minimum(end, images.stop) - np.maximum(first, images.start)
    if counts.sum() != len(images):
        raise Failed(
            f"{folder / ROWS}: has {counts.sum()} of {len(images)} images of shard {shard}; name another folder"
        )
    row = np.repeat(np.arange(len(first)), counts)
    digits = max(4, len(str(job.settings.shard_size - 1)))
    condition = rows["condition"].to_pylist()
    return _Plan(
        rows=rows,
        row=row,
        seed=rows["seed"].to_numpy()[row] + (np.arange(images.start, images.stop) - first[row]),
        truncation=rows["truncation"].to_numpy()[row],
        condition=[condition[i] for i in row],
        own=[name for name in rows.column_names if name.startswith(OWN)],
        keys=[f"{job.name_of(shard)}{i:0{digits}d}" for i in range(len(images))],
    )


def _own_columns(plan: _Plan) -> list[str]:
    """The user's columns of each row, and its number, as members of a JSON object."""
    names = [name.removeprefix(OWN) for name in plan.own]
    columns = [plan.rows[name].to_pylist() for name in ("row", *plan.own)]
    return [
        f'"row":{row},"columns":{_JSON.encode(dict(zip(names, map(_plain, values), strict=True)))}'
        for row, *values in zip(*columns, strict=True)
    ]


def _encode(images: NDArray[np.uint8], facts: list[Facts], plan: _Plan, some: slice, own: list[str]) -> _Encoded:
    """Tar members of some images: KEY.png and KEY.json each."""
    members, hashes = list[bytes](), list[str]()
    seeds, truncations, rows = plan.seed[some].tolist(), plan.truncation[some].tolist(), plan.row[some].tolist()
    for pixels, shared, seed, truncation, row, key in zip(
        images, facts, seeds, truncations, rows, plan.keys[some], strict=True
    ):
        of_this = shared.model_copy(update={"seed": seed, "truncation": truncation})
        file = png(pixels, of_this)
        said = f'{{"key":"{key}",{own[row]},{of_this.model_dump_json()[1:]}\n'
        members += *_member(f"{key}.png", file), *_member(f"{key}.json", said.encode())
        hashes.append(hashlib.sha256(file).hexdigest())
    return members, hashes, sum(bool(shared.unknown_words) for shared in facts)


def _member(name: str, content: bytes) -> tuple[bytes, bytes, bytes]:
    """A file of a tar in pieces: nobody's, of no date. `TarFile.addfile` gives the same bytes, more slowly than
    small images come."""
    file, size = name.encode(), b"%011o" % len(content)
    header = bytearray(_HEADER)
    header[: len(file)] = file
    header[_SIZE] = size
    # the sum of the header's bytes, its own eight read as blanks
    header[_CHECKSUM] = b"%06o\0" % (_SUM + sum(file) + sum(size) - sum(_HEADER[_SIZE]))
    return bytes(header), content, bytes(-len(content) % tarfile.BLOCKSIZE)


def _plain(value: Any) -> Any:
    """A value of the user's as JSON has it: dates as text, bytes in hexadecimal, null for what is not finite."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _stats(folder: Path, job: Job, shard: int) -> Path:
    return folder / f"{job.name_of(shard)}_stats.json"


def _written(path: Path) -> Written:
    return Written(sha256=sha256_of(path), bytes=path.stat().st_size)
