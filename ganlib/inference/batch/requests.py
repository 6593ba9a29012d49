"""A table of requests: CSV, JSON lines or Parquet, in chunks and without guesses.

Everything that pandas writes is read. It is not read by `pandas.read_csv` and `read_json`, which take a prompt "NA" for
a gap, turn whole numbers of a column with gaps into floats (a seed beyond 2^53 comes out as another one), and stop at,
or shift, a row with a comma too many. Parquet is read by pyarrow, as in pandas.
"""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from ganlib.inference.batch.cells import EXACT
from ganlib.problems import Refused

ASKED = ("prompt", "class", "seed", "count", "truncation")
"""Columns with a meaning. All others are the user's own, and are kept."""
GIVEN = ("key", "row", "sha256", "width", "height")
"""Columns that a manifest adds: no column of the user's own may be called so."""
ROWS = 4096  # of a chunk
# bytes that are not UTF-8 pass as lone surrogates, so that they cost their row and not the file
_CSV_TEXT: dict[str, Any] = {"encoding": "utf-8-sig", "newline": "", "errors": "surrogateescape"}


@dataclass(frozen=True)
class Chunk:
    """Some rows in their order.

    Attributes:
        asked: what stands in the columns of `ASKED` that there are, by name, as the file has it; None is a gap.
        own: the user's own columns, as many rows.
        unreadable: what is wrong with a row of which nothing else is known, by its place in this chunk.
    """

    asked: list[dict[str, Any]]
    own: pa.Table
    unreadable: dict[int, str]


class Requests(Protocol):
    """A table of requests.

    Attributes:
        columns: names of all columns, each once.
        own: names and types of the user's own ones.
    """

    columns: list[str]

    @property
    def own(self) -> pa.Schema: ...

    def chunks(self) -> Iterator[Chunk]:
        """The rows, at most `ROWS` at a time."""
        ...


def open_requests(path: Path) -> Requests:
    """Open a table of requests, of the form that its suffix names.

    Raises:
        Refused: where it is missing, of another form, broken as a whole, or has a column twice or one of `GIVEN`.
    """
    if not path.is_file():
        raise Refused(f"{path}: no such file")
    forms: dict[str, type[_Csv | _JsonLines | _Parquet]] = {".csv": _Csv, ".jsonl": _JsonLines, ".parquet": _Parquet}
    if path.suffix.lower() not in forms:
        raise Refused(f"{path}: found {path.suffix or 'no suffix'}; requests are a {', '.join(forms)} file")
    try:
        requests: Requests = forms[path.suffix.lower()](path)
    except (pa.ArrowException, csv.Error) as error:
        raise Refused(f"{path}: cannot be read: {_line(error)}") from error
    columns = requests.columns
    if not _encodes(*columns):
        raise Refused(f"{path}: cannot be read: names of columns are not UTF-8")
    if not columns:
        raise Refused(f"{path}: has no columns")
    if twice := sorted({name for name in columns if columns.count(name) > 1}):
        raise Refused(f"{path}: found the column {twice[0]!r} twice; keep one")
    if taken := [name for name in columns if name in GIVEN]:
        raise Refused(f"{path}: found a column {taken[0]!r}, which the manifest has too; give yours another name")
    return requests


def check_columns(path: Path, columns: Sequence[str], kind: Literal["none", "class", "text"], model: str) -> list[str]:
    """Whether a table has the column that a model's condition asks for.

    Args:
        path: of the table.
        columns: its columns.
        kind: of the model's condition.
        model: its name.

    Returns:
        a line for each column that may be a misspelt one.

    Raises:
        Refused: where the column is missing, or there is one that the model does not take.
    """
    condition = {"none": None, "class": "class", "text": "prompt"}[kind]
    near = {name: close for name in columns if (close := _near(name, columns))}
    if condition and condition not in columns:
        hints = [name for name, close in near.items() if close == condition]
        hint = f"is it {hints[0]!r}? rename it" if hints else f"found {', '.join(map(repr, columns))}"
        raise Refused(f"{path}: no column {condition!r}, which {model} needs; {hint}")
    for name in ("prompt", "class"):
        if name in columns and name != condition:
            takes = f"a {condition}" if condition else "neither prompt nor class"
            raise Refused(f"{path}: found a column {name!r}; {model} takes {takes}, rename or drop the column")
    return [f"column {name!r} is kept and not read; did you mean {close!r}?" for name, close in near.items()]


