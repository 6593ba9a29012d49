"""The JSON objects of the OpenAI images API, https://platform.openai.com/docs/api-reference/images, and what is added
to them here: seeds, truncation and interpolation."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from ganlib.inference.latents import LAST_SEED
from ganlib.inference.request import LONGEST_PROMPT
from ganlib.serving.bodies import Message
from ganlib.serving.formats import Format


class ImagesRequest(Message):
    """Images to make. `null` stands for a field that is left out."""

    prompt: str | None = Field(
        None,
        max_length=LONGEST_PROMPT,
        description="what to draw: words for a text model, a class's name for a class model; blank for a model that "
        "takes neither",
        examples=["a red rose with round petals"],
    )
    model: str | None = Field(
        None,
        description="`NAME` for its current version, or `NAME@VERSION`, as /v1/models lists them; may be left out "
        "where one model is served",
        examples=["flowers"],
    )
    n: int | None = Field(None, ge=1, description="how many images, 1 if left out; image i has the seed `seed + i`")
    size: str | None = Field(
        None, pattern=r"^(auto|[0-9]+x[0-9]+)$", description="`auto`, or the model's own size", examples=["auto"]
    )
    output_format: Format | None = Field(None, description="png if left out: the file of `ganlib generate`")
    output_compression: int | None = Field(
        None, ge=0, le=100, description="quality of webp and jpeg, 100 if left out: the best, in webp without loss"
    )
    response_format: Literal["b64_json", "url"] | None = Field(None, description="b64_json; no image is kept for a url")
    quality: str | None = Field(None, description="auto or standard: a model has one quality", examples=["auto"])
    background: str | None = Field(None, description="auto or opaque: images have no transparency", examples=["auto"])
    style: str | None = Field(None, description="vivid, the API's default: a model has one style")
    moderation: Literal["auto", "low"] | None = Field(None, description="without effect: nothing is moderated")
    stream: bool | None = Field(None, description="false: images come whole")
    partial_images: int | None = Field(None, ge=0, description="0: images come whole")
    user: str | None = Field(None, description="without effect, and not kept")
    safety_identifier: str | None = Field(None, description="without effect, and not kept")
    seed: int | None = Field(
        None,
        ge=0,
        le=LAST_SEED,
        description="of the first image: the same request makes the same bytes; drawn if left out",
        examples=[7],
    )
    truncation: float | None = Field(
        None, gt=0, le=1, description="share of the latents to draw from, 1 if left out; less is more typical"
    )
    to_seed: int | None = Field(
        None, ge=0, le=LAST_SEED, description="of an interpolation: the seed at its other end, of the first image"
    )
    to_prompt: str | None = Field(
        None, max_length=LONGEST_PROMPT, description="of an interpolation of a text model: the prompt at its other end"
    )
    position: float | None = Field(
        None, ge=0, le=1, description="how far along an interpolation the images lie, 0.5 if left out"
    )


class Image(BaseModel):
    """An image."""

    b64_json: str = Field(description="the file in base64; how the image was made is in its metadata")
    seed: int
    revised_prompt: None = Field(None, description="always null: a prompt is read as it is")


class ImagesAnswer(BaseModel):
    """Images, and what makes them again."""

    created: int = Field(description="when, in seconds since 1970")
    data: list[Image]
    model: str = Field(description="NAME@VERSION")
    seed: int = Field(description="of the first image")
    output_format: Format
    size: str = Field(examples=["64x64"])
    remarks: list[str] = Field(description="what to know before trusting the images, for example of unknown words")


class ImageSize(BaseModel):
    """The form of a model's images."""

    width: int = Field(description="in pixels")
    height: int = Field(description="in pixels")
    channels: int = Field(description="1 for grey, 3 for RGB")


class ModelEntry(BaseModel):
    """A model that is served."""

    id: str = Field(description="NAME, which answers with the current version, or NAME@VERSION")
    object: Literal["model"]
    created: int = Field(description="when its package was written, in seconds since 1970; 0 where that is gone by now")
    owned_by: Literal["ganlib"]
    version: str
    current: bool = Field(description="whether it is the version that NAME answers with")
    condition: Literal["none", "class", "text"] = Field(description="what its prompt is")
    classes: list[str] = Field(description="the prompts of a class model")
    image_size: ImageSize
    largest_count: int = Field(description="the largest n")
    family: str = Field(description="the GAN family")
    licence: str | None
    metrics: dict[str, float] = Field(description="how good it is; its card says how that was measured")
    precision: Literal["float32", "float16", "int8"] = Field(description="the numbers that it computes in")
    device: Literal["cpu", "cuda", "tensorrt"] = Field(description="where it runs")
    known_words: bool = Field(description="whether it has a vocabulary, so that `remarks` names the words it lacks")


class ModelList(BaseModel):
    """The models that are served, by name, each with its current version first, then the newest."""

    object: Literal["list"]
    data: list[ModelEntry]
