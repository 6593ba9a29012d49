"""What the tests of batch jobs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ganlib.files import sha256_of
from ganlib.inference.batch.command import batch
from ganlib.inference.batch.job import Job


@pytest.fixture
def run() -> Callable[..., Job]:
    """Does a job on the CPU; `lines` takes what it says."""

    def do(package: Path, requests: Path, out: Path, lines: list[str] | None = None, **changes: Any) -> Job:
        report = (lines if lines is not None else []).append
        return batch(package, requests, out, report, **({"device": "cpu", "threads": 1} | changes))

    return do


@pytest.fixture(scope="session")
def hashes() -> Callable[[Path], dict[str, str]]:
    """The sha256 of each tar and manifest of a job's folder."""
    return lambda folder: {path.name: sha256_of(path) for path in folder.glob("[0-9]*") if path.suffix != ".json"}
