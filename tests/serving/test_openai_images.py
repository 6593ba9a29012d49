"""The OpenAI images API, asked by OpenAI's own clients, and the files that come back."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from ganlib.inference.command import generate
from ganlib.inference.images import png, read_facts
from ganlib.inference.package import open_package
from ganlib.inference.request import Request, Towards
from ganlib.inference.sample import Generator, of_image
from ganlib.serving.app import Settings
from ganlib.serving.batcher import Full
from ganlib.serving.formats import facts_of
from tests.packages import CLASSES, build_package
from tests.serving.servers import Server, serving

KINDS = ("none", "class", "text")
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A package of each kind of condition; the one without is grey."""
    folder: Path = tmp_path_factory.mktemp("packages")
    return {kind: build_package(folder / kind, kind, 1 if kind == "none" else 3) for kind in KINDS}


@pytest.fixture(scope="module")
def server(packages: dict[str, Path]) -> Iterator[Server]:
    """All of them, served."""
    with serving(packages.values(), Settings(largest_count=6)) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    """OpenAI's client, as it is."""
    with openai.OpenAI(base_url=f"http://{server.address}/v1", api_key="none", max_retries=0) as client:
        yield client


def files(answer: Any) -> list[bytes]:
    return [base64.b64decode(image.b64_json, validate=True) for image in answer.data]


@pytest.mark.parametrize(
    ("kind", "prompt"), [("none", ""), ("none", " \n"), ("class", "rose"), ("text", "a red rosé, with petals")]
)
def test_files_are_those_of_the_command_line(
    kind: str, prompt: str, client: openai.OpenAI, packages: dict[str, Path], tmp_path: Path
) -> None:
    """The same bytes, the metadata in them included."""
    answer = client.images.generate(
        model=f"tiny-{kind}", prompt=prompt, n=3, size="auto", extra_body={"seed": 7, "truncation": 0.7}
    )
    arguments = (prompt if kind == "text" else None, prompt if kind == "class" else None, 3, 7, 0.7)
    written = generate(packages[kind], *arguments, tmp_path / "out", lambda line: None, device="cpu")
    assert files(answer) == [path.read_bytes() for path in written]
    assert answer.model == f"tiny-{kind}@1"
    assert (answer.seed, answer.size, answer.output_format) == (7, "8x8", "png")
    assert [image.seed for image in answer.data] == [7, 8, 9]
    assert answer.remarks == (["unknown to tiny-text: rosé; read as words without meaning"] if kind == "text" else [])


def test_files_are_the_same_beside_others(server: Server, packages: dict[str, Path]) -> None:
    """Fifty requests at a time, of different models, seeds and counts."""

    async def ask(client: openai.AsyncOpenAI, number: int) -> list[bytes]:
        prompt = CLASSES[number % 3] if number % 2 else "a blue poppy"
        answer = await client.images.generate(
            model="tiny-class" if number % 2 else "tiny-text@1",
            prompt=prompt,
            n=1 + number % 4,
            response_format="b64_json",
            extra_body={"seed": 100 * number},
        )
        return files(answer)

    async def main() -> list[list[bytes]]:
        async with openai.AsyncOpenAI(base_url=f"http://{server.address}/v1", api_key="none", max_retries=0) as client:
            assert {entry.id async for entry in client.models.list()} >= {"tiny-class", "tiny-text@1"}
            return await asyncio.gather(*(ask(client, number) for number in range(50)))

    generators = {kind: Generator(open_package(packages[kind]), "cpu", 1) for kind in ("class", "text")}
    for number, found in enumerate(asyncio.run(main())):
        condition = {"class_name": CLASSES[number % 3]} if number % 2 else {"prompt": "a blue poppy"}
        alone = generators["class" if number % 2 else "text"].generate(
            Request(**condition, seed=100 * number, count=1 + number % 4)
        )
        assert found == [png(image, facts) for image, facts in zip(alone.images, alone.facts, strict=True)]


def test_a_seed_is_drawn_and_said(client: openai.OpenAI) -> None:
    first, second = (client.images.generate(model="tiny-class", prompt="rose") for _ in range(2))
    assert first.seed != second.seed
    assert 0 <= first.seed < 2**32
    again = client.images.generate(model="tiny-class", prompt="rose", extra_body={"seed": first.seed})
    assert files(again) == files(first)


