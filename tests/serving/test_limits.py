"""What a request may not do, over real sockets: bodies, tokens, deadlines, and clients that go."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import StreamingResponse

from ganlib.serving import limits
from ganlib.serving.app import Settings
from ganlib.serving.batcher import Batcher
from tests.serving.listening import PATIENCE, Listening, application, listening, read_response, until
from tests.serving.test_batcher import Gate, inputs

LARGEST = 1000


def with_echo(app: FastAPI) -> FastAPI:
    """Two more addresses of the application: one that sends back what it gets, in both protocols' trees."""
    app.state.echoed = 0

    async def echo(request: Request) -> dict[str, int]:
        app.state.echoed += 1
        return {"bytes": len(await request.body())}

    for path in ("/v1/echo", "/v2/echo"):
        app.add_api_route(path, echo, methods=["POST", "GET"], include_in_schema=False)
    return app


@pytest.fixture(scope="module")
def server() -> Iterator[Listening]:
    app = with_echo(application(settings=Settings(largest_body=LARGEST, timeout=0.5)))
    with listening(app) as server:
        yield server


@pytest.fixture(scope="module")
def guarded() -> Iterator[Listening]:
    with listening(with_echo(application(settings=Settings(token="s3cret-of-40", largest_body=LARGEST)))) as server:
        yield server


