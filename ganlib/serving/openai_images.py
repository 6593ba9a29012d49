"""The OpenAI images API at `/v1`: a prompt in, image files out."""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import pydantic_core
from fastapi import APIRouter, Path
from numpy.typing import NDArray
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from ganlib.inference.images import Facts
from ganlib.inference.package import CARD
from ganlib.inference.request import Request, Towards
from ganlib.inference.sample import Generator, Inputs, of_image
from ganlib.problems import Refused
from ganlib.serving.aside import run
from ganlib.serving.bodies import ApiErrorAnswer, content_of, described, problems, read
from ganlib.serving.formats import encoded
from ganlib.serving.image_messages import ImagesAnswer, ImageSize, ImagesRequest, ModelEntry, ModelList
from ganlib.serving.logs import note
from ganlib.serving.models import Models, Served, Unknown

RANDOM_SEEDS = 2**32  # a drawn seed stays short enough to be typed again
_PIXELS_AT_ONCE = 2**15  # bytes of images whose files are written within a millisecond
_LONGEST_CLASS = 100  # characters of a prompt that are compared with the names of classes
_ONLY: Mapping[str, tuple[str, ...]] = {
    "quality": ("auto", "standard"),
    "background": ("auto", "opaque"),
    "style": ("vivid",),
    "response_format": ("b64_json",),
}
"""Fields that may say but one thing, in its different words."""
_FIELDS = {"class": "prompt", "count": "n", "towards": "to_seed", "towards.seed": "to_seed"} | {
    "towards.prompt": "to_prompt",
    "towards.position": "position",
}
"""This API's names of a request's fields."""

router = APIRouter(tags=["OpenAI images API"], responses=problems(ApiErrorAnswer))
_EXAMPLES: dict[str, Any] = {
    "prompt": {"summary": "an image of a prompt", "value": {"prompt": "a red rose with round petals"}},
    "again": {
        "summary": "the same four images, whenever it is asked",
        "value": {"model": "flowers@1", "prompt": "a red rose", "n": 4, "seed": 7, "truncation": 0.7},
    },
    "between": {
        "summary": "a quarter of the way from one seed to another",
        "value": {"prompt": "a red rose", "seed": 7, "to_seed": 8, "position": 0.25},
    },
}


@router.post(
    "/v1/images/generations",
    summary="Make images",
    response_model=None,
    responses={200: {"model": ImagesAnswer, "description": "The images, and what makes them again."}},
    openapi_extra=described(ImagesRequest, _EXAMPLES),
)
async def generations(request: HttpRequest) -> Response:
    """Of a prompt, a class or neither, as the model takes it.

    The same model, version and request, its seed included, make the same bytes, alone or beside others; a PNG file is
    that of `ganlib generate`.
    """
    started = time.monotonic()
    settings = request.app.state.settings
    if (media := request.headers.get("Content-Type", "").partition(";")[0].strip().lower()) != "application/json":
        raise HTTPException(415, f"Content-Type: found {media[:80]!r}; expected application/json")
    message = read(ImagesRequest, await content_of(request))
    served = _models(request).find(message.model)
    _check(message, served, settings.largest_count)
    asked = _asked(message, served)
    note(images=asked.count)
    text = served.card.condition.kind == "text"
    inputs, facts, remarks = await run(text, _prepared, served.generator, asked)
    left = max(0.0, started + settings.timeout - time.monotonic())
    images = await served.batcher.submit(inputs, left)
    body = await run(images.nbytes > _PIXELS_AT_ONCE, _answer, images, facts, remarks, message, served)
    return Response(body, media_type="application/json")


@router.get("/v1/models", summary="The models that are served")
async def models(request: HttpRequest) -> ModelList:
    """Every model by its name, and each of its loaded versions as NAME@VERSION."""
    data: list[ModelEntry] = []
    for served in _models(request).served():
        current = not any(entry.id == served.name for entry in data)
        largest: int = request.app.state.settings.largest_count
        names = [served.name] if current else []
        data += [_entry(name, served, current, largest) for name in (*names, f"{served.name}@{served.version}")]
    return ModelList(object="list", data=data)


@router.get("/v1/models/{model}", summary="A model that is served")
async def model(
    request: HttpRequest,
    model: Annotated[str, Path(description="`NAME` or `NAME@VERSION`", examples=["flowers"])],
) -> ModelEntry:
    """What it takes, what it gives, and how good it is."""
    for entry in (await models(request)).data:
        if entry.id == model:
            return entry
    _models(request).find(model)  # says why
    raise Unknown(f"model: found {model!r}; /v1/models lists what there is")


