"""Tensors between arrays and the bodies of the Open Inference Protocol: numbers in JSON, or bytes behind the JSON.

The protocol is https://github.com/kserve/open-inference-protocol, the bytes are Triton's binary tensor data extension:
little-endian, row-major, without padding; a text is its length in four bytes and then itself.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ganlib.card import ModelCard
from ganlib.problems import Refused

Datatype = Literal["FP32", "INT64", "UINT8", "BYTES"]
Coding = Literal["gzip", "deflate"]
NUMPY: dict[Datatype, np.dtype] = {"FP32": np.dtype("<f4"), "INT64": np.dtype("<i8"), "UINT8": np.dtype("u1")}
LARGEST_COUNT = 4096  # images in a request: the graphs are exported for batches of up to as many
LARGEST_BODY = 2**28  # bytes of an answer
LARGEST_JSON = 2**22  # numbers of an answer in JSON, some 16 MB of text
_LONGEST_TEXT = 2**16  # bytes; a prompt has at most 2000 characters
_TYPES: dict[Datatype, tuple[type, ...]] = {"FP32": (int, float), "INT64": (int,), "UINT8": (int,), "BYTES": (str,)}


@dataclass(frozen=True)
class Tensor:
    """A tensor that a model takes or gives.

    Attributes:
        name, datatype: as the protocol writes them.
        dims: sides of one image's share; `(1,)` for one value an image, which may come as `(N,)` or `(N, 1)`.
    """

    name: str
    datatype: Datatype
    dims: tuple[int, ...]

    @property
    def single(self) -> bool:
        """Whether it is one value an image."""
        return self.dims == (1,)

    @property
    def shape(self) -> list[int]:
        """Its shape in a model's metadata, -1 for the number of images. Triton knows no tensor without sides beside the
        batch, so one value an image is `[-1, 1]`."""
        return [-1, *self.dims]


def graph_inputs(card: ModelCard) -> tuple[Tensor, ...]:
    """What a generator's graph takes."""
    condition: dict[str, Tensor] = {
        "class": Tensor("class", "INT64", (1,)),
        "text": Tensor("text", "FP32", (card.condition.size,)),
    }
    z = Tensor("z", "FP32", (card.latent.size,))
    return (z, condition[card.condition.kind]) if card.condition.kind in condition else (z,)


def graph_output(card: ModelCard) -> Tensor:
    """What a generator's graph gives: images of 0 to 255, height, width, channels."""
    return Tensor("images", "UINT8", (card.size, card.size, card.channels))


def check_shape(tensor: Tensor, datatype: str, shape: Sequence[int]) -> None:
    """Refuse another datatype or shape than the tensor's, or a number of images that no request may have.

    Raises:
        Refused: one line with the tensor, what was found and what would do.
    """
    if datatype != tensor.datatype:
        raise Refused(f"{tensor.name}: datatype: found {datatype}; expected {tensor.datatype}")
    expected = "[N] or [N, 1]" if tensor.single else f"[N, {', '.join(map(str, tensor.dims))}]"
    if tuple(shape[1:]) != tensor.dims and not (tensor.single and len(shape) == 1):
        raise Refused(f"{tensor.name}: shape: found {list(shape)}; expected {expected}")
    if not 1 <= shape[0] <= LARGEST_COUNT:
        raise Refused(f"{tensor.name}: shape: found {list(shape)}; N is 1 to {LARGEST_COUNT} images")


def from_bytes(tensor: Tensor, shape: Sequence[int], content: memoryview) -> NDArray[Any]:
    """A tensor from its bytes.

    Args:
        tensor, shape: passed by `check_shape`.
        content: all of the tensor's bytes.

    Returns:
        `(N, *dims)`, or `(N,)` where it is one value an image; texts as Python strings.

    Raises:
        Refused: where the bytes are not as many as the shape says, or no UTF-8.
    """
    if tensor.datatype == "BYTES":
        return _array(tensor, shape, _texts(tensor.name, shape[0], content))
    dtype = NUMPY[tensor.datatype]
    expected = math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        raise Refused(
            f"{tensor.name}: found {len(content)} bytes; {tensor.datatype} {list(shape)} has {expected} bytes"
        )
    values = np.frombuffer(content, dtype).copy()  # it may lie at any address, and the runtime wants numbers aligned
    return values.reshape(shape[:1] if tensor.single else tuple(shape))


