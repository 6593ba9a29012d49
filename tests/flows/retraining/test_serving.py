"""A server that follows prod while clients load it: a retraining that promotes, one that refuses, a rollback."""

from __future__ import annotations

import base64
import contextlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows import retrain
from flows.registry import history
from ganlib.inference.images import png
from ganlib.inference.package import open_package
from ganlib.inference.request import Request
from ganlib.inference.sample import Generator, of_image
from tests.flows.retraining.project import ARTIFACT, MODEL, Retraining
from tests.packages import build_package
from tests.serving.conftest import SLOW

CLIENTS, SEEDS, CLASS = 3, 4, "poppy"
RUN = 0.03  # seconds that each run of a graph takes longer, so that some are under way whenever something changes
PATIENCE = 120.0  # seconds for what takes a few on an idle machine


@dataclass(frozen=True)
class Answer:
    """What a client got.

    Attributes:
        status, kind: of the response; kind is its content type.
        model: NAME@VERSION, which made the image; empty where there is none.
        seed: that was asked for.
        image: the file; where there is none, what came in its place.
    """

    status: int
    kind: str
    model: str
    seed: int
    image: bytes


class Clients:
    """Each asks for one image after the other, on a connection of its own, without a pause.

    Attributes:
        answers: of each client, in its order.
    """

    def __init__(self, address: str) -> None:
        self.answers: list[list[Answer]] = [[] for _ in range(CLIENTS)]
        self._address = address
        self._stop = threading.Event()

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """Let them ask until the block ends; what one could not send or receive is raised."""
        with ThreadPoolExecutor(CLIENTS) as pool:
            self._asked = [pool.submit(self._ask, answers) for answers in self.answers]
            try:
                yield
            finally:
                self._stop.set()
        for client in self._asked:
            client.result()

    def until_answered_by(self, version: int) -> None:
        """Wait until each client has, from now on, an answer of a version for each seed."""
        model, since = f"{MODEL}@{version}", [len(answers) for answers in self.answers]

        def new() -> list[Counter[str]]:
            for client in self._asked:
                if client.done():
                    client.result()  # raises
            later = (answers[first:] for answers, first in zip(self.answers, since, strict=True))
            return [Counter(answer.model or str(answer.status) for answer in answers) for answers in later]

        try:
            wait_for(lambda: all(count[model] >= SEEDS for count in new()))
        except TimeoutError as error:
            raise AssertionError(f"{model} was waited for; the answers were by {new()}") from error

    def _ask(self, answers: list[Answer]) -> None:
        with httpx.Client(base_url=self._address, timeout=PATIENCE) as client:
            for seed in itertools.cycle(range(SEEDS)):
                if self._stop.is_set():
                    return
                body = {"model": MODEL, "prompt": CLASS, "seed": seed}
                response = client.post("/v1/images/generations", json=body)
                model, image = "", response.content
                if response.status_code == 200:
                    content = response.json()
                    model, image = content["model"], base64.b64decode(content["data"][0]["b64_json"])
                answers.append(Answer(response.status_code, response.headers["Content-Type"], model, seed, image))


def wait_for(condition: Callable[[], Any]) -> Any:
    """What a condition gives once it gives something.

    Raises:
        TimeoutError: where it does not.
    """
    end = time.monotonic() + PATIENCE
    while not (given := condition()):
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.02)
    return given


