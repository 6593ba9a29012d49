"""Batches at fixed sizes and addresses: the images are those of the plain run, whoever else is running."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ganlib.inference.bucketed import BUCKETS, Bucketed
from ganlib.inference.gpu import gpu_names
from ganlib.inference.package import open_package
from ganlib.inference.request import Request
from ganlib.inference.sample import BATCH, Generator
from ganlib.inference.session import Session, open_session
from ganlib.problems import Refused

with_gpu = pytest.mark.skipif(not gpu_names(), reason="this machine has no NVIDIA GPU")


def drawn(kind: str, count: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(seed)
    inputs: dict[str, NDArray[Any]] = {"z": random.standard_normal((count, 6)).astype(np.float32)}
    if kind == "class":
        inputs["class"] = random.integers(0, 3, count)
    elif kind == "text":
        inputs["text"] = random.standard_normal((count, 5)).astype(np.float32)
    return inputs


class Spy:
    """Stands before a runtime and writes down the batch sizes that it runs."""

    def __init__(self, session: Session) -> None:
        self.runtime, self.sizes = session.runtime, list[int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runtime, name)

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        self.runtime.run_with_iobinding(binding, options)
        self.sizes.append(binding.get_outputs()[0].shape()[0])


@pytest.mark.parametrize("kind", ["none", "class", "text"])
def test_padded_images_are_the_plain_runs_to_the_bit(build: Callable[..., Path], kind: str) -> None:
    session = open_session(build(kind) / "generator.onnx", "cpu", threads=1)
    spy = Spy(session)
    bucketed = Bucketed(Session(spy, session.device, session.metadata))
    for count in (1, 2, 7, 8, 9, 32, 33, 64, 1):
        inputs = drawn(kind, count, count)
        np.testing.assert_array_equal(bucketed.run(**inputs), session.run(**inputs))
    assert spy.sizes == [1, 8, 8, 8, 32, 32, 64, 64, 1]
    spy.sizes.clear()
    inputs = drawn(kind, 150)
    np.testing.assert_array_equal(bucketed.run(**inputs), session.run(**inputs))
    assert spy.sizes == [64, 64, 32]


def test_addresses_never_change(build: Callable[..., Path]) -> None:
    bucketed = Bucketed(open_session(build("none") / "generator.onnx", "cpu", threads=1), (4, 8))
    bucketed.run(**drawn("none", 3))
    bucket = bucketed._made[4]
    before = [value.data_ptr() for value in (*bucket.inputs.values(), bucket.output)]
    kept = bucketed.run(**drawn("none", 4, 1))
    copy = kept.copy()
    bucketed.run(**drawn("none", 2, 2))
    assert bucketed._made == {4: bucket}
    assert [value.data_ptr() for value in (*bucket.inputs.values(), bucket.output)] == before
    np.testing.assert_array_equal(kept, copy)  # what was given away is not written over


def test_threads_share_addresses_without_mixing_images(build: Callable[..., Path]) -> None:
    session = open_session(build("text") / "generator.onnx", "cpu", threads=1)
    bucketed = Bucketed(session, (1, 8))
    requests = [drawn("text", 1 + i % 8, i) for i in range(60)]
    alone = [session.run(**inputs) for inputs in requests]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda inputs: bucketed.run(**inputs), requests))
    for found, expected in zip(together, alone, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_generator_may_use_buckets_on_a_cpu_too(build: Callable[..., Path]) -> None:
    package = open_package(build("class"))
    plain, padded = Generator(package, "cpu", 1), Generator(package, "cpu", 1, buckets=BUCKETS)
    request = Request(class_name="rose", seed=5, count=BATCH + 3)
    np.testing.assert_array_equal(padded.generate(request).images, plain.generate(request).images)
    assert BUCKETS[-1] == BATCH  # a generator's largest batch is one run


def test_buckets_that_are_none_and_other_graphs_are_refused(build: Callable[..., Path]) -> None:
    folder = build("text")
    session = open_session(folder / "generator.onnx", "cpu", threads=1)
    for buckets in ((), (0, 4), (8, 4), (4, 4)):
        with pytest.raises(Refused, match=r"^buckets: found .*expected batch sizes from 1 on"):
            Bucketed(session, buckets)
    encoder = open_session(folder / "text_encoder.onnx", "cpu", threads=1)
    with pytest.raises(Refused, match=r"buckets: found ids .* a graph may vary in its batch size alone"):
        Bucketed(encoder)


@with_gpu
@pytest.mark.parametrize("kind", ["none", "class", "text"])
def test_a_captured_graph_gives_the_images_of_the_plain_run(build: Callable[..., Path], kind: str) -> None:
    graph = build(kind) / "generator.onnx"
    plain, captures = open_session(graph, "cuda"), open_session(graph, "cuda", capture=True)
    assert (plain.captures, captures.captures) == (False, True)
    bucketed = Bucketed(captures)
    for seed in range(3):  # captured at the first run, replayed from then on
        for count in (1, 2, 8, 9, 64, 1):
            inputs = drawn(kind, count, seed)
            expected = plain.run(**inputs).astype(int)
            assert np.abs(bucketed.run(**inputs) - expected).max() <= 1
            assert np.abs(captures.run(**inputs) - expected).max() <= 1  # a plain run beside it replays nothing


@with_gpu
def test_threads_share_captured_graphs(build: Callable[..., Path]) -> None:
    graph = build("none") / "generator.onnx"
    plain, bucketed = open_session(graph, "cuda"), Bucketed(open_session(graph, "cuda", capture=True))
    requests = [drawn("none", 1 + i % 64, i) for i in range(100)]
    alone = [plain.run(**inputs) for inputs in requests]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda inputs: bucketed.run(**inputs), requests))
    for found, expected in zip(together, alone, strict=True):
        assert np.abs(found.astype(int) - expected).max() <= 1


@with_gpu
def test_a_generator_on_cuda_captures_and_agrees_with_the_cpu(build: Callable[..., Path]) -> None:
    package, request = open_package(build("text")), Request(prompt="a red rose", seed=5, count=BATCH + 3)
    on_gpu = Generator(package, "auto")
    assert (on_gpu.device, on_gpu.choice.because) == ("cuda", gpu_names()[0])
    assert isinstance(on_gpu._session, Bucketed) and on_gpu._session.session.captures
    difference = on_gpu.generate(request).images.astype(int) - Generator(package, "cpu").generate(request).images
    assert np.abs(difference).max() <= 1
