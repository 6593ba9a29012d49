"""A server process under load: bursts, reloads, signals, and memory."""

from __future__ import annotations

import base64
import http.client
import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ganlib.inference.images import png
from ganlib.inference.package import open_package
from ganlib.inference.request import Request
from ganlib.inference.sample import Generator, of_image
from tests.packages import build_package
from tests.serving.conftest import PATIENCE, ServeProcess

GENERATIONS = "/v1/images/generations"
Start = Callable[..., ServeProcess]


class Crowd:
    """Clients that ask one after the other, each on connections of its own, until they are told to stop or turned away.

    Attributes:
        answers: of each client in its order: status, the body, and how long it took.
        lost: what clients saw in place of an answer.
    """

    def __init__(self, address: str, clients: int, asked: dict[str, Any]) -> None:
        self.answers: list[tuple[int, dict[str, Any], float]] = []
        self.lost: list[tuple[float, Exception]] = []
        self._stop = threading.Event()
        self._address = address
        self._asked = asked
        self._pool = ThreadPoolExecutor(clients)
        self._clients = [self._pool.submit(self._client, client) for client in range(clients)]

    def count(self, status: int) -> int:
        return sum(answer[0] == status for answer in list(self.answers))

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, Counter(answer[0] for answer in self.answers)
            time.sleep(0.005)

    def end(self) -> None:
        """Tell the clients to stop, and wait for their last answers."""
        self._stop.set()
        for client in self._clients:
            client.result(PATIENCE)
        self._pool.shutdown()

    def _client(self, number: int) -> None:
        with httpx.Client(base_url=self._address, timeout=PATIENCE) as client:
            seed = 1000 * number
            while not self._stop.is_set():
                seed, started = seed + 1, time.monotonic()
                try:
                    answer = client.post(GENERATIONS, json={**self._asked, "seed": seed})
                except httpx.TransportError as error:
                    self.lost.append((time.monotonic(), error))
                    return
                self.answers.append((answer.status_code, answer.json(), time.monotonic() - started))
                if answer.status_code == 503:
                    return


def check_images(folder: Path, bodies: list[dict[str, Any]]) -> None:
    """Each answer has the bytes of `ganlib generate`."""
    generator = Generator(open_package(folder), "cpu", 1)
    for body in bodies:
        request = Request(seed=body["seed"], count=len(body["data"]))
        images, facts = generator.generate(request).images, generator.facts(request)
        for i, image in enumerate(body["data"]):
            assert base64.b64decode(image["b64_json"]) == png(images[i], of_image(facts, i))


