from __future__ import annotations

import json
from pathlib import Path

import pytest

from ganlib.files import sha256_of
from ganlib.inference.batch import command
from tests.packages import build_package


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "requests.jsonl"
    path.write_text("".join(json.dumps({"class": "rose", "count": 3}) + "\n" for _ in range(10)))
    return path


def hashes(out: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in out.glob("*.tar")}


def test_the_flow_makes_what_the_command_makes(server: str, tmp_path: Path, table: Path) -> None:
    from flows.batch_job import batch_job

    package = build_package(tmp_path / "package", "class")
    command.batch(package, table, tmp_path / "alone", str, shard_size=8, device="cpu", threads=1)
    out = tmp_path / "out"
    state = batch_job(str(package), table, out, shard_size=8, device="cpu", return_state=True)
    assert (state.is_completed(), state.message) == (True, f"30 images lie in {out}")
    assert hashes(out) == hashes(tmp_path / "alone")
    assert len(hashes(out)) == 4


def test_what_cannot_be_done_is_the_message_of_the_state(server: str, tmp_path: Path, table: Path) -> None:
    from flows.batch_job import batch_job

    package = build_package(tmp_path / "package", "class")
    state = batch_job(str(package), tmp_path / "none.csv", tmp_path / "out", device="cpu", return_state=True)
    assert state.is_failed()
    assert str(state.message).endswith("none.csv: no such file")
    state = batch_job("flowers@prod", table, tmp_path / "out", return_state=True)
    line = "flowers@prod: no such folder; for a release say whose with --registry REPOSITORY"
    assert (state.is_failed(), state.message) == (True, line)