@pytest.mark.parametrize(
    ("kind", "prompt", "extra", "towards"),
    [
        ("class", "rose", {"to_seed": 40, "position": 0.25}, Towards(40, None, 0.25)),
        ("class", "rose", {"to_seed": 40}, Towards(40, None, 0.5)),
        ("text", "a red rose", {"to_prompt": "a blue poppy", "position": 0}, Towards(None, "a blue poppy", 0)),
        ("text", "a red rose", {"to_prompt": "a blue poppy", "to_seed": 4}, Towards(4, "a blue poppy", 0.5)),
    ],
)
def test_the_way_from_one_image_to_another(
    kind: str, prompt: str, extra: dict[str, Any], towards: Towards, client: openai.OpenAI, server: Server
) -> None:
    answer = client.images.generate(model=f"tiny-{kind}", prompt=prompt, n=2, extra_body={"seed": 3, **extra})
    condition = {"prompt": prompt} if kind == "text" else {"class_name": prompt}
    expected = server.served[f"tiny-{kind}"].generator.generate(Request(seed=3, count=2, towards=towards, **condition))
    assert_array_equal([np.asarray(Image.open(io.BytesIO(file))) for file in files(answer)], expected.images)


@pytest.mark.parametrize("kind", ["none", "class"])
@pytest.mark.parametrize("form", ["webp", "jpeg"])
def test_other_formats_hold_the_image_and_how_it_was_made(
    form: Any, kind: str, client: openai.OpenAI, server: Server
) -> None:
    prompt = "rose" if kind == "class" else ""
    asked = {"model": f"tiny-{kind}", "prompt": prompt, "output_format": form, "n": 2, "extra_body": {"seed": 7}}
    best, worst = (client.images.generate(**asked, output_compression=level) for level in (100, 0))
    request = Request(class_name=prompt or None, seed=7, count=2)
    generator = server.served[f"tiny-{kind}"].generator
    expected = generator.generate(request).images
    errors = {}
    for name, answer in (("best", best), ("worst", worst)):
        assert answer.output_format == form
        pixels = []
        for i, file in enumerate(files(answer)):
            assert facts_of(file) == of_image(generator.facts(request), i)
            with Image.open(io.BytesIO(file)) as image:
                assert image.format == form.upper()
                pixels.append(np.asarray(image.convert("L" if kind == "none" else "RGB")).reshape(8, 8, -1))
        errors[name] = np.abs(np.stack(pixels).astype(float) - expected).mean()
    assert errors["best"] == 0 if form == "webp" else 0 < errors["best"] < 1
    assert 10 < errors["worst"] < 100
    assert files(client.images.generate(**asked)) == files(best)


def test_a_png_file_says_how_it_was_made(client: openai.OpenAI, tmp_path: Path) -> None:
    answer = client.images.generate(model="tiny-text", prompt="a red rose", extra_body={"seed": 2**63 - 1})
    (tmp_path / "image.png").write_bytes(files(answer)[0])
    facts = read_facts(tmp_path / "image.png")
    assert (facts.prompt, facts.seed, facts.count, facts.truncation) == ("a red rose", 2**63 - 1, 1, 1.0)


def test_models_are_listed_by_name_and_by_version(client: openai.OpenAI, packages: dict[str, Path]) -> None:
    listed = client.models.list().data
    assert [entry.id for entry in listed] == [
        f"tiny-{kind}{at}" for kind in ("class", "none", "text") for at in ("", "@1")
    ]
    for kind in KINDS:
        entry = client.models.retrieve(f"tiny-{kind}@1")
        assert entry in listed
        found = entry.model_dump()
        assert found["created"] == int((packages[kind] / "card.json").stat().st_mtime)
        assert found == found | {
            "object": "model",
            "owned_by": "ganlib",
            "version": "1",
            "current": True,
            "condition": kind,
            "classes": list(CLASSES) if kind == "class" else [],
            "image_size": {"width": 8, "height": 8, "channels": 1 if kind == "none" else 3},
            "largest_count": 6,
            "family": "tiny",
            "precision": "float32",
            "device": "cpu",
            "known_words": kind == "text",
        }
    with pytest.raises(openai.NotFoundError, match="model: found 'roses'; this server has tiny-class, tiny-none, tiny"):
        client.models.retrieve("roses")


