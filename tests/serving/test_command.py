"""`ganlib serve`: options, a start that answers before its models are there, and one line for what is wrong."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from ganlib.problems import Refused
from ganlib.serving.command import listen, read_token, serve
from ganlib.serving.logs import LOGGER, Aside, log_to_stderr
from tests.packages import build_package
from tests.serving.conftest import ServeProcess
from tests.serving.test_models import break_bytes


def refuse(*packages: Path, repository: Path | None = None, **options: Any) -> str:
    """The line of options that cannot be."""
    with pytest.raises(Refused) as refused:
        serve(list(packages), repository, print, **({"device": "cpu", "port": 0} | options))
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("option", "value", "line"),
    [
        ("keep", 0, "keep: found 0; expected 1 or more"),
        ("interval", 0.0, "interval: found 0; expected seconds, above 0"),
        ("port", -1, "port: found -1; expected 0 or more"),
        ("port", 65536, "port: found 65536; expected 0 to 65535"),
        ("threads", -1, "threads: found -1; expected 0 or more"),
        ("workers", 0, "workers: found 0; expected 1 or more"),
        ("queue", 0, "queue: found 0; expected 1 or more"),
        ("queue", 9, "largest-count: found 10, and the queue holds 9; lower one or raise the other"),
        ("timeout", float("nan"), "timeout: found nan; expected seconds, above 0"),
        ("timeout", float("inf"), "timeout: found inf; expected seconds, above 0"),
        ("grace", -1.0, "grace: found -1; expected seconds, above 0"),
        ("largest_body", 0, "largest-body: found 0; expected 1 or more"),
        ("largest_count", 0, "largest-count: found 0; expected 1 or more"),
        ("device", "tpu", "device: found 'tpu'; expected auto, cpu"),
        ("host", "no.such.host.invalid", "port: cannot listen on no.such.host.invalid:0"),
        ("host", "192.0.2.1", "port: cannot listen on 192.0.2.1:0"),
        ("token_file", Path("nowhere"), "token-file: nowhere: No such file or directory"),
    ],
)
def test_options_that_cannot_be_are_one_line(packages: dict[str, Path], option: str, value: object, line: str) -> None:
    assert refuse(packages["none"], **{option: value}).startswith(line)


def test_packages_or_a_repository_are_needed_and_not_both(packages: dict[str, Path], tmp_path: Path) -> None:
    line = "found neither packages nor a repository, or both; `ganlib serve PACKAGE...` or --repository FOLDER"
    assert refuse() == refuse(packages["none"], repository=tmp_path) == line
    assert "which is no folder" in refuse(repository=tmp_path / "nowhere")
    assert refuse(tmp_path / "nowhere").endswith("no such folder; a package is what `ganlib export NAME` writes")


def test_a_port_that_is_taken_is_one_line(packages: dict[str, Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        line = f"port: cannot listen on 127.0.0.1:{port}: Address already in use; take another --port or --host"
        assert refuse(packages["none"], port=port) == line


def test_it_listens_on_the_sixth_version_too() -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    with contextlib.closing(listen("::1", 0)) as bound:
        assert bound.family == socket.AF_INET6


@pytest.mark.parametrize("content", ["", "\n", "two words", "two\nlines", "\x07bell"])
def test_a_token_is_one_line_without_blanks(tmp_path: Path, content: str) -> None:
    path = tmp_path / "token"
    path.write_text(content)
    with pytest.raises(Refused, match=r"token-file: .*token: expected one line with a token, without blanks"):
        read_token(path)
    path.write_text("  s3cret\n")
    assert read_token(path) == "s3cret"
    path.write_bytes(b"gr\xc3\xbcn")
    with pytest.raises(Refused, match=r"token-file: .*token: found more than ASCII"):
        read_token(path)


def test_the_folder_for_triton_is_written_in_place_of_serving(packages: dict[str, Path], tmp_path: Path) -> None:
    lines: list[str] = []
    serve([packages["none"], packages["class"]], None, lines.append, triton_repository=tmp_path / "triton")
    assert len(lines) == 2
    for name in ("tiny-none", "tiny-class"):
        assert (tmp_path / "triton" / name / "config.pbtxt").is_file()
    line = "triton-repository: is written from packages; name them, and no repository"
    assert refuse(repository=tmp_path, triton_repository=tmp_path / "other") == line
    assert refuse(triton_repository=tmp_path / "other") == line


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """`ganlib serve`, that ends by itself."""
    command = [sys.executable, "-m", "ganlib", "serve", "--port", "0", "--device", "cpu", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_named_package_that_is_broken_ends_the_start_by_one_line(tmp_path: Path, packages: dict[str, Path]) -> None:
    broken = build_package(tmp_path / "broken", "none", name="broken")
    break_bytes(broken / "generator.onnx")
    ended = run(packages["none"], broken)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"ganlib: {broken}/generator.onnx: found sha256 ")
    cut = build_package(tmp_path / "cut", "none")
    (cut / "generator.onnx").unlink()
    ended = run(cut)
    assert (ended.returncode, ended.stdout) == (2, "")  # before it listens
    assert ended.stderr.startswith(f"ganlib: {cut}/generator.onnx: no such file")


def test_a_start_answers_before_the_models_are_there(
    serve: Callable[..., ServeProcess], packages: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    server = serve(packages["none"], packages["text"], "--token-file", tmp_path / "token", "--largest-count", 2)
    assert httpx.get(f"{server.address}/v2/health/live").status_code == 200
    assert httpx.get(f"{server.address}/").status_code == 200
    server.wait_until_ready()
    said = [line.partition(", after")[0] for line in server.lines]
    assert sorted(said) == [
        f"listening on {server.address}",
        "running on cpu",
        "tiny-none@1: ready, float32",
        "tiny-text@1: ready, float32",
    ]
    assert httpx.get(f"{server.address}/v1/models").status_code == 401
    headers = {"Authorization": "Bearer s3cret"}
    assert len(httpx.get(f"{server.address}/v1/models", headers=headers).json()["data"]) == 4
    asked = {"model": "tiny-none", "prompt": "", "n": 3}
    answer = httpx.post(f"{server.address}/v1/images/generations", json=asked, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "n"


def test_serving_needs_no_torch_and_no_pandas(packages: dict[str, Path]) -> None:
    code = """\
