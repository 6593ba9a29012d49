"""What Prometheus reads: requests, latencies, runs of the graphs, queues, versions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from ganlib.serving.models import Models

_VERSION = ("model", "version")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_IMAGES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The figures of one application, in a registry of its own."""

    def __init__(self, models: Models, active: Callable[[], int]) -> None:
        """
        Args:
            models: what is served; its queues and versions are read when Prometheus asks.
            active: how many requests that may mean work are running, read then too.
        """
        registry = self._registry = CollectorRegistry()
        self._requests = Counter(
            "ganlib_requests",
            "requests answered, by HTTP status; 499 where the client left before",
            (*_VERSION, "protocol", "status"),
            registry=registry,
        )
        self._seconds = Histogram(
            "ganlib_request_seconds",
            "from the request's head to the answer's end",
            (*_VERSION, "protocol"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._images = Counter("ganlib_images", "images made", _VERSION, registry=registry)
        self._batch = Histogram(
            "ganlib_batch_images", "images in one run of the graph", _VERSION, buckets=_IMAGES, registry=registry
        )
        self._run = Histogram(
            "ganlib_run_seconds", "one run of the graph", _VERSION, buckets=_SECONDS, registry=registry
        )
        build = Gauge("ganlib_build_info", "1, with the versions as labels", ("version",), registry=registry)
        build.labels(version("ganlib")).set(1)
        ProcessCollector(registry=registry)
        registry.register(_State(models, active))

    def request(self, model: str, version: str, protocol: str, status: int, seconds: float) -> None:
        """Count an answered request; `model` and `version` are empty where none was asked for."""
        self._requests.labels(model, version, protocol, str(status)).inc()
        self._seconds.labels(model, version, protocol).observe(seconds)

    def run(self, model: str, version: str, images: int, seconds: float) -> None:
        """Count a run of a version's graph."""
        self._images.labels(model, version).inc(images)
        self._batch.labels(model, version).observe(images)
        self._run.labels(model, version).observe(seconds)

    def page(self, accept: str) -> tuple[bytes, str]:
        """The figures in the format that a client accepts, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class _State(Collector):
    """What is loaded and what waits, as it is when somebody asks."""

    def __init__(self, models: Models, active: Callable[[], int]) -> None:
        self._models = models
        self._active = active

    def collect(self) -> Iterator[Metric]:
        queued = GaugeMetricFamily("ganlib_queued_images", "images that wait for a worker", labels=_VERSION)
        loaded = GaugeMetricFamily("ganlib_loaded", "1 for each version that is served", labels=_VERSION)
        for served in self._models.served():
            queued.add_metric((served.name, served.version), served.batcher.queued)
            loaded.add_metric((served.name, served.version), 1)
        yield queued
        yield loaded
        ready = GaugeMetricFamily("ganlib_ready", "whether everything that was asked for at the start is loaded")
        ready.add_metric((), self._models.ready)
        yield ready
        active = GaugeMetricFamily("ganlib_active_requests", "requests that are being answered, but for GET")
        active.add_metric((), self._active())
        yield active
