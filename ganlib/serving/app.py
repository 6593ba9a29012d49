"""The server's application: the protocols, the page, the metrics, and the limits around them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from ganlib.serving import open_inference, openai_images
from ganlib.serving.documentation import POLICY, describe
from ganlib.serving.documentation import page as documentation_page
from ganlib.serving.errors import add_error_handlers
from ganlib.serving.limits import Limits
from ganlib.serving.metrics import Metrics
from ganlib.serving.models import Models
from ganlib.serving.requests import Requests

PAGE = Path(__file__).parent / "page"


@dataclass(frozen=True)
class Settings:
    """What a request may ask for.

    Attributes:
        timeout: seconds that a request may take.
        largest_body: bytes of a request's body at most.
        token: what a client has to show; None asks for none.
        largest_count: images of a request of the OpenAI API at most.
    """

    timeout: float = 30.0
    largest_body: int = 16 * 2**20
    token: str | None = None
    largest_count: int = 10


def create_app(models: Models, settings: Settings) -> FastAPI:
    """The application. Its lifespan loads the models in the background, and finishes what was accepted at its end.

    Its `state` has `models` and `settings` as given; `draining`, whether new work is turned away because the server is
    about to end; `active`, how many requests that may mean work are running; and `loading`, the task that looks after
    the models.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.loading = asyncio.get_running_loop().create_task(models.start())
        yield
        await models.close()

    app = FastAPI(
        title="ganlib",
        version=version("ganlib"),
        description="Images from GAN generators: Open Inference Protocol at /v2, OpenAI images API at /v1.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's page loads its parts from elsewhere
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.models, app.state.settings = models, settings
    app.state.draining, app.state.active = False, 0
    metrics = Metrics(models, lambda: app.state.active)
    models.observe = metrics.run
    add_error_handlers(app)
    app.include_router(open_inference.router)
    app.include_router(openai_images.router)
    static = StaticFiles(directory=PAGE, check_dir=False)

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page(request: Request) -> Response:
        return await static.get_response("index.html", request.scope)

    @app.get("/metrics", include_in_schema=False)
    async def figures(request: Request) -> Response:
        content, content_type = metrics.page(request.headers.get("accept", ""))
        return Response(content, headers={"Content-Type": content_type})

    @cache
    def described() -> dict[str, Any]:
        return describe(app, settings.token is not None)

    app.openapi = described  # type: ignore[method-assign]

    @app.get("/openapi.json", include_in_schema=False)
    def openapi() -> Response:  # in a thread, as it takes a while when it is first asked for
        return JSONResponse(described())

    @app.get("/docs", include_in_schema=False)
    def docs() -> Response:
        return HTMLResponse(documentation_page(described()), headers={"Content-Security-Policy": POLICY})

    app.mount("/static", static, name="static")
    app.add_middleware(
        Limits, token=settings.token, largest_body=settings.largest_body, timeout=settings.timeout
    )  # the inner one
    app.add_middleware(Requests, metrics=metrics)
    return app
