"""How the retraining of a model ended, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flows.command import CommandFailed
from flows.dvc import StageFailed
from flows.retraining.look import Findings
from ganlib.inference.registry import GitFailed
from ganlib.problems import Failed, Refused


@dataclass(frozen=True)
class Ended:
    """How the retraining of a model ended.

    Attributes:
        model: its name.
        how: the outcome; `refused` by the gate.
        why: in words.
        code: exit code that this alone would give.
        waiting: data that was there and not whole, and why.
    """

    model: str
    how: Literal["promoted", "refused", "skipped", "failed"]
    why: str
    code: int = 0
    waiting: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "; ".join([f"{self.model}: {self.how}: {self.why}", *(f"waiting: {line}" for line in self.waiting)])


def skipped(model: str, found: Findings, before: str | None) -> Ended:
    """There is nothing to do, or it was done `before` and refused."""
    why = f"{before}; --force judges it again" if before and found.reasons else "nothing has changed"
    return Ended(model, "skipped", why, waiting=found.arrivals.waiting)


def failed(model: str, error: Refused | Failed | OSError) -> Ended:
    """A problem, with what to do about it."""
    if isinstance(error, StageFailed):
        said = [line for line in error.tail if not line.startswith("ERROR: failed to ")]
        ours = [line.removeprefix("ganlib: ") for line in said if line.startswith("ganlib: ")]
        reason = [line for line in (ours or said)[-1:] if not str(error).endswith(line)]
        why = "; ".join([str(error), *reason, "prod is as it was: see to it and run this again"])
        return Ended(model, "failed", why, 2 if error.code == 2 else 1)
    if isinstance(error, CommandFailed | GitFailed):
        return Ended(model, "failed", f"{error}; prod is as it was: see to it and run this again", 1)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return Ended(model, "failed", f"{where}{error.strerror or error}; prod is as it was: see to it, for a full "
                     "disk make room, and run this again", 1)  # fmt: skip
    return Ended(model, "failed", str(error).removeprefix(f"{model}: "), 2 if isinstance(error, Refused) else 1)