import asyncio, sys
from pathlib import Path
from ganlib.serving import command
from ganlib.serving.app import Settings, create_app
from ganlib.serving.models import Models
from ganlib.serving.runtime import Runtime
from ganlib.serving.sources import Packages

models = Models([Packages([Path(sys.argv[1])])], Runtime("cpu"))
create_app(models, Settings()).openapi()

async def load():
    task = asyncio.create_task(models.start())
    while not models.ready:
        await asyncio.sleep(0.01)
    await models.close()
    await task

asyncio.run(load())
heavy = {"torch", "pandas", "pyarrow", "onnx", "matplotlib", "scipy", "tensorboard", "prefect", "dvc", "tritonclient"}
print(sorted(heavy & set(sys.modules)))
"""
    said = subprocess.run(
        [sys.executable, "-c", code, str(packages["text"])], capture_output=True, text=True, check=True, timeout=60
    )
    assert (said.stdout, said.stderr) == ("[]\n", "")


def test_lines_of_the_log_are_json_and_so_are_uvicorns(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    loggers = [LOGGER, logging.getLogger("uvicorn")]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    try:
        handler = log_to_stderr()
        LOGGER.info("request", extra={"facts": {"path": "/ä\n"}})
        logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
        logging.getLogger("uvicorn.error").info("Started server process")
        handler.flush()
    finally:
        for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
            logger.handlers[:], logger.propagate = handlers, propagate
            logger.setLevel(level)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["level"], line["message"]) for line in lines] == [
        ("info", "request"),
        ("warning", "Invalid HTTP request received."),
    ]
    assert lines[0]["path"] == "/ä\n"


class Stuck(io.StringIO):
    """A stream that takes nothing until it is let: a pipe that nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.writing, self.may_go_on = threading.Event(), threading.Event()

    def write(self, text: str) -> int:
        self.writing.set()
        assert self.may_go_on.wait(20)
        return super().write(text)


def test_a_log_that_nobody_reads_holds_nobody_up_and_says_what_it_has_lost() -> None:
    stream = Stuck()
    handler = Aside(stream, most=3)
    handler.emit(logging.makeLogRecord({"msg": "first"}))
    assert stream.writing.wait(20)
    for number in range(5):
        handler.emit(logging.makeLogRecord({"msg": f"then {number}"}))
    stream.may_go_on.set()
    handler.flush()
    assert stream.getvalue().splitlines() == [
        "first",
        *(f"then {number}" for number in range(3)),
        '{"level": "warning", "message": "2 lines of the log were dropped"}',
    ]
    stream.close()
    handler.emit(logging.makeLogRecord({"msg": "into the void"}))
    handler.flush()


def test_a_flush_does_not_wait_for_a_stream_that_takes_nothing() -> None:
    stream = Stuck()
    handler = Aside(stream)
    handler.emit(logging.makeLogRecord({"msg": "first"}))
    started = time.monotonic()
    handler.flush()
    assert time.monotonic() - started < 10
    stream.may_go_on.set()
    handler.flush()