class _Csv:
    """Text in every column, as it stands there; UTF-8, a byte order mark may lead. The first line has the names."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open(**_CSV_TEXT) as file:
            header = next(csv.reader(file, strict=True), [])
        # the name that pandas gives to the index that it has written
        self.columns = [name.strip() or f"Unnamed: {i}" for i, name in enumerate(header)]

    @property
    def own(self) -> pa.Schema:
        """Text throughout."""
        return pa.schema([(name, pa.string()) for name in self.columns if name not in ASKED])

    def chunks(self) -> Iterator[Chunk]:
        with self._path.open(**_CSV_TEXT) as file:
            lines = csv.reader(file, strict=True)
            next(lines)
            own, rows = self.own, list[dict[str, Any] | str]()
            while True:
                try:
                    fields = next(lines)
                except StopIteration:
                    break
                except csv.Error as error:
                    rows.append(f"line {lines.line_num}: {error}")
                else:
                    if fields:  # not an empty line
                        rows.append(self._row(fields))
                if len(rows) == ROWS:
                    yield _chunk(rows, own)
                    rows = []
            if rows:
                yield _chunk(rows, own)

    def _row(self, fields: list[str]) -> dict[str, Any] | str:
        if len(fields) != len(self.columns):
            return (
                f"found {len(fields)} fields for {len(self.columns)} columns; put text with commas into double quotes"
            )
        row = dict(zip(self.columns, fields, strict=True))
        gaps = {name: None for name in ("seed", "count", "truncation") if not row.get(name, " ").strip()}
        return row | gaps


class _JsonLines:
    """An object a line. A column of the user's own has the type that all its values have; text where they differ."""

    def __init__(self, path: Path) -> None:
        self._path = path
        kinds: dict[str, set[str]] = {}
        for row in self._rows():
            if isinstance(row, dict):
                for name, value in row.items():
                    kinds.setdefault(name, set()).add(_kind(value))
        self.columns = list(kinds)
        self._kinds = kinds

    @property
    def own(self) -> pa.Schema:
        """What holds all values of a column."""
        return pa.schema([(name, _arrow_type(self._kinds[name])) for name in self.columns if name not in ASKED])

    def chunks(self) -> Iterator[Chunk]:
        own, rows = self.own, list[dict[str, Any] | str]()
        text = {field.name for field in own if field.type == pa.string()}
        for row in self._rows():
            if isinstance(row, dict):
                row = {name: _as_text(value) if name in text else value for name, value in row.items()}
            rows.append(row)
            if len(rows) == ROWS:
                yield _chunk(rows, own)
                rows = []
        if rows:
            yield _chunk(rows, own)

    def _rows(self) -> Iterator[dict[str, Any] | str]:
        with self._path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
                except (ValueError, RecursionError) as error:
                    yield f"line {number}: not JSON: {_line(error)}"
                    continue
                yield row if isinstance(row, dict) else f"line {number}: found {str(row)[:60]!r}; expected an object"


class _Parquet:
    """The types of the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        schema = pq.read_schema(path)
        self.columns = schema.names
        self._schema = schema

    @property
    def own(self) -> pa.Schema:
        """The types of the file."""
        return pa.schema([(field.name, _plain_type(field.type)) for field in self._schema if field.name not in ASKED])

    def chunks(self) -> Iterator[Chunk]:
        own = self.own
        try:
            for part in pq.ParquetFile(self._path).iter_batches(ROWS, use_threads=False):
                asked = [name for name in self.columns if name in ASKED]
                table = pa.Table.from_batches([part]).replace_schema_metadata(None)
                yield Chunk(table.select(asked).to_pylist(), table.select(own.names).cast(own), {})
        except (pa.ArrowException, OSError) as error:
            raise Refused(f"{self._path}: cannot be read: {_line(error)}") from error


def _chunk(rows: Sequence[dict[str, Any] | str], own: pa.Schema) -> Chunk:
    """A chunk of rows, or what is wrong with a row."""
    read: list[dict[str, Any]] = []
    unreadable: dict[int, str] = {}
    for i, row in enumerate(rows):
        if isinstance(row, dict) and (bad := next((n for n, v in row.items() if not _encodes(n, v)), None)) is not None:
            row = f"column {bad!a}: found text that is not UTF-8"
        if isinstance(row, str):
            unreadable[i] = row
            row = {}
        read.append(row)
    asked = [{name: row[name] for name in ASKED if name in row} for row in read]
    return Chunk(asked, pa.Table.from_pylist(read, schema=own), unreadable)


def _near(name: str, columns: Sequence[str]) -> str | None:
    """The column of `ASKED` that another one's name is a misspelling of, where that column is missing."""
    if name in ASKED:
        return None
    missing = [asked for asked in ASKED if asked not in columns]
    return next(iter(difflib.get_close_matches(name.strip().lower(), missing, n=1, cutoff=0.8)), None)


def _kind(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return "int" if abs(value) <= EXACT else "long" if -(2**63) <= value < 2**63 else "other"
    return {type(None): "gap", bool: "bool", float: "float", str: "str"}.get(type(value), "other")


def _arrow_type(kinds: set[str]) -> pa.DataType:
    kinds = kinds - {"gap"}
    if kinds == {"bool"}:
        return pa.bool_()
    if kinds and kinds <= {"int", "long"}:
        return pa.int64()
    if kinds and kinds <= {"int", "float"}:
        return pa.float64()
    return pa.string()


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """The values' type of a categorical column."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _as_text(value: Any) -> Any:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _encodes(*texts: Any) -> bool:
    """Whether texts have no lone surrogates; in a CSV file these are bytes that are not UTF-8."""
    try:
        return all(text.isascii() or text.encode() is not None for text in texts if isinstance(text, str))
    except UnicodeEncodeError:
        return False


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
