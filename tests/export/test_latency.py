"""The latency line: medians of runs by precision and batch size, and on what."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from ganlib.card import Latency
from ganlib.export import latency
from ganlib.export.inputs import BATCHES, Drawing
from ganlib.export.latency import described, machine, measure_latency


def test_the_median_of_each_precision_and_batch(
    tiny: SimpleNamespace, exported: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock under which two graphs take 2 and 5 ms in turns, but 900 ms each in the first round."""
    path, drawing = exported("none"), Drawing(tiny.Family("none").card())
    rounds = [(0.9, 0.9)] + [(0.002, 0.005)] * 4
    steps = [0.0, *(step for spent in itertools.chain(*rounds) for step in (0.0, spent))] * len(BATCHES)
    clock = itertools.accumulate(steps)
    monkeypatch.setattr(latency.time, "perf_counter", lambda: next(clock))
    for limit in ("_FEWEST", "_MOST"):
        monkeypatch.setattr(latency, limit, len(rounds))
    found = measure_latency({"float32": path, "float16": path}, drawing)
    assert (found.threads, found.machine) == (1, machine())
    assert found.milliseconds == {
        f"{name}/{batch}": pytest.approx(taken) for name, taken in (("float32", 2.0), ("float16", 5.0))
        for batch in (1, 7, 64)
    }  # fmt: skip
    assert next(clock, None) is None  # every reading was used


def test_real_runs_take_longer_for_more_images(tiny: SimpleNamespace, exported: Callable[[str], Path]) -> None:
    found = measure_latency({"float32": exported("text")}, Drawing(tiny.Family("text").card())).milliseconds
    assert 0 < found["float32/1"] < found["float32/64"] < 1000


def test_the_line_names_the_machine_and_every_figure() -> None:
    figures = {"float32/1": 0.25, "float32/64": 15.5, "int8/64": 7.0, "int8/1": 0.125}
    line = described(Latency(machine="a processor, 2 cores", threads=1, milliseconds=figures))
    assert line == (
        "on a processor, 2 cores, 1 thread: float32 0.25 ms at 1, 15.5 ms at 64; int8 0.125 ms at 1, 7 ms at 64"
    )


def test_the_machine_is_its_processor_and_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: Some CPU: fast\nprocessor\t: 1\nmodel name\t: Some CPU: fast\n")
    monkeypatch.setattr(latency, "_CPUINFO", info)
    assert machine() == "Some CPU: fast, 2 cores"
    monkeypatch.setattr(latency, "_CPUINFO", tmp_path / "none")
    monkeypatch.setattr(latency.platform, "processor", lambda: "")
    monkeypatch.setattr(latency.platform, "machine", lambda: "arm64")
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert machine() == "arm64, 1 core"
