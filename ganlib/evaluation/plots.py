"""Tables for `dvc plots`: the curves of training, and what was asked for against what is seen."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ganlib.files import whole_file
from ganlib.problems import Refused

_JUDGEMENTS = ("p_real", "p_wrong", "p_fake")


def write_curves(history: Path, folder: Path) -> None:
    """history.jsonl to a table of `step` and value for every loss and for what the discriminator gives real, wrong and
    fake pairs.

    Args:
        history: JSON lines, each a flat mapping with `step`; other columns than the named ones are left out.
        folder: takes a table for each, by its name.

    Raises:
        Refused: where the file is missing or a line is not such a mapping.
    """
    if not history.is_file():
        raise Refused(f"{history}: no such file; train the model first")
    lines = []
    for number, text in enumerate(history.read_text().splitlines(), start=1):
        try:
            line = json.loads(text)
        except json.JSONDecodeError as error:
            raise Refused(f"{history}: line {number} is not JSON: {error.msg}") from error
        if not isinstance(line, dict) or "step" not in line:
            raise Refused(f"{history}: line {number} has no `step`")
        lines.append(line)
    known = dict.fromkeys(key for line in lines for key in line)
    for key in (key for key in known if "loss" in key or key in _JUDGEMENTS):
        _write(folder / f"{key}.csv", ["step", key], [line for line in lines if key in line])


def write_agreement(out: Path, values: Sequence[str], asked: np.ndarray, judged: np.ndarray) -> None:
    """A row for each generated image: what was `asked` for and what the extractor has `judged` it to be.

    Args:
        out: the table.
        values: names of the classes or of an attribute's values.
        asked, judged: indices into them, `(n,)`.
    """
    rows = ({"asked": values[a], "judged": values[j]} for a, j in zip(asked, judged, strict=True))
    _write(out, ["asked", "judged"], rows)


def _write(out: Path, header: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    with whole_file(out) as temporary, temporary.open("w", newline="") as file:
        table = csv.DictWriter(file, header, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
