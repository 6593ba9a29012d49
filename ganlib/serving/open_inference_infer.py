"""Inference at `/v2/models/{model}/infer`: tensors to images, in JSON or as bytes, compressed or not."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Path
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from ganlib.serving.aside import BYTES_AT_ONCE, run
from ganlib.serving.bodies import content_of, described
from ganlib.serving.infer import answer, binary_output, inputs, split_body, tensors
from ganlib.serving.inference_messages import InferAnswer, InferRequest
from ganlib.serving.logs import note
from ganlib.serving.models import Models, Served
from ganlib.serving.tensors import Coding, compressed

HEADER_LENGTH = "Inference-Header-Content-Length"
_CODINGS: Mapping[str, Coding] = {"gzip": "gzip", "deflate": "deflate"}
"""Codings by what Accept-Encoding says where an answer is wanted in them: one alone. Libraries name several unasked,
and pixels shrink little."""
_SEEDS_AT_ONCE = 8  # the latents of more, and prompts, are made in a thread

router = APIRouter()
ModelName = Annotated[str, Path(description="`NAME`, or `NAME@VERSION`", examples=["flowers"])]
Version = Annotated[str, Path(description="a whole number", examples=["1"])]

_SEEDS: dict[str, Any] = {"name": "seed", "shape": [2], "datatype": "INT64", "data": [7, 8]}
_EXAMPLES: dict[str, Any] = {
    "classes": {
        "summary": "two images of a class, each from its seed",
        "value": {
            "inputs": [_SEEDS, {"name": "class_name", "shape": [2], "datatype": "BYTES", "data": ["rose", "rose"]}]
        },
    },
    "prompts": {
        "summary": "two prompts, as typical as half of the latents",
        "value": {
            "inputs": [
                _SEEDS,
                {"name": "truncation", "shape": [2], "datatype": "FP32", "data": [0.5, 0.5]},
                {"name": "prompt", "shape": [2], "datatype": "BYTES", "data": ["a red rose", "a blue poppy"]},
            ]
        },
    },
    "graph": {
        "summary": "the tensors of a graph with six latents, as Triton takes them too",
        "value": {
            "id": "42",
            "inputs": [
                {"name": "z", "shape": [1, 6], "datatype": "FP32", "data": [0.1, -1.2, 0.5, 2, 0, -0.3]},
                {"name": "class", "shape": [1, 1], "datatype": "INT64", "data": [0]},
            ],
            "outputs": [{"name": "images", "parameters": {"binary_data": False}}],
        },
    },
}
_BINARY = {
    "schema": {"type": "string", "format": "binary"},
    "description": f"The JSON of the request and behind it the bytes of its tensors; {HEADER_LENGTH} tells its length.",
}
_INFER: dict[str, Any] = {
    "response_model": None,
    "openapi_extra": described(InferRequest, _EXAMPLES, others={"application/octet-stream": _BINARY})
    | {
        "parameters": [
            {
                "name": HEADER_LENGTH,
                "in": "header",
                "required": False,
                "schema": {"type": "integer", "minimum": 0},
                "description": "bytes of the JSON, where tensors follow it as bytes",
            },
            {
                "name": "Content-Encoding",
                "in": "header",
                "required": False,
                "schema": {"enum": ["gzip", "deflate", "identity"]},
                "description": "how the body is compressed",
            },
        ]
    },
    "responses": {
        200: {
            "model": InferAnswer,
            "description": f"The images. Sent as bytes, they follow the JSON, whose length {HEADER_LENGTH} tells.",
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
}


@router.post("/v2/models/{model}/infer", summary="Images of a model", **_INFER)
async def infer(request: Request, model: ModelName) -> Response:
    """From tensors in JSON, or as bytes behind it; of the current version."""
    return await _infer(request, model, None)


@router.post("/v2/models/{model}/versions/{version}/infer", summary="Images of a version", **_INFER)
async def version_infer(request: Request, model: ModelName, version: Version) -> Response:
    """As `/v2/models/{model}/infer`, of a version."""
    return await _infer(request, model, version)


async def _infer(request: Request, model: str, version: str | None) -> Response:
    started = time.monotonic()
    models: Models = request.app.state.models
    served = models.find(model, version)
    content = await content_of(request)
    large = len(content) > BYTES_AT_ONCE
    message, found = await run(large, _read, content, request.headers.get(HEADER_LENGTH), served)
    count = len(next(iter(found.values())))
    note(images=count)
    binary = binary_output(message, served.card, count)
    slow = large or "prompt" in found or ("seed" in found and count > _SEEDS_AT_ONCE)
    asked = await run(slow, inputs, found, served.generator)
    timeout: float = request.app.state.settings.timeout
    if message.parameters and message.parameters.timeout:
        timeout = min(timeout, message.parameters.timeout / 1e6)
    images = await served.batcher.submit(asked, max(0.0, started + timeout - time.monotonic()))
    wanted = _CODINGS.get(request.headers.get("Accept-Encoding", "").strip().lower())
    large = images.nbytes > (BYTES_AT_ONCE if not binary or wanted else 2**24)
    return await run(large, _answer, images, binary, served, message.id, wanted)


def _read(content: bytes, header_length: str | None, served: Served) -> tuple[InferRequest, dict[str, NDArray[Any]]]:
    message, behind = split_body(content, header_length)
    return message, tensors(message, behind, served.card)


def _answer(
    images: NDArray[np.uint8],
    binary: bool,
    served: Served,
    request_id: str | None,
    coding: Coding | None,
) -> Response:
    body, header_length = answer(images, binary, served.name, served.version, request_id)
    headers = {} if header_length is None else {HEADER_LENGTH: str(header_length)}
    if coding is not None:
        body, headers["Content-Encoding"] = compressed(body, coding), coding
    return Response(body, headers=headers, media_type="application/octet-stream" if binary else "application/json")
