"""Numbers from the cells of a table, without a digit lost."""

from __future__ import annotations

import math
from typing import Any

EXACT = 2**53
"""Up to here a float64 holds every whole number."""


def whole(value: Any) -> Any:
    """A whole number from a cell, never through a float that may have lost digits; anything else as it is.

    pandas writes whole numbers of a column with gaps as `7.0`. Below 2^53 that is exact, and read.
    """
    if isinstance(value, str):
        text = value.strip()
        digits, point, zeros = text.partition(".")
        if not _is_digits(digits.removeprefix("-")) or (point and not set(zeros) <= {"0"}):
            return value
        number = int(digits)
        return number if not point or abs(number) < EXACT else value
    if isinstance(value, float) and value.is_integer() and abs(value) < EXACT:
        return int(value)
    return value


def real(value: Any) -> Any:
    """A number from a cell; anything else as it is."""
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return value
        return number if "_" not in value and math.isfinite(number) else value
    return value


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 20
