"""The application: every error in the form of its protocol, ids and lines in the log, the page, the documents."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from ganlib.problems import Failed, Refused
from ganlib.serving.app import Settings
from ganlib.serving.batcher import Closing, Expired, Full
from ganlib.serving.errors import error_body
from ganlib.serving.logs import JsonLines
from ganlib.serving.models import NotReady, Unknown
from tests.serving.listening import Listening, application, listening, until

RAISED: dict[str, tuple[Callable[[], Exception], int, str | None]] = {
    "refused": (lambda: Refused("seed: found -1; expected a whole number"), 400, "seed"),
    "inner": (lambda: Refused("towards.seed: found -1; expected a whole number"), 400, "towards.seed"),
    "file": (lambda: Refused("/a/b: no such file"), 400, None),
    "unknown": (lambda: Unknown("model: found 'x'; this server has a"), 404, "model"),
    "full": (lambda: Full("8 images wait and 8 may; try again in 7 s", 7), 429, None),
    "closing": (lambda: Closing("the model is being unloaded; try again"), 503, None),
    "not_ready": (lambda: NotReady("the models are being loaded; try again"), 503, None),
    "expired": (lambda: Expired("not done within 3 s"), 504, None),
    "failed": (lambda: Failed("the graph could not be run"), 500, None),
    "teapot": (lambda: HTTPException(418, "short and stout"), 418, None),  # of Starlette
}
TYPES = {429: "rate_limit_error"} | dict.fromkeys((500, 503, 504), "server_error")


class Asked(BaseModel):
    count: int


@pytest.fixture(scope="module")
def server(packages: dict[str, Path]) -> Iterator[Listening]:
    """The application with addresses that raise, in both protocols' trees."""
    app = application(packages["none"])

    async def fail(name: str) -> None:
        if name == "defect":
            raise ZeroDivisionError("the secret of /home/user")
        raise RAISED[name][0]()

    async def valid(asked: Asked, wide: int = 0) -> None:
        return None

    for tree in ("/v1", "/v2"):
        app.add_api_route(f"{tree}/raise/{{name}}", fail, include_in_schema=False)
        app.add_api_route(f"{tree}/valid", valid, methods=["POST"], include_in_schema=False)
    with listening(app) as server:
        yield server


@pytest.mark.parametrize("name", RAISED)
def test_every_error_has_its_status_and_the_form_of_the_protocol(server: Listening, name: str) -> None:
    make, status, param = RAISED[name]
    error = make()
    line = error.detail if isinstance(error, HTTPException) else str(error)
    for tree, body in (
        ("/v2", {"error": line}),
        (
            "/v1",
            {
                "error": {
                    "message": line,
                    "type": TYPES.get(status, "invalid_request_error"),
                    "param": param,
                    "code": None,
                }
            },
        ),
    ):
        answer = server.client.get(f"{tree}/raise/{name}")
        assert answer.status_code == status
        assert answer.json() == body
        assert answer.headers.get("Retry-After") == {429: "7", 503: "1"}.get(status)


def test_the_form_is_chosen_by_path() -> None:
    assert error_body("/v2", 400, "line", "seed") == {"error": "line"}
    assert error_body("/v2/models/a", 503, "line") == {"error": "line"}
    for path in ("/v1/models", "/", "/v20", "/static/x"):
        assert error_body(path, 400, "line", "seed")["error"]["param"] == "seed"
    assert error_body("/v1", 401, "line")["error"]["type"] == "authentication_error"


