from __future__ import annotations

import subprocess
import sys
import urllib.request

import pytest

from flows.launcher import launch

PROGRAM = """
import time
from flows.server import server
with server() as address:
    print(address, flush=True)
    time.sleep(60)
"""


def answers(address: str) -> bool:
    try:
        return urllib.request.urlopen(f"{address}/health", timeout=5.0).status == 200
    except OSError:
        return False


def test_a_server_of_our_own_ends_when_its_flow_is_killed(tmp_path, monkeypatch, eventually) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert answers(address)
        finally:
            process.kill()
    assert eventually(lambda: not answers(address))


def test_a_configured_server_that_is_down_is_one_line() -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.server import server as taken
    from ganlib.problems import Failed

    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        pytest.raises(
            Failed, match=r"PREFECT_API_URL: http://127\.0\.0\.1:9/api does not answer: .*; start that server"
        ),
        taken(),
    ):
        pass


def test_a_configured_server_is_taken(server: str) -> None:
    from flows.server import server as running

    with running() as address:
        assert address == server


def test_a_server_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    import flows.server
    from ganlib.problems import Failed

    def instead(command, **how):
        return launch([sys.executable, "-c", "raise SystemExit('the database is of a newer version')"], **how)

    monkeypatch.setattr(flows.server, "launch", instead)
    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(Failed, match="Prefect's server did not start: the database is of a newer version"),
        flows.server.server(),
    ):
        pass