@contextlib.contextmanager
def serving(folder: Path, *arguments: object) -> Iterator[str]:
    """The address of a `ganlib serve` that is ready; however the block ends, it and what it has started end too.

    Args:
        folder: for what it says.
        arguments: after `ganlib serve`.
    """
    lines, log = folder / "lines", folder / "log"
    start = [sys.executable, "-c", SLOW, str(RUN), "serve", "--port", "0", "--device", "cpu"]
    with (
        lines.open("w") as out, log.open("w") as error,
        subprocess.Popen([*start, *map(str, arguments)], stdout=out, stderr=error, start_new_session=True) as process,
    ):  # fmt: skip
        try:

            def said() -> re.Match[str] | None:
                assert process.poll() is None, log.read_text()
                return re.search("^listening on (.+)\n", lines.read_text(), re.MULTILINE)

            address = wait_for(said)[1]
            wait_for(lambda: httpx.get(f"{address}/v2/health/ready", timeout=PATIENCE).is_success)
            yield address
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def drawn(package: Path) -> list[bytes]:
    """The file of each seed, as `ganlib generate` writes it."""
    generator, files = Generator(open_package(package), "cpu", 1), []
    for seed in range(SEEDS):
        asked = Request(class_name=CLASS, seed=seed)
        files.append(png(generator.generate(asked).images[0], of_image(generator.facts(asked), 0)))
    return files


@pytest.mark.timeout(600, func_only=True)
def test_a_server_follows_prod_and_answers_every_request(
    project: Retraining, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    networks = {seed: build_package(tmp_path / str(seed), "class", name=MODEL, seed=seed) for seed in (1, 2)}
    shutil.rmtree(project.folder / "template")
    shutil.copytree(networks[2], project.folder / "template")  # what is trained from now on draws other images
    project.releasing.commit("another network")

    where = ["--registry", project.releasing.tree, "--cache", tmp_path / "cache", "--interval", 0.5]
    with serving(tmp_path, f"{ARTIFACT}@prod", *where) as address:
        clients = Clients(address)
        with clients.asking():
            clients.until_answered_by(1)

            project.deliver("monday", distance=8.0)
            assert retrain.main(["--project", str(project.folder)]) == 0
            assert "promoted: v2.0.0 is prod" in capsys.readouterr().out
            clients.until_answered_by(2)

            project.change(distance=12.0)
            assert retrain.main(["--project", str(project.folder)]) == 0
            assert "refused: frechet_distance: challenger 12" in capsys.readouterr().out
            assert project.prod() == "v2.0.0"
            look = f"{address}/v2/repository/models/{MODEL}/load"  # it answers when the server has looked
            assert httpx.post(look, timeout=PATIENCE).status_code == 200
            clients.until_answered_by(2)

            command = [sys.executable, "-m", "flows.registry", "--project", str(project.folder)]
            ended = subprocess.run([*command, "rollback", MODEL, "--push"], capture_output=True, text=True, check=False)
            assert ended.stdout == f"{MODEL} v1.0.0 holds prod again, on origin\n", ended.stderr
            assert project.prod() == "v1.0.0"
            clients.until_answered_by(1)
        entries = httpx.get(f"{address}/v1/models", timeout=PATIENCE).json()["data"]
        versions = httpx.get(f"{address}/v2/models/{MODEL}", timeout=PATIENCE).json()["versions"]

    files = {f"{MODEL}@{version}": drawn(package) for version, package in networks.items()}
    assert not set(files[f"{MODEL}@1"]) & set(files[f"{MODEL}@2"])
    for answers in clients.answers:
        assert Counter((answer.status, answer.kind) for answer in answers) == {(200, "application/json"): len(answers)}
        order = [model for model, _ in itertools.groupby(answer.model for answer in answers)]
        assert order == [f"{MODEL}@1", f"{MODEL}@2", f"{MODEL}@1"]
        wrong = [(answer.model, answer.seed) for answer in answers if answer.image != files[answer.model][answer.seed]]
        assert wrong == []
    assert [(entry["id"], entry["version"], entry["current"]) for entry in entries] == [
        (MODEL, "1", True), (f"{MODEL}@1", "1", True), (f"{MODEL}@2", "2", False)
    ]  # fmt: skip
    assert versions == ["1", "2"]  # the current one first, though there is a newer one
    assert [(event.what, event.version) for event in history(project.folder, MODEL) if event.stage == "prod"] == [
        ("rolled back", "v1.0.0"), ("assigned", "v2.0.0"), ("assigned", "v1.0.0")
    ]  # fmt: skip
