"""Tensors between arrays and bodies: against struct, gzip and Triton's own serialiser, and what is refused."""

from __future__ import annotations

import gzip
import json
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from tritonclient.utils import serialize_byte_tensor

from ganlib.inference.package import open_package
from ganlib.inference.request import Request
from ganlib.inference.sample import Generator
from ganlib.problems import Refused
from ganlib.serving.bodies import read
from ganlib.serving.infer import answer, binary_output, inputs, split_body, tensors
from ganlib.serving.inference_messages import InferRequest
from ganlib.serving.tensors import (
    Tensor,
    check_shape,
    compressed,
    decompressed,
    from_bytes,
    from_json,
    graph_inputs,
    graph_output,
)
from tests.packages import CLASSES, LATENT, TEXT, build_package

Z, CLASS, TEXTS = Tensor("z", "FP32", (3,)), Tensor("class", "INT64", (1,)), Tensor("prompt", "BYTES", (1,))


@pytest.fixture(scope="module")
def generators(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Generator]:
    """A generator of each kind of condition."""
    folder: Path = tmp_path_factory.mktemp("packages")
    kinds = ("none", "class", "text")
    return {kind: Generator(open_package(build_package(folder / kind, kind)), "cpu", 1) for kind in kinds}


def test_bytes_are_little_endian_and_row_major_at_any_address() -> None:
    content = memoryview(b"?" + struct.pack("<6f", 0, 1, -2, 3.5, 1e-3, 7))[1:]
    values = from_bytes(Z, [2, 3], content)
    assert_array_equal(values, np.array([[0, 1, -2], [3.5, 1e-3, 7]], np.float32))
    assert values.dtype == np.float32
    assert values.flags.aligned
    assert_array_equal(from_bytes(CLASS, [2, 1], memoryview(struct.pack("<2q", 5, -1))), [5, -1])


def test_texts_are_those_of_tritons_serialiser() -> None:
    words = ["a red rose", "", "Blüte 🌺"]
    content = serialize_byte_tensor(np.array([word.encode() for word in words], object)).item()
    assert from_bytes(TEXTS, [3], memoryview(content)).tolist() == words
    assert from_json(TEXTS, [3, 1], words).tolist() == words


@pytest.mark.parametrize("data", [[1, 2.5, -3, 4, 5, 6], [[1, 2.5, -3], [4, 5, 6]]])
def test_json_may_be_flat_or_nested(data: list[Any]) -> None:
    values = from_json(Z, [2, 3], data)
    assert_array_equal(values, np.array([[1, 2.5, -3], [4, 5, 6]], np.float32))
    assert values.dtype == np.float32


def test_whole_numbers_keep_every_digit() -> None:
    seed = Tensor("seed", "INT64", (1,))
    assert from_json(seed, [2], [2**63 - 1, 2**53 + 1]).tolist() == [2**63 - 1, 2**53 + 1]


@pytest.mark.parametrize(
    ("tensor", "datatype", "shape", "line"),
    [
        (Z, "FP16", [2, 3], "z: datatype: found FP16; expected FP32"),
        (Z, "FP32", [2, 4], r"z: shape: found \[2, 4\]; expected \[N, 3\]"),
        (Z, "FP32", [3], r"z: shape: found \[3\]; expected \[N, 3\]"),
        (Z, "FP32", [], r"z: shape: found \[\]; expected \[N, 3\]"),
        (Z, "FP32", [0, 3], r"z: shape: found \[0, 3\]; N is 1 to 4096 images"),
        (Z, "FP32", [4097, 3], r"z: shape: found \[4097, 3\]; N is 1 to 4096 images"),
        (CLASS, "INT64", [2, 2], r"class: shape: found \[2, 2\]; expected \[N\] or \[N, 1\]"),
        (CLASS, "INT64", [2, 1, 1], r"class: shape: found \[2, 1, 1\]; expected \[N\] or \[N, 1\]"),
    ],
)
def test_another_datatype_or_shape_is_refused(tensor: Tensor, datatype: str, shape: list[int], line: str) -> None:
    with pytest.raises(Refused, match=f"^{line}$"):
        check_shape(tensor, datatype, shape)