@pytest.mark.parametrize(
    ("asked", "param", "line"),
    [
        (
            {"model": "tiny-class", "prompt": "ross"},
            "prompt",
            "found 'ross'; tiny-class knows daisy, poppy, rose; did",
        ),
        ({"model": "tiny-class", "prompt": "x y " * 400}, "prompt", "found 'x y x y"),
        (
            {"model": "tiny-none", "prompt": "a rose"},
            "prompt",
            "found 'a rose'; tiny-none takes neither prompt",
        ),
        ({"model": "tiny-text", "prompt": " "}, "prompt", "found ' '; expected at least one word"),
        ({"model": "tiny-text", "prompt": "a" * 2001}, "prompt", "found 'aaaa"),
        ({"prompt": "a rose"}, "model", "missing; this server has tiny-class, tiny-none, tiny-text"),
        ({"n": 7}, "n", "found 7; expected 1 to 6"),
        ({"n": 0}, "n", "found 0; input should be greater than or equal to 1"),
        ({"size": "1024x1024"}, "size", "found '1024x1024'; tiny-class makes 8x8, say so or auto"),
        ({"size": "large"}, "size", "found 'large'; string should match"),
        ({"response_format": "url"}, "response_format", "found 'url'; expected b64_json, or nothing"),
        ({"quality": "hd"}, "quality", "found 'hd'; expected auto or standard, or nothing"),
        ({"background": "transparent"}, "background", "found 'transparent'; expected auto or opaque"),
        ({"style": "natural"}, "style", "found 'natural'; expected vivid"),
        ({"output_format": "gif"}, "output_format", "found 'gif'; input should be 'png', 'webp' or 'jpeg'"),
        ({"output_compression": 50}, "output_compression", "found 50 for png; it is for webp and jpeg"),
        ({"stream": True}, "stream", "found True; images come whole here, leave it out"),
        ({"extra_body": {"seed": -1}}, "seed", "found -1; input should be greater than or equal to 0"),
        ({"extra_body": {"seed": 2**63}}, "seed", "found 9223372036854775808; input should be less than"),
        ({"extra_body": {"seed": 2**63 - 1}, "n": 2}, "seed", "found 9223372036854775807; expected a whole number"),
        ({"extra_body": {"seed": 1.0}}, "seed", "found 1.0; input should be a valid integer"),
        ({"extra_body": {"seed": "1"}}, "seed", "found '1'; input should be a valid integer"),
        ({"extra_body": {"truncation": 0}}, "truncation", "found 0; input should be greater than 0"),
        ({"extra_body": {"truncation": 1.1}}, "truncation", "found 1.1; input should be less than or equal to 1"),
        ({"extra_body": {"position": 0.5}}, "position", "found 0.5 without to_seed or to_prompt; say where to"),
        ({"extra_body": {"to_seed": 2**63 - 1}, "n": 2}, "to_seed", "found 9223372036854775807; expected a whole"),
        (
            {"extra_body": {"to_prompt": "a rose"}},
            "to_prompt",
            "found 'a rose'; tiny-class reads no text, go to",
        ),
        ({"extra_body": {"truncaton": 0.5}}, "truncaton", "unknown key; did you mean truncation?"),
    ],
)
def test_bad_requests_are_said_in_one_line_that_names_the_field(
    asked: dict[str, Any], param: str, line: str, client: openai.OpenAI, server: Server
) -> None:
    made = server.images_made()
    defaults = {} if "prompt" in asked else {"model": "tiny-class", "prompt": "rose"}
    with pytest.raises(openai.BadRequestError) as raised:
        client.images.generate(**defaults | asked)
    error = raised.value
    assert isinstance(error.body, dict)
    assert error.body["message"].startswith(f"{param}: {line}")
    assert "\n" not in error.body["message"]
    assert len(error.body["message"]) < 400
    assert (error.type, error.param, error.code) == ("invalid_request_error", param, None)
    assert server.images_made() == made


