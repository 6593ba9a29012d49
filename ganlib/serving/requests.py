"""The outermost layer: every request has an id, a line in the log, its figures, and an answer whatever happens."""

from __future__ import annotations

import random
import re
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ganlib.serving.errors import error_response
from ganlib.serving.logs import LOGGER, begin_notes
from ganlib.serving.metrics import Metrics

LEFT = 499  # the status in log and figures where the client went before the answer, as nginx has it
_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_NUMBERS = random.Random()  # seeded by the system; ids have to differ, not to be secret
_SAFE = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Requests:
    """ASGI middleware. A client's `X-Request-ID` is taken where it has 1 to 128 letters, digits, `.`, `_` and `-`, else
    one is made; it is in the answer, the log and, as `request_id`, in the scope. An exception that nobody caught is
    answered by 500 and the id; its traceback is in the log alone."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and see to its end."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        scope["request_id"] = request_id = given if _ID.fullmatch(given) else f"{_NUMBERS.getrandbits(128):032x}"
        notes, started, status = begin_notes(), time.perf_counter(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                for name, value in _SAFE.items():
                    headers.setdefault(name, value)
                if scope["app"].state.draining:
                    headers["Connection"] = "close"  # the client's next request goes to a server that stays
            await send(message)

        try:
            await self.app(scope, receive, answer)
        except Exception as error:  # noqa: BLE001 - the last place where it can be answered
            facts = {"request_id": request_id, "path": scope["path"]}
            LOGGER.error("%s: %s", type(error).__name__, error, exc_info=error, extra={"facts": facts})
            if not status:
                line = f"internal error; the server's log has it under {request_id}"
                await error_response(scope["path"], 500, line)(scope, receive, answer)
        finally:
            self._account(scope, request_id, status or LEFT, time.perf_counter() - started, notes)

    def _account(self, scope: Scope, request_id: str, status: int, seconds: float, notes: dict[str, str | int]) -> None:
        """The line in the log, and the figures."""
        path = scope["path"]
        model, version = str(notes.get("model", "")), str(notes.get("version", ""))
        self._metrics.request(model, version, _protocol(path), status, seconds)
        facts = {
            "request_id": request_id,
            "method": scope["method"],
            "path": path,
            "status": status,
            "seconds": round(seconds, 6),
            "images": notes.get("images", 0),
            "model": f"{model}@{version}" if model else None,
            "client": (scope.get("client") or (None,))[0],
        }
        LOGGER.info("request", extra={"facts": facts})


def _protocol(path: str) -> str:
    first = path.split("/", 2)[1] if path.startswith("/") else ""
    return {"v1": "openai", "v2": "open_inference"}.get(first, "other")
