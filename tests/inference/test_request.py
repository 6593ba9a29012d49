"""Bad requests, each with its one line."""

from __future__ import annotations

from typing import Any

import pytest

from ganlib.card import Condition, Latent, ModelCard
from ganlib.inference.latents import LAST_SEED
from ganlib.inference.request import LONGEST_PROMPT, Request, Towards, check
from ganlib.problems import Refused

CLASSES = ("daisy", "poppy", "rose", "Sunflower")


def card(kind: str, classes: tuple[str, ...] = CLASSES) -> ModelCard:
    return ModelCard(
        name="flowers",
        family="tiny",
        latent=Latent(size=4, distribution="normal"),
        condition=Condition(kind=kind, size={"none": 0, "class": len(classes), "text": 8}[kind]),
        size=8,
        channels=3,
        classes=classes if kind == "class" else (),
        steps=1,
        images_seen=1,
        parameters={},
        data={},
    )


@pytest.mark.parametrize(
    ("kind", "request_", "line"),
    [
        ("none", {"prompt": "a rose"}, "prompt: found 'a rose'; flowers takes neither prompt nor class, leave it out"),
        ("none", {"class_name": "rose"}, "class: found 'rose'; flowers takes neither prompt nor class, leave it out"),
        ("class", {}, "class: missing; flowers takes one of daisy, poppy, rose, Sunflower"),
        (
            "class",
            {"prompt": "a red roze"},
            "prompt: found 'a red roze'; flowers takes a class: daisy, poppy, rose, Sunflower; did you mean rose?",
        ),
        (
            "class",
            {"class_name": "SUNFLOWER"},
            "class: found 'SUNFLOWER'; flowers knows daisy, poppy, rose, Sunflower; did you mean Sunflower?",
        ),
        ("class", {"class_name": "zzz"}, "class: found 'zzz'; flowers knows daisy, poppy, rose, Sunflower"),
        ("class", {"class_name": 1}, "class: found 1; expected text"),
        ("class", {"class_name": "rose", "prompt": "a rose"}, "prompt: found 'a rose'; flowers takes a class"),
        ("text", {}, "prompt: missing; flowers takes a text that describes the image"),
        ("text", {"class_name": "rose"}, "class: found 'rose'; flowers takes a prompt, say it in words"),
        ("text", {"prompt": "a rose", "class_name": "rose"}, "class: found 'rose'; flowers takes a prompt"),
        ("text", {"prompt": ""}, "prompt: found ''; expected at least one word"),
        ("text", {"prompt": " ...!\n"}, "prompt: found ' ...!\\n'; expected at least one word"),
        ("text", {"prompt": b"rose"}, "prompt: found b'rose'; expected text"),
        ("text", {"prompt": "a " * 1_001}, "prompt: found 2002 characters; expected at most 2000"),
        ("text", {"prompt": "a\x00rose"}, "prompt: found the character '\\x00', which is no text; leave it out"),
        ("text", {"prompt": "a \x1b[31mrose"}, "prompt: found the character '\\x1b', which is no text"),
        ("text", {"prompt": "rose \x7f"}, "prompt: found the character '\\x7f', which is no text"),
        ("text", {"prompt": "rose \ud800"}, "prompt: found the character '\\ud800', which is no text"),
        ("none", {"count": 0}, "count: found 0; expected a whole number from 1 on"),
        ("none", {"count": 1.5}, "count: found 1.5; expected a whole number from 1 on"),
        ("none", {"count": True}, "count: found True; expected a whole number from 1 on"),
        ("none", {"seed": -1}, "seed: found -1; expected a whole number from 0 to 9223372036854775807"),
        ("none", {"seed": 2**63}, "seed: found 9223372036854775808; expected"),
        ("none", {"seed": LAST_SEED, "count": 2}, "seed: found 9223372036854775807; expected"),
        ("none", {"seed": "7"}, "seed: found '7'; expected"),
        ("none", {"truncation": 0.0}, "truncation: found 0.0; expected a number above 0 and up to 1"),
        ("none", {"truncation": 1.001}, "truncation: found 1.001; expected"),
        ("none", {"truncation": float("nan")}, "truncation: found nan; expected"),
        ("none", {"truncation": "1"}, "truncation: found '1'; expected"),
        ("none", {"truncation": float("inf")}, "truncation: found inf; expected"),
        ("none", {"truncation": True}, "truncation: found True; expected"),
        ("none", {"towards": Towards()}, "towards: found neither seed nor prompt; an interpolation needs another end"),
        ("none", {"towards": Towards(-1)}, "towards.seed: found -1; expected a whole number from 0 to 922337203685"),
        ("none", {"towards": Towards(1.0)}, "towards.seed: found 1.0; expected"),  # type: ignore[arg-type]
        ("none", {"towards": Towards(LAST_SEED), "count": 2}, "towards.seed: found 9223372036854775807; expected"),
        ("none", {"towards": Towards(1, position=-0.1)}, "towards.position: found -0.1; expected a number from 0 to 1"),
        ("none", {"towards": Towards(1, position=1.01)}, "towards.position: found 1.01; expected"),
        ("none", {"towards": Towards(1, position=float("nan"))}, "towards.position: found nan; expected"),
        ("none", {"towards": Towards(1, position=True)}, "towards.position: found True; expected"),
        (
            "none",
            {"towards": Towards(1, "a rose")},
            "towards.prompt: found 'a rose'; flowers reads no text, go towards",
        ),
        (
            "class",
            {"class_name": "rose", "towards": Towards(prompt="a rose")},
            "towards.prompt: found 'a rose'; flowers reads no text, go towards a seed",
        ),
        (
            "text",
            {"prompt": "a rose", "towards": Towards(prompt="...")},
            "towards.prompt: found '...'; expected at least one word",
        ),
        (
            "text",
            {"prompt": "a rose", "towards": Towards(prompt="a\x07")},
            "towards.prompt: found the character '\\x07', which is no text; leave it out",
        ),
    ],
)
def test_one_line_says_what_was_found_and_what_would_do(kind: str, request_: dict[str, Any], line: str) -> None:
    with pytest.raises(Refused) as refused:
        check(Request(**request_), card(kind))
    assert str(refused.value).startswith(line)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "request_"),
    [
        ("none", {"seed": LAST_SEED}),
        ("none", {"seed": LAST_SEED - 9, "count": 10, "truncation": 1}),
        ("class", {"class_name": "rose", "truncation": 1e-9}),
        ("text", {"prompt": "zorp"}),
        ("text", {"prompt": "a" * LONGEST_PROMPT}),
        ("text", {"prompt": "fleur née\n\tà l'été \u200d 赤い"}),
        ("none", {"towards": Towards(LAST_SEED)}),
        ("none", {"towards": Towards(LAST_SEED - 4, position=0), "count": 5}),
        ("class", {"class_name": "rose", "towards": Towards(3, position=1.0)}),
        ("text", {"prompt": "a rose", "towards": Towards(prompt="a poppy", position=0.5)}),
        ("text", {"prompt": "a rose", "towards": Towards(3, "a poppy", 0.25), "count": 3}),
    ],
)
def test_what_can_be_answered_passes(kind: str, request_: dict[str, Any]) -> None:
    check(Request(**request_), card(kind))


def test_many_classes_stay_one_line() -> None:
    with pytest.raises(Refused, match=r"kind 0, .*kind 11 and 88 more; did you mean kind 42") as refused:
        check(Request(class_name="Kind-42"), card("class", tuple(f"kind {i}" for i in range(100))))
    assert len(str(refused.value)) < 300