def test_a_defect_is_logged_and_tells_the_client_nothing(server: Listening, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ganlib.serving"):
        answer = server.client.get("/v2/raise/defect", headers={"X-Request-ID": "my-request.1"})
    assert answer.status_code == 500
    assert answer.json() == {"error": "internal error; the server's log has it under my-request.1"}
    assert "secret" not in answer.text
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    line = json.loads(JsonLines().format(record))
    assert line["level"] == "error"
    assert line["message"] == "ZeroDivisionError: the secret of /home/user"
    assert (line["request_id"], line["path"]) == ("my-request.1", "/v2/raise/defect")
    assert line["traceback"].startswith("Traceback (most recent call last)")
    assert server.client.get("/v2/raise/full").status_code == 429  # the server has survived


def test_what_fastapi_refuses_is_a_400_like_any_other(server: Listening) -> None:
    answer = server.client.post("/v1/valid", json={"count": "many"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "count"
    assert answer.json()["error"]["message"].startswith("count: ")
    answer = server.client.post("/v2/valid?wide=very", json={"count": 1})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("wide: ")
    answer = server.client.post("/v2/valid", content=b"{", headers={"Content-Type": "application/json"})
    assert (answer.status_code, list(answer.json())) == (400, ["error"])


@pytest.mark.parametrize(
    ("method", "path", "status", "line"),
    [
        ("GET", "/v2/nowhere", 404, "no such address: /v2/nowhere"),
        ("GET", "/v1/nowhere", 404, "no such address: /v1/nowhere"),
        ("GET", "/static/nowhere.js", 404, "no such address: /static/nowhere.js"),
        ("GET", "/static/../app.py", 404, "no such address: /app.py"),
        ("GET", "/static/%2e%2e/app.py", 404, None),
        ("DELETE", "/v2", 405, "DELETE is not for /v2"),
        ("GET", "/v1/images/generations", 405, "GET is not for /v1/images/generations"),
    ],
)
def test_an_address_that_is_none_is_answered_in_form(
    server: Listening, method: str, path: str, status: int, line: str | None
) -> None:
    answer = server.client.request(method, path)
    error = answer.json()["error"]
    assert answer.status_code == status
    assert line is None or (error if path.startswith("/v2") else error["message"]) == line
    assert status != 405 or answer.headers["Allow"]


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("a.B_c-9", True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("", False),
        ("a b", False),
        ("a\tb", False),
        ("ä", False),
    ],
)
def test_a_request_id_is_taken_where_it_is_harmless(server: Listening, given: str, taken: bool) -> None:
    answer = server.client.get("/v2", headers={"X-Request-ID": given.encode()})
    assert answer.status_code == 200
    found = answer.headers["X-Request-ID"]
    assert found == given if taken else re.fullmatch(r"[0-9a-f]{32}", found)
    again = server.client.get("/v2", headers={"X-Request-ID": given.encode()}).headers["X-Request-ID"]
    assert (again == found) == taken


def test_a_request_is_a_line_in_the_log(server: Listening, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ganlib.serving"):
        asked = {"prompt": "", "n": 3, "seed": 7}
        answer = server.client.post("/v1/images/generations", json=asked, headers={"X-Request-ID": "one"})
        server.client.get("/v2/nowhere?token=secret", headers={"X-Request-ID": "two"})
        until(lambda: len(caplog.records) == 2)  # a line is written when the answer has gone
    assert answer.status_code == 200
    made, lost = [json.loads(JsonLines().format(record)) for record in caplog.records]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", made.pop("time"))
    assert 0 < made.pop("seconds") < 20
    assert made == {
        "level": "info",
        "message": "request",
        "request_id": "one",
        "method": "POST",
        "path": "/v1/images/generations",
        "status": 200,
        "images": 3,
        "model": "tiny-none@1",
        "client": "127.0.0.1",
    }
    assert (lost["path"], lost["status"], lost["images"], lost["model"]) == ("/v2/nowhere", 404, 0, None)


def test_every_answer_has_the_safe_headers_and_none_invites_other_origins(server: Listening) -> None:
    for path in ("/", "/static/page.css", "/v2", "/nowhere", "/v2/raise/defect", "/metrics"):
        answer = server.client.get(path, headers={"Origin": "https://elsewhere.example"})
        policy = answer.headers["Content-Security-Policy"]
        assert policy == "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_the_page_and_its_parts_are_there_and_are_asked_for_again(server: Listening) -> None:
    page = server.client.get("/")
    assert page.headers["Content-Type"].startswith("text/html")
    parts = re.findall(r"""(?:src|href)="/?(static/[^"]+)\"""", page.text)
    assert len(parts) >= 2
    for part in parts:
        assert server.client.get(f"/{part}").status_code == 200
    assert server.client.get("/", headers={"If-None-Match": page.headers["ETag"]}).status_code == 304
    assert server.client.head("/").status_code == 200


class Links(HTMLParser):
    """What a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.fetched += [str(value) for name, value in attributes if name in ("src", "srcset") or tag == "link"]


def test_the_documents_describe_what_is_served_and_fetch_nothing(server: Listening) -> None:
    document = server.client.get("/openapi.json").json()
    paths = {"/v2", "/v2/health/ready", "/v2/models/{model}/infer", "/v2/repository/index", "/v1/images/generations"}
    assert paths | {"/v1/models"} <= document["paths"].keys()
    assert not {"/", "/metrics", "/docs"} & document["paths"].keys()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert all("422" not in operation["responses"] and "security" not in operation for operation in operations)
    assert "HTTPValidationError" not in json.dumps(document)
    docs = server.client.get("/docs")
    links = Links()
    links.feed(docs.text)
    assert links.fetched == []
    assert "default-src 'none'" in docs.headers["Content-Security-Policy"]
    for path in document["paths"]:
        assert f" {path}</code>" in docs.text


def test_a_token_is_part_of_the_description() -> None:
    document = application(settings=Settings(token="x")).openapi()
    assert document["components"]["securitySchemes"] == {"token": {"type": "http", "scheme": "bearer"}}
    assert document["paths"]["/v1/models"]["get"]["security"] == [{"token": []}]
    assert "security" not in document["paths"]["/v2/health/live"]["get"]


def test_a_browser_that_looks_at_the_documents_sees_them_styled(server: Listening) -> None:
    """The policy allows exactly the style that the page has."""
    docs = server.client.get("/docs")
    (style,) = re.findall(r"<style>(.*?)</style>", docs.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in docs.headers["Content-Security-Policy"]


def test_the_answers_are_those_of_the_generator_whoever_else_asks(server: Listening) -> None:
    asked: dict[str, Any] = {"prompt": "", "seed": 5, "n": 2}
    first, second = (server.client.post("/v1/images/generations", json=asked).json() for _ in range(2))
    assert [image["b64_json"] for image in first["data"]] == [image["b64_json"] for image in second["data"]]


def test_while_nothing_is_loaded_the_server_lives_and_is_not_ready(packages: dict[str, Path]) -> None:
    app = application(packages["none"])  # without its lifespan: nothing is loaded

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            paths = ("/v2/health/live", "/v2/health/ready", "/", "/v1/models", "/v2/models/tiny-none")
            return [await client.get(path) for path in paths]

    answers = asyncio.run(ask())
    assert [answer.status_code for answer in answers] == [200, 503, 200, 200, 503]
    assert [answer.headers.get("Retry-After") for answer in answers] == [None, "1", None, None, "1"]