def figure(client: httpx.Client, name: str) -> float:
    """A figure without labels, as Prometheus reads it."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return next(sample.value for family in families for sample in family.samples if sample.name == name)


def until_active(client: httpx.Client) -> None:
    """Wait until a request is being answered."""
    end = time.monotonic() + PATIENCE
    while not figure(client, "ganlib_active_requests"):
        assert time.monotonic() < end


def test_a_burst_over_the_queue_is_turned_away_in_part_and_answered_in_part(
    serve: Start, packages: dict[str, Path]
) -> None:
    server = serve(packages["none"], "--queue", 10, "--workers", 1, slow=0.4).wait_until_ready()
    gate = threading.Barrier(24)

    def client(number: int) -> tuple[httpx.Response, int]:
        with httpx.Client(base_url=server.address, timeout=PATIENCE) as client:
            client.get("/v2")
            gate.wait(PATIENCE)
            return client.post(GENERATIONS, json={"prompt": "", "n": 2, "seed": number}), number

    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(client, range(24)))
    counts = Counter(answer.status_code for answer, _ in answers)
    assert counts.keys() == {200, 429}
    assert counts[200] >= 6  # at least one is run, and five have room in the queue meanwhile
    for answer, _ in answers:
        if answer.status_code == 429:
            assert int(answer.headers["Retry-After"]) >= 1
            assert answer.json()["error"]["type"] == "rate_limit_error"
    check_images(packages["none"], [answer.json() for answer, _ in answers if answer.status_code == 200])
    assert [answer.json()["seed"] for answer, number in answers if answer.status_code == 200] == [
        number for answer, number in answers if answer.status_code == 200
    ]
    assert httpx.post(server.address + GENERATIONS, json={"prompt": ""}).status_code == 200  # there is room again


def test_a_request_past_its_deadline_is_told_so(serve: Start, packages: dict[str, Path]) -> None:
    server = serve(packages["none"], "--timeout", 0.3, "--workers", 1, slow=10.0).wait_until_ready()
    with ThreadPoolExecutor(2) as pool:
        started = time.monotonic()
        answers = list(pool.map(lambda seed: httpx.post(server.address + GENERATIONS, json={"prompt": ""}), range(2)))
    assert [answer.status_code for answer in answers] == [504, 504]
    assert time.monotonic() - started < 5  # and not when the run is over


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_load_loses_no_accepted_request(
    serve: Start, packages: dict[str, Path], number: signal.Signals
) -> None:
    server = serve(packages["none"], "--workers", 1, slow=0.05).wait_until_ready()
    crowd = Crowd(server.address, 12, {"prompt": ""})
    crowd.until(lambda: crowd.count(200) > 30)
    server.send(number)
    said = server.line(number.name)
    signalled = time.monotonic()
    assert server.end() == 0
    crowd.end()
    assert server.lines[-1] == "stopped"

    assert int(said.split()[1]) > 0, said  # work was under way
    # Whoever had been accepted has an answer: the server counts as many as its clients have.
    made = [record for record in server.records() if record["path"] == GENERATIONS]
    statuses = Counter(record["status"] for record in made)
    assert statuses.keys() <= {200, 503}
    assert statuses[200] == crowd.count(200)
    assert Counter(answer[0] for answer in crowd.answers).keys() <= {200, 503}
    check_images(packages["none"], [body for status, body, _ in crowd.answers if status == 200])
    # The others were turned away in words or found nobody listening, after the signal.
    assert crowd.count(503) > 0
    assert all(when >= signalled - 1 for when, _ in crowd.lost)


def test_readiness_goes_first(serve: Start, packages: dict[str, Path]) -> None:
    server = serve(packages["none"], slow=1.0).wait_until_ready()
    with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=server.address) as watcher:
        accepted = pool.submit(httpx.post, server.address + GENERATIONS, json={"prompt": ""}, timeout=PATIENCE)
        until_active(watcher)
        server.send(signal.SIGTERM)
        server.line("SIGTERM: 1 requests are being finished")
        ready, live = watcher.get("/v2/health/ready"), watcher.get("/v2/health/live")
        late = watcher.post(GENERATIONS, json={"prompt": ""})
        assert not accepted.done()
        assert (ready.status_code, live.status_code, late.status_code) == (503, 200, 503)
        assert late.headers["Retry-After"] == "1"
        assert late.headers["Connection"] == "close"
        assert accepted.result(PATIENCE).status_code == 200
    assert server.end() == 0


def test_a_second_signal_does_not_wait(serve: Start, packages: dict[str, Path]) -> None:
    server = serve(packages["none"], slow=PATIENCE).wait_until_ready()
    with ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(httpx.post, server.address + GENERATIONS, json={"prompt": ""}, timeout=PATIENCE)
        with httpx.Client(base_url=server.address) as watcher:
            until_active(watcher)
        server.send(signal.SIGTERM)
        server.line("SIGTERM: 1 requests")
        started = time.monotonic()
        server.send(signal.SIGTERM)
        assert server.end() == 128 + signal.SIGTERM
        assert time.monotonic() - started < 5
        assert isinstance(accepted.exception(PATIENCE), httpx.TransportError)


def test_what_takes_longer_than_the_grace_is_cut_off_and_named(serve: Start, packages: dict[str, Path]) -> None:
    server = serve(packages["none"], "--grace", 0.3, slow=PATIENCE).wait_until_ready()
    with ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(httpx.post, server.address + GENERATIONS, json={"prompt": ""}, timeout=PATIENCE)
        with httpx.Client(base_url=server.address) as watcher:
            until_active(watcher)
        server.send(signal.SIGTERM)
        assert server.end() == 1
        assert isinstance(accepted.exception(PATIENCE), httpx.TransportError)
    assert server.log[-1] == "ganlib: cut off after 0.3 s: 1 requests are not answered"


def test_reloads_under_load_lose_no_request(serve: Start, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    build_package(repository / "flowers" / "1", "none", seed=1)
    server = serve("--repository", repository, "--keep", 1, "--interval", 0.1).wait_until_ready()
    crowd = Crowd(server.address, 6, {"prompt": "", "model": "flowers", "n": 2})

    def answered(version: int) -> int:
        return sum(body.get("model") == f"flowers@{version}" for _, body, _ in list(crowd.answers))

    for version in (1, 2, 3):
        if version > 1:
            build_package(tmp_path / "new", "none", seed=version).rename(repository / "flowers" / str(version))
        crowd.until(lambda version=version: answered(version) > 30)
    crowd.end()
    assert crowd.lost == []
    assert crowd.count(200) == len(crowd.answers) > 90
    for version in (1, 2, 3):
        bodies = [body for _, body, _ in crowd.answers if body["model"] == f"flowers@{version}"]
        check_images(repository / "flowers" / str(version), bodies)
    assert [line.partition(": ready")[0] for line in server.lines if ": ready" in line] == [
        "flowers@1",
        "flowers@2",
        "flowers@3",
    ]


def test_memory_does_not_grow_with_requests(serve: Start, packages: dict[str, Path]) -> None:
    server = serve(packages["text"]).wait_until_ready()
    host = server.address.removeprefix("http://")
    body = json.dumps({"prompt": "a red rose", "n": 2}).encode()

    def ask(times: int) -> None:
        connection = http.client.HTTPConnection(host, timeout=PATIENCE)
        for _ in range(times):
            connection.request("POST", GENERATIONS, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            response.read()
            assert response.status == 200
        connection.close()

    memory = "process_resident_memory_bytes"
    with ThreadPoolExecutor(4) as pool, httpx.Client(base_url=server.address) as watcher:
        list(pool.map(ask, [200] * 4))
        before = figure(watcher, memory)
        list(pool.map(ask, [500] * 4))
        assert figure(watcher, memory) - before < 4 * 2**20  # 2 KB a request would be seen
