"""The IDX format of MNIST and its successors, plain or gzipped.

Big-endian: two zero bytes, a byte for the type, a byte for the number of dimensions, each dimension as uint32, the
data (http://yann.lecun.com/exdb/mnist, "the IDX file format").
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from ganlib.problems import Refused

TYPES: dict[int, str] = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
"""The type byte and its numpy type."""


def read_idx(path: Path) -> np.ndarray:
    """The array in an IDX file, in its own shape and the machine's byte order.

    Raises:
        Refused: where the file is not IDX, ends too early, goes on too long or is damaged.
    """
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if zipped else path.open("rb") as file:
            return _parse(cast(BinaryIO, file), path)
    except EOFError as error:
        raise Refused(f"{path}: truncated: the gzip data stop before their end; fetch it again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise Refused(f"{path}: damaged gzip data ({error}); fetch it again") from error


def _parse(file: BinaryIO, path: Path) -> np.ndarray:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in TYPES or not magic[3]:
        known = ", ".join(f"{code:02x}" for code in TYPES)
        raise Refused(f"{path}: not IDX: it begins with {magic.hex(' ')}, and 00 00, a type ({known}) and a rank do")
    header = file.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise Refused(f"{path}: truncated: its header stops before the {magic[3]} dimensions; fetch it again")
    shape = struct.unpack(f">{magic[3]}I", header)
    kind = np.dtype(TYPES[magic[2]])
    expected = math.prod(shape) * kind.itemsize
    data = bytearray()
    while len(data) <= expected and (part := file.read(1 << 20)):  # a false header must not reserve its memory
        data += part
    if len(data) != expected:
        what = "truncated" if len(data) < expected else "too long"
        found = f"{len(data):,} bytes" if len(data) < expected else "more"
        raise Refused(f"{path}: {what}: {shape} of {kind.name} are {expected:,} bytes, found {found}; fetch it again")
    return np.frombuffer(data, dtype=kind).reshape(shape).astype(kind.newbyteorder("="))
