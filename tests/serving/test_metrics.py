"""The figures, as Prometheus' own parsers read them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_text

from ganlib.serving.metrics import Metrics
from ganlib.serving.models import Models
from ganlib.serving.runtime import Runtime
from tests.serving.listening import Listening, application, listening
from tests.serving.test_batcher import Gate, inputs, submitted

Labels = dict[str, str]


class Figures:
    """What a scrape has."""

    def __init__(self, text: str) -> None:
        families = list(plain_text(text))
        self.types = {family.name: family.type for family in families}
        self.samples = [sample for family in families for sample in family.samples]

    def value(self, name: str, **labels: str) -> float:
        """The only sample of that name with these labels."""
        found = [
            sample.value for sample in self.samples if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert len(found) == 1, (name, labels, found)
        return found[0]


@pytest.fixture
def server(packages: dict[str, Path]) -> Iterator[Listening]:
    with listening(application(packages["none"], packages["class"])) as server:
        yield server


def scrape(server: Listening) -> Figures:
    answer = server.client.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    return Figures(answer.text)


def test_requests_images_and_runs_are_counted(server: Listening) -> None:
    for model, prompt, count in (("tiny-none", "", 3), ("tiny-none", "", 2), ("tiny-class", "rose", 1)):
        asked = {"model": model, "prompt": prompt, "n": count}
        assert server.client.post("/v1/images/generations", json=asked).status_code == 200
    assert (
        server.client.post("/v1/images/generations", json={"model": "tiny-class", "prompt": "oak"}).status_code == 400
    )
    assert server.client.get("/v2/models/nix").status_code == 404
    figures = scrape(server)

    none, classes = {"model": "tiny-none", "version": "1"}, {"model": "tiny-class", "version": "1"}
    requests, openai = "ganlib_requests_total", {"protocol": "openai"}
    assert figures.value(requests, **none, **openai, status="200") == 2
    assert figures.value(requests, **classes, **openai, status="200") == 1
    assert figures.value(requests, **classes, **openai, status="400") == 1
    assert figures.value(requests, model="", version="", protocol="open_inference", status="404") == 1
    assert figures.value("ganlib_request_seconds_count", **none, **openai) == 2
    assert 0 < figures.value("ganlib_request_seconds_sum", **none, **openai) < 20
    assert figures.value("ganlib_request_seconds_bucket", **none, **openai, le="+Inf") == 2
    assert figures.value("ganlib_images_total", **none) == 5
    assert figures.value("ganlib_images_total", **classes) == 1
    assert figures.value("ganlib_batch_images_count", **none) == 2
    assert figures.value("ganlib_batch_images_sum", **none) == 5
    assert figures.value("ganlib_batch_images_bucket", **none, le="2.0") == 1
    assert figures.value("ganlib_run_seconds_count", **classes) == 1
    for version in (none, classes):
        assert figures.value("ganlib_queued_images", **version) == 0
        assert figures.value("ganlib_loaded", **version) == 1
    assert figures.value("ganlib_ready") == 1
    assert figures.value("ganlib_active_requests") == 0
    assert figures.value("ganlib_build_info") == 1
    assert figures.value("process_resident_memory_bytes") > 2**20
    assert figures.types["ganlib_requests"] == "counter"
    assert figures.types["ganlib_request_seconds"] == figures.types["ganlib_batch_images"] == "histogram"


def test_what_is_unloaded_is_not_shown_as_loaded(server: Listening) -> None:
    assert server.client.post("/v2/repository/models/tiny-class/unload").status_code == 200
    loaded = [sample.labels["model"] for sample in scrape(server).samples if sample.name == "ganlib_loaded"]
    assert loaded == ["tiny-none"]


def test_open_metrics_are_given_to_whom_asks_for_them(server: Listening) -> None:
    answer = server.client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    names = {family.name for family in open_metrics(answer.text)}
    assert {"ganlib_requests", "ganlib_queued_images", "ganlib_ready"} <= names


def test_waiting_images_are_those_of_the_moment(packages: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        app = application(packages["none"], runtime=Runtime("cpu", workers=1, largest=1))
        models: Models = app.state.models
        task = asyncio.create_task(models.start())
        while not models.ready:
            await asyncio.sleep(0.005)
        gate = Gate()
        monkeypatch.setattr(models.find(None).batcher, "_render", gate)
        waiting = await submitted(models.find(None).batcher, inputs(1), inputs(2, 3))
        await gate.begun()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
            assert Figures((await client.get("/metrics")).text).value("ganlib_queued_images", model="tiny-none") == 2
        gate.let()
        await asyncio.gather(*waiting)
        await models.close()
        await task

    asyncio.run(asyncio.wait_for(test(), 20))


def test_two_applications_count_for_themselves() -> None:
    """Their registries are their own: the second one would be refused by a shared one."""
    first, second = Metrics(Models([]), int), Metrics(Models([]), int)
    first.run("a", "1", 4, 0.1)
    assert Figures(first.page("")[0].decode()).value("ganlib_images_total", model="a") == 4
    assert not [s for s in Figures(second.page("")[0].decode()).samples if s.name == "ganlib_images_total"]
