"""An inference request: the tensors in its body, what they ask of a generator, and the body of the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pydantic_core
from numpy.typing import NDArray

from ganlib.card import ModelCard
from ganlib.inference.latents import LAST_SEED, latents
from ganlib.inference.request import Request, check, nearest
from ganlib.inference.sample import Generator, Inputs
from ganlib.problems import Refused
from ganlib.serving.bodies import read
from ganlib.serving.inference_messages import InferRequest, RequestInput
from ganlib.serving.tensors import (
    LARGEST_BODY,
    LARGEST_JSON,
    Tensor,
    check_shape,
    from_bytes,
    from_json,
    graph_inputs,
    graph_output,
)

_SEED, _TRUNCATION = Tensor("seed", "INT64", (1,)), Tensor("truncation", "FP32", (1,))
_INSTEAD: Mapping[str, tuple[Tensor, ...]] = {
    "z": (_SEED, _TRUNCATION),
    "class": (Tensor("class_name", "BYTES", (1,)),),
    "text": (Tensor("prompt", "BYTES", (1,)),),
}
"""What may be sent in place of a graph's input: the first has to be there, the others may."""
_LONGEST_NAME = 100  # characters of a class name that are compared with the model's


def split_body(body: bytes, header_length: str | None) -> tuple[InferRequest, memoryview]:
    """A body's JSON and the bytes behind it.

    Args:
        body: decompressed.
        header_length: of the header Inference-Header-Content-Length; None where the body is JSON alone.

    Raises:
        Refused: where it is not an inference request, or not as long.
    """
    if header_length is None:
        return read(InferRequest, body), memoryview(b"")
    if not (header_length.isascii() and header_length.isdecimal()) or int(header_length[:20]) > len(body):
        raise Refused(
            f"Inference-Header-Content-Length: found {header_length[:40]!r}; "
            f"expected the bytes of the JSON, at most the body's {len(body)}"
        )
    length = int(header_length)
    return read(InferRequest, body[:length]), memoryview(body)[length:]


def tensors(message: InferRequest, behind: memoryview, card: ModelCard) -> dict[str, NDArray[Any]]:
    """The tensors of a request by name, each of the datatype and shape that the model takes, for as many images.

    Args:
        message, behind: see `split_body`.
        card: of the model.

    Raises:
        Refused: for tensors that the model does not take, twice, too few or too many, or in another form.
    """
    takes = {tensor.name: tensor for tensor in graph_inputs(card)}
    takes |= {other.name: other for name in list(takes) for other in _INSTEAD[name]}
    found: dict[str, NDArray[Any]] = {}
    for given in message.inputs:
        if given.name not in takes:
            raise Refused(f"inputs: found {given.name[:40]!r}; {card.name} takes {', '.join(takes)}")
        if given.name in found:
            raise Refused(f"inputs: found {given.name} twice; each tensor once")
        tensor = takes[given.name]
        check_shape(tensor, given.datatype[:40], given.shape)
        found[given.name], behind = _values(tensor, given, behind)
    if len(behind):
        raise Refused(f"body: found {len(behind)} bytes that belong to no input; say their binary_data_size")
    counts = {name: len(values) for name, values in found.items()}
    if len(set(counts.values())) > 1:
        each = ", ".join(f"{name} for {count}" for name, count in counts.items())
        raise Refused(f"inputs: found {each} images; each tensor is of all of them")
    _check_chosen(found, card)
    return found


def inputs(found: Mapping[str, NDArray[Any]], generator: Generator) -> Inputs:
    """What the graph takes, from the tensors of a request. It may take its time where there are prompts or many seeds.

    Raises:
        Refused: for values that the model cannot answer; the runtime would not notice.
    """
    card = generator.package.card
    z = found["z"] if "z" in found else _drawn(found["seed"], found.get("truncation"), card)
    condition: NDArray[Any] | None = None
    if card.condition.kind == "class":
        condition = found["class"] if "class" in found else _numbers(found["class_name"], card)
        if condition.min() < 0 or condition.max() >= card.condition.size:
            raise Refused(
                f"class: found {condition.min()} to {condition.max()}; expected 0 to {card.condition.size - 1}"
            )
    elif card.condition.kind == "text":
        condition = found["text"] if "text" in found else _embedded(found["prompt"], generator)
    for name, values in (("z", z), ("text", condition)):
        if values is not None and not np.isfinite(values).all():
            raise Refused(f"{name}: found numbers that are not finite; expected finite FP32")
    return Inputs(z, condition)


