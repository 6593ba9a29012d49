"""Tables of requests: nothing is guessed, no digit is lost, and one bad line costs one row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ganlib.inference.batch import requests
from ganlib.inference.batch.cells import real, whole
from ganlib.inference.batch.requests import check_columns, open_requests
from ganlib.problems import Refused

LARGE = 2**63 - 1  # float64 makes 2**63 of it


def read(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[int, str]]:
    """Asked and own columns of all rows, and what could not be read by row."""
    asked: list[dict[str, Any]] = []
    own: list[dict[str, Any]] = []
    unreadable: dict[int, str] = {}
    for chunk in open_requests(path).chunks():
        unreadable |= {len(asked) + i: problem for i, problem in chunk.unreadable.items()}
        asked += chunk.asked
        own += chunk.own.to_pylist()
    return asked, own, unreadable


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_csv_is_text_as_it_stands_there(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.csv",
        "\ufeffprompt,seed,count,number,empty\r\n"
        f'NA,{LARGE},,007,\r\n\r\nnull,,2,1e5,\r\n"a rose, ""red""\nand small", 3 ,1,nan,x\r\n',
    )
    asked, own, unreadable = read(path)
    assert asked == [
        {"prompt": "NA", "seed": str(LARGE), "count": None, "truncation": None},
        {"prompt": "null", "seed": None, "count": "2", "truncation": None},
        {"prompt": 'a rose, "red"\nand small', "seed": " 3 ", "count": "1", "truncation": None},
    ]
    assert own == [
        {"number": "007", "empty": ""},
        {"number": "1e5", "empty": ""},
        {"number": "nan", "empty": "x"},
    ]
    assert unreadable == {}


def test_a_bad_line_of_csv_costs_one_row(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.csv",
        b'prompt,note\na rose, red,x\nshort\n"a" rose,x\n\xff rose,x\nrose,\xff\na fine rose,x\n"no end,x\n',
    )
    asked, own, unreadable = read(path)
    assert unreadable == {
        0: "found 3 fields for 2 columns; put text with commas into double quotes",
        1: "found 1 fields for 2 columns; put text with commas into double quotes",
        2: "line 4: ',' expected after '\"'",
        3: "column 'prompt': found text that is not UTF-8",
        4: "column 'note': found text that is not UTF-8",
        6: "line 8: unexpected end of data",
    }
    assert asked[5]["prompt"] == "a fine rose"
    assert own[5] == {"note": "x"}
    assert len(asked) == len(own) == 7


def test_json_lines_keep_types_and_digits(tmp_path: Path) -> None:
    rows = [
        {"class": "rose", "seed": LARGE, "id": 2**60 + 1, "share": 1, "flag": True, "mixed": 1, "gap": None},
        {"class": "rose", "seed": None, "id": None, "share": 0.5, "flag": None, "mixed": "NA", "late": [1, {"a": 2}]},
    ]
    path = write(tmp_path / "a.jsonl", "\ufeff" + "\n\n".join(map(json.dumps, rows)))
    asked, own, unreadable = read(path)
    assert asked == [{"class": "rose", "seed": LARGE}, {"class": "rose", "seed": None}]
    assert own == [
        {"id": 2**60 + 1, "share": 1.0, "flag": True, "mixed": "1", "gap": None, "late": None},
        {"id": None, "share": 0.5, "flag": None, "mixed": "NA", "gap": None, "late": '[1, {"a": 2}]'},
    ]
    assert unreadable == {}
    types = {field.name: field.type for field in open_requests(path).own}
    text = pa.string()
    assert types == {
        "id": pa.int64(), "share": pa.float64(), "flag": pa.bool_(), "mixed": text, "gap": text, "late": text,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([2**53 + 1, 0.5], pa.string()),  # a float has no room for the first
        ([2**53, 0.5], pa.float64()),
        ([2**63, 1], pa.string()),
        ([-(2**63), 2**63 - 1], pa.int64()),
        ([True, 1], pa.string()),
    ],
)
def test_a_column_of_json_has_a_type_that_holds_all_its_values(
    tmp_path: Path, values: Sequence[Any], kind: pa.DataType
) -> None:
    path = write(tmp_path / "a.jsonl", "".join(json.dumps({"prompt": "a", "own": value}) + "\n" for value in values))
    _, own, _ = read(path)
    assert open_requests(path).own.field("own").type == kind
    expected = [json.dumps(value) for value in values] if kind == pa.string() else list(values)
    assert [row["own"] for row in own] == expected


def test_a_bad_line_of_json_costs_one_row(tmp_path: Path) -> None:
    lines = ['{"prompt": "a"}', "{", "[1]", '{"prompt": "\\ud800"}', b"\xff", "[" * 100_000, '{"prompt": "b", "n": 1}']
    path = write(tmp_path / "a.jsonl", b"\n".join(x if isinstance(x, bytes) else x.encode() for x in lines))
    asked, own, unreadable = read(path)
    assert sorted(unreadable) == [1, 2, 3, 4, 5]
    assert unreadable[1].startswith("line 2: not JSON: ")
    assert unreadable[2] == "line 3: found '[1]'; expected an object"
    assert unreadable[3] == "column 'prompt': found text that is not UTF-8"
    assert all(unreadable[row].startswith(f"line {row + 1}: not JSON: ") for row in (4, 5))
    assert (asked[0], asked[6], own[6]) == ({"prompt": "a"}, {"prompt": "b"}, {"n": 1})


def test_parquet_keeps_every_type(tmp_path: Path) -> None:
    when = pd.Timestamp("2024-05-06 07:08:09.000000001")
    table = pa.table(
        {
            "class": pa.array(["rose", "daisy"]).dictionary_encode(),
            "seed": pa.array([LARGE, None]),
            "category": pa.array(["x", "y"]).dictionary_encode(),
            "when": pa.array([when.value, None], pa.timestamp("ns")),
            "list": [[1, 2], None],
            "bytes": [b"\xff", b""],
        }
    )
    path = tmp_path / "a.parquet"
    pq.write_table(table, path)
    asked, _, _ = read(path)
    assert asked == [{"class": "rose", "seed": LARGE}, {"class": "daisy", "seed": None}]
    (chunk,) = open_requests(path).chunks()
    assert chunk.own.column_names == ["category", "when", "list", "bytes"]
    assert [field.type for field in chunk.own.schema] == [
        pa.string(), pa.timestamp("ns"), pa.list_(pa.int64()), pa.binary(),
    ]  # fmt: skip
    assert chunk.own["when"].cast(pa.int64()).to_pylist() == [when.value, None]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_what_pandas_writes_is_read(tmp_path: Path, form: str) -> None:
    """A column of whole numbers with gaps is one of floats to pandas."""
    frame = pd.DataFrame({"prompt": ["NA", "a rose", "x"], "seed": [2**52 + 1, None, 7], "n": [1.5, None, 2.0]})
    path = tmp_path / f"a.{form}"
    if form == "csv":
        frame.to_csv(path)
    elif form == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_parquet(path)
    asked, own, unreadable = read(path)
    assert [row["prompt"] for row in asked] == ["NA", "a rose", "x"]
    assert [whole(asked[i]["seed"]) for i in (0, 2)] == [2**52 + 1, 7]
    assert pd.isna(asked[1]["seed"])
    assert own[0]["n"] == ("1.5" if form == "csv" else 1.5)
    assert ("Unnamed: 0" in own[0]) == (form == "csv")
    assert unreadable == {}


@pytest.mark.parametrize(
    ("cell", "number"),
    [
        (" 12 ", 12), ("-3", -3), (str(LARGE), LARGE), (str(LARGE + 1), LARGE + 1), ("7.0", 7), ("7.", 7), (7.0, 7),
        (str(2**53 - 1) + ".0", 2**53 - 1), (2.0**53 - 1, 2**53 - 1), (LARGE, LARGE), (True, True),
    ],
)  # fmt: skip
def test_whole_numbers_are_read_exactly(cell: Any, number: int) -> None:
    assert whole(cell) == number
    assert type(whole(cell)) is type(number)


@pytest.mark.parametrize(
    "cell", ["", "7.5", "1e3", "0x10", "1_000", "\u0663", "9" * 5000, str(2**53) + ".0", 2.0**53, 7.5, "--3", [1]]
)
def test_what_is_no_whole_number_stays_what_it_is(cell: Any) -> None:
    assert whole(cell) is cell


def test_real_numbers() -> None:
    assert [real(cell) for cell in ("0.5", " 1 ", "1e-1", 0.25, 1)] == [0.5, 1.0, 0.1, 0.25, 1]
    for cell in ("", "half", "1_0", "nan", "inf", "0,5"):
        assert real(cell) is cell


def test_tables_come_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "ROWS", 3)
    frame = pd.DataFrame({"prompt": [f"rose {i}" for i in range(8)], "own": range(8)})
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    frame.to_parquet(tmp_path / "a.parquet")
    for form in ("csv", "jsonl", "parquet"):
        chunks = list(open_requests(tmp_path / f"a.{form}").chunks())
        assert [len(chunk.asked) for chunk in chunks] == [chunk.own.num_rows for chunk in chunks] == [3, 3, 2]
        assert [int(n) for chunk in chunks for n in chunk.own["own"].to_pylist()] == list(range(8))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "a.csv: has no columns"),
        ("a.jsonl", "\n", "a.jsonl: has no columns"),
        ("a.csv", "prompt,seed,prompt\n", "found the column 'prompt' twice; keep one"),
        ("a.csv", "prompt,sha256\n", "found a column 'sha256', which the manifest has too; give yours another name"),
        ("a.csv", b"prom\xffpt\n", "a.csv: cannot be read: names of columns are not UTF-8"),
        ("a.jsonl", '{"\\ud800": 1}', "a.jsonl: cannot be read: names of columns are not UTF-8"),
        ("a.parquet", "nonsense", "a.parquet: cannot be read: Parquet"),
        ("a.xlsx", "", "a.xlsx: found .xlsx; requests are a .csv, .jsonl, .parquet file"),
        ("a", "", "a: found no suffix"),
    ],
)
def test_a_table_that_is_wrong_as_a_whole_is_refused(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(Refused) as caught:
        open_requests(write(tmp_path / name, content))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_columns_that_the_model_does_not_take_are_refused() -> None:
    path = Path("a.csv")
    assert check_columns(path, ["prompt", "seed", "note"], "text", "tiny") == []
    assert check_columns(path, ["note"], "none", "tiny") == []
    assert check_columns(path, ["prompt", "Seed", "truncaton", "seeds"], "text", "tiny") == [
        "column 'Seed' is kept and not read; did you mean 'seed'?",
        "column 'truncaton' is kept and not read; did you mean 'truncation'?",
        "column 'seeds' is kept and not read; did you mean 'seed'?",
    ]
    assert check_columns(path, ["prompt", "seed", "Seed", "colour"], "text", "tiny") == []
    for columns, kind, message in (
        (["promt"], "text", "no column 'prompt', which tiny needs; is it 'promt'? rename it"),
        (["caption", "n"], "text", "no column 'prompt', which tiny needs; found 'caption', 'n'"),
        (["class", "prompt"], "class", "found a column 'prompt'; tiny takes a class, rename or drop the column"),
        (["class"], "none", "found a column 'class'; tiny takes neither prompt nor class, rename or drop the column"),
    ):
        with pytest.raises(Refused) as caught:
            check_columns(path, columns, kind, "tiny")
        assert str(caught.value) == f"a.csv: {message}"


def test_dates_of_parquet_are_dates(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a"], "when": [datetime(2024, 5, 6)]}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet")[1] == [{"when": datetime(2024, 5, 6)}]