def message(response: httpx.Response) -> str:
    """The line of an error, in either protocol's form."""
    error = response.json()["error"]
    return error if isinstance(error, str) else error["message"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_may_be_as_large_as_it_may_be(server: Listening, chunked: bool) -> None:
    def content(size: int) -> Any:
        return (b"x" * size for _ in range(1)) if chunked else b"x" * size

    assert server.client.post("/v1/echo", content=content(LARGEST)).json() == {"bytes": LARGEST}
    echoed = server.app.state.echoed
    answer = server.client.post("/v1/echo", content=content(LARGEST + 1))
    found = "more" if chunked else f"{LARGEST + 1} bytes"
    assert answer.status_code == 413
    assert message(answer) == f"body: found {found}; expected at most {LARGEST} bytes"
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert server.client.post("/v2/echo", content=content(2 * LARGEST)).json() == {
        "error": message(answer).replace(f"{LARGEST + 1} bytes", f"{2 * LARGEST} bytes")
    }
    assert server.app.state.echoed == echoed  # no handler has seen them


def test_a_client_that_sends_far_too_much_reads_the_answer_when_it_is_done(server: Listening) -> None:
    """It does not look before it has sent everything, and would be cut off while it sends."""
    with server.connect() as connection:
        size = 4 * LARGEST
        connection.sendall(b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(4):
            connection.sendall(b"x" * LARGEST)
        status, headers, _ = read_response(connection)
        assert (status, headers["connection"]) == (413, "close")


def test_a_client_that_asks_first_sends_nothing(server: Listening) -> None:
    with server.connect() as connection:
        head = b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
        connection.sendall(head % (LARGEST + 1))
        assert read_response(connection)[0] == 413


def test_a_body_that_dribbles_is_given_up(server: Listening) -> None:
    with server.connect() as connection:
        connection.sendall(b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
        status, headers, body = read_response(connection)
        assert (status, headers["connection"]) == (408, "close")
        assert b"the request's body did not arrive within 0.5 s" in body


def test_the_rest_of_a_refused_body_is_awaited_for_a_while_only(
    server: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "_PATIENCE", 0.05)
    with server.connect() as connection:
        connection.sendall(b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n12345")
        assert read_response(connection)[0] == 413


def test_a_client_that_goes_while_it_sends_leaves_nothing_behind(server: Listening) -> None:
    echoed = server.app.state.echoed
    with server.connect() as connection:
        connection.sendall(b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
    assert server.client.post("/v1/echo", content=b"x").status_code == 200
    assert server.app.state.echoed == echoed + 1
    assert server.app.state.active == 0


@pytest.mark.parametrize(
    "shown", [None, "Bearer s3cret-of-41", "Bearer", "Basic s3cret-of-40", "s3cret-of-40", "Bearer ä"]
)
@pytest.mark.parametrize("path", ["/v1/echo", "/v2/echo", "/v1/models", "/v2", "/nowhere"])
def test_without_the_token_nothing_is_answered(guarded: Listening, shown: str | None, path: str) -> None:
    headers, echoed = {} if shown is None else {"Authorization": shown.encode()}, guarded.app.state.echoed
    for answer in (
        guarded.client.get(path, headers=headers),
        guarded.client.post(path, headers=headers, content=b"{}"),
    ):
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert message(answer) == "the token is missing or wrong; send the header Authorization: Bearer TOKEN"
    assert guarded.app.state.echoed == echoed


def test_with_the_token_everything_is(guarded: Listening) -> None:
    for scheme in ("Bearer", "bearer"):
        answer = guarded.client.post("/v1/echo", headers={"Authorization": f"{scheme} s3cret-of-40"}, content=b"12")
        assert answer.json() == {"bytes": 2}


@pytest.mark.parametrize(
    "path", ["/", "/static/page.css", "/metrics", "/openapi.json", "/docs", "/v2/health/live", "/v2/health/ready"]
)
def test_what_watches_over_the_server_needs_no_token(guarded: Listening, path: str) -> None:
    assert guarded.client.get(path).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_pages_of_other_sites_get_no_work_done(server: Listening, site: str) -> None:
    echoed = server.app.state.echoed
    for path in ("/v1/echo", "/v2/echo"):
        answer = server.client.post(path, headers={"Sec-Fetch-Site": site}, content=b"{}")
        assert answer.status_code == 403
        assert message(answer) == "a browser sent this for a page of another site; pages have to come from this server"
    assert server.app.state.echoed == echoed
    for own in ("same-origin", "none"):
        assert server.client.post("/v1/echo", headers={"Sec-Fetch-Site": own}, content=b"{}").status_code == 200


class Waiting:
    """An address whose work is a batcher's, as the protocols' is, with a render that can be held."""

    def __init__(self, app: FastAPI) -> None:
        self.gate = Gate()
        self.batcher = Batcher(self.gate)
        self.ended: list[str] = []

        async def work(request: Request) -> dict[str, int]:
            value = int(request.headers["value"])
            try:
                images = await self.batcher.submit(inputs(value))
            except asyncio.CancelledError:
                self.ended.append(f"{value} cancelled")
                raise
            self.ended.append(f"{value} done")
            return {"value": int(images.item())}

        app.add_api_route("/v1/work", work, methods=["POST"])


@pytest.fixture
def work() -> Iterator[tuple[Listening, Waiting]]:
    app = application()
    waiting = Waiting(app)
    with listening(app) as server:
        yield server, waiting
        waiting.gate.let()
        asyncio.run(waiting.batcher.close())


def ask(server: Listening, value: int) -> socket.socket:
    connection = server.connect()
    connection.sendall(b"POST /v1/work HTTP/1.1\r\nHost: x\r\nValue: %d\r\nContent-Length: 2\r\n\r\n{}" % value)
    return connection


def test_a_client_that_goes_takes_its_work_out_of_the_queue(work: tuple[Listening, Waiting]) -> None:
    server, waiting = work
    with ask(server, 1) as first:
        until(lambda: waiting.gate.runs == [[1]])  # the worker is busy
        second = ask(server, 2)
        until(lambda: waiting.batcher.queued == 1)
        with ask(server, 3) as third:
            until(lambda: waiting.batcher.queued == 2)
            second.close()
            until(lambda: waiting.batcher.queued == 1)
            assert waiting.ended == ["2 cancelled"]
            waiting.gate.let()
            assert read_response(first)[2] == b'{"value":1}'
            assert read_response(third)[2] == b'{"value":3}'
    assert waiting.gate.runs == [[1], [3]]
    until(lambda: server.app.state.active == 0)
    counted = server.client.get("/metrics").text
    assert 'ganlib_requests_total{model="",protocol="openai",status="499",version=""} 1.0' in counted
    assert 'ganlib_requests_total{model="",protocol="openai",status="200",version=""} 2.0' in counted


def test_a_client_that_stays_may_ask_again_on_its_connection(work: tuple[Listening, Waiting]) -> None:
    """The end of an answer reads like the client's going, and must not cancel anything."""
    server, waiting = work
    waiting.gate.let()
    with server.connect() as connection:
        for value in range(50):
            connection.sendall(b"POST /v1/work HTTP/1.1\r\nHost: x\r\nValue: %d\r\nContent-Length: 2\r\n\r\n{}" % value)
            assert read_response(connection)[2] == b'{"value":%d}' % value
    assert waiting.ended == [f"{value} done" for value in range(50)]


def test_requests_that_are_sent_ahead_are_answered_in_turn(work: tuple[Listening, Waiting]) -> None:
    server, waiting = work
    waiting.gate.let()
    with server.connect() as connection:
        requests = [
            b"POST /v1/work HTTP/1.1\r\nHost: x\r\nValue: %d\r\nContent-Length: 2\r\n\r\n{}" % value
            for value in range(3)
        ]
        connection.sendall(b"".join(requests))
        with connection.makefile("rb") as stream:
            bodies = []
            while len(bodies) < 3:
                if (line := stream.readline()) == b"\r\n":
                    bodies.append(stream.read(len(b'{"value":0}')))
                assert line
    assert bodies == [b'{"value":%d}' % value for value in range(3)]


def test_a_stream_ends_with_its_client() -> None:
    app, ended = application(), threading.Event()

    async def numbers() -> Any:
        try:
            while True:
                yield b"x" * 1000
                await asyncio.sleep(0.001)
        finally:
            ended.set()

    async def stream() -> StreamingResponse:
        return StreamingResponse(numbers())

    app.add_api_route("/v1/stream", stream, methods=["POST"])
    with listening(app) as server:
        with server.connect() as connection:
            connection.sendall(b"POST /v1/stream HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        assert ended.wait(PATIENCE)
        until(lambda: app.state.active == 0)


def test_while_draining_new_work_is_turned_away_and_accepted_work_is_finished(work: tuple[Listening, Waiting]) -> None:
    server, waiting = work
    with ask(server, 1) as accepted, server.connect() as half:
        until(lambda: waiting.gate.runs == [[1]])
        half.sendall(b"POST /v1/work HTTP/1.1\r\nHost: x\r\nValue: 2\r\nContent-Length: 2\r\n\r\n{")
        assert server.app.state.active == 1
        server.app.state.draining = True
        half.sendall(b"}")
        status, headers, body = read_response(half)
        assert (status, headers["connection"], headers["retry-after"]) == (503, "close", "1")
        assert b"the server is about to end; try another one" in body
        for path in ("/v1/work", "/v2/models/x/infer"):
            assert server.client.post(path, json={}, headers={"Value": "3"}).status_code == 503
        assert server.client.get("/v2/health/ready").status_code == 503
        assert server.client.get("/v2/health/live").status_code == 200
        assert server.client.get("/").headers["connection"] == "close"
        waiting.gate.let()
        status, headers, body = read_response(accepted)
        assert (status, headers["connection"], body) == (200, "close", b'{"value":1}')
    assert waiting.gate.runs == [[1]]
