"""What went wrong, in the words and the status code of the protocol that was asked."""

from __future__ import annotations

import re
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ganlib.problems import Failed, Refused
from ganlib.serving.batcher import Closing, Expired, Full
from ganlib.serving.logs import LOGGER, note
from ganlib.serving.models import NotReady, Unknown

RETRY_AFTER = 1  # seconds, where a model is being loaded or unloaded
_FIELD = re.compile(r"([a-z_][a-z0-9_.]*): ")
_STATUS: dict[type[Exception], int] = {Refused: 400, Unknown: 404, NotReady: 503, Closing: 503, Expired: 504}
_OPENAI_TYPES = {429: "rate_limit_error", 401: "authentication_error"}


def error_body(path: str, status: int, message: str, param: str | None = None) -> dict[str, Any]:
    """An error in the form of the protocol that a path belongs to.

    Args:
        path: `/v2/...` for the Open Inference Protocol; anything else is answered as the OpenAI API does.
        status: of the response.
        message: one line.
        param: the field of the request that it is about.
    """
    if path == "/v2" or path.startswith("/v2/"):
        return {"error": message}
    kind = _OPENAI_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": None}}


def error_response(
    path: str, status: int, message: str, param: str | None = None, headers: dict[str, str] | None = None
) -> Response:
    """The response with that error; a 503 says when to come back."""
    headers = dict(headers or {})
    if status == 503:
        headers.setdefault("Retry-After", str(RETRY_AFTER))
    return JSONResponse(error_body(path, status, message, param), status, headers)


def add_error_handlers(app: FastAPI) -> None:
    """Answer everything that a handler raises."""

    async def expected(request: Request, error: Exception) -> Response:
        status = next(status for kind, status in _STATUS.items() if isinstance(error, kind))
        message = str(error)
        field = _FIELD.match(message)
        return error_response(request.url.path, status, message, field[1] if field else None)

    async def full(request: Request, error: Exception) -> Response:
        assert isinstance(error, Full)
        return error_response(request.url.path, 429, str(error), headers={"Retry-After": str(error.retry_after)})

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        problem = error.errors()[0]
        place = [str(part) for part in problem["loc"] if part not in ("body", "query", "path", "header")]
        field = ".".join(place) or None
        message = f"{field}: {problem['msg']}" if field else str(problem["msg"])
        return error_response(request.url.path, 400, message, field)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        known = {404: f"no such address: {request.url.path}", 405: f"{request.method} is not for {request.url.path}"}
        message = known.get(error.status_code, str(error.detail)) if _plain(error) else str(error.detail)
        return error_response(request.url.path, error.status_code, message, headers=dict(error.headers or {}))

    async def failed(request: Request, error: Exception) -> Response:
        assert isinstance(error, Failed)
        LOGGER.error("failed: %s", error, extra={"facts": {"request_id": request.scope.get("request_id")}})
        note(error=str(error))
        return error_response(request.url.path, 500, str(error))

    for kind in _STATUS:
        app.add_exception_handler(kind, expected)
    for kind, handler in ((Full, full), (RequestValidationError, invalid), (HTTPException, http), (Failed, failed)):
        app.add_exception_handler(kind, handler)


def _plain(error: HTTPException) -> bool:
    """Whether the error says no more than its status code."""
    return error.detail in ("Not Found", "Method Not Allowed")
