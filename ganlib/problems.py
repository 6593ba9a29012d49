"""The two kinds of error that a person sees as one line, and validation errors put into that form.

The line names the file or key, what was found and what would do. Anything else that escapes is a defect and keeps its
traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from pydantic import ValidationError


class Refused(ValueError):
    """The request, the configuration or the input was wrong: exit code 2."""


class Failed(RuntimeError):
    """The work was asked for rightly and failed: exit code 1."""


def first_problem(error: ValueError, known: Iterable[str] = ()) -> str:
    """The first problem of a pydantic error (or any error's text), as `key: found ..., what would do`.

    `known` are the keys that may stand where an unknown one was found: the nearest of them is suggested.
    """
    if not isinstance(error, ValidationError):
        return str(error)
    problem = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = tuple(known)
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        would_do = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}" if known else "remove it"
        return f"{key}: unknown key; {would_do}"
    if problem["type"] == "missing":
        return f"{key}: missing, and it has no default"
    what = problem["msg"].removeprefix("Value error, ")
    what = what[0].lower() + what[1:]
    return (
        f"{key}: found {problem['input']!r}; {what}"
        if key and problem["type"] != "value_error"
        else f"{key}: {what}".lstrip(": ")
    )
