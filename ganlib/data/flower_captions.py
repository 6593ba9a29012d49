"""Captions of drawn flowers: a small grammar of English with synonyms, orders and omissions.

Every caption comes with the attributes that it states, so that agreement of a picture with a caption is measured on
what the caption asked for and on nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TypeVar

CAPTIONS_PER_IMAGE = 5
_OMITTED = 0.31  # of each attribute but the petals' colour, in the four captions that need not state everything

T = TypeVar("T")
_Words = Mapping[str, str]
_FLOWER = ("flower", "flower", "blossom", "bloom")
_CENTRE = ("centre", "centre", "center", "middle")
_PETAL_COLOUR = {
    "red": ("red", "red", "scarlet", "crimson"),
    "orange": ("orange", "orange", "tangerine"),
    "yellow": ("yellow", "yellow", "lemon yellow"),
    "pink": ("pink", "pink", "rosy pink"),
    "purple": ("purple", "purple", "violet"),
    "blue": ("blue", "blue", "deep blue"),
    "turquoise": ("turquoise", "turquoise", "teal"),
    "white": ("white", "white", "snow white"),
}
_PETAL_SHAPE = {
    "round": ("round", "round", "rounded"),
    "pointed": ("pointed", "pointed", "spiky", "sharp"),
    "heart-shaped": ("heart-shaped", "heart-shaped", "notched"),
}
_PETAL_COUNT = {
    "four": ("four", "four", "4"),
    "five": ("five", "five", "5"),
    "six": ("six", "six", "6", "half a dozen"),
    "eight": ("eight", "eight", "8"),
}
_CENTRE_COLOUR = {
    "yellow": ("yellow", "yellow", "golden"),
    "brown": ("brown", "brown", "dark brown"),
    "white": ("white", "white", "pale white"),
    "green": ("green", "green", "leaf green"),
}
_SIZE = {
    "small": ("small", "small", "little", "tiny"),
    "medium": ("medium-sized", "medium-sized", "medium", "mid-sized"),
    "large": ("large", "large", "big"),
}
_BACKGROUND = {
    "sky": ("against the sky", "against a blue sky", "on a sky blue background"),
    "grass": ("on grass", "in the green grass", "against a grass-green background"),
    "night": ("at night", "in the dark of night", "on a dark background"),
    "sand": ("on sand", "on the beige sand", "against a sandy background"),
    "lavender": ("on lavender", "on a lavender background", "against a lavender background"),
}
_SYNONYMS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "petal_colour": _PETAL_COLOUR,
    "petal_shape": _PETAL_SHAPE,
    "petal_count": _PETAL_COUNT,
    "centre_colour": _CENTRE_COLOUR,
    "size": _SIZE,
    "background": _BACKGROUND,
}


def captions(index: int, seed: int, values: _Words) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Five different captions of a flower.

    Args:
        index: the flower's.
        seed: of the choice of words.
        values: the value of each attribute, by the names of `ganlib.data.flowers.ATTRIBUTES`.

    Returns:
        The captions, and for each of them the names of the attributes that it states. The petals' colour is always
        stated; one caption states everything.
    """
    rng = random.Random(f"{seed}/{index}")
    complete = int(rng.random() * CAPTIONS_PER_IMAGE)
    texts: list[str] = []
    mentions: list[tuple[str, ...]] = []
    while len(texts) < CAPTIONS_PER_IMAGE:
        stated = tuple(
            name for name in values if name == "petal_colour" or len(texts) == complete or rng.random() >= _OMITTED
        )
        text = _caption(rng, {name: _one(rng, _SYNONYMS[name][values[name]]) for name in stated})
        if text.lower().rstrip(".") not in {known.lower().rstrip(".") for known in texts}:
            texts.append(text)
            mentions.append(stated)
    return tuple(texts), tuple(mentions)


def _caption(rng: random.Random, said: _Words) -> str:
    """One caption of the phrases in `said`."""
    text = _one(rng, (_flower_first, _flower_first, _petals_first, _statement, _background_first))(rng, said)
    manner = rng.random()
    if manner < 0.4:
        return text
    return text[0].upper() + text[1:] + ("." if manner < 0.85 else "")


def _flower_first(rng: random.Random, said: _Words) -> str:
    """a small red flower with five pointed petals and a yellow centre, on grass"""
    return _with_background(rng, _flower_with(rng, said), said)


def _petals_first(rng: random.Random, said: _Words) -> str:
    """five pointed red petals around a yellow centre, a small flower on grass"""
    text = _petals(said, colour=True)
    if "centre_colour" in said:
        text += f" {_one(rng, ('around', 'around', 'and'))} {_centre(rng, said)}"
    if "size" in said:
        text += f"{_one(rng, (' of', ','))} {_article(said['size'])} {_one(rng, _FLOWER)}"
    return _with_background(rng, text, said)


def _statement(rng: random.Random, said: _Words) -> str:
    """this small flower has five pointed petals in red and a yellow centre, on grass"""
    subject = " ".join([_one(rng, ("this", "the")), *_present(said, "size"), _one(rng, _FLOWER)])
    has = " and ".join([_petals(said, colour=True), *([_centre(rng, said)] if "centre_colour" in said else [])])
    return _with_background(rng, f"{subject} has {has}", said)


def _background_first(rng: random.Random, said: _Words) -> str:
    """on grass, a small red flower with five pointed petals and a yellow centre"""
    flower = _flower_with(rng, said)
    return f"{said['background']}{_one(rng, (', ', ' '))}{flower}" if "background" in said else flower


def _flower_with(rng: random.Random, said: _Words) -> str:
    head = _article(" ".join([*_present(said, "size", "petal_colour"), _one(rng, _FLOWER)]))
    parts = [_petals(said, colour=False)] if "petal_shape" in said or "petal_count" in said else []
    if "centre_colour" in said:
        parts.append(_centre(rng, said))
    if len(parts) == 2 and rng.random() < 0.3:
        parts.reverse()
    return f"{head} {_one(rng, ('with', 'with', 'that has'))} {' and '.join(parts)}" if parts else head


def _petals(said: _Words, colour: bool) -> str:
    names = ("petal_count", "petal_shape", *(("petal_colour",) if colour else ()))
    return " ".join([*_present(said, *names), "petals"])


def _centre(rng: random.Random, said: _Words) -> str:
    return _article(f"{said['centre_colour']} {_one(rng, _CENTRE)}")


def _with_background(rng: random.Random, text: str, said: _Words) -> str:
    return f"{text}{_one(rng, (' ', ', '))}{said['background']}" if "background" in said else text


def _present(said: _Words, *names: str) -> list[str]:
    return [said[name] for name in names if name in said]


def _article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _one(rng: random.Random, options: Sequence[T]) -> T:
    return options[int(rng.random() * len(options))]  # the same in every version of Python, which choice() is not
