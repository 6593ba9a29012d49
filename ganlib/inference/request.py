"""What a person may ask of a generator, and the checks before the runtime sees any of it.

The runtime checks nothing: a class number of -1 wraps round and a latent that is not a number gives a grey image.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from ganlib.card import ModelCard
from ganlib.inference.latents import LAST_SEED
from ganlib.problems import Refused
from ganlib.text.tokenizer import split

_SHOWN = 12  # names of classes in one line


@dataclass(frozen=True)
class Request:
    """Some images of one condition.

    Attributes:
        prompt: what a text model is to draw.
        class_name: what a class model is to draw.
        seed: of the first image; image i has `seed + i`.
        count: how many images.
        truncation: share of the latent's mass that is drawn from, in (0, 1]; lower is more typical, less varied.
    """

    prompt: str | None = None
    class_name: str | None = None
    seed: int = 0
    count: int = 1
    truncation: float = 1.0


def check(request: Request, card: ModelCard) -> None:
    """Refuse what a model cannot answer.

    Raises:
        Refused: one line with the field, what was found and what would do.
    """
    _check_condition(request, card)
    if not _whole(request.count) or request.count < 1:
        raise Refused(f"count: found {request.count!r}; expected a whole number from 1 on")
    if not _whole(request.seed) or not 0 <= request.seed <= LAST_SEED - request.count + 1:
        raise Refused(
            f"seed: found {request.seed!r}; expected a whole number from 0 to {LAST_SEED}, the last image's included"
        )
    number = isinstance(request.truncation, int | float) and not isinstance(request.truncation, bool)
    if not number or not math.isfinite(request.truncation) or not 0 < request.truncation <= 1:
        raise Refused(f"truncation: found {request.truncation!r}; expected a number above 0 and up to 1")


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
        if not split(prompt):
            raise Refused(f"prompt: found {prompt!r}; expected at least one word")


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


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
