"""What a request may not do: come without the token, come from a page of another site, bring too much, take work with
it when its client has gone."""

from __future__ import annotations

import asyncio
import secrets
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ganlib.serving.errors import error_response

_OPEN = frozenset(("/", "/metrics", "/openapi.json", "/docs", "/v2/health/live", "/v2/health/ready"))
_OTHERS = ("cross-site", "same-site")  # what a browser says of itself where a page of elsewhere makes it ask
_PATIENCE = 5.0  # seconds in which the rest of a refused body is read, so that its sender gets to read the answer


def is_open(path: str) -> bool:
    """Whether an address needs no token: the page, what watches over the server, and what describes it."""
    return path in _OPEN or path.startswith("/static/")


class Limits:
    """ASGI middleware: token, no work for pages of other sites, size of the body, time for the body, no new work while
    draining, and an end of the work of clients that have gone.

    Requests that may mean work (POST) are counted in the application's `state.active` while they run.
    """

    def __init__(self, app: ASGIApp, token: str | None, largest_body: int, timeout: float) -> None:
        """
        Args:
            token: what `Authorization: Bearer` must carry; None for open doors.
            largest_body: bytes.
            timeout: seconds that a body may take to arrive.
        """
        self.app = app
        self._token = None if token is None else token.encode()
        self._largest = largest_body
        self._timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if not self._may_enter(scope["path"], headers):
            line = "the token is missing or wrong; send the header Authorization: Bearer TOKEN"
            await self._refuse(scope, receive, send, 401, line, {"WWW-Authenticate": "Bearer"})
            return
        if scope["method"] == "POST" and headers.get("sec-fetch-site", "none") in _OTHERS:
            line = "a browser sent this for a page of another site; pages have to come from this server"
            await self._refuse(scope, receive, send, 403, line)
            return
        declared = headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > self._largest:
            await self._refuse(scope, receive, send, 413, self._too_large(f"{int(declared)} bytes"))
            return
        try:
            async with asyncio.timeout(self._timeout):
                body = await self._body(receive)
        except TimeoutError:
            line = f"the request's body did not arrive within {self._timeout:g} s"
            await error_response(scope["path"], 408, line, headers={"Connection": "close"})(scope, receive, send)
            return
        except _TooLarge as error:
            rest = _nothing if error.ended else receive
            await self._refuse(scope, rest, send, 413, self._too_large("more"))
            return
        if body is None:  # the client has gone
            return
        if scope["method"] != "POST":
            await self.app(scope, _replay(body, receive), send)
        elif scope["app"].state.draining:
            await error_response(scope["path"], 503, "the server is about to end; try another one")(
                scope, receive, send
            )
        else:
            scope["app"].state.active += 1
            try:
                await self._while_wanted(scope, body, receive, send)
            finally:
                scope["app"].state.active -= 1

    def _may_enter(self, path: str, headers: Headers) -> bool:
        if self._token is None or is_open(path):
            return True
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        return secrets.compare_digest(shown.strip().encode(), self._token) and scheme.lower() == "bearer"

    def _too_large(self, found: str) -> str:
        return f"body: found {found}; expected at most {self._largest} bytes"

    async def _body(self, receive: Receive) -> bytes | None:
        """The whole body; None where the client went before its end."""
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            ended = not message.get("more_body", False)
            if size > self._largest:
                raise _TooLarge(ended)
            if ended:
                return b"".join(parts)

    async def _refuse(
        self, scope: Scope, receive: Receive, send: Send, status: int, line: str, headers: dict[str, str] | None = None
    ) -> None:
        """Answer by an error. What is still on its way is read and thrown away first, within bounds: a client that is
        cut off while it sends does not get to see the answer."""
        if "expect" not in Headers(scope=scope):  # else the client waits for leave to send, and gets the answer instead
            await self._discard(receive)
        headers = {"Connection": "close"} | (headers or {})
        await error_response(scope["path"], status, line, headers=headers)(scope, receive, send)

    async def _discard(self, receive: Receive) -> None:
        until, left = time.monotonic() + _PATIENCE, 4 * self._largest
        while left > 0 and (patience := until - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(patience):
                    message = await receive()
            except TimeoutError:
                return
            left -= len(message.get("body", b""))
            if not message.get("more_body", False):  # the end, or the client has gone
                return

    async def _while_wanted(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Run the application, and cancel it when the client goes."""
        task = asyncio.current_task()
        assert task is not None
        answered = left = False
        gone = asyncio.Event()

        async def watch() -> None:
            nonlocal left
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()
            if not answered:
                left = True
                task.cancel()

        async def answer(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                answered = True  # before it is sent: its end reads like the client's going
            await send(message)

        async def wait() -> Message:
            await gone.wait()
            return {"type": "http.disconnect"}

        watching = asyncio.get_running_loop().create_task(watch())
        try:
            await self.app(scope, _replay(body, wait), answer)
        except asyncio.CancelledError:
            if not left:
                raise
            task.uncancel()
        finally:
            watching.cancel()


class _TooLarge(Exception):
    """The body is larger than it may be.

    Attributes:
        ended: whether all of it has come.
    """

    def __init__(self, ended: bool) -> None:
        super().__init__()
        self.ended = ended


async def _nothing() -> Message:
    """The rest of a body that has ended."""
    return {"type": "http.request", "body": b"", "more_body": False}


def _replay(body: bytes, then: Receive) -> Receive:
    """The body that was read, as one message, and then whatever comes."""
    first = True

    async def receive() -> Message:
        nonlocal first
        if first:
            first = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await then()

    return receive
