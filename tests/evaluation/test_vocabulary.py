from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ganlib.evaluation.vocabulary import Vocabulary, take, terms
from ganlib.problems import Refused


def test_terms_are_words_and_neighbours_in_lower_case() -> None:
    assert terms("A heart-shaped, RED petal.") == [
        *("a", "heart", "shaped", "red", "petal"),
        *("a heart", "heart shaped", "shaped red", "red petal"),
    ]


def test_keeps_what_occurs_twice_most_frequent_first() -> None:
    vocabulary = Vocabulary.build(["red square", "red circle", "a red square"])

    assert vocabulary.known == ("red", "red square", "square")


def test_survives_the_disk(tmp_path: Path) -> None:
    vocabulary = Vocabulary(["rot", "größe", "赤い"])
    vocabulary.save(tmp_path / "vocabulary.json")

    assert Vocabulary.load(tmp_path / "vocabulary.json").known == vocabulary.known


def test_bags_and_their_choice() -> None:
    vocabulary = Vocabulary(["red", "blue", "red square"])
    numbers, ends = bags = vocabulary.bags(["red square", "unknown", "blue red"])

    assert numbers.tolist() == [0, 2, 1, 0]
    assert ends.tolist() == [0, 2, 2, 4]
    numbers, ends = take(bags, np.array([2, 1, 0, 2]))
    assert numbers.tolist() == [1, 0, 0, 2, 1, 0]
    assert ends.tolist() == [0, 2, 2, 4, 6]


def test_a_corpus_without_repetition_is_refused() -> None:
    with pytest.raises(Refused, match="no word occurs twice"):
        Vocabulary.build(["one two", "three"])
