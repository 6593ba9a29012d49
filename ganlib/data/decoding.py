"""Pictures decoded by several workers at once: threads of this process, or a Dask cluster. The results are the same,
and in the same order, whatever the workers are.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ganlib.config import Ingest
from ganlib.data.picture import decode, fit
from ganlib.data.source import Content, Item, Refusal, Unusable
from ganlib.problems import Failed, Refused

VARIABLE = "DASK_SCHEDULER_ADDRESS"
"""Dask's own variable for the cluster to use, for example tcp://10.0.0.1:8786."""

_BLOCK, _BLOCK_BYTES = 16, 4 << 20  # pictures that a worker is given at once: at most so many, or so large
_AHEAD = 2  # blocks for each worker that are read before they are needed

Raw = bytes | np.ndarray
Done = tuple[np.ndarray | Refusal, str]


@dataclass(frozen=True)
class Workers:
    """What decodes.

    Attributes:
        pool: a `concurrent.futures` executor.
        count: how many blocks it works on at a time.
        here: whether it is this process that works.
    """

    pool: Executor
    count: int
    here: bool


@contextmanager
def workers() -> Iterator[Workers]:
    """The Dask cluster that `DASK_SCHEDULER_ADDRESS` names, or a thread for each core: Pillow and numpy let several
    threads decode at a time.

    Raises:
        Refused: where Dask is asked for and not installed.
        Failed: where there is no cluster, or none that has workers.
    """
    address = os.environ.get(VARIABLE)
    if not address:
        count = os.cpu_count() or 1
        with ThreadPoolExecutor(count) as pool:
            yield Workers(pool, count, here=True)
        return
    try:
        from distributed import Client
    except ImportError:
        raise Refused(f"{VARIABLE}: found {address}, and Dask is not installed: `pip install 'ganlib[dask]'`") from None
    try:
        client: Any = Client(address, timeout=20)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise Failed(f"{VARIABLE}: {address}: no scheduler answers ({error}); start one, or unset it") from None
    with client:
        count = sum(client.nthreads().values())
        if not count:
            raise Failed(f"{VARIABLE}: {address}: the cluster has no workers; start some, or unset it")
        yield Workers(client.get_executor(pure=False), count, here=False)


def decoded(
    contents: Iterable[tuple[Item, Content]], config: Ingest, hashed: bool, by: Workers
) -> Iterator[tuple[Item, np.ndarray | Refusal, str]]:
    """Each item with its pixels `(size, size, channels)` uint8 or why there are none, and the sha256 of its bytes.

    Args:
        contents: what was read, read further as the workers get on.
        config: the `ingest` section.
        hashed: whether to hash the bytes; without, and for pixels, the hash is "".
        by: who decodes.
    """
    waiting: deque[tuple[list[Item], Future[list[Done]]]] = deque()
    work = _block if by.here else _block_elsewhere
    with warnings.catch_warnings():
        _expect_odd_pictures()
        try:
            for items, raw in _blocks(contents):
                waiting.append((items, by.pool.submit(work, [item.id for item in items], raw, config, hashed)))
                if len(waiting) >= _AHEAD * by.count:
                    yield from _results(*waiting.popleft())
            while waiting:
                yield from _results(*waiting.popleft())
        finally:
            for _, future in waiting:
                future.cancel()


def _results(items: list[Item], future: Future[list[Done]]) -> Iterator[tuple[Item, np.ndarray | Refusal, str]]:
    for item, (found, digest) in zip(items, future.result(), strict=True):
        yield item, found, digest


def _block(names: Sequence[str], contents: Sequence[Raw | Refusal], config: Ingest, hashed: bool) -> list[Done]:
    return [_one(name, content, config, hashed) for name, content in zip(names, contents, strict=True)]


def _block_elsewhere(
    names: Sequence[str], contents: Sequence[Raw | Refusal], config: Ingest, hashed: bool
) -> list[Done]:
    _expect_odd_pictures()
    return _block(names, contents, config, hashed)


def _one(name: str, content: Raw | Refusal, config: Ingest, hashed: bool) -> Done:
    if isinstance(content, Refusal):
        return content, ""
    digest = hashlib.sha256(content).hexdigest() if hashed and isinstance(content, bytes) else ""
    try:
        if isinstance(content, bytes):
            return decode(content, config.size, config.channels, config.max_pixels), digest
        return fit(Image.fromarray(content), config.size, config.channels), digest
    except Unusable as problem:
        return Refusal(name, problem.reason, problem.detail), digest


def _expect_odd_pictures() -> None:
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `max_pixels` is the limit here
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # odd metadata in a sound picture


def _blocks(contents: Iterable[tuple[Item, Content]]) -> Iterator[tuple[list[Item], list[Raw | Refusal]]]:
    items: list[Item] = []
    raw: list[Raw | Refusal] = []
    size = 0
    for item, content in contents:
        items.append(item)
        # what a reader could not read goes along as data: an exception of this kind cannot be pickled
        raw.append(Refusal(item.id, content.reason, content.detail) if isinstance(content, Unusable) else content)
        size += len(content) if isinstance(content, bytes) else 0
        if len(items) == _BLOCK or size >= _BLOCK_BYTES:
            yield items, raw
            items, raw, size = [], [], 0
    if items:
        yield items, raw
