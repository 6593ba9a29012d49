"""Models behind a socket, for clients that are used as they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from ganlib.serving.app import Settings
from ganlib.serving.models import Served
from tests.serving.listening import application, listening


@dataclass(frozen=True)
class Server:
    """A server that listens, its models loaded.

    Attributes:
        address: `127.0.0.1:PORT`.
        app: what it serves.
        client: speaks to it.
    """

    address: str
    app: FastAPI
    client: httpx.Client

    @property
    def served(self) -> dict[str, Served]:
        """The loaded models by their names."""
        return {served.name: served for served in self.app.state.models.served()}

    def post(self, path: str, body: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
        """The answer to a body, sent as it is."""
        return self.client.post(path, content=body, headers=headers)

    def images_made(self) -> float:
        """How many images the graphs have made, as Prometheus reads it."""
        families = text_string_to_metric_families(self.client.get("/metrics").text)
        samples = [sample for family in families for sample in family.samples]
        return sum(sample.value for sample in samples if sample.name == "ganlib_images_total")


@contextmanager
def serving(packages: Iterable[Path], settings: Settings | None = None) -> Iterator[Server]:
    """A server for some packages, until the block ends."""
    with listening(application(*packages, settings=settings)) as there:
        yield Server(f"127.0.0.1:{there.port}", there.app, there.client)
