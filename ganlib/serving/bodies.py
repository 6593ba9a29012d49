"""Bodies of requests in JSON: read strictly, refused in one line, and described in the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from ganlib.problems import Refused, first_problem
from ganlib.serving.aside import BYTES_AT_ONCE, run
from ganlib.serving.tensors import decompressed

_LONGEST_LINE = 300


class Message(BaseModel):
    """What a client sends: every key is known, and nothing is read as another type than it was written in."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ErrorLine(BaseModel):
    """An error of the Open Inference Protocol."""

    error: str = Field(description="one line: the field, what was found, and what would do", examples=["z: missing"])


class ApiError(BaseModel):
    """What went wrong, in the OpenAI API's form."""

    message: str = Field(description="one line: the field, what was found, and what would do")
    type: str = Field(
        description="invalid_request_error, authentication_error, rate_limit_error or server_error",
        examples=["invalid_request_error"],
    )
    param: str | None = Field(description="the field of the request that it is about", examples=["seed"])
    code: str | None = Field(description="always null")


class ApiErrorAnswer(BaseModel):
    """An error of the OpenAI API."""

    error: ApiError


_RETRY = {"Retry-After": {"description": "seconds after which to try again", "schema": {"type": "integer"}}}
_PROBLEMS: Mapping[int, tuple[str, Mapping[str, Any]]] = {
    400: ("The request is wrong; the line says where and what would do.", {}),
    401: (
        "The server asks for a bearer token, and the request has none or another.",
        {"WWW-Authenticate": {"description": "always Bearer", "schema": {"type": "string"}}},
    ),
    403: ("A browser asks for a page of another site.", {}),
    408: ("The body did not arrive in time.", {}),
    404: ("No such model, version or address.", {}),
    413: ("The body is larger than the server takes, as sent or once decompressed.", {}),
    415: ("The body is of a type that is not read here.", {}),
    429: ("The queue is full.", _RETRY),
    500: ("The model failed; the server's log says how.", {}),
    503: ("The model is being loaded or unloaded, or the server is about to end.", _RETRY),
    504: ("The time that the request may take is over.", {}),
}

Content = TypeVar("Content", bound=BaseModel)


def problems(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """The errors that every operation may answer with, for FastAPI's `responses`, in a protocol's form."""
    return {
        status: {"model": model, "description": description, "headers": dict(headers)}
        for status, (description, headers) in _PROBLEMS.items()
    }


async def content_of(request: Request) -> bytes:
    """A request's body, without its compression.

    Raises:
        Refused: for a compression that is not read here, or a body that is not in it.
        HTTPException: 413, where it is larger than the server takes.
    """
    body = await request.body()
    coding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if coding == "identity":
        return body
    largest: int = request.app.state.settings.largest_body
    content = await run(len(body) > BYTES_AT_ONCE, decompressed, body, coding, largest)
    if content is None:
        raise HTTPException(413, f"body: decompressed it has more than the {largest} bytes that are taken")
    return content


def read(model: type[Content], content: bytes) -> Content:
    """A body as what it should be.

    Pydantic reads JSON to a depth of 200 and takes neither lone surrogates nor other bytes than UTF-8.

    Raises:
        Refused: naming the first field that is wrong.
    """
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        place = error.errors(include_url=False, include_context=False)[0]["loc"]
        line = first_problem(error, model.model_fields if len(place) == 1 else ())
        if not place:
            line = f"body: {line}" if content else "body: found nothing; expected JSON"
        raise Refused(cut(line)) from error


def cut(line: str) -> str:
    """A line without its middle where it is long: what was found may be."""
    if len(line) <= _LONGEST_LINE:
        return line
    return f"{line[: _LONGEST_LINE // 2]} ... {line[-_LONGEST_LINE // 2 :]}"


def described(
    model: type[BaseModel],
    examples: Mapping[str, Mapping[str, Any]],
    *,
    required: bool = True,
    others: Mapping[str, Any] = {},
) -> dict[str, Any]:
    """The OpenAPI description of a body that a handler reads itself.

    Args:
        model: what it has to be.
        examples: by name, each with a summary and a value.
        required: whether there has to be one.
        others: descriptions of the body in further media types.
    """
    content = {"application/json": {"schema": _inlined(model), "examples": dict(examples)}, **others}
    return {"requestBody": {"required": required, "content": content}}


def _inlined(model: type[BaseModel]) -> dict[str, Any]:
    """A model's JSON schema in one piece: OpenAPI documents have no place for the definitions of one operation."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def inline(part: Any) -> Any:
        if isinstance(part, dict):
            if "$ref" in part:
                return inline(definitions[part["$ref"].rpartition("/")[2]])
            return {key: inline(value) for key, value in part.items()}
        return [inline(entry) for entry in part] if isinstance(part, list) else part

    inlined: dict[str, Any] = inline(schema)
    return inlined