@pytest.mark.parametrize("shape", [[1], [1, 1], [4096], [4096, 1]])
def test_one_value_an_image_has_one_side_or_two(shape: list[int]) -> None:
    check_shape(CLASS, "INT64", shape)


@pytest.mark.parametrize(
    ("tensor", "shape", "data", "line"),
    [
        (Z, [1, 3], [1, 2], r"z: data: found 2 values; the shape \[1, 3\] has 3"),
        (Z, [2, 3], [[1, 2, 3], [4, 5]], r"z: data: nested otherwise than the shape \[2, 3\]"),
        (Z, [2, 3], [[1, 2], [3, 4], [5, 6]], "z: data: nested otherwise"),
        (Z, [2, 3], [[1, 2, 3], 4, 5, 6], "z: data: nested otherwise"),
        (Z, [1, 3], [[[1], 2, 3]], r"z: data: found \'\[1\]\' \(list\); expected FP32"),
        (Z, [1, 3], [1, True, 3], r"z: data: found \'True\' \(bool\); expected FP32"),
        (Z, [1, 3], [1, None, 3], r"z: data: found \'None\' \(NoneType\); expected FP32"),
        (Z, [1, 3], ["1", 2, 3], r"z: data: found \'1\' \(str\); expected FP32"),
        (Z, [1, 3], [10**400, 2, 3], "z: data: found a number that is too large for FP32"),
        (CLASS, [1], [1.0], r"class: data: found \'1.0\' \(float\); expected INT64"),
        (CLASS, [1], [2**63], "class: data: found a number that is too large for INT64"),
        (TEXTS, [1], [7], r"prompt: data: found \'7\' \(int\); expected BYTES"),
    ],
)
def test_other_values_in_json_are_refused(tensor: Tensor, shape: list[int], data: list[Any], line: str) -> None:
    with pytest.raises(Refused, match=f"^{line}"):
        from_json(tensor, shape, data)


@pytest.mark.parametrize(
    ("tensor", "shape", "content", "line"),
    [
        (Z, [1, 3], b"\0" * 11, r"z: found 11 bytes; FP32 \[1, 3\] has 12 bytes"),
        (CLASS, [2], b"\0" * 8, r"class: found 8 bytes; INT64 \[2\] has 16 bytes"),
        (TEXTS, [2], struct.pack("<I", 1) + b"a", "prompt: found 1 texts in 5 bytes; the shape says 2"),
        (TEXTS, [1], struct.pack("<I", 9) + b"a", "prompt: found a text of 9 bytes"),
        (TEXTS, [1], struct.pack("<I", 2**32 - 1) + b"a", "prompt: found a text of 4294967295 bytes"),
        (TEXTS, [1], struct.pack("<I", 1) + b"\xff", "prompt: found a text that is not UTF-8"),
        (TEXTS, [1], struct.pack("<I", 3) + b"\xed\xa0\x80", "prompt: found a text that is not UTF-8"),  # surrogate
        (TEXTS, [1], struct.pack("<I", 1) + b"ab", "prompt: found 1 bytes behind the last of 1 texts"),
    ],
)
def test_other_bytes_are_refused(tensor: Tensor, shape: list[int], content: bytes, line: str) -> None:
    with pytest.raises(Refused, match=f"^{line}"):
        from_bytes(tensor, shape, memoryview(content))