def _models(request: HttpRequest) -> Models:
    models: Models = request.app.state.models
    return models


def _check(message: ImagesRequest, served: Served, largest_count: int) -> None:
    """Refuse what no model here does.

    Raises:
        Refused: one line with the field, what was found and what would do.
    """
    for field, accepted in _ONLY.items():
        if (found := getattr(message, field)) not in (None, *accepted):
            raise Refused(f"{field}: found {found[:40]!r}; expected {' or '.join(accepted)}, or nothing")
    if message.stream or message.partial_images:
        field = "stream" if message.stream else "partial_images"
        raise Refused(f"{field}: found {getattr(message, field)}; images come whole here, leave it out")
    if message.n is not None and message.n > largest_count:
        raise Refused(f"n: found {message.n}; expected 1 to {largest_count}")
    own = f"{served.card.size}x{served.card.size}"
    if message.size not in (None, "auto", own):
        raise Refused(f"size: found {message.size[:40]!r}; {served.name} makes {own}, say so or auto")
    if message.position is not None and message.to_seed is None and message.to_prompt is None:
        raise Refused(f"position: found {message.position} without to_seed or to_prompt; say where to")
    if message.output_compression not in (None, 100) and message.output_format in (None, "png"):
        raise Refused(f"output_compression: found {message.output_compression} for png; it is for webp and jpeg")


def _asked(message: ImagesRequest, served: Served) -> Request:
    """The request to the generator, which checks it."""
    kind, classes = served.card.condition.kind, served.card.classes
    prompt, class_name = message.prompt, None
    if kind == "none" and prompt is not None and not prompt.strip():
        prompt = None  # OpenAI's client always sends one
    elif kind == "class":
        prompt, class_name = None, prompt
        if class_name is not None and class_name not in classes:
            class_name = class_name[:_LONGEST_CLASS]
    towards = None
    if message.to_seed is not None or message.to_prompt is not None:
        towards = Towards(message.to_seed, message.to_prompt, 0.5 if message.position is None else message.position)
    return Request(
        prompt=prompt,
        class_name=class_name,
        seed=secrets.randbelow(RANDOM_SEEDS) if message.seed is None else message.seed,
        count=message.n or 1,
        truncation=1.0 if message.truncation is None else message.truncation,
        towards=towards,
    )


def _prepared(generator: Generator, asked: Request) -> tuple[Inputs, Facts, tuple[str, ...]]:
    """What the graph takes, how the images will have been made, and what to know of them.

    Raises:
        Refused: for what the model cannot answer, with this API's name of the field.
    """
    try:
        inputs = generator.inputs(asked)
    except Refused as refused:
        field, colon, rest = str(refused).partition(": ")
        raise Refused(f"{_FIELDS.get(field, field)}{colon}{rest}") from refused
    return inputs, generator.facts(asked), generator.remarks(asked)


def _answer(
    images: NDArray[np.uint8], facts: Facts, remarks: tuple[str, ...], message: ImagesRequest, served: Served
) -> bytes:
    form, quality = message.output_format or "png", message.output_compression
    data = []
    for number, pixels in enumerate(images):
        of_this = of_image(facts, number)
        content = encoded(pixels, of_this, form, 100 if quality is None else quality)
        data.append(
            {"b64_json": base64.b64encode(content).decode("ascii"), "seed": of_this.seed, "revised_prompt": None}
        )
    answer = {
        "created": int(time.time()),
        "data": data,
        "model": f"{served.name}@{served.version}",
        "seed": facts.seed,
        "output_format": form,
        "size": f"{facts.size}x{facts.size}",
        "remarks": remarks,
    }
    return pydantic_core.to_json(answer)


def _entry(name: str, served: Served, current: bool, largest_count: int) -> ModelEntry:
    card, generator = served.card, served.generator
    try:
        created = int((generator.package.folder / CARD).stat().st_mtime)
    except OSError:
        created = 0
    return ModelEntry(
        id=name,
        object="model",
        created=created,
        owned_by="ganlib",
        version=served.version,
        current=current,
        condition=card.condition.kind,
        classes=list(card.classes),
        image_size=ImageSize(width=card.size, height=card.size, channels=card.channels),
        largest_count=largest_count,
        family=card.family,
        licence=card.licence,
        metrics=card.metrics,
        precision=generator.precision,
        device=generator.device,
        known_words=card.condition.kind == "text",
    )
