"""What a person may ask of a generator, and the checks before the runtime sees any of it.

The runtime checks nothing: a class number of -1 wraps round and a latent that is not a number gives a grey image.
"""

from __future__ import annotations

import difflib
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from ganlib.card import ModelCard
from ganlib.inference.latents import LAST_SEED
from ganlib.problems import Refused
from ganlib.text.tokenizer import split

LONGEST_PROMPT = 2_000  # characters; a tokenizer reads some tens of words
_SHOWN = 12  # names of classes in one line


@dataclass(frozen=True)
class Towards:
    """The other end of an interpolation, and how far along it an image lies.

    Attributes:
        seed: of the first image there; None stays with the request's own latents.
        prompt: what a text model is to draw there; None stays with the request's own prompt.
        position: from 0, the request itself, to 1, the other end.
    """

    seed: int | None = None
    prompt: str | None = None
    position: float = 0.5


@dataclass(frozen=True)
class Request:
    """Some images of one condition.

    Attributes:
        prompt: what a text model is to draw.
        class_name: what a class model is to draw.
        seed: of the first image; image i has `seed + i`.
        count: how many images.
        truncation: share of the latent's mass that is drawn from, in (0, 1]; lower is more typical, less varied.
        towards: another point to go towards; image i goes towards the other end's `seed + i`.
    """

    prompt: str | None = None
    class_name: str | None = None
    seed: int = 0
    count: int = 1
    truncation: float = 1.0
    towards: Towards | None = None


def check(request: Request, card: ModelCard) -> None:
    """Refuse what a model cannot answer.

    Raises:
        Refused: one line with the field, what was found and what would do.
    """
    _check_condition(request, card)
    if not _whole(request.count) or request.count < 1:
        raise Refused(f"count: found {request.count!r}; expected a whole number from 1 on")
    _check_seed("seed", request.seed, request.count)
    if not _number(request.truncation) or not 0 < request.truncation <= 1:
        raise Refused(f"truncation: found {request.truncation!r}; expected a number above 0 and up to 1")
    if request.towards is not None:
        _check_towards(request.towards, request.count, card)


def _check_seed(field: str, seed: int, count: int) -> None:
    if not _whole(seed) or not 0 <= seed <= LAST_SEED - count + 1:
        raise Refused(
            f"{field}: found {seed!r}; expected a whole number from 0 to {LAST_SEED}, the last image's included"
        )


def _check_towards(towards: Towards, count: int, card: ModelCard) -> None:
    if towards.seed is None and towards.prompt is None:
        raise Refused("towards: found neither seed nor prompt; an interpolation needs another end")
    if towards.seed is not None:
        _check_seed("towards.seed", towards.seed, count)
    if towards.prompt is not None:
        if card.condition.kind != "text":
            raise Refused(f"towards.prompt: found {towards.prompt!r}; {card.name} reads no text, go towards a seed")
        _check_prompt("towards.prompt", towards.prompt)
    if not _number(towards.position) or not 0 <= towards.position <= 1:
        raise Refused(f"towards.position: found {towards.position!r}; expected a number from 0 to 1")


def _check_condition(request: Request, card: ModelCard) -> None:
    prompt, name, kind = request.prompt, request.class_name, card.condition.kind
    for field, value in (("prompt", prompt), ("class", name)):
        if value is not None and not isinstance(value, str):
            raise Refused(f"{field}: found {value!r}; expected text")
    if kind == "none" and (prompt is not None or name is not None):
        field, value = ("prompt", prompt) if prompt is not None else ("class", name)
        raise Refused(f"{field}: found {value!r}; {card.name} takes neither prompt nor class, leave it out")
    if kind == "class":
        if prompt is not None:
            raise Refused(f"prompt: found {prompt!r}; {card.name} takes a class: {nearest(prompt, card.classes)}")
        if name is None:
            raise Refused(f"class: missing; {card.name} takes one of {listed(card.classes)}")
        if name not in card.classes:
            raise Refused(f"class: found {name!r}; {card.name} knows {nearest(name, card.classes)}")
    if kind == "text":
        if name is not None:
            raise Refused(f"class: found {name!r}; {card.name} takes a prompt, say it in words")
        if prompt is None:
            raise Refused(f"prompt: missing; {card.name} takes a text that describes the image")
        _check_prompt("prompt", prompt)


def _check_prompt(field: str, prompt: str) -> None:
    if len(prompt) > LONGEST_PROMPT:
        raise Refused(f"{field}: found {len(prompt)} characters; expected at most {LONGEST_PROMPT}")
    for character in prompt:
        if unicodedata.category(character) in ("Cc", "Cs") and not character.isspace():
            raise Refused(f"{field}: found the character {character!r}, which is no text; leave it out")
    if not split(prompt):
        raise Refused(f"{field}: found {prompt!r}; expected at least one word")


def nearest(text: str, classes: Sequence[str]) -> str:
    """The class names that look most like `text`, or like a word of it, then how many there are; all where few."""
    by_lower = {name.lower(): name for name in reversed(classes)}
    near: list[str] = []
    for part in (text.lower(), *split(text)):
        near += [by_lower[match] for match in difflib.get_close_matches(part, by_lower, n=3)]
    if not near:
        return listed(classes)
    return f"{listed(classes)}; did you mean {' or '.join(dict.fromkeys(near[:3]))}?"


def listed(names: Sequence[str]) -> str:
    """Names with commas, at most a line of them."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
