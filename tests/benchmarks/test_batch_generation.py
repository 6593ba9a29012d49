"""The benchmark of batch jobs: its ways make the same images, and its figures are counted right."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from benchmarks import batch_generation
from benchmarks.batch_generation import Measured, compare, requests_for, summary, table
from ganlib.card import ModelCard
from tests.packages import CLASSES, build_package


@pytest.mark.parametrize("kind", ["none", "class", "text"])
def test_each_way_is_measured(tmp_path: Path, kind: str) -> None:
    measured = compare(build_package(tmp_path / "package", kind), images=150, rounds=2, threads=1, shard_size=100)
    assert [one.name for one in measured] == [
        "runtime, then PNG", "runtime, PNG in 2 threads meanwhile", "batch job",
    ]  # fmt: skip
    assert measured[0].ratio == 1.0
    assert all(math.isfinite(one.rate) and one.rate > 0 and one.ratio > 0 and one.processor > 0 for one in measured)


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    seconds = {"first": [(1.0, 1.0), (2.0, 2.0), (4.0, 1.0)], "second": [(2.0, 3.0), (2.0, 3.0), (1.0, 9.0)]}
    assert summary(100, seconds) == [Measured("first", 50.0, 10.0, 1.0), Measured("second", 50.0, 30.0, 1.0)]
    assert summary(100, {"first": [(1.0, 1.0)], "second": [(4.0, 1.0)]})[1] == Measured("second", 25.0, 10.0, 0.25)


def test_requests_fit_the_model(tmp_path: Path) -> None:
    def asked(kind: str) -> list[dict[str, str]]:
        return requests_for(ModelCard.load(build_package(tmp_path / kind, kind) / "card.json"), 70)

    assert [row["class"] for row in asked("class")] == [CLASSES[i % 3] for i in range(70)]
    assert len({row["prompt"] for row in asked("text")}) == 64
    assert len(asked("none")) == 70


def test_the_table_has_a_line_for_each_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    assert table([Measured("batch job", 1234.4, 0.456, 0.875)]).splitlines()[1].split() == [
        "batch", "job", "1234", "0.46", "ms/im", "0.88",
    ]  # fmt: skip
    package = build_package(tmp_path / "package", "none")
    monkeypatch.setattr(sys, "argv", ["batch_generation", str(package), "--images", "64", "--rounds", "1"])
    batch_generation.main()
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "tiny-none, 8 x 8, 1 threads of the runtime: 1 rounds of 64 images"
    assert len(said) == 5
