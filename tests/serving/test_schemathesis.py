"""Requests that schemathesis makes from the server's own OpenAPI description, right ones and wrong ones."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema

from ganlib.serving.app import Settings, create_app
from ganlib.serving.models import Models
from tests.packages import build_package
from tests.serving.servers import Server, serving

DESCRIPTION = create_app(Models([]), Settings()).openapi()
OPERATIONS = sorted(
    f"{method.upper()} {path}" for path, operations in DESCRIPTION["paths"].items() for method in operations
)
INFER = "/v2/models/{model}/infer"
VERSION_INFER = "/v2/models/{model}/versions/{version}/infer"
IMAGES = "/v1/images/generations"
BODIES_OF_MODELS = tuple(f"POST {path}" for path in (INFER, VERSION_INFER, IMAGES))
"""Operations whose bodies may be right by the description and wrong for the model: other tensors, an unknown class."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A model of each kind of condition, and one that may be loaded and unloaded."""
    folder: Path = tmp_path_factory.mktemp("packages")
    kinds = {"flowers": "text", "kinds": "class", "plain": "none", "spare": "none"}
    packages = [build_package(folder / name, kind, name=name) for name, kind in kinds.items()]
    with serving(packages, Settings(largest_body=2**20)) as server:
        yield server


def narrowed() -> dict[str, Any]:
    """The description, its models narrowed to those that are served: other names are tried as wrong ones."""
    raw: dict[str, Any] = json.loads(json.dumps(DESCRIPTION))
    for path, operations in raw["paths"].items():
        models = ["spare"] if path.startswith("/v2/repository") else ["flowers", "flowers@1", "kinds", "plain"]
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                if parameter["name"] in ("model", "version"):
                    parameter["schema"] = {"enum": models if parameter["name"] == "model" else ["1"]}
    return raw


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_answer_is_as_described(operation: str, server: Server) -> None:
    """Status codes, content types, headers and bodies are those of the description, no answer is a server's error,
    what contradicts the description is refused, and what follows it is taken, unless that depends on the model."""
    config = {
        "seed": 7,
        "base-url": f"http://{server.address}",
        "request-timeout": 10,
        "generation": {"max-examples": 10, "deterministic": True, "database": "none", "no-shrink": True},
        "phases": {"stateful": {"enabled": False}},
        "checks": {"positive_data_acceptance": {"enabled": operation not in BODIES_OF_MODELS}},
    }
    schema = schemathesis.openapi.from_dict(narrowed(), config=SchemathesisConfig.from_dict(config))
    statuses: Counter[int] = Counter()
    problems: list[str] = []
    for event in from_schema(schema.include(name=operation)).execute():
        if isinstance(event, events.NonFatalError):
            problems.append(str(event.value))
        elif isinstance(event, events.FatalError):
            raise event.exception
        elif isinstance(event, events.ScenarioFinished):
            checks = itertools.chain.from_iterable(event.recorder.checks.values())
            failures = [check.failure_info for check in checks if check.failure_info is not None]
            problems += [f"{failure.failure}\n{failure.code_sample}" for failure in failures]
            answers = (interaction.response for interaction in event.recorder.interactions.values())
            statuses.update(answer.status_code for answer in answers if answer is not None)
    assert not problems, "\n\n".join(problems)
    assert sum(statuses.values()) >= 2
    assert statuses[200] >= 1
    assert max(statuses) < 500


@pytest.mark.parametrize(
    ("path", "example", "model"),
    [
        (INFER, "classes", "kinds"),
        (INFER, "prompts", "flowers"),
        (INFER, "graph", "kinds"),
        (VERSION_INFER, "classes", "kinds"),
        (VERSION_INFER, "prompts", "flowers"),
        (VERSION_INFER, "graph", "kinds"),
        (IMAGES, "prompt", "flowers"),
        (IMAGES, "again", "flowers"),
        (IMAGES, "between", "flowers"),
        ("/v2/repository/index", "ready", ""),
        ("/v2/repository/models/{model}/load", "empty", "spare"),
        ("/v2/repository/models/{model}/unload", "empty", "spare"),
    ],
)
def test_examples_work(path: str, example: str, model: str, server: Server) -> None:
    """As they stand, but for the only model's name, which may be left out."""
    content = DESCRIPTION["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    value = ({"model": model} if path == IMAGES else {}) | content["examples"][example]["value"]
    answer = server.client.post(path.format(model=model, version=1), json=value)
    assert answer.status_code == 200, answer.text


def test_the_description_is_complete() -> None:
    """Every operation says what it is for, what it takes and how it fails; every example of a body is tried above."""
    examples = set()
    for path, operations in DESCRIPTION["paths"].items():
        for operation in operations.values():
            assert operation["summary"]
            assert operation["description"]
            assert operation["tags"]
            assert operation["responses"].keys() >= {"200", "400", "401", "404", "413", "429", "500", "503", "504"}
            for parameter in operation.get("parameters", ()):
                assert parameter["description"]
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            for name, field in body.get("schema", {}).get("properties", {}).items():
                assert field.get("description"), f"{path}: {name}"
            examples |= {(path, name) for name in body.get("examples", ())}
    assert examples == {(path, example) for path, example, _ in test_examples_work.pytestmark[0].args[1]}
