"""Pictures a second that the stage `ingest` decodes, by who decodes them: `python -m benchmarks.ingest`.

Made-up JPEG files (by default 640 x 480) become squares of 64 pixels. One thread, a thread for each core, as many
processes, and a Dask cluster of as many processes on this machine take turns in one run; starting them is not counted.
Prints the median rate of each, its ratio to one thread, and whether all gave the same pixels.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context

import numpy as np
from PIL import Image

from ganlib.config import Ingest
from ganlib.data.decoding import Workers, decoded
from ganlib.data.source import Item


def pictures(count: int, width: int, height: int) -> list[bytes]:
    """JPEG files of smooth noise, which has about the size of a photograph."""
    random = np.random.default_rng(0)
    made = []
    for _ in range(min(count, 16)):
        coarse = random.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        made.append(buffer.getvalue())
    return [made[number % len(made)] for number in range(count)]


def decode_all(files: list[bytes], by: Workers, size: int) -> tuple[float, str]:
    """Pictures a second, and the sha256 of all pixels."""
    config = Ingest(source="folder", path="made up", size=size)
    total = hashlib.sha256()
    began = time.perf_counter()
    for _, found, _ in decoded(_contents(files), config, True, by):
        assert isinstance(found, np.ndarray)
        total.update(found.tobytes())
    return len(files) / (time.perf_counter() - began), total.hexdigest()


def measure(ways: dict[str, Workers], files: list[bytes], size: int, rounds: int) -> tuple[dict[str, float], bool]:
    """The median rate of each way, and whether all gave the same pixels."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    hashes = set()
    for turn in range(rounds + 1):
        for name, by in ways.items():
            rate, digest = decode_all(files, by, size)
            hashes.add(digest)
            if turn:  # the first round starts what is started late
                rates[name].append(rate)
    return {name: statistics.median(found) for name, found in rates.items()}, len(hashes) == 1


def _contents(files: list[bytes]) -> Iterator[tuple[Item, bytes]]:
    return ((Item(str(number), ""), content) for number, content in enumerate(files))


def main() -> None:
    parser = argparse.ArgumentParser(description="Pictures a second that ingest decodes.")
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    files, cores = pictures(options.pictures, options.width, options.height), os.cpu_count() or 1
    with ExitStack() as opened:
        processes = ProcessPoolExecutor(cores, mp_context=get_context("spawn"))
        ways = {
            "1 thread": Workers(opened.enter_context(ThreadPoolExecutor(1)), 1, here=True),
            f"{cores} threads": Workers(opened.enter_context(ThreadPoolExecutor(cores)), cores, here=True),
            f"{cores} processes": Workers(opened.enter_context(processes), cores, here=False),
        }
        try:
            from distributed import Client, LocalCluster
        except ImportError:
            print("Dask is not installed: left out")
        else:
            cluster = LocalCluster(  # type: ignore[no-untyped-call]
                n_workers=cores, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
            )
            client = opened.enter_context(Client(opened.enter_context(cluster)))  # type: ignore[no-untyped-call]
            ways[f"Dask, {cores} processes"] = Workers(client.get_executor(pure=False), cores, here=False)
        rates, same = measure(ways, files, options.size, options.rounds)
    print(f"{len(files)} JPEG files of {options.width} x {options.height}, {len(files[0]) / 1000:.0f} kB each")
    for name, rate in rates.items():
        print(f"{name:<24}{rate:>8.0f} pictures a second   {rate / rates['1 thread']:.2f} x one thread")
    print("the same pixels" if same else "DIFFERENT PIXELS")


if __name__ == "__main__":
    main()
