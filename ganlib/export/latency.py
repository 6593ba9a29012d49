"""How long the graphs of a package take on this machine's CPU."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

from ganlib.card import Latency, Precision
from ganlib.export.inputs import BATCHES, Drawing
from ganlib.inference.session import open_session

THREADS = 1
_SECONDS = 0.2  # spent on a graph at a batch size, at least
_FEWEST, _MOST = 3, 50  # runs of a graph at a batch size
_CPUINFO = Path("/proc/cpuinfo")


def measure_latency(graphs: Mapping[Precision, Path], drawing: Drawing) -> Latency:
    """The median milliseconds of a run with one thread, for each graph at each batch size of `BATCHES`. The graphs take
    turns, so that what else the machine does meanwhile slows all of them alike."""
    sessions = {precision: open_session(path, "cpu", THREADS) for precision, path in graphs.items()}
    milliseconds: dict[str, float] = {}
    for batch in BATCHES:
        inputs = drawing.inputs(range(batch))
        taken: dict[Precision, list[float]] = {precision: [] for precision in sessions}
        for session in sessions.values():
            session.run(**inputs)  # the first run of a shape allocates
        began, rounds = time.perf_counter(), 0
        while rounds < _FEWEST or (rounds < _MOST and time.perf_counter() - began < _SECONDS * len(sessions)):
            rounds += 1
            for precision, session in sessions.items():
                start = time.perf_counter()
                session.run(**inputs)
                taken[precision].append(1e3 * (time.perf_counter() - start))
        milliseconds |= {f"{precision}/{batch}": statistics.median(runs) for precision, runs in taken.items()}
    return Latency(machine=machine(), threads=THREADS, milliseconds=dict(sorted(milliseconds.items())))


def described(latency: Latency) -> str:
    """One line: the machine, then the milliseconds of each precision at its batch sizes."""
    by_precision: dict[str, dict[int, float]] = {}
    for key, value in latency.milliseconds.items():
        precision, _, batch = key.partition("/")
        by_precision.setdefault(precision, {})[int(batch)] = value
    parts = [
        f"{precision} {', '.join(f'{runs[batch]:.3g} ms at {batch}' for batch in sorted(runs))}"
        for precision, runs in by_precision.items()
    ]
    threads = f"{latency.threads} thread{'s' if latency.threads > 1 else ''}"
    return f"on {latency.machine}, {threads}: {'; '.join(parts)}"


def machine() -> str:
    """The processor and the number of cores."""
    name = platform.processor() or platform.machine()
    if _CPUINFO.is_file():
        lines = (line.partition(":") for line in _CPUINFO.read_text().splitlines())
        name = next((value.strip() for key, _, value in lines if key.strip() == "model name"), name)
    cores = os.cpu_count() or 1
    return f"{name}, {cores} core{'s' if cores > 1 else ''}"