def test_fields_that_ask_for_nothing_special_are_taken(client: openai.OpenAI) -> None:
    plain = client.images.generate(model="tiny-class", prompt="rose", extra_body={"seed": 1})
    spelled_out = client.images.generate(
        model="tiny-class",
        prompt="rose",
        n=1,
        size="8x8",
        quality="standard",
        background="opaque",
        style="vivid",
        moderation="low",
        stream=False,
        partial_images=0,
        output_format="png",
        output_compression=100,
        response_format="b64_json",
        user="somebody",
        extra_body={"seed": 1, "truncation": 1, "to_seed": None},
    )
    assert files(spelled_out) == files(plain)


@pytest.mark.parametrize(
    ("body", "headers", "status", "line"),
    [
        (b"", JSON, 400, "body: found nothing; expected JSON"),
        (
            b"prompt=rose",
            {"Content-Type": "application/x-www-form-urlencoded"},
            415,
            "Content-Type: found 'application/",
        ),
        (b'{"prompt": "rose"}', {}, 415, "Content-Type: found ''; expected application/json"),
        (b'{"prompt": "\\ud800"}', JSON, 400, "body: invalid JSON: "),
        (b'{"truncation": NaN}', JSON, 400, "truncation: found nan; input should be "),
        (b'{"prompt": ' + b"[" * 9999 + b"]" * 9999 + b"}", JSON, 400, "body: invalid JSON: recursion limit exceeded"),
        (b'{"prompt": "a\\u0000rose", "model": "tiny-text"}', JSON, 400, "prompt: found the character '\\x00'"),
        (b'{"prompt": {"rose": 1}}', JSON, 400, "prompt: found {'rose': 1}; input should be a valid string"),
    ],
)
def test_other_bodies_are_refused(body: bytes, headers: dict[str, str], status: int, line: str, server: Server) -> None:
    answer = server.post("/v1/images/generations", body, headers)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["message"].startswith(line)
    assert list(error) == ["message", "type", "param", "code"]


def test_a_model_that_is_not_there(client: openai.OpenAI) -> None:
    for model in ("roses", "tiny-class@2", "tiny-class@", ""):
        with pytest.raises(openai.NotFoundError, match="model: found ") as raised:
            client.images.generate(model=model, prompt="rose")
        assert raised.value.param == "model"


def test_the_only_model_needs_no_name(packages: dict[str, Path]) -> None:
    with (
        serving([packages["class"]]) as server,
        openai.OpenAI(base_url=f"http://{server.address}/v1", api_key="none", max_retries=0) as client,
    ):
        assert client.images.generate(prompt="rose").model == "tiny-class@1"


def test_a_token_is_asked_for(packages: dict[str, Path]) -> None:
    with serving([packages["class"]], Settings(token="secret-7")) as server:
        for key, works in (("secret-7", True), ("secret-8", False)):
            with openai.OpenAI(base_url=f"http://{server.address}/v1", api_key=key, max_retries=0) as client:
                if works:
                    assert client.images.generate(prompt="rose").data
                    continue
                with pytest.raises(openai.AuthenticationError):
                    client.images.generate(prompt="rose")


def test_a_full_queue_is_a_rate_limit(client: openai.OpenAI, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(inputs: Any, timeout: float | None = None) -> Any:
        raise Full("9 images wait and 9 may; try again in 3 s", retry_after=3)

    monkeypatch.setattr(server.served["tiny-class"].batcher, "submit", full)
    with pytest.raises(openai.RateLimitError, match="9 images wait and 9 may; try again in 3 s") as raised:
        client.images.generate(model="tiny-class", prompt="rose")
    assert raised.value.response.headers["Retry-After"] == "3"
    assert raised.value.type == "rate_limit_error"


def test_clients_try_again_when_they_are_told_to(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client with its own retries gets its images once the queue has room."""
    batcher = server.served["tiny-class"].batcher
    submit, calls = batcher.submit, []

    async def once_full(inputs: Any, timeout: float | None = None) -> Any:
        calls.append(timeout)
        if len(calls) == 1:
            raise Full("9 images wait and 9 may; try again in 1 s", retry_after=1)
        return await submit(inputs, timeout)

    monkeypatch.setattr(batcher, "submit", once_full)
    with openai.OpenAI(base_url=f"http://{server.address}/v1", api_key="none", max_retries=2) as client:
        assert client.images.generate(model="tiny-class", prompt="rose").data
    assert len(calls) == 2
