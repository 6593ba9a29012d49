"""The JSON objects of the Open Inference Protocol, https://github.com/kserve/open-inference-protocol, with Triton's
extensions for binary tensors, the model repository and the model's configuration."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ganlib.serving.bodies import Message


class InputParameters(Message):
    """What is said of an input beside its shape."""

    binary_data_size: int | None = Field(
        None,
        ge=0,
        description="bytes of this tensor behind the JSON, in the inputs' order; then without `data`",
    )


class RequestInput(Message):
    """A tensor that is sent."""

    name: str = Field(
        description="z or seed (and truncation), class or class_name, text or prompt",
        json_schema_extra={"enum": ["z", "seed", "truncation", "class", "class_name", "text", "prompt"]},
    )
    shape: list[int] = Field(min_length=1, max_length=8, description="[N, ...] for N images; [N] of single values")
    datatype: str = Field(
        description="as the tensor has it: text is BYTES", json_schema_extra={"enum": ["FP32", "INT64", "BYTES"]}
    )
    parameters: InputParameters | None = Field(None, description="that it comes as bytes")
    data: list[Any] | None = Field(None, description="the values, row by row: flat, or nested as the shape")


class OutputParameters(Message):
    """How an output is to be sent."""

    binary_data: bool | None = Field(None, description="as bytes behind the JSON, or as numbers in it")


class RequestOutput(Message):
    """A tensor that is asked for."""

    name: str = Field(description="images", json_schema_extra={"enum": ["images"]})
    parameters: OutputParameters | None = Field(None, description="whether it is to come as bytes")


class RequestParameters(Message):
    """What is said of a request beside its tensors."""

    binary_data_output: bool | None = Field(None, description="outputs as bytes, where they do not say otherwise")
    timeout: int | None = Field(None, ge=1, description="microseconds that it may take, up to the server's limit")


class InferRequest(Message):
    """Images that are asked for, by the tensors that they are made of."""

    id: str | None = Field(None, max_length=1024, description="given back as it is")
    inputs: list[RequestInput] = Field(min_length=1, max_length=8, description="each of N images; every name once")
    outputs: list[RequestOutput] | None = Field(None, max_length=8, description="left out: all, which is `images`")
    parameters: RequestParameters | None = Field(None, description="of the request as a whole")


class ResponseOutput(BaseModel):
    """A tensor that is given."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int] | None = Field(None, description="binary_data_size, where its bytes follow the JSON")
    data: list[int] | None = Field(None, description="the values, row by row, where they are in the JSON")


class InferAnswer(BaseModel):
    """The images: 0 to 255, by row, column and channel."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str
    model_version: str
    id: str | None = Field(None, description="of the request, where it has one")
    outputs: list[ResponseOutput]


class ServerMetadata(BaseModel):
    """The server."""

    name: str
    version: str
    extensions: list[str] = Field(description="what it offers beyond the protocol, by Triton's names")


class Live(BaseModel):
    """The server runs."""

    live: Literal[True]


class Ready(BaseModel):
    """Requests are answered."""

    ready: Literal[True]


class ModelReady(BaseModel):
    """The model answers requests."""

    name: str
    ready: Literal[True]


class TensorMetadata(BaseModel):
    """A tensor of a model."""

    name: str
    datatype: str
    shape: list[int] = Field(description="-1 stands for the number of images")


class ModelMetadata(BaseModel):
    """A model: the tensors of its graph, as Triton lists them from the folder of `ganlib serve --triton-repository`."""

    name: str
    versions: list[str] = Field(description="those that are loaded: the current one first, then the newest")
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class IndexRequest(Message):
    """Which versions to list."""

    ready: bool | None = Field(None, description="only those that answer requests")


class IndexEntry(BaseModel):
    """A version that is known."""

    name: str
    version: str
    state: Literal["READY", "LOADING", "UNAVAILABLE"]
    reason: str = Field(description="why it is not READY; empty where it is")


class NoParameters(Message):
    """A load's parameters: a model is loaded as its package says, so there are none."""


class LoadRequest(Message):
    """A model's loading."""

    parameters: NoParameters | None = Field(None, description="none")


class UnloadParameters(Message):
    """An unloading's parameters."""

    unload_dependents: bool | None = Field(None, description="whatever it says: no model here depends on another")


class UnloadRequest(Message):
    """A model's unloading."""

    parameters: UnloadParameters | None = Field(None, description="as Triton's clients send them")


class Loaded(BaseModel):
    """The model is loaded."""

    name: str
    load: Literal[True]


class Unloaded(BaseModel):
    """The model takes no new requests; those that it has accepted are finished."""

    name: str
    unload: Literal[True]