@pytest.mark.parametrize(("coding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compression_is_read_and_written(coding: Any, compress: Any) -> None:
    body = bytes(range(256)) * 40
    assert decompressed(compress(body), coding, len(body)) == body
    assert {"gzip": gzip.decompress, "deflate": zlib.decompress}[coding](compressed(body, coding)) == body
    assert decompressed(compress(body), coding, len(body) - 1) is None
    for broken in (compress(body)[:-1], compress(body) + b"more", body, b""):
        with pytest.raises(Refused, match=f"^Content-Encoding: found {coding}, but the body"):
            decompressed(broken, coding, len(body))


def test_a_bomb_is_never_unfolded() -> None:
    bomb = gzip.compress(bytes(2**26))
    assert len(bomb) < 2**17
    tracemalloc.start()
    try:
        assert decompressed(bomb, "gzip", 2**16) is None
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_another_coding_is_refused() -> None:
    with pytest.raises(Refused, match=r"^Content-Encoding: found 'br'; expected gzip, deflate or identity$"):
        decompressed(b"", "br", 10)


def test_what_a_model_takes_and_gives(generators: dict[str, Generator]) -> None:
    shapes = {
        kind: [(t.name, t.datatype, t.shape) for t in graph_inputs(generator.package.card)]
        for kind, generator in generators.items()
    }
    z = ("z", "FP32", [-1, LATENT])
    assert shapes == {
        "none": [z],
        "class": [z, ("class", "INT64", [-1, 1])],
        "text": [z, ("text", "FP32", [-1, TEXT])],
    }
    output = graph_output(generators["none"].package.card)
    assert (output.name, output.datatype, output.shape) == ("images", "UINT8", [-1, 8, 8, 3])


def message(*given: dict[str, Any], **others: Any) -> InferRequest:
    return read(InferRequest, json.dumps({"inputs": given, **others}).encode())


def tensor(name: str, datatype: str, data: list[Any], *sides: int) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [len(data), *sides], "data": data}


def test_seeds_and_names_ask_for_what_requests_ask_for(generators: dict[str, Generator]) -> None:
    """Each image of its own seed, truncation and class: the inputs of as many requests of one image, to the bit."""
    generator = generators["class"]
    seeds, truncations, names = [7, 2**63 - 1, 7, 0], [0.7, 0.1, 1.0, 0.7], ["rose", "daisy", "rose", "poppy"]
    asked = message(
        tensor("seed", "INT64", seeds), tensor("truncation", "FP32", truncations), tensor("class_name", "BYTES", names)
    )
    found = inputs(tensors(asked, memoryview(b""), generator.package.card), generator)
    for i, (seed, truncation, name) in enumerate(zip(seeds, truncations, names, strict=True)):
        alone = generator.inputs(Request(class_name=name, seed=seed, truncation=truncation))
        assert_array_equal(found.z[i : i + 1], alone.z)
        assert_array_equal(found.condition[i : i + 1], alone.condition)


def test_prompts_are_those_of_requests(generators: dict[str, Generator]) -> None:
    generator, prompts = generators["text"], ["a red rose", "a blue poppy", "a red rose"]
    asked = message(tensor("seed", "INT64", [1, 2, 3]), tensor("prompt", "BYTES", prompts))
    found = inputs(tensors(asked, memoryview(b""), generator.package.card), generator)
    for i, prompt in enumerate(prompts):
        alone = generator.inputs(Request(prompt=prompt, seed=i + 1))
        assert_array_equal(found.z[i : i + 1], alone.z)
        assert_array_equal(found.condition[i : i + 1], alone.condition)


SEEDS = tensor("seed", "INT64", [1, 2])
LATENTS = {"name": "z", "datatype": "FP32", "shape": [1, LATENT]}
BINARY = {"parameters": {"binary_data_size": 16}}


@pytest.mark.parametrize(
    ("kind", "given", "line"),
    [
        ("none", [tensor("foo", "FP32", [1])], "inputs: found 'foo'; tiny-none takes z, seed, truncation$"),
        ("none", [tensor("class", "INT64", [1])], "inputs: found 'class'; tiny-none takes z, seed, truncation$"),
        ("class", [tensor("prompt", "BYTES", ["a"])], "inputs: found 'prompt'; tiny-class takes z, class, seed,"),
        ("none", [SEEDS, SEEDS], "inputs: found seed twice; each tensor once$"),
        ("none", [tensor("truncation", "FP32", [1])], "z: missing; tiny-none takes z or seed$"),
        ("class", [SEEDS], "class: missing; tiny-class takes class or class_name$"),
        ("text", [SEEDS], "text: missing; tiny-text takes text or prompt$"),
        (
            "class",
            [SEEDS, tensor("class", "INT64", [1, 2]), tensor("class_name", "BYTES", ["rose", "rose"])],
            "class_name: found beside class; send one of the two$",
        ),
        (
            "none",
            [LATENTS | {"data": [0] * LATENT}, tensor("truncation", "FP32", [1])],
            "truncation: found beside z; send one of the two$",
        ),
        ("class", [SEEDS, tensor("class", "INT64", [1])], "inputs: found seed for 2, class for 1 images"),
        ("none", [LATENTS], "z: found neither data nor binary_data_size; send the values$"),
        (
            "none",
            [LATENTS | BINARY | {"data": [0] * LATENT}],
            "z: found data and binary_data_size; send the values once",
        ),
        ("none", [LATENTS | BINARY], "z: binary_data_size: found 16; the body has 0 bytes left behind its JSON"),
    ],
)
def test_other_tensors_are_refused(
    kind: str, given: list[dict[str, Any]], line: str, generators: dict[str, Generator]
) -> None:
    with pytest.raises(Refused, match=f"^{line}"):
        tensors(message(*given), memoryview(b""), generators[kind].package.card)


@pytest.mark.parametrize(
    ("kind", "given", "line"),
    [
        ("none", [tensor("seed", "INT64", [3, -1])], "seed: found -1; expected a whole number from 0 to 92233720"),
        ("none", [SEEDS, tensor("truncation", "FP32", [0.5, 0])], "truncation: found 0.0; expected a number above 0"),
        ("none", [SEEDS, tensor("truncation", "FP32", [0.5, 1.01])], "truncation: found 1.01; expected"),
        ("none", [LATENTS | {"data": [1e39] * LATENT}], "z: found numbers that are not finite; expected finite FP32$"),
        ("class", [SEEDS, tensor("class", "INT64", [0, -1])], "class: found -1 to 0; expected 0 to 2$"),
        ("class", [SEEDS, tensor("class", "INT64", [0, 3])], "class: found 0 to 3; expected 0 to 2$"),
        ("class", [SEEDS, tensor("class_name", "BYTES", ["rose", "ros"])], "class_name: found 'ros'; tiny-class"),
        (
            "text",
            [SEEDS, tensor("prompt", "BYTES", ["rose", "..."])],
            "prompt: found '...'; expected at least one word$",
        ),
        ("text", [SEEDS, tensor("prompt", "BYTES", ["rose", "a" * 2001])], "prompt: found 2001 characters; expected"),
        (
            "text",
            [SEEDS, tensor("text", "FP32", [0.0] * 9 + [1e39], 5) | {"shape": [2, 5]}],
            "text: found numbers that",
        ),
    ],
)
def test_values_that_a_model_cannot_answer_are_refused(
    kind: str, given: list[dict[str, Any]], line: str, generators: dict[str, Generator]
) -> None:
    found = tensors(message(*given), memoryview(b""), generators[kind].package.card)
    with pytest.raises(Refused, match=f"^{line}"):
        inputs(found, generators[kind])


@pytest.mark.parametrize("not_finite", [np.nan, np.inf, -np.inf])
def test_bytes_that_are_not_finite_are_refused(not_finite: float, generators: dict[str, Generator]) -> None:
    content = np.array([0, 1, 2, 3, 4, not_finite], np.float32).tobytes()
    asked = message(LATENTS | {"parameters": {"binary_data_size": len(content)}})
    found = tensors(asked, memoryview(content), generators["none"].package.card)
    with pytest.raises(Refused, match=r"^z: found numbers that are not finite"):
        inputs(found, generators["none"])


def test_bytes_that_belong_to_nothing_are_refused(generators: dict[str, Generator]) -> None:
    with pytest.raises(Refused, match=r"^body: found 3 bytes that belong to no input; say their binary_data_size$"):
        tensors(message(SEEDS), memoryview(b"abc"), generators["none"].package.card)


@pytest.mark.parametrize(
    ("outputs", "parameters", "binary"),
    [
        (None, None, False),
        (None, {"binary_data_output": True}, True),
        ([{"name": "images"}], {"binary_data_output": True}, True),
        ([{"name": "images", "parameters": {"binary_data": True}}], None, True),
        ([{"name": "images", "parameters": {"binary_data": False}}], {"binary_data_output": True}, False),
    ],
)
def test_an_output_says_whether_it_is_bytes_and_else_the_request_does(
    outputs: Any, parameters: Any, binary: bool, generators: dict[str, Generator]
) -> None:
    asked = message(SEEDS, outputs=outputs, parameters=parameters)
    assert binary_output(asked, generators["none"].package.card, 2) is binary


@pytest.mark.parametrize(
    ("outputs", "line"),
    [
        ([{"name": "foo"}], "outputs: found 'foo'; tiny-none gives images$"),
        ([{"name": "images"}, {"name": "images"}], "outputs: found images twice; each tensor once$"),
    ],
)
def test_other_outputs_are_refused(outputs: Any, line: str, generators: dict[str, Generator]) -> None:
    with pytest.raises(Refused, match=f"^{line}"):
        binary_output(message(SEEDS, outputs=outputs), generators["none"].package.card, 2)


def test_answers_have_a_largest_size(generators: dict[str, Generator]) -> None:
    card = generators["none"].package.card.model_copy(update={"size": 256})  # 196,608 numbers an image
    asked = message(SEEDS)
    assert binary_output(asked, card, 21) is False
    with pytest.raises(Refused, match=r"found 22 images, which are 4325376 numbers in JSON; .* or for binary_data$"):
        binary_output(asked, card, 22)
    with pytest.raises(Refused, match=r"found 1366 images, which are 268566528 bytes; expected at most 268435456"):
        binary_output(message(SEEDS, parameters={"binary_data_output": True}), card, 1366)


def test_an_answer_holds_the_images_as_numbers_or_bytes() -> None:
    images = np.arange(2 * 2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 2, 3)
    body, header_length = answer(images, False, "flowers", "3", None)
    assert header_length is None
    output = {"name": "images", "datatype": "UINT8", "shape": [2, 2, 2, 3]}
    head = {"model_name": "flowers", "model_version": "3"}
    assert json.loads(body) == head | {"outputs": [output | {"data": list(range(24))}]}
    body, header_length = answer(images[:, ::-1], True, "flowers", "3", "a7")  # not row-major in memory
    assert header_length is not None
    size = {"parameters": {"binary_data_size": 24}}
    assert json.loads(body[:header_length]) == head | {"id": "a7", "outputs": [output | size]}
    assert body[header_length:] == images[:, ::-1].tobytes()


@pytest.mark.parametrize("header_length", ["-1", "x", "", "1e3", "٣", "999", "9" * 5000])
def test_a_header_length_that_the_body_does_not_have_is_refused(header_length: str) -> None:
    with pytest.raises(Refused, match=r"^Inference-Header-Content-Length: found .*; expected the bytes of the JSON"):
        split_body(b'{"inputs": []}', header_length)


def test_class_names_are_all_of_the_cards(generators: dict[str, Generator]) -> None:
    asked = message(tensor("seed", "INT64", [0, 0, 0]), tensor("class_name", "BYTES", list(CLASSES), 1))
    card = generators["class"].package.card
    assert inputs(tensors(asked, memoryview(b""), card), generators["class"]).condition.tolist() == [0, 1, 2]
