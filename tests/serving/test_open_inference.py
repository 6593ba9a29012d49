"""The Open Inference Protocol, asked by Triton's own clients, and by bodies that no client of theirs would send."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from numpy.testing import assert_array_equal
from tritonclient.utils import InferenceServerException

from ganlib.inference.request import Request
from ganlib.serving.app import Settings
from ganlib.serving.batcher import Full
from tests.packages import CLASSES, LATENT, TEXT
from tests.serving.servers import Server, serving

LARGEST_BODY = 2**20


@pytest.fixture(scope="module")
def server(packages: dict[str, Path]) -> Iterator[Server]:
    """A model of each kind of condition."""
    with serving(packages.values(), Settings(largest_body=LARGEST_BODY)) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    """Triton's client, as it is."""
    with triton.InferenceServerClient(server.address) as client:
        yield client


def given(name: str, values: np.ndarray, binary: bool = True, client: Any = triton) -> Any:
    datatype = {"f": "FP32", "i": "INT64", "O": "BYTES"}[values.dtype.kind]
    return client.InferInput(name, list(values.shape), datatype).set_data_from_numpy(values, binary_data=binary)


def latents_of(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, LATENT)).astype(np.float32)


def test_the_server_says_what_it_is(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    metadata = client.get_server_metadata()
    assert metadata["name"] == "ganlib"
    assert metadata["extensions"] == ["binary_tensor_data", "model_repository", "model_configuration"]


def test_a_model_says_what_it_takes(client: triton.InferenceServerClient) -> None:
    z = {"name": "z", "datatype": "FP32", "shape": [-1, LATENT]}
    images = {"name": "images", "datatype": "UINT8", "shape": [-1, 8, 8, 3]}
    condition = {
        "tiny-none": [],
        "tiny-class": [{"name": "class", "datatype": "INT64", "shape": [-1, 1]}],
        "tiny-text": [{"name": "text", "datatype": "FP32", "shape": [-1, TEXT]}],
    }
    for name, further in condition.items():
        expected = {"name": name, "versions": ["1"], "platform": "onnxruntime_onnx"}
        expected |= {"inputs": [z, *further], "outputs": [images]}
        assert client.get_model_metadata(name) == expected
        assert client.get_model_metadata(name, "1") == expected
        assert client.is_model_ready(name)
        assert client.is_model_ready(name, "1")
        assert client.get_model_config(name)["name"] == client.get_model_config(name, "1")["name"] == name


def test_unknown_models_and_versions_are_not_found(client: triton.InferenceServerClient) -> None:
    assert not client.is_model_ready("roses")
    assert not client.is_model_ready("tiny-class", "2")
    for call in (
        lambda: client.get_model_metadata("roses"),
        lambda: client.infer("roses", [given("z", latents_of(1, 1))]),
        lambda: client.load_model("roses"),
        lambda: client.unload_model("roses"),
    ):
        with pytest.raises(
            InferenceServerException, match="model: found 'roses'; this server has tiny-class,"
        ) as raised:
            call()
        assert raised.value.status() == "404"
    with pytest.raises(InferenceServerException, match="found version '2' of tiny-class; this server has 1"):
        client.get_model_metadata("tiny-class", "2")


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_images_come_as_they_are_asked_for(
    binary_in: bool, binary_out: bool | None, compression: str | None, server: Server, client: Any
) -> None:
    z, classes = latents_of(1, 3), np.array([2, 0, 1])
    result = client.infer(
        "tiny-class",
        [given("z", z, binary_in), given("class", classes.reshape(3, 1), binary_in)],
        outputs=None if binary_out is None else [triton.InferRequestedOutput("images", binary_data=binary_out)],
        request_id="a7",
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    assert_array_equal(result.as_numpy("images"), server.served["tiny-class"].generator.render(z, classes))
    response = result.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("a7", "tiny-class", "1")
    assert ("data" in response["outputs"][0]) is (binary_out is False)


@pytest.mark.parametrize(
    ("accepted", "coding"), [("gzip", "gzip"), ("deflate", "deflate"), ("gzip, deflate", None), ("identity", None)]
)
def test_answers_are_compressed_for_who_asks_for_one_coding(accepted: str, coding: str | None, server: Server) -> None:
    answer = server.post("/v2/models/tiny-none/infer", seed(), {"Accept-Encoding": accepted})
    assert answer.headers.get("Content-Encoding") == coding
    assert answer.json()["outputs"][0]["shape"] == [1, 8, 8, 3]


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_one_value_an_image_is_taken_with_and_without_its_own_side(
    shape: tuple[int, ...], server: Server, client: triton.InferenceServerClient
) -> None:
    z, classes = latents_of(2, 4), np.array([0, 1, 2, 0])
    result = client.infer("tiny-class", [given("z", z), given("class", classes.reshape(shape))], model_version="1")
    assert_array_equal(result.as_numpy("images"), server.served["tiny-class"].generator.render(z, classes))


@pytest.mark.parametrize("binary", [True, False])
def test_seeds_and_words_make_the_images_of_requests(
    binary: bool, server: Server, client: triton.InferenceServerClient
) -> None:
    """The tensors that Triton does not know: the same images as `Generator.generate`, to the bit."""
    seeds, truncation = np.arange(20, 23), np.full(3, 0.7, np.float32)
    asked = {
        "tiny-none": (Request(seed=20, count=3, truncation=0.7), []),
        "tiny-class": (
            Request(class_name="rose", seed=20, count=3, truncation=0.7),
            [given("class_name", np.array(["rose"] * 3, object), binary)],
        ),
        "tiny-text": (
            Request(prompt="a red rosé", seed=20, count=3, truncation=0.7),
            [given("prompt", np.array(["a red rosé".encode()] * 3, object), binary)],
        ),
    }
    for name, (request, further) in asked.items():
        tensors = [given("seed", seeds, binary), given("truncation", truncation, binary), *further]
        images = client.infer(name, tensors).as_numpy("images")
        assert_array_equal(images, server.served[name].generator.generate(request).images)


def test_the_asynchronous_client_gets_the_same_under_load(server: Server) -> None:
    """Forty requests at a time, of one to eight images: each its own images, as if it were alone."""
    generator = server.served["tiny-class"].generator

    async def ask(client: triton_aio.InferenceServerClient, number: int) -> None:
        count = 1 + number % 8
        z, classes = latents_of(number, count), np.arange(number, number + count) % len(CLASSES)
        inputs = [
            given("z", z, number % 2 == 0, triton_aio),
            given("class", classes, number % 3 == 0, triton_aio),
        ]
        compression = (None, "gzip", "deflate")[number % 3]
        result = await client.infer(
            "tiny-class",
            inputs,
            request_id=str(number),
            request_compression_algorithm=compression,
            response_compression_algorithm=compression,
        )
        assert result.get_response()["id"] == str(number)
        assert_array_equal(result.as_numpy("images"), generator.render(z, classes))

    async def main() -> None:
        async with triton_aio.InferenceServerClient(server.address, conn_limit=40) as client:
            assert await client.is_server_ready()
            assert (await client.get_model_metadata("tiny-class"))["versions"] == ["1"]
            await asyncio.gather(*(ask(client, number) for number in range(40)))
            with pytest.raises(InferenceServerException, match="class: missing; tiny-class takes class or class_name"):
                await client.infer("tiny-class", [given("z", latents_of(1, 1), client=triton_aio)])

    asyncio.run(main())


def test_models_are_unloaded_and_loaded(client: triton.InferenceServerClient) -> None:
    ready = {"name": "tiny-none", "version": "1", "state": "READY", "reason": ""}
    assert ready in client.get_model_repository_index()
    client.unload_model("tiny-none")
    try:
        assert not client.is_model_ready("tiny-none")
        unloaded = {**ready, "state": "UNAVAILABLE", "reason": "unloaded"}
        assert unloaded in client.get_model_repository_index()
        with pytest.raises(InferenceServerException, match="model: tiny-none@1 is unavailable: unloaded") as raised:
            client.infer("tiny-none", [given("z", latents_of(1, 1))])
        assert raised.value.status() == "503"
    finally:
        client.load_model("tiny-none")
    assert client.is_model_ready("tiny-none")
    with pytest.raises(InferenceServerException, match=r"parameters\.config: unknown key; remove it"):
        client.load_model("tiny-none", config="{}")


def test_the_index_may_be_of_what_is_ready(server: Server) -> None:
    answer = server.post("/v2/repository/index", b'{"ready": true}')
    assert answer.status_code == 200
    assert [entry["name"] for entry in answer.json()] == ["tiny-class", "tiny-none", "tiny-text"]


@pytest.mark.parametrize("wrong", [{"sequence_id": 3}, {"priority": 2}, {"parameters": {"content_type": "np"}}])
def test_parameters_that_are_not_followed_are_refused(
    wrong: dict[str, Any], client: triton.InferenceServerClient
) -> None:
    with pytest.raises(InferenceServerException, match=r"parameters\.\w+: unknown key") as raised:
        client.infer("tiny-none", [given("z", latents_of(1, 1))], **wrong)
    assert raised.value.status() == "400"


def test_outputs_in_another_form_are_refused(client: triton.InferenceServerClient) -> None:
    for output in (triton.InferRequestedOutput("images", class_count=3), triton.InferRequestedOutput("logits")):
        with pytest.raises(InferenceServerException, match=r"classification: unknown key|found 'logits'; .* images$"):
            client.infer("tiny-none", [given("z", latents_of(1, 1))], outputs=[output])


def test_a_full_queue_and_a_passed_deadline_are_said(
    server: Server, client: triton.InferenceServerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    batcher = server.served["tiny-none"].batcher

    async def full(inputs: Any, timeout: float | None = None) -> Any:
        raise Full("9 images wait and 9 may; try again in 3 s", retry_after=3)

    asked = json.dumps({"inputs": [{"name": "seed", "shape": [1], "datatype": "INT64", "data": [1]}]}).encode()
    with monkeypatch.context() as patched:
        patched.setattr(batcher, "submit", full)
        answer = server.post("/v2/models/tiny-none/infer", asked)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "3")
    assert answer.json() == {"error": "9 images wait and 9 may; try again in 3 s"}
    seen: list[float] = []

    async def seen_timeout(inputs: Any, timeout: float | None = None) -> Any:
        assert timeout is not None
        seen.append(timeout)
        raise Full("", retry_after=1)

    with monkeypatch.context() as patched, pytest.raises(InferenceServerException):
        patched.setattr(batcher, "submit", seen_timeout)
        client.infer("tiny-none", [given("z", latents_of(1, 1))], timeout=2_500_000)  # microseconds
    assert 0 < seen[0] <= 2.5


SEED = {"name": "seed", "shape": [1], "datatype": "INT64", "data": [1]}
DEEP = b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
NAN = b'{"inputs": [{"name": "z", "shape": [1, 6], "datatype": "FP32", "data": [NaN, 0, 0, 0, 0, 0]}]}'


def seed(**others: Any) -> bytes:
    """A request with a seed that differs from a good one."""
    return json.dumps({"inputs": [SEED | others]}).encode()


@pytest.mark.parametrize(
    ("body", "headers", "line"),
    [
        (b"", {}, "body: found nothing; expected JSON"),
        (b"\xff\xfe{}", {}, "body: invalid JSON: expected value at line 1 column 1"),
        (b"[]", {}, "body: input should be an object"),
        (DEEP, {}, "body: invalid JSON: recursion limit exceeded"),
        (b'{"inputs": [], "id": "\\ud800"}', {}, "body: invalid JSON: "),
        (b'{"inputs": []}', {}, "inputs: found []; list should have at least 1 item"),
        (b'{"inputs": [], "ouputs": []}', {}, "inputs: found []; list should have at least 1 item"),
        (seed()[:-1] + b', "ouputs": []}', {}, "ouputs: unknown key; did you mean outputs?"),
        (seed(shape=[1.0]), {}, "inputs.0.shape.0: found 1.0; input should be a valid integer"),
        (seed(shape=[2]), {}, "seed: data: found 1 values; the shape [2] has 2"),
        (seed(shape=[2**40]), {}, "seed: shape: found [1099511627776]; N is 1 to 4096 images"),
        (seed(datatype="FP16"), {}, "seed: datatype: found FP16; expected INT64"),
        (seed(data=["x" * 50_000]), {}, "seed: data: found 'xxxx"),
        (seed(data="x" * 50_000), {}, "inputs.0.data: found 'xxxx"),
        (json.dumps({"inputs": [SEED, SEED]}).encode(), {}, "inputs: found seed twice; each tensor once"),
        (NAN, {}, "z: found numbers that are not finite"),
        (b"{}", {"Inference-Header-Content-Length": "3"}, "Inference-Header-Content-Length: found '3'; expected"),
        (b"{}", {"Content-Encoding": "br"}, "Content-Encoding: found 'br'; expected gzip, deflate or identity"),
        (b"{}", {"Content-Encoding": "gzip"}, "Content-Encoding: found gzip, but the body is not"),
        (zlib.compress(b"{}")[:-2], {"Content-Encoding": "deflate"}, "Content-Encoding: found deflate, but the body "),
    ],
)
def test_other_bodies_are_refused_in_one_line_and_make_nothing(
    body: bytes, headers: dict[str, str], line: str, server: Server
) -> None:
    made = server.images_made()
    answer = server.post("/v2/models/tiny-none/infer", body, headers)
    assert answer.status_code == 400
    error = answer.json()
    assert list(error) == ["error"]
    assert error["error"].startswith(line)
    assert "\n" not in error["error"]
    assert len(error["error"]) < 400
    assert answer.headers["Content-Type"] == "application/json"
    assert server.images_made() == made


def test_a_bomb_is_too_large(server: Server) -> None:
    bomb = gzip.compress(b" " * (LARGEST_BODY + 1))
    assert len(bomb) < 10_000
    answer = server.post("/v2/models/tiny-none/infer", bomb, {"Content-Encoding": "gzip"})
    assert answer.status_code == 413
    assert answer.json() == {"error": f"body: decompressed it has more than the {LARGEST_BODY} bytes that are taken"}


def test_a_large_body_is_read_beside_the_others(server: Server) -> None:
    z = latents_of(3, 200)
    inputs = [{"name": "z", "shape": [200, LATENT], "datatype": "FP32", "data": z.tolist()}]
    body = json.dumps({"inputs": inputs, "id": "x" * 1000}).encode() + b" " * 2**17
    answer = server.post("/v2/models/tiny-none/infer", body)
    assert answer.status_code == 200
    images = np.array(answer.json()["outputs"][0]["data"], np.uint8).reshape(200, 8, 8, 3)
    assert_array_equal(images, server.served["tiny-none"].generator.render(z, None))


def test_addresses_that_are_not_there(server: Server) -> None:
    for method, path, expected in (("GET", "/v2/nothing", 404), ("GET", "/v2/models/tiny-none/infer", 405)):
        answer = server.client.request(method, path)
        assert answer.status_code == expected
        assert list(answer.json()) == ["error"]


def test_a_server_that_is_about_to_end_is_not_ready(server: Server, client: Any) -> None:
    server.app.state.draining = True
    try:
        answer = server.client.get("/v2/health/ready")
        assert not client.is_server_ready()
    finally:
        server.app.state.draining = False
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]
    assert answer.json() == {"error": "the server is about to end; ask another one"}
    assert client.is_server_ready()
