"""Captions of flowers state what they say they state, and nothing else."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from ganlib.data import flowers
from ganlib.data.flower_captions import captions

# Read back with patterns of their own, not with the grammar's tables.
PETALS = {
    "red": "red|scarlet|crimson", "orange": "orange|tangerine", "yellow": "yellow", "pink": "pink",
    "purple": "purple|violet", "blue": "blue", "turquoise": "turquoise|teal", "white": "white",
}  # fmt: skip
CENTRES = {
    "yellow": "yellow|golden",
    "brown": "brown|dark brown",
    "white": "white|pale white",
    "green": "green|leaf green",
}
PLACES = {
    "sky": "against the sky|blue sky|sky blue background", "grass": "on grass|green grass|grass-green background",
    "night": "at night|dark of night|dark background", "sand": "on sand|beige sand|sandy background",
    "lavender": "on lavender|lavender background",
}  # fmt: skip
SHAPES = {"round": "round|rounded", "pointed": "pointed|spiky|sharp", "heart-shaped": "heart-shaped|notched"}
COUNTS = {"four": "four|4", "five": "five|5", "six": "six|6|half a dozen", "eight": "eight|8"}
SIZES = {"small": "small|little|tiny", "medium": "medium|medium-sized|mid-sized", "large": "large|big"}


def found(patterns: dict[str, str], text: str) -> set[str]:
    return {value for value, words in patterns.items() if re.search(rf"(?<![\w-])(?:{words})(?![\w-])", text)}


def stated(caption: str) -> dict[str, set[str]]:
    """What a caption says, by attribute; its places and its centre are taken out before colours are looked for."""
    text = caption.lower()
    background = found(PLACES, text)
    for words in PLACES.values():
        text = re.sub(words, "", text)
    centre: set[str] = set()
    if match := re.search(r"\ban? ((?:dark |pale |leaf )?\w+) (?:centre|center|middle)", text):
        centre = found(CENTRES, match[1])
        text = text.replace(match[0], "")
    return {
        "petal_colour": found(PETALS, text),
        "petal_shape": found(SHAPES, text),
        "petal_count": found(COUNTS, text),
        "centre_colour": centre,
        "size": found(SIZES, text),
        "background": background,
    }


@pytest.fixture(scope="module")
def sample() -> list[tuple[dict[str, str], tuple[str, ...], tuple[tuple[str, ...], ...]]]:
    drawn = flowers.attributes_of(np.arange(600), seed=5)
    values = [{name: flowers.ATTRIBUTES[name][indices[i]] for name, indices in drawn.items()} for i in range(600)]
    return [(value, *captions(i, 5, value)) for i, value in enumerate(values)]


def test_a_caption_states_its_mentions_and_no_more(sample: list) -> None:
    for values, texts, mentions in sample:
        for text, names in zip(texts, mentions, strict=True):
            expected = {name: {values[name]} if name in names else set() for name in values}
            assert stated(text) == expected, text


def test_five_different_captions_one_of_them_complete(sample: list) -> None:
    for values, texts, mentions in sample:
        assert len(texts) == len({text.lower().rstrip(".") for text in texts}) == 5
        assert any(set(names) == set(values) for names in mentions)
        assert all("petal_colour" in names for names in mentions)


def test_a_quarter_of_the_other_attributes_is_left_out(sample: list) -> None:
    counts = Counter(name for _, _, mentions in sample for names in mentions for name in names)
    for name in flowers.ATTRIBUTES:
        share = counts[name] / 3000
        assert share == 1 if name == "petal_colour" else 0.70 < share < 0.80, name


def test_english(sample: list) -> None:
    texts = [text for _, texts, _ in sample for text in texts]
    assert not [
        text for text in texts if re.search(r"  | ,|,,|\ba [aeiou]|\ban [^aeiou]|[,.]\.|^\W", text, re.IGNORECASE)
    ]
    assert 0.3 < sum(text[0].islower() for text in texts) / len(texts) < 0.55
    assert 0.4 < sum(text.endswith(".") for text in texts) / len(texts) < 0.5
    assert len(set(texts)) > 0.8 * len(texts)


def test_the_same_again_and_another_seed_differs() -> None:
    values = {name: options[0] for name, options in flowers.ATTRIBUTES.items()}
    assert captions(7, 0, values) == captions(7, 0, values)
    assert captions(7, 0, values) != captions(7, 1, values)
    assert captions(7, 0, values) != captions(8, 0, values)
