"""GPUs: what the driver shows, what onnxruntime can really use, and the one thread that uses it."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest

from ganlib.inference import gpu
from ganlib.inference.gpu import engine_folder, first_line, gpu_names, on_gpu, problem_with

without_gpu = pytest.mark.skipif(bool(gpu_names()), reason="this machine has an NVIDIA GPU")


class Driver:
    """Answers as CUDA's driver does, through pointers, for GPUs of some names."""

    def __init__(self, names: list[str], error: int = 0) -> None:
        self.names, self.error = names, error

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self.error

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = len(self.names)
        return 0

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:  # noqa: N802
        device._obj.value = ordinal
        return 0

    def cuDeviceGetName(self, name: Any, length: int, device: Any) -> int:  # noqa: N802
        if not self.names[device.value]:
            return 1
        name.value = self.names[device.value].encode()[: length - 1]
        return 0


def test_gpus_are_those_of_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(["NVIDIA H200", "Tesla T4", ""]))
    assert gpu_names() == ("NVIDIA H200", "Tesla T4", "NVIDIA GPU")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(["NVIDIA H200"], error=100))  # no device is visible
    assert gpu_names() == ()

    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert gpu_names() == ()


def test_a_convolution_runs_on_the_cpu() -> None:
    assert problem_with("cpu") == ""


@without_gpu
def test_a_gpu_that_onnxruntime_lists_is_not_believed(capfd: pytest.CaptureFixture[str]) -> None:
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime was built without CUDA")
    for place, package in (("cuda", "onnxruntime-gpu[cuda,cudnn]"), ("tensorrt", "tensorrt")):
        problem = problem_with(place)  # type: ignore[arg-type]
        assert problem.startswith("onnxruntime could not ")
        assert package in problem
        assert "\n" not in problem
    said = capfd.readouterr()
    assert said.out == ""  # of the libraries that are missing, our line alone speaks
    assert "providers_cuda" not in said.err


@pytest.mark.skipif(not gpu_names(), reason="this machine has no NVIDIA GPU")
def test_a_convolution_runs_on_the_gpu() -> None:
    assert problem_with("cuda") == ""


def test_a_runtime_without_the_provider_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "onnxruntime", SimpleNamespace(get_available_providers=lambda: ["CPUExecutionProvider"]))
    assert problem_with("cuda").startswith("this onnxruntime was built without cuda; install")


def test_work_for_the_gpu_is_done_by_one_thread_in_turn() -> None:
    threads, at_once, most = set(), 0, 0

    def work(number: int) -> int:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        threads.add(threading.get_ident())
        at_once -= 1
        return number

    results: list[int] = []
    callers = [threading.Thread(target=lambda i=i: results.append(on_gpu(lambda: work(i)))) for i in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert sorted(results) == list(range(8))
    assert (len(threads), most) == (1, 1)
    assert threads.isdisjoint({threading.get_ident()})
    with pytest.raises(ZeroDivisionError):
        on_gpu(lambda: 1 // 0)


def test_engines_of_other_weights_and_runtimes_lie_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    one, other = engine_folder("a" * 64), engine_folder("b" * 64)
    assert one == tmp_path / "ganlib" / "tensorrt" / onnxruntime.__version__ / ("a" * 16)
    assert other.parent == one.parent and other != one
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert engine_folder("a" * 64).is_relative_to(Path.home() / ".cache" / "ganlib")
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert engine_folder("a" * 64).is_relative_to(tmp_path / "local" / "ganlib")


def test_what_the_runtime_says_is_one_short_line() -> None:
    assert first_line(RuntimeError("no\n  memory")) == "no memory"
    assert first_line(RuntimeError("word " * 200)) == ("word " * 200)[:240] + "..."
