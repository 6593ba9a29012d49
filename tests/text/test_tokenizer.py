"""How captions become word numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ganlib.problems import Refused
from ganlib.text.tokenizer import PADDING, SPECIAL, UNKNOWN, Tokenizer, split


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer.build(["a red rose", "a red tulip in a vase", "a poppy"], vocabulary=20, max_words=5)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("A Red flower, with (yellow) centre.", ["a", "red", "flower", "with", "yellow", "centre"]),
        ("five-petalled", ["five", "petalled"]),
        ("five petalled", ["five", "petalled"]),
        ("the men's room", ["the", "men's", "room"]),
        ("the men\N{RIGHT SINGLE QUOTATION MARK}s room", ["the", "men's", "room"]),
        ("a 'quoted' word", ["a", "quoted", "word"]),
        ("keycap: *", ["keycap", "*"]),
        ("x_y", ["x", "y"]),
        ("CRÊPE cre\N{COMBINING CIRCUMFLEX ACCENT}pe", ["crêpe", "crêpe"]),
        ("\N{FULLWIDTH LATIN CAPITAL LETTER A}\N{LATIN SMALL LIGATURE FI}n", ["afin"]),
        ("हिन्दी फूल", ["हिन्दी", "फूल"]),
        ("Красный цветок", ["красный", "цветок"]),
        ("a\tb\n c\u00a0d", ["a", "b", "c", "d"]),
        ("\N{HEAVY BLACK HEART}\N{VARIATION SELECTOR-16} heart", ["\N{HEAVY BLACK HEART}", "heart"]),
        ("...!? -- “”", []),
        ("\N{ZERO WIDTH JOINER} \N{COMBINING CIRCUMFLEX ACCENT}", []),
        ("", []),
    ],
)
def test_split(text: str, tokens: list[str]) -> None:
    assert split(text) == tokens


def test_the_vocabulary_is_the_most_frequent_words_and_equals_go_by_code_points(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocabulary == (*SPECIAL, "a", "red", "in", "poppy", "rose", "tulip", "vase")
    small = Tokenizer.build(["b b a a c", "c ä ä"], vocabulary=3, max_words=5)
    assert small.vocabulary == (*SPECIAL, "a", "b", "c")
    assert len(small) == 5


def test_the_order_of_the_captions_does_not_matter() -> None:
    captions = [f"word{i % 7} word{i % 3}" for i in range(30)]
    built = [Tokenizer.build(texts, 20, 5) for texts in (captions, captions[::-1])]
    assert built[0] == built[1]


def test_encode_pads_to_the_longest_text_and_cuts_at_max_words(tokenizer: Tokenizer) -> None:
    ids, lengths = tokenizer.encode(["A rose!", "a red tulip in a vase", "a lilac rose"])
    assert ids.dtype == lengths.dtype == np.int64
    assert lengths.tolist() == [2, 5, 3]
    a, red, in_, _, rose, tulip, _ = range(2, 9)
    assert ids.tolist() == [
        [a, rose, PADDING, PADDING, PADDING],
        [a, red, tulip, in_, a],
        [a, UNKNOWN, rose, PADDING, PADDING],
    ]
    assert tokenizer.encode(["a rose"])[0].shape == (1, 2)
    assert tokenizer.encode([])[0].shape == (0, 0)


def test_encode_gives_back_what_it_was_given(tokenizer: Tokenizer) -> None:
    ids, lengths = tokenizer.encode(["a red rose in a vase"])
    assert [tokenizer.vocabulary[i] for i in ids[0, : lengths[0]]] == ["a", "red", "rose", "in", "a"]


@pytest.mark.parametrize("text", ["", "   ", "?!", ". . .", "\N{ZERO WIDTH SPACE}"])
def test_a_text_without_a_word_is_refused(tokenizer: Tokenizer, text: str) -> None:
    with pytest.raises(Refused, match="at least one word"):
        tokenizer.encode(["a rose", text])


def test_cut_and_unknown_words_tell_what_is_not_read(tokenizer: Tokenizer) -> None:
    assert not tokenizer.cut("a red rose, a vase.")
    assert tokenizer.cut("a red rose in a vase")
    assert tokenizer.unknown_words("a Lilac rose, a lilac vase, an iris") == ["lilac", "an", "iris"]
    assert tokenizer.unknown_words("a rose") == []


def test_special_tokens_cannot_be_written_in_a_prompt(tokenizer: Tokenizer) -> None:
    ids, _ = tokenizer.encode(["<padding> <unknown>"])
    assert PADDING not in ids
    assert tokenizer.unknown_words("<padding>") == ["<", "padding", ">"]


def test_captions_without_words_make_no_vocabulary() -> None:
    with pytest.raises(Refused, match="no words"):
        Tokenizer.build(["...", ""], 10, 5)


def test_round_trip(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded == tokenizer
    assert np.array_equal(loaded.encode(["a red lilac"])[0], tokenizer.encode(["a red lilac"])[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format"),
        ({"max_words": 0}, "max_words"),
        ({"max_words": "5"}, "max_words"),
        ({"vocabulary": ["a", "b"]}, "<padding>"),
        ({"vocabulary": [*SPECIAL, "a", "a"]}, "'a' twice"),
        ({"vocabulary": [*SPECIAL, "Red"]}, "'Red', which no text splits into"),
        ({"vocabulary": [*SPECIAL, "two words"]}, "'two words', which no text splits into"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_file_that_is_not_a_tokenizer_is_refused(
    tokenizer: Tokenizer, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(tokenizer.model_dump(mode="json") | change))
    with pytest.raises(Refused, match=message) as refused:
        Tokenizer.load(path)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


def test_a_missing_or_broken_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no such file"):
        Tokenizer.load(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text('{"format": 1, "max_')
    with pytest.raises(Refused, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path / "tokenizer.json")


def test_it_needs_no_torch() -> None:
    code = "import sys, ganlib.text.tokenizer, ganlib.text.embed; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