def from_json(tensor: Tensor, shape: Sequence[int], data: list[Any]) -> NDArray[Any]:
    """A tensor from JSON's values, in a flat list or in lists as deep as the shape.

    Args, returns: see `from_bytes`.

    Raises:
        Refused: where the values are not as many as the shape says, nested otherwise, or of another type.
    """
    values = _flat(tensor.name, shape, data)
    types = _TYPES[tensor.datatype]
    for found in set(map(type, values)).difference(types):  # of bool too, which is an int
        example = next(value for value in values if type(value) is found)
        raise Refused(
            f"{tensor.name}: data: found {str(example)[:40]!r} ({found.__name__}); expected {tensor.datatype}"
        )
    return _array(tensor, shape, values)


def decompressed(body: bytes, coding: str, largest: int) -> bytes | None:
    """A body without its compression.

    Args:
        body: as it came.
        coding: of the header Content-Encoding; "deflate" is zlib's format, as HTTP has it.
        largest: bytes that it may have.

    Returns:
        its bytes; None where they would be more than `largest`, of which no more are ever made.

    Raises:
        Refused: for another coding, or a body that is not whole and of it alone.
    """
    if coding in ("", "identity"):
        return body
    if coding not in ("gzip", "deflate"):
        raise Refused(f"Content-Encoding: found {coding[:40]!r}; expected gzip, deflate or identity")
    stream = zlib.decompressobj(wbits=31 if coding == "gzip" else 15)
    try:
        content = stream.decompress(body, largest + 1)
    except zlib.error as error:
        raise Refused(f"Content-Encoding: found {coding}, but the body is not: {error}") from error
    if len(content) > largest:
        return None
    if not stream.eof or stream.unused_data:
        raise Refused(f"Content-Encoding: found {coding}, but the body ends early or goes on behind its end")
    return content


def compressed(body: bytes, coding: Coding) -> bytes:
    """A body in a coding, at the least effort: pixels of small images hardly shrink."""
    stream = zlib.compressobj(1, wbits=31 if coding == "gzip" else 15)
    return stream.compress(body) + stream.flush()


def _array(tensor: Tensor, shape: Sequence[int], values: list[Any]) -> NDArray[Any]:
    if tensor.datatype == "BYTES":
        return np.array(values, dtype=object)
    wide = np.float64 if tensor.datatype == "FP32" else NUMPY[tensor.datatype]
    try:
        array = np.array(values, dtype=wide)
    except OverflowError as error:
        raise Refused(f"{tensor.name}: data: found a number that is too large for {tensor.datatype}") from error
    with np.errstate(over="ignore"):  # it becomes infinite, which no tensor may be
        array = array.astype(NUMPY[tensor.datatype], copy=False)
    return array.reshape(shape[:1] if tensor.single else tuple(shape))


def _flat(name: str, shape: Sequence[int], data: list[Any]) -> list[Any]:
    """The values of lists in lists, row by row."""
    if data and isinstance(data[0], list):
        rows: list[Any] = [data]
        for side in shape:
            if not all(isinstance(row, list) and len(row) == side for row in rows):
                raise Refused(f"{name}: data: nested otherwise than the shape {list(shape)}; nest so, or leave it flat")
            rows = list(chain.from_iterable(rows))
        data = rows
    if len(data) != math.prod(shape):
        raise Refused(f"{name}: data: found {len(data)} values; the shape {list(shape)} has {math.prod(shape)}")
    return data


def _texts(name: str, count: int, content: memoryview) -> list[str]:
    """Texts from their lengths and bytes."""
    texts: list[str] = []
    at = 0
    for _ in range(count):
        if at + 4 > len(content):
            raise Refused(f"{name}: found {len(texts)} texts in {len(content)} bytes; the shape says {count}")
        (length,) = struct.unpack_from("<I", content, at)
        at += 4
        if length > min(len(content) - at, _LONGEST_TEXT):
            raise Refused(
                f"{name}: found a text of {length} bytes; expected at most {_LONGEST_TEXT}, and all of it there"
            )
        try:
            texts.append(str(content[at : at + length], "utf-8"))
        except UnicodeDecodeError as error:
            raise Refused(f"{name}: found a text that is not UTF-8 ({error.reason}); send text as UTF-8") from error
        at += length
    if at != len(content):
        raise Refused(f"{name}: found {len(content) - at} bytes behind the last of {count} texts")
    return texts
