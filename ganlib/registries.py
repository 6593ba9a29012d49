"""What `ganlib list` shows: every name that params.yaml may use, with what it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Entries = dict[str, dict[str, Any]]


def describe(what: str) -> Entries:
    """The entries of one registry by name, each with a `description` and more for programs."""
    return REGISTRIES[what]()


def _families() -> Entries:
    from ganlib.families.registry import FAMILIES, family

    return {name: _family(family(name)) for name in FAMILIES}


def _family(kind: Any) -> dict[str, Any]:
    import sys

    settings = {
        name: {"default": field.default, "description": field.description}
        for name, field in kind.Network.model_fields.items()
    }
    return {
        "description": (sys.modules[kind.__module__].__doc__ or "").partition("\n")[0].rstrip("."),
        "condition": kind.condition_kind(kind.Network()),
        "preset": dict(kind.preset),
        "network": settings,
    }


def _losses() -> Entries:
    from ganlib.losses.adversarial import LOSSES

    return {name: {"description": loss.source, "needs_real": loss.needs_real} for name, loss in LOSSES.items()}


def _penalties() -> Entries:
    from ganlib.losses.penalties import GENERATOR_PENALTIES, LOGIT_PENALTIES, PENALTIES, WEIGHT_PENALTIES

    entries: Entries = {}
    for on, penalties in (
        ("discriminator", PENALTIES | LOGIT_PENALTIES),
        ("generator", GENERATOR_PENALTIES),
        ("either", WEIGHT_PENALTIES),
    ):
        for name, penalty in penalties.items():
            entries[name] = {"description": f"{_first_line(penalty)} [{on}]", "on": on}
    return entries


def _augmentations() -> Entries:
    from ganlib.training.augment import AUGMENTATIONS

    return {name: {"description": _first_line(augmentation)} for name, augmentation in AUGMENTATIONS.items()}


def _first_line(of: Any) -> str:
    """The first sentence of a docstring, in one line."""
    return " ".join((of.__doc__ or "").partition("\n\n")[0].split()).rstrip(".")


def _datasets() -> Entries:
    from ganlib.data.prepare import SOURCES

    return {name: {"description": description} for name, description in SOURCES.items()}


def _encoders() -> Entries:
    from ganlib.text.embed import ENCODERS

    return {name: {"description": encoder.description} for name, encoder in ENCODERS.items()}


def _metrics() -> Entries:
    from ganlib.evaluation.registry import METRICS

    return {name: {"description": description} for name, description in METRICS.items()}


REGISTRIES: dict[str, Callable[[], Entries]] = {
    "families": _families,
    "losses": _losses,
    "penalties": _penalties,
    "augmentations": _augmentations,
    "datasets": _datasets,
    "encoders": _encoders,
    "metrics": _metrics,
}
