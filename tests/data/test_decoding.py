"""Whoever decodes the pictures, the prepared dataset has the same bytes."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from ganlib.card import DatasetSpec
from ganlib.config import Ingest
from ganlib.data import decoding, prepare
from ganlib.data.decoding import VARIABLE, Workers, decoded, workers
from ganlib.data.source import Item, Unusable
from ganlib.problems import Failed, Refused

CONFIG = Ingest(source="folder", path="source", size=8)


@pytest.fixture
def source(folder: Callable[[Mapping[str, bytes]], Path], encode: Callable[..., bytes]) -> dict[str, bytes]:
    """Pictures of several sizes, more than a few blocks of them, and some that cannot be used."""
    random = np.random.default_rng(0)
    files = {
        f"{'cat' if n % 2 else 'dog'}/{n:03d}.png": encode(
            random.integers(0, 256, (9 + n % 5, 8 + n % 7, 3), dtype=np.uint8)
        )
        for n in range(120)
    }
    files["cat/013.png"] = files["cat/013.png"][:60]
    files["dog/020.png"] = b"<html>not here</html>"
    folder(files)
    return files


def hashes(prepared: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in prepared.iterdir()}


@contextmanager
def pool(executor: Executor, count: int, here: bool) -> Iterator[Workers]:
    with executor as opened:
        yield Workers(opened, count, here)


def test_any_number_of_threads_or_processes_gives_the_same_bytes(
    source: dict[str, bytes], tmp_path: Path, ingest: Callable[..., DatasetSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for name, made in {
        "one thread": lambda: pool(ThreadPoolExecutor(1), 1, True),
        "three threads": lambda: pool(ThreadPoolExecutor(3), 3, True),
        "two processes": lambda: pool(ProcessPoolExecutor(2, mp_context=get_context("spawn")), 2, False),
    }.items():
        monkeypatch.setattr(prepare, "workers", made)
        spec = ingest(max_refused=0.1)
        assert spec.refused == {"not_an_image": 1, "truncated": 1}
        found[name] = hashes(tmp_path / "prepared")
    assert found["one thread"] == found["three threads"] == found["two processes"]
    assert set(found["one thread"]) == {"images.npy", "items.parquet", "dataset.json"}


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")  # distributed's own
def test_a_dask_cluster_gives_the_same_bytes(
    source: dict[str, bytes], tmp_path: Path, ingest: Callable[..., DatasetSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed")
    ingest(max_refused=0.1)
    expected = hashes(tmp_path / "prepared")
    monkeypatch.setattr(decoding, "ThreadPoolExecutor", lambda count: pytest.fail("decodes here"))
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, protocol="tcp://", host="127.0.0.1",
        dashboard_address=None,
    ) as cluster:  # fmt: skip
        monkeypatch.setenv(VARIABLE, cluster.scheduler_address)
        ingest(max_refused=0.1)
    assert hashes(tmp_path / "prepared") == expected


def test_a_cluster_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "nonsense://nowhere")
    with pytest.raises(Failed, match=r"^DASK_SCHEDULER_ADDRESS: nonsense://nowhere: no scheduler answers"), workers():
        pass
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(Refused, match=r"Dask is not installed: `pip install 'ganlib\[dask\]'`$"), workers():
        pass


def test_what_was_read_waits_for_no_more_than_the_workers_need() -> None:
    read: list[int] = []
    free = threading.Event()

    class Slow(ThreadPoolExecutor):
        def submit(self, work, /, *given):  # type: ignore[no-untyped-def, override]
            return super().submit(lambda: (free.wait(20), work(*given))[1])

    def contents() -> Iterator[tuple[Item, np.ndarray]]:
        for number in range(1000):
            read.append(number)
            yield Item(str(number), ""), np.full((8, 8, 3), number % 256, np.uint8)

    with pool(Slow(2), 2, True) as by:
        results = decoded(contents(), CONFIG, True, by)
        first: list[tuple[Item, object, str]] = []
        reading = threading.Thread(target=lambda: first.append(next(results)))
        reading.start()
        time.sleep(0.3)
        assert len(read) <= 16 * 2 * 2
        free.set()
        reading.join()
        rest = list(results)
    order = [int(item.id) for item, _, _ in first + rest]
    assert order == list(range(1000))
    for item, found, digest in rest:
        assert isinstance(found, np.ndarray)
        assert (found == int(item.id) % 256).all()
        assert digest == ""  # of files alone


def test_what_a_reader_could_not_read_is_passed_on(encode: Callable[..., bytes]) -> None:
    good = encode(np.zeros((8, 8, 3), np.uint8))
    given = [(Item("a", ""), Unusable("oversized", "too long")), (Item("b", ""), good)]
    with pool(ThreadPoolExecutor(1), 1, True) as by:
        (_, refused, none), (_, found, digest) = decoded(iter(given), CONFIG, True, by)
    assert (refused.id, refused.reason, refused.detail, none) == ("a", "oversized", "too long", "")
    assert found.shape == (8, 8, 3)
    assert digest == hashlib.sha256(good).hexdigest()
