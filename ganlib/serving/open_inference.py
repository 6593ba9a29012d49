"""The Open Inference Protocol at `/v2`, as Triton and KServe speak it: the server, its models, and their tensors."""

from __future__ import annotations

from importlib.metadata import version as version_of
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from ganlib.serving import open_inference_infer
from ganlib.serving.bodies import ErrorLine, content_of, described, problems, read
from ganlib.serving.inference_messages import (
    IndexEntry,
    IndexRequest,
    Live,
    Loaded,
    LoadRequest,
    ModelMetadata,
    ModelReady,
    Ready,
    ServerMetadata,
    TensorMetadata,
    Unloaded,
    UnloadRequest,
)
from ganlib.serving.models import Models, NotReady, Served
from ganlib.serving.open_inference_infer import ModelName, Version
from ganlib.serving.tensors import Tensor, graph_inputs, graph_output
from ganlib.serving.triton import PLATFORM, model_config

EXTENSIONS = ("binary_tensor_data", "model_repository", "model_configuration")

router = APIRouter(tags=["Open Inference Protocol"], responses=problems(ErrorLine))
router.include_router(open_inference_infer.router)


@router.get("/v2", summary="The server and its extensions")
async def server() -> ServerMetadata:
    """Name, version, and what is offered beyond the protocol."""
    return ServerMetadata(name="ganlib", version=version_of("ganlib"), extensions=list(EXTENSIONS))


@router.get("/v2/health/live", summary="Whether the server runs")
async def live() -> Live:
    """Answers as soon as the server listens."""
    return Live(live=True)


@router.get("/v2/health/ready", summary="Whether requests are answered")
async def ready(request: Request) -> Ready:
    """503 until all models are loaded, and again once the server has been told to end."""
    if request.app.state.draining:
        raise NotReady("the server is about to end; ask another one")
    if not request.app.state.models.ready:
        raise NotReady("the models are being loaded; try again")
    return Ready(ready=True)


@router.get("/v2/models/{model}", summary="A model's tensors")
async def metadata(request: Request, model: ModelName) -> ModelMetadata:
    """Those of the current version's graph, as Triton lists them.

    In place of `z` a request may send `seed` (INT64, one an image) and with it `truncation` (FP32, above 0, up to 1);
    in place of `class` the BYTES tensor `class_name`; in place of `text` the BYTES tensor `prompt`. They are this
    server's own: Triton does not know them.
    """
    return _metadata(request, model, None)


@router.get("/v2/models/{model}/versions/{version}", summary="A version's tensors")
async def version_metadata(request: Request, model: ModelName, version: Version) -> ModelMetadata:
    """As `/v2/models/{model}`, of a version."""
    return _metadata(request, model, version)


@router.get("/v2/models/{model}/ready", summary="Whether a model answers")
async def model_ready(request: Request, model: ModelName) -> ModelReady:
    """503 while none of its versions is loaded."""
    return ModelReady(name=_find(request, model, None).name, ready=True)


@router.get("/v2/models/{model}/versions/{version}/ready", summary="Whether a version answers")
async def version_ready(request: Request, model: ModelName, version: Version) -> ModelReady:
    """503 while it is not loaded."""
    return ModelReady(name=_find(request, model, version).name, ready=True)


@router.get("/v2/models/{model}/config", summary="A model's configuration")
async def config(request: Request, model: ModelName) -> dict[str, Any]:
    """Triton's ModelConfig, as `ganlib serve --triton-repository` writes it: Triton's extension of the protocol."""
    served = _find(request, model, None)
    return model_config(served.name, served.generator.package)


@router.get("/v2/models/{model}/versions/{version}/config", summary="A version's configuration")
async def version_config(request: Request, model: ModelName, version: Version) -> dict[str, Any]:
    """As `/v2/models/{model}/config`, of a version."""
    served = _find(request, model, version)
    return model_config(served.name, served.generator.package)


@router.post(
    "/v2/repository/index",
    summary="All versions that are known",
    openapi_extra=described(
        IndexRequest, {"ready": {"summary": "those that answer", "value": {"ready": True}}}, required=False
    ),
)
async def index(request: Request) -> list[IndexEntry]:
    """By name, the newest version first."""
    message = read(IndexRequest, await content_of(request) or b"{}")
    entries = request.app.state.models.index()
    return [
        IndexEntry(name=entry.name, version=entry.version, state=entry.state, reason=entry.reason)
        for entry in entries
        if entry.state == "READY" or not message.ready
    ]


@router.post(
    "/v2/repository/models/{model}/load",
    summary="Load a model",
    openapi_extra=described(LoadRequest, {"empty": {"summary": "as its package says", "value": {}}}, required=False),
)
async def load(request: Request, model: ModelName) -> Loaded:
    """Look for its versions now, and load what is new."""
    read(LoadRequest, await content_of(request) or b"{}")
    await request.app.state.models.load(model)
    return Loaded(name=model, load=True)


@router.post(
    "/v2/repository/models/{model}/unload",
    summary="Unload a model",
    openapi_extra=described(UnloadRequest, {"empty": {"summary": "all its versions", "value": {}}}, required=False),
)
async def unload(request: Request, model: ModelName) -> Unloaded:
    """All its versions: what they have accepted is finished."""
    read(UnloadRequest, await content_of(request) or b"{}")
    await request.app.state.models.unload(model)
    return Unloaded(name=model, unload=True)


def _find(request: Request, model: str, version: str | None) -> Served:
    models: Models = request.app.state.models
    return models.find(model, version)


def _metadata(request: Request, model: str, version: str | None) -> ModelMetadata:
    served = _find(request, model, version)
    return ModelMetadata(
        name=served.name,
        versions=[other.version for other in request.app.state.models.served() if other.name == served.name],
        platform=PLATFORM,
        inputs=[_tensor(tensor) for tensor in graph_inputs(served.card)],
        outputs=[_tensor(graph_output(served.card))],
    )


def _tensor(tensor: Tensor) -> TensorMetadata:
    return TensorMetadata(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
