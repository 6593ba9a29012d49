"""The plan of a job: which rows are done, which are not and why, and whose folder it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from ganlib.inference.batch import plan as planning
from ganlib.inference.batch import requests
from ganlib.inference.batch.job import Job, Settings, settings_of
from ganlib.inference.batch.plan import open_job
from ganlib.inference.latents import LAST_SEED
from ganlib.inference.package import open_package
from ganlib.inference.sample import Generator
from ganlib.problems import Refused

Plan = Callable[..., Job]


@pytest.fixture
def plan(build: Callable[..., Path], tmp_path: Path) -> Plan:
    """Plans a job of rows for a class model in tmp_path/out, and gives it."""
    generator = Generator(open_package(build("class")), "cpu", threads=1)

    def make(
        rows: Sequence[dict[str, Any]], lines: list[str] | None = None, strict: bool = False, **changes: Any
    ) -> Job:
        table = tmp_path / "requests.jsonl"
        table.write_text("".join(json.dumps(row) + "\n" for row in rows))
        settings = settings_of(generator, table, **changes)
        report = (lines if lines is not None else []).append
        with open_job(tmp_path / "out", settings, generator.package.card, table, report, strict=strict) as job:
            return job

    return make


def planned(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder / "job.rows").to_pylist()


def rejected(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rejects.jsonl").read_text().splitlines()]


def test_rows_without_a_value_take_the_jobs(plan: Plan, tmp_path: Path) -> None:
    """A seed that is not said is the base and the number of the image among those that are made."""
    rows = [
        {"class": "rose", "count": 3, "note": "a"},
        {"class": "tulip"},
        {"class": "daisy", "seed": LAST_SEED, "truncation": 0.5},
        {"class": "poppy", "seed": None, "truncation": None, "count": None},
    ]
    job = plan(rows, seed=10, truncation=0.8, shard_size=2)
    assert (job.rows, job.rejected, job.images, job.shards) == (3, 1, 5, 3)
    names = ("row", "first", "end", "condition", "seed", "truncation", "own:note")
    assert [tuple(row[name] for name in names) for row in planned(tmp_path / "out")] == [
        (0, 0, 3, "rose", 10, 0.8, "a"),
        (2, 3, 4, "daisy", LAST_SEED, 0.5, None),
        (3, 4, 5, "poppy", 14, 0.8, None),
    ]
    assert [job.images_of(shard) for shard in range(3)] == [range(2), range(2, 4), range(4, 5)]
    assert Job.load(tmp_path / "out") == job


def test_bad_rows_are_named_and_the_others_done(plan: Plan, tmp_path: Path) -> None:
    bad: list[tuple[dict[str, Any], str | None, Any, str]] = [
        ({"class": "rosa"}, "class", "rosa", "did you mean rose?"),
        ({"class": None}, "class", None, "class: missing; tiny-class takes one of daisy, poppy, rose"),
        ({"class": ["rose"]}, "class", ["rose"], "expected text"),
        ({"class": "rose", "count": 0}, "count", 0, "count: found 0; expected a whole number from 1 on"),
        ({"class": "rose", "count": 1.5}, "count", 1.5, "count: found 1.5"),
        ({"class": "rose", "count": True}, "count", True, "count: found True"),
        ({"class": "rose", "count": 10**12 + 1}, "count", 10**12 + 1, "a job has at most 1000000000000 images"),
        ({"class": "rose", "seed": "x"}, "seed", "x", "seed: found 'x'; expected a whole number from 0 to"),
        ({"class": "rose", "seed": -1}, "seed", -1, "seed: found -1"),
        ({"class": "rose", "seed": 2**63}, "seed", 2**63, "seed: found 9223372036854775808"),
        ({"class": "rose", "seed": 2.0**60}, "seed", 2.0**60, "seed: found 1.152921504606847e+18"),
        ({"class": "rose", "seed": LAST_SEED, "count": 2}, "seed", LAST_SEED, "the last image's included"),
        ({"class": "rose", "truncation": 0}, "truncation", 0, "expected a number above 0 and up to 1"),
        ({"class": "rose", "truncation": "low"}, "truncation", "low", "truncation: found 'low'"),
    ]
    rows = [{"class": "rose"}, *(row for row, _, _, _ in bad), {"class": "daisy"}]
    job = plan(rows)
    assert (job.rows, job.rejected) == (2, len(bad))
    for record, (i, (_, column, found, says)) in zip(rejected(tmp_path / "out"), enumerate(bad, start=1), strict=True):
        assert (record["row"], record["column"], record["found"]) == (i, column, found)
        assert says in record["problem"]


def test_a_row_that_cannot_be_read_is_rejected_too(
    build: Callable[..., Path], run: Callable[..., Job], tmp_path: Path
) -> None:
    table = tmp_path / "requests.csv"
    table.write_text("prompt\na red rose, with petals\n\na blue rose\n")
    lines: list[str] = []
    assert run(build("text"), table, tmp_path / "out", lines).images == 1
    problem = "found 2 fields for 1 columns; put text with commas into double quotes"
    assert rejected(tmp_path / "out") == [{"row": 0, "column": None, "found": None, "problem": problem}]
    assert lines[0] == f"1 of 2 rows rejected, see {tmp_path / 'out' / 'rejects.jsonl'}"


def test_classes_may_be_numbers(plan: Plan, tmp_path: Path) -> None:
    job = plan([{"class": 7}, {"class": "rose"}])
    assert (job.rows, job.rejected) == (1, 1)
    assert rejected(tmp_path / "out")[0]["problem"].startswith("class: found '7'; tiny-class knows")


def test_where_no_row_can_be_done_there_is_no_job(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"every row was rejected, row 0: class: found 'x'; .*; see .*rejects\.jsonl"):
        plan([{"class": "x"}, {"class": "y"}])
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.name != ".lock") == ["rejects.jsonl"]
    with pytest.raises(Refused, match=r"requests.jsonl: has no columns"):
        plan([])
    assert plan([{"class": "rose"}]).images == 1
    assert not (tmp_path / "out" / "rejects.jsonl").exists()


def test_a_strict_job_starts_with_sound_rows_alone(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="1 of 2 rows was rejected, row 1: class: found 'x'"):
        plan([{"class": "rose"}, {"class": "x"}], strict=True)
    assert not (tmp_path / "out" / "job.json").exists()
    with pytest.raises(Refused, match="column 'Seed' is kept and not read; did you mean 'seed'"):
        plan([{"class": "rose", "Seed": 3}], strict=True)
    lines: list[str] = []
    plan([{"class": "rose", "Seed": 3}, {"class": "x"}], lines)
    assert lines == [f"{tmp_path / 'requests.jsonl'}: column 'Seed' is kept and not read; did you mean 'seed'?"]
    with pytest.raises(Refused, match="1 rows were rejected, see"):
        plan([{"class": "rose", "Seed": 3}, {"class": "x"}], strict=True)


def test_other_settings_are_refused_by_the_first_that_differs(plan: Plan, tmp_path: Path) -> None:
    rows = [{"class": "rose"}]
    job = plan(rows)
    assert plan(rows) == job
    for changes, message in (
        ({"shard_size": 5}, "shard_size 1000, and this one has 5; name another folder, or ask for the same"),
        ({"seed": 1, "truncation": 0.5}, "seed 0, and this one has 1"),
        ({"truncation": 0.5}, "truncation 1.0, and this one has 0.5"),
    ):
        with pytest.raises(Refused, match=message):
            plan(rows, **changes)
    with pytest.raises(Refused, match=r"requests_sha256 [0-9a-f]{12}\.\.\., and this one has [0-9a-f]{12}\.\.\.;"):
        plan([*rows, *rows])
    old = job.model_dump()
    old["settings"]["versions"]["pillow"] = "1.0"
    (tmp_path / "out" / "job.json").write_text(json.dumps(old))
    with pytest.raises(Refused, match=r"version of pillow 1\.0, and this one has"):
        plan(rows)


def test_another_model_or_precision_is_refused(build: Callable[..., Path], plan: Plan, tmp_path: Path) -> None:
    job = plan([{"class": "rose"}])
    card = open_package(tmp_path / "package-class").card
    for changes, message in (
        ({"model": "other"}, "model tiny-class, and this one has other"),
        ({"card_sha256": "0" * 64}, r"card_sha256 .*\.\.\., and this one has 000000000000\.\.\."),
        ({"precision": "int8"}, "precision float32, and this one has int8"),
        ({"device": "cuda"}, "device cpu, and this one has cuda"),
    ):
        settings: Settings = job.settings.model_copy(update=changes)
        with (
            pytest.raises(Refused, match=message),
            open_job(tmp_path / "out", settings, card, tmp_path / "requests.jsonl", print),
        ):
            pass


def test_a_broken_plan_is_refused(plan: Plan, tmp_path: Path) -> None:
    plan([{"class": "rose"}])
    for content in ("{", '{"format": 2}', "[]"):
        (tmp_path / "out" / "job.json").write_text(content)
        with pytest.raises(Refused, match=r"job\.json: .*; name another folder"):
            plan([{"class": "rose"}])


def test_a_folder_of_something_else_is_left_alone(plan: Plan, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("")
    with pytest.raises(Refused, match="out is a file and not a folder"):
        plan([{"class": "rose"}])
    out.unlink()
    out.mkdir()
    (out / "holiday.jpg").write_text("")
    with pytest.raises(Refused, match=r"has files of something else, holiday\.jpg for one; name a new folder"):
        plan([{"class": "rose"}])
    assert sorted(path.name for path in out.iterdir() if path.name != ".lock") == ["holiday.jpg"]


def test_a_refused_table_leaves_no_folder(plan: Plan, tmp_path: Path) -> None:
    for rows in ([{"clas": "rose"}], [{"class": "rose", "key": 1}]):
        with pytest.raises(Refused):
            plan(rows)
    for changes in ({"shard_size": 0}, {"seed": -1}, {"truncation": 0.0}, {"truncation": float("nan")}):
        with pytest.raises(Refused, match=next(iter(changes)).replace("_", "-")):
            plan([{"class": "rose"}], **changes)
    assert not (tmp_path / "out").exists()


def test_a_second_job_in_the_folder_is_refused(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = planning._plan
    found: list[str] = []

    def meanwhile(*arguments: Any) -> Job:
        monkeypatch.setattr(planning, "_plan", read)
        with pytest.raises(
            Refused, match=r"another job is at work in .*out; wait for it, or name another folder"
        ) as error:
            plan([{"class": "rose"}])
        found.append(str(error.value))
        return read(*arguments)

    monkeypatch.setattr(planning, "_plan", meanwhile)
    assert plan([{"class": "rose"}]).images == 1
    assert len(found) == 1
    assert plan([{"class": "rose"}]).images == 1


def test_what_a_killed_process_left_is_cleared_away(plan: Plan, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    left = (".12.00003.tar", ".12.00003.parquet", ".12.123456_stats.json", ".12.job.rows", ".7.rejects.jsonl")
    for name in left:
        (out / name).write_text("half")
    (out / ".12.mine.tar").write_text("")
    with pytest.raises(Refused, match=r"\.12\.mine\.tar for one"):
        plan([{"class": "rose"}])
    assert not any((out / name).exists() for name in left)


def test_a_long_table_is_read_in_chunks_and_says_so(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"class": "rose", "count": 1 + i % 3, "own": i} for i in range(50)]
    whole = plan(rows)
    at_once = planned(tmp_path / "out")
    (tmp_path / "out" / "job.json").unlink()
    monkeypatch.setattr(requests, "ROWS", 7)
    monkeypatch.setattr(planning, "_SECONDS_BETWEEN_LINES", -1.0)
    lines: list[str] = []
    assert plan(rows, lines) == whole
    assert planned(tmp_path / "out") == at_once
    assert pq.ParquetFile(tmp_path / "out" / "job.rows").num_row_groups == 8
    assert lines == [f"{n} rows read" for n in (7, 14, 21, 28, 35, 42, 49, 50)]


def test_parquet_columns_keep_their_types_in_the_plan(
    build: Callable[..., Path], run: Callable[..., Job], tmp_path: Path
) -> None:
    frame = pd.DataFrame({"class": ["rose", "x", "daisy"], "when": pd.to_datetime(["2024-01-01"] * 3), "n": [1, 2, 3]})
    frame.to_parquet(tmp_path / "a.parquet")
    run(build("class"), tmp_path / "a.parquet", tmp_path / "out")
    back = pd.read_parquet(tmp_path / "out" / "00000.parquet")
    pd.testing.assert_frame_equal(back[["when", "n"]], frame.loc[[0, 2], ["when", "n"]].reset_index(drop=True))
    assert list(back["row"]) == [0, 2]
