"""Tables of captions and labels beside image files: metadata.csv, metadata.jsonl or metadata.parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ganlib.problems import Refused

NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
SPLITS = {
    "train": "train", "training": "train",
    "test": "test", "testing": "test", "val": "test", "valid": "test", "validation": "test",
}  # fmt: skip
"""What a source may call its splits, and which of the two each belongs to."""

_CAPTIONS = ("captions", "caption", "text")


@dataclass(frozen=True, slots=True)
class Row:
    """What a table says of one file: its name relative to the table, and whatever else is known."""

    file_name: str
    label: str | None
    captions: tuple[str, ...]
    split: str | None


def read_metadata(name: str, content: bytes) -> list[Row]:
    """The rows of a table.

    Args:
        name: of the table, ending in one of `NAMES`; errors begin with it.
        content: its bytes.

    Raises:
        Refused: where it cannot be read, has no column `file_name`, or has a value that is not what its column holds.
    """
    rows = _rows(name, content)
    present = [column for column in _CAPTIONS if any(column in row for _, row in rows)]
    return [_row(f"{name}: row {number}", row, present[0] if present else None) for number, row in rows]


def _rows(name: str, content: bytes) -> list[tuple[int, Mapping[str, Any]]]:
    """Each row with its number, counted from 1."""
    try:
        if name.endswith(".jsonl"):
            lines = content.decode("utf-8-sig").splitlines()
            rows = [(number, json.loads(line)) for number, line in enumerate(lines, start=1) if line.strip()]
            if not all(isinstance(row, dict) for _, row in rows):
                raise Refused(f"{name}: every line is an object with file_name and more")
        elif name.endswith(".csv"):
            # every cell as it stands: a class called NA is a name, and 007 is not 7
            table = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
            rows = list(enumerate(table, start=1))
            if extra := [number for number, row in rows if None in row]:
                raise Refused(f"{name}: row {extra[0]}: more cells than the header names; quote commas")
        else:
            rows = list(enumerate(pd.read_parquet(io.BytesIO(content)).to_dict("records"), start=1))
    except json.JSONDecodeError as error:
        raise Refused(f"{name}: not JSON lines: {error}") from error
    except (UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise Refused(f"{name}: cannot be read: {' '.join(str(error).split())}") from error
    if rows and not any("file_name" in row for _, row in rows):
        raise Refused(f"{name}: no column file_name; found {', '.join(map(str, rows[0][1]))}")
    return rows


def _row(where: str, row: Mapping[str, Any], column: str | None) -> Row:
    file_name = _text(row.get("file_name"))
    if file_name is None:
        raise Refused(f"{where}: file_name is missing")
    split = _text(row.get("split"))
    if split is not None and split.lower() not in SPLITS:
        raise Refused(f"{where}: split: found {split!r}; known are {', '.join(SPLITS)}")
    return Row(
        file_name=file_name,
        label=_text(row.get("label")),
        captions=_captions(f"{where}: {column}", row.get(column)) if column else (),
        split=SPLITS[split.lower()] if split else None,
    )


def _captions(where: str, value: Any) -> tuple[str, ...]:
    """One caption, a list of them, or a list written as JSON: without blanks, empty ones and repetitions."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise Refused(f"{where}: found {value[:60]!r}, which is not a JSON list: {error}") from error
    several: Iterable[Any] = value if isinstance(value, list | np.ndarray) else [value]
    texts = [" ".join(text.split()) for item in several if (text := _text(item)) is not None]
    return tuple(dict.fromkeys(text for text in texts if text))


def _text(value: Any) -> str | None:
    """A cell as text; None where it is empty. Labels may be numbers, and 3.0 is what a column with gaps makes of 3."""
    if value is None or (isinstance(value, float) and np.isnan(value)) or value is pd.NA:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() or None
