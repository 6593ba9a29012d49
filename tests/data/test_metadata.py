"""Tables beside images, in the forms that people write them."""

from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pytest

from ganlib.data.metadata import Row, read_metadata
from ganlib.problems import Refused


def parquet(table: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()


def lines(*rows: object) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


EXPECTED = [
    Row("a.png", "cat", ("a cat", "one cat, sitting"), "train"),
    Row("b/c.png", "dog", ("a dog",), "test"),
]


def test_the_three_forms_say_the_same() -> None:
    captions = [["a cat", "one cat, sitting"], ["a dog"]]
    table = pd.DataFrame(
        {
            "file_name": ["a.png", "b/c.png"],
            "captions": captions,
            "label": ["cat", "dog"],
            "split": ["train", "Validation"],
        }
    )
    as_text = table.assign(captions=[json.dumps(several) for several in captions]).to_csv(index=False)
    assert read_metadata("metadata.parquet", parquet(table)) == EXPECTED
    assert read_metadata("metadata.jsonl", lines(*table.to_dict("records"))) == EXPECTED
    assert read_metadata("metadata.csv", as_text.encode()) == EXPECTED
    assert read_metadata("metadata.csv", b"\xef\xbb\xbf" + as_text.replace("\n", "\r\n").encode()) == EXPECTED


@pytest.mark.parametrize("column", ["captions", "caption", "text"])
def test_a_single_caption_under_any_of_its_names(column: str) -> None:
    (row,) = read_metadata("metadata.jsonl", lines({"file_name": "a", column: "a cat"}))
    assert row == Row("a", None, ("a cat",), None)


def test_captions_lose_blanks_and_repetitions() -> None:
    (row,) = read_metadata(
        "metadata.jsonl", lines({"file_name": "a", "captions": [" a\ncat ", "", None, "a cat", "b"]})
    )
    assert row.captions == ("a cat", "b")


def test_labels_are_names_whatever_their_type() -> None:
    rows = read_metadata("metadata.csv", b"file_name,label\na,NA\nb,007\nc,\nd,3\n")
    assert [row.label for row in rows] == ["NA", "007", None, "3"]
    table = pd.DataFrame({"file_name": ["a", "b"], "label": [3.0, np.nan]})
    assert [row.label for row in read_metadata("metadata.parquet", parquet(table))] == ["3", None]
    rows = read_metadata("metadata.jsonl", lines({"file_name": "a", "label": 3}, {"file_name": "b", "label": None}))
    assert [row.label for row in rows] == ["3", None]


def test_a_table_without_rows_has_none() -> None:
    assert read_metadata("metadata.csv", b"") == read_metadata("metadata.csv", b"file_name,label\n") == []
    assert read_metadata("metadata.jsonl", b"\n") == []


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("metadata.csv", b"name,text\na,b\n", "no column file_name; found name, text"),
        ("metadata.csv", b"file_name,text\na,b\nc,d,\n", "row 2: more cells than the header"),
        ("metadata.csv", b'file_name,text\na,"b\n', "cannot be read"),
        ("metadata.csv", b"file_name\n\xff\xfe\n", "cannot be read"),
        ("metadata.csv", b'file_name,captions\na,"[""x"", "\n', "row 1: captions: found .* not a JSON list"),
        ("metadata.jsonl", b'{"file_name": "a"}\n{"file_name": \n', "not JSON lines"),
        ("metadata.jsonl", b'["a"]', "every line is an object"),
        ("metadata.jsonl", b'{"file_name": "a"}\n\n{"text": "b"}', "row 3: file_name is missing"),
        ("metadata.jsonl", b'{"file_name": "a", "split": "dev"}', "row 1: split: found 'dev'; known are train"),
        ("metadata.parquet", b"PAR1 and nothing more", "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(name: str, content: bytes, words: str) -> None:
    with pytest.raises(Refused, match=words) as problem:
        read_metadata(name, content)
    assert str(problem.value).startswith(name)
    assert "\n" not in str(problem.value)
