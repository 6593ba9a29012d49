"""IDX files as MNIST has them, written here byte by byte."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ganlib.card import DatasetSpec
from ganlib.data.idx import read_idx
from ganlib.data.mnist import Mnist
from ganlib.data.store import load_split
from ganlib.problems import Refused

CODES = {"u1": (8, "B"), "i1": (9, "b"), "i2": (11, "h"), "i4": (12, "i"), "f4": (13, "f"), "f8": (14, "d")}


def idx(array: np.ndarray) -> bytes:
    code, letter = CODES[array.dtype.str[1:]]
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, code, array.ndim]) + sizes + struct.pack(f">{array.size}{letter}", *array.ravel().tolist())


@pytest.mark.parametrize("kind", CODES)
@pytest.mark.parametrize("zipped", [False, True])
def test_every_type_comes_back(kind: str, zipped: bool, tmp_path: Path) -> None:
    array = (np.arange(24).reshape(2, 3, 4) * 5 - (0 if kind == "u1" else 50)).astype(kind)
    if kind in ("i2", "i4"):
        array *= 300
    path = tmp_path / "array"
    path.write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
    read = read_idx(path)
    assert read.dtype == np.dtype(kind)
    np.testing.assert_array_equal(read, array)


WHOLE = idx(np.zeros((3, 4, 4), np.uint8))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (WHOLE[:-1], "truncated: .* 48 bytes, found 47 bytes"),
        (WHOLE[:9], "truncated: its header"),
        (WHOLE + b"\0", "too long"),
        (b"", "not IDX"),
        (b"\0\0\x07\x01\0\0\0\0", "not IDX: it begins with 00 00 07 01"),
        (b"<html>", "not IDX"),
        (gzip.compress(WHOLE, mtime=0)[:-20], "truncated: the gzip data"),
        (gzip.compress(WHOLE, mtime=0)[:-8] + bytes(8), "damaged gzip"),
        (struct.pack(">4B3I", 0, 0, 8, 3, 4_000_000_000, 28, 28), "truncated"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(Refused, match=words) as problem:
        read_idx(path)
    assert str(path) in str(problem.value)
    assert "\n" not in str(problem.value)


def write_mnist(folder: Path, train: int = 30, test: int = 10, suffix: str = "") -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    arrays = {}
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, count in (("train", train), ("t10k", test)):
        arrays[f"{prefix}-images-idx3-ubyte"] = random.integers(0, 256, (count, 8, 8), dtype=np.uint8)
        arrays[f"{prefix}-labels-idx1-ubyte"] = (np.arange(count) % 10).astype(np.uint8)
    for name, array in arrays.items():
        (folder / f"{name}{suffix}").write_bytes(gzip.compress(idx(array)) if suffix else idx(array))
    return arrays


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_keeps_its_splits_pixels_and_labels(
    suffix: str, tmp_path: Path, ingest: Callable[..., DatasetSpec]
) -> None:
    arrays = write_mnist(tmp_path / "source", suffix=suffix)
    spec = ingest(source="mnist", channels=1)
    assert spec.counts == {"train": 30, "test": 10}
    assert spec.classes == tuple("0123456789")
    assert set(spec.sources) == {f"{name}{suffix}" for name in arrays}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        loaded = load_split(tmp_path / "prepared", None, split)
        np.testing.assert_array_equal(loaded.images[..., 0], arrays[f"{prefix}-images-idx3-ubyte"])
        np.testing.assert_array_equal(loaded.labels, arrays[f"{prefix}-labels-idx1-ubyte"])
    train = arrays["train-images-idx3-ubyte"]
    assert spec.mean == pytest.approx([train.mean()])
    assert spec.std == pytest.approx([train.std()])


def test_mnist_without_a_test_split_holds_out_its_share(tmp_path: Path, ingest: Callable[..., DatasetSpec]) -> None:
    write_mnist(tmp_path / "source", train=200)
    for file in (tmp_path / "source").glob("t10k*"):
        file.unlink()
    spec = ingest(source="mnist", test_share=0.25)
    assert sum(spec.counts.values()) == 200
    assert 25 < spec.counts["test"] < 80


def test_mnist_refuses_what_is_missing_or_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="train-images-idx3-ubyte: missing"):
        Mnist(tmp_path)
    write_mnist(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(29, np.uint8)))
    with pytest.raises(Refused, match="29 labels for 30 images"):
        Mnist(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(np.zeros((30, 8, 8), np.float32)))
    with pytest.raises(Refused, match="found float32"):
        Mnist(tmp_path)
    with pytest.raises(Refused, match="takes the folder"):
        Mnist(tmp_path / "train-images-idx3-ubyte")
