"""Planning a job: its folder is taken, the table read once, and what each row asks for written down.

What cannot be done is written down beside it, row by row.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from ganlib.card import ModelCard
from ganlib.files import whole_file, write_whole
from ganlib.inference.batch.cells import real, whole
from ganlib.inference.batch.job import JOB, OWN, REJECTS, ROWS, Job, Settings
from ganlib.inference.batch.requests import ASKED, Requests, check_columns, open_requests
from ganlib.inference.request import Request, check
from ganlib.problems import Refused

LOCK = ".lock"
LARGEST_JOB = 10**12
_SECONDS_BETWEEN_LINES = 5.0
_TEMPORARY = re.compile(r"\.\d+\.(job\.json|job\.rows|rejects\.jsonl|\d{5,}(\.tar|\.parquet|_stats\.json))")
_BEFORE_A_JOB = re.compile(rf"job\.rows|rejects\.jsonl|\.lock|{_TEMPORARY.pattern}")


@contextlib.contextmanager
def open_job(
    folder: Path,
    settings: Settings,
    card: ModelCard,
    requests: Path,
    report: Callable[[str], None],
    *,
    strict: bool = False,
) -> Iterator[Job]:
    """Plan a job, or go on with the one that the folder holds; nobody else may while the block runs.

    Args:
        folder: made where it is missing.
        settings: see `settings_of`.
        card: of the model.
        requests: the table.
        report: takes a line for the user.
        strict: refuse to start where a row is rejected, or a column looks misspelt.

    Raises:
        Refused: where the folder holds something else, a job with other settings or one at work, where no row of the
            table can be done, or, if `strict`, one cannot.
    """
    if folder.exists() and not folder.is_dir():
        raise Refused(f"out: {folder} is a file and not a folder; name another folder")
    table = None if (folder / JOB).exists() else _table(requests, card, report, strict)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise Refused(f"out: another job is at work in {folder}; wait for it, or name another folder") from None
    try:
        for path in folder.iterdir():
            if _TEMPORARY.fullmatch(path.name):  # of a process that was killed
                path.unlink()
        if table is None:
            job = Job.load(folder)
            _same(folder, job.settings, settings)
            if strict and job.rejected:
                raise Refused(f"{requests}: {job.rejected} rows were rejected, see {folder / REJECTS}")
        else:
            if other := [path.name for path in folder.iterdir() if not _BEFORE_A_JOB.fullmatch(path.name)]:
                raise Refused(f"out: {folder} has files of something else, {min(other)} for one; name a new folder")
            job = _plan(folder, settings, card, requests, table, report, strict)
        yield job
    finally:
        lock.release()


def _same(folder: Path, there: Settings, asked: Settings) -> None:
    """Refuse to mix settings, naming the first that differs."""
    for name in Settings.model_fields:
        one, other = getattr(there, name), getattr(asked, name)
        if name == "versions":
            for package in one | other:
                if one.get(package) != other.get(package):
                    name, one, other = f"version of {package}", one.get(package), other.get(package)
                    break
        if one != other:
            raise Refused(
                f"out: {folder} holds a job with {name} {_short(one)}, and this one has {_short(other)}; "
                "name another folder, or ask for the same"
            )


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}..." if re.fullmatch("[0-9a-f]{64}", text) else text


def _table(path: Path, card: ModelCard, report: Callable[[str], None], strict: bool) -> Requests:
    """The table, opened, with columns that the model can be asked by."""
    table = open_requests(path)
    hints = check_columns(path, table.columns, card.condition.kind, card.name)
    if strict and hints:
        raise Refused(f"{path}: {hints[0]}")
    for hint in hints:
        report(f"{path}: {hint}")
    return table


def _plan(
    folder: Path,
    settings: Settings,
    card: ModelCard,
    requests: Path,
    table: Requests,
    report: Callable[[str], None],
    strict: bool,
) -> Job:
    """Read the whole table once, a chunk at a time; the plan is there when job.json is."""
    schema = pa.schema(
        [("row", pa.int64()), ("first", pa.int64()), ("end", pa.int64()), ("condition", pa.string()),
         ("seed", pa.int64()), ("truncation", pa.float64()),
         *(pa.field(OWN + field.name, field.type) for field in table.own)]
    )  # fmt: skip
    (folder / REJECTS).unlink(missing_ok=True)
    row, images, rows, said = 0, 0, 0, time.monotonic()
    with (
        whole_file(folder / ROWS) as path,
        path.open("wb") as file,
        pq.ParquetWriter(file, schema) as writer,
        _Rejects(folder / REJECTS) as rejects,
    ):
        for chunk in table.chunks():
            kept: list[int] = []
            columns: dict[str, list[Any]] = {name: [] for name in schema.names[:6]}
            for i, asked in enumerate(chunk.asked):
                try:
                    if i in chunk.unreadable:
                        raise Refused(chunk.unreadable[i])
                    request = _request(asked, settings, images)
                    check(request, card)
                    if images + request.count > LARGEST_JOB:
                        raise Refused(f"count: found {request.count}; a job has at most {LARGEST_JOB} images")
                except Refused as error:
                    rejects.add(row + i, asked, str(error))
                    continue
                kept.append(i)
                condition = request.class_name if request.prompt is None else request.prompt
                values = (row + i, images, images + request.count, condition, request.seed, float(request.truncation))
                for name, value in zip(columns, values, strict=True):
                    columns[name].append(value)
                images += request.count
            row += len(chunk.asked)
            rows += len(kept)
            own = chunk.own.take(kept).rename_columns([OWN + name for name in chunk.own.column_names])
            asked_for = pa.table(columns, schema=pa.schema(list(schema)[:6]))
            writer.write_table(pa.table([*asked_for.columns, *own.columns], schema=schema))
            if time.monotonic() - said > _SECONDS_BETWEEN_LINES:
                said = time.monotonic()
                report(f"{row} rows read")
    if row == 0:
        raise Refused(f"{requests}: has no rows")
    if rejects.count and (strict or not rows):
        (folder / ROWS).unlink()
        which = "every row" if not rows else f"{rejects.count} of {row} rows"
        raise Refused(f"{requests}: {which} was rejected, row {rejects.first}; see {folder / REJECTS}")
    job = Job(
        settings=settings, requests=requests.name, rows=rows, rejected=rejects.count, images=images,
        shards=-(-images // settings.shard_size),
    )  # fmt: skip
    write_whole(folder / JOB, (job.model_dump_json(indent=2) + "\n").encode())
    return job


def _request(asked: dict[str, Any], settings: Settings, image: int) -> Request:
    """What a row asks for; `image` is the number of its first one. Not checked yet."""
    gap = {name for name in ASKED if asked.get(name) is None or asked[name] != asked[name]}  # NaN is a gap of pandas'
    class_name: Any = None if "class" in gap else asked["class"]
    if isinstance(class_name, int) and not isinstance(class_name, bool):
        class_name = str(class_name)  # classes that are called 0 to 9, in a column of numbers
    return Request(
        prompt=None if "prompt" in gap else asked["prompt"],
        class_name=class_name,
        seed=settings.seed + image if "seed" in gap else whole(asked["seed"]),
        count=1 if "count" in gap else whole(asked["count"]),
        truncation=settings.truncation if "truncation" in gap else real(asked["truncation"]),
    )


class _Rejects:
    """rejects.jsonl, which is there where a row was rejected.

    Attributes:
        count: rejected rows.
        first: number of the first and what is wrong with it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stack = contextlib.ExitStack()
        self._file: IO[str] | None = None
        self.count, self.first = 0, ""

    def __enter__(self) -> Self:
        self._stack.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def add(self, row: int, asked: dict[str, Any], problem: str) -> None:
        """A row, counted from 0, and why it is not done: `column: found ...; what would do`."""
        if self._file is None:
            temporary = self._stack.enter_context(whole_file(self._path))
            self._file = self._stack.enter_context(temporary.open("w", encoding="utf-8"))
            self.first = f"{row}: {problem}"
        column = problem.partition(":")[0]
        found = {"column": column, "found": asked.get(column)} if column in ASKED else {"column": None, "found": None}
        self._file.write(json.dumps({"row": row, **found, "problem": problem}, default=str) + "\n")
        self.count += 1