def binary_output(message: InferRequest, card: ModelCard, count: int) -> bool:
    """Whether the images are to be sent as bytes.

    Raises:
        Refused: where other outputs are asked for, or more than one answer can hold.
    """
    output = graph_output(card)
    names = [asked.name for asked in message.outputs or ()]
    for name in names:
        if name != output.name:
            raise Refused(f"outputs: found {name[:40]!r}; {card.name} gives {output.name}")
    if len(names) > 1:
        raise Refused(f"outputs: found {output.name} twice; each tensor once")
    binary = message.parameters.binary_data_output if message.parameters else None
    if message.outputs and (asked := message.outputs[0].parameters) and asked.binary_data is not None:
        binary = asked.binary_data
    numbers, limit = count * card.size * card.size * card.channels, LARGEST_BODY if binary else LARGEST_JSON
    if numbers > limit:
        raise Refused(
            f"outputs: found {count} images, which are {numbers} {'bytes' if binary else 'numbers in JSON'}; "
            f"expected at most {limit}: ask for fewer{'' if binary else ', or for binary_data'}"
        )
    return bool(binary)


def answer(
    images: NDArray[np.uint8], binary: bool, name: str, version: str, request_id: str | None
) -> tuple[bytes, int | None]:
    """The body of an answer, and the length of its JSON where bytes follow it.

    Args:
        images: `(N, H, W, C)` uint8.
        binary: see `binary_output`.
        name, version: of the model.
        request_id: of the request.
    """
    output: dict[str, Any] = {"name": "images", "datatype": "UINT8", "shape": images.shape}
    head: dict[str, Any] = {"model_name": name, "model_version": version, "outputs": [output]}
    if request_id is not None:
        head["id"] = request_id
    if not binary:
        output["data"] = images.ravel().tolist()
        return pydantic_core.to_json(head), None
    output["parameters"] = {"binary_data_size": images.nbytes}
    json = pydantic_core.to_json(head)
    return b"".join((json, np.ascontiguousarray(images).data)), len(json)


def _values(tensor: Tensor, given: RequestInput, behind: memoryview) -> tuple[NDArray[Any], memoryview]:
    """A tensor's values, and the bytes that are left for those after it."""
    size = given.parameters.binary_data_size if given.parameters else None
    if size is None:
        if given.data is None:
            raise Refused(f"{tensor.name}: found neither data nor binary_data_size; send the values")
        return from_json(tensor, given.shape, given.data), behind
    if given.data is not None:
        raise Refused(f"{tensor.name}: found data and binary_data_size; send the values once")
    if size > len(behind):
        raise Refused(
            f"{tensor.name}: binary_data_size: found {size}; the body has {len(behind)} bytes left behind its JSON, "
            "whose length Inference-Header-Content-Length says"
        )
    return from_bytes(tensor, given.shape, behind[:size]), behind[size:]


def _check_chosen(found: Mapping[str, NDArray[Any]], card: ModelCard) -> None:
    """Refuse a graph's input that is missing, or sent in two ways."""
    for tensor in graph_inputs(card):
        first, *further = _INSTEAD[tensor.name]
        if tensor.name not in found and first.name not in found:
            raise Refused(f"{tensor.name}: missing; {card.name} takes {tensor.name} or {first.name}")
        for other in (first, *further):
            if tensor.name in found and other.name in found:
                raise Refused(f"{other.name}: found beside {tensor.name}; send one of the two")


def _drawn(seeds: NDArray[np.int64], truncation: NDArray[np.float32] | None, card: ModelCard) -> NDArray[np.float32]:
    """Latents of seeds, each with its truncation. FP32 is read as the shortest decimal number that it may stand for:
    0.7 is the 0.7 of the command line, and gives the same latents."""
    if seeds.min() < 0:
        raise Refused(f"seed: found {seeds.min()}; expected a whole number from 0 to {LAST_SEED}")
    if truncation is None:
        return latents(seeds.tolist(), card.latent)
    for value in truncation:
        if not 0 < value <= 1:
            raise Refused(f"truncation: found {value!s}; expected a number above 0 and up to 1")
    z = np.empty((len(seeds), card.latent.size), np.float32)
    for value in np.unique(truncation):
        these = truncation == value
        z[these] = latents(seeds[these].tolist(), card.latent, float(str(value)))
    return z


def _numbers(names: NDArray[Any], card: ModelCard) -> NDArray[np.int64]:
    """Classes by their names."""
    numbers = {name: number for number, name in enumerate(card.classes)}
    for name in names:
        if name not in numbers:
            near = nearest(name[:_LONGEST_NAME], card.classes)
            raise Refused(f"class_name: found {name[:_LONGEST_NAME]!r}; {card.name} knows {near}")
    return np.array([numbers[name] for name in names], np.int64)


def _embedded(prompts: NDArray[Any], generator: Generator) -> NDArray[np.float32]:
    """Embeddings of prompts, each encoded alone, and once where it is there several times."""
    for prompt in (distinct := dict.fromkeys(prompts)):
        check(Request(prompt=prompt), generator.package.card)
    embeddings = {prompt: generator.embed(prompt) for prompt in distinct}
    return np.concatenate([embeddings[prompt] for prompt in prompts])
