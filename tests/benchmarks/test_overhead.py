from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.overhead import ALONE, BARE, FLOW, IDLE, REPRO, Chain, measure, table


def test_every_way_runs_every_stage_once_and_none_when_there_is_nothing_to_do(tmp_path: Path) -> None:
    chain = Chain(tmp_path, 2)
    said: list[str] = []
    seconds = measure(chain, {BARE: chain.bare, REPRO: chain.repro}, 1, said.append)
    assert list(seconds) == [BARE, REPRO, IDLE + REPRO]
    assert all(len(times) == 1 and times[0] > 0 for times in seconds.values())
    assert [line.split(": ")[0] for line in said] == ["round 1 of 1"] * 3
    chain.flow()  # says that there is nothing to run, and needs no server
    assert chain.ran() == []


def test_a_way_that_runs_too_much_is_no_measurement(tmp_path: Path) -> None:
    chain = Chain(tmp_path, 2)
    with pytest.raises(RuntimeError, match=r"dvc repro: ran the stages \[0, 1\] and not \[\]"):
        measure(chain, {REPRO: chain.bare}, 1, lambda line: None)


def test_ratios_are_of_the_least() -> None:
    seconds = {
        BARE: [2.0, 1.0, 90.0],
        REPRO: [4.0, 4.0, 4.0],
        IDLE + REPRO: [0.5] * 3,
        FLOW: [6.0, 8.0, 7.0],
        IDLE + FLOW: [1.0] * 3,
        ALONE: [22.0] * 3,
        IDLE + ALONE: [1.0] * 3,
    }
    lines = table(seconds, 4)
    assert lines[0] == "4 stages, least of 3"
    rows = {line[:48].strip(): line[48:].split() for line in lines[3:]}
    assert rows[BARE] == ["1.00", "0.00", "1.0", "0.25"]
    assert rows[REPRO] == ["4.00", "0.75", "4.0", "1.00"]
    assert rows[FLOW] == ["6.00", "1.25", "6.0", "1.50"]
    assert rows[ALONE] == ["22.00", "5.25", "22.0", "5.50"]
    assert rows[IDLE + REPRO] == ["0.50", "1.00"]
    assert rows[IDLE + FLOW] == ["1.00", "2.00"]
