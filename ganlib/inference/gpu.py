"""NVIDIA GPUs: which ones the driver shows, whether onnxruntime can really use them, and their one thread.

onnxruntime lists CUDA and TensorRT as available wherever they were compiled in, without a GPU or its libraries too, and
silently runs on the CPU then. What is true is what a graph shows that has run.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import io
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as problems

from ganlib.card import Place

Result = TypeVar("Result")
OnGPU = Literal["cuda", "tensorrt"]
ON_GPU: tuple[OnGPU, ...] = ("cuda", "tensorrt")
PROVIDER = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
INSTALL = {
    "cuda": "pip install 'onnxruntime-gpu[cuda,cudnn]'",
    "tensorrt": "pip install tensorrt 'onnxruntime-gpu[cuda,cudnn]'",
}
RUNTIME_ERRORS = (
    problems.EPFail,
    problems.Fail,
    problems.InvalidArgument,
    problems.InvalidGraph,
    problems.InvalidProtobuf,
    problems.NotImplemented,
    problems.RuntimeException,
    RuntimeError,  # what the binding has no class for
)
_SILENT, _WARNINGS = 4, 2  # of onnxruntime's severities: nothing but what ends the process, and the default


def gpu_names() -> tuple[str, ...]:
    """The names of the NVIDIA GPUs that the driver shows to this process; empty where there is no driver."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return ()
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    names = []
    for ordinal in range(count.value):
        device, name = ctypes.c_int(0), ctypes.create_string_buffer(256)
        known = (
            driver.cuDeviceGet(ctypes.byref(device), ordinal) == 0 and driver.cuDeviceGetName(name, 256, device) == 0
        )
        names.append(name.value.decode(errors="replace") if known else "NVIDIA GPU")
    return tuple(names)


def problem_with(place: Place) -> str:
    """Why onnxruntime cannot run a convolution there, with what would do; empty where it has run one.

    A GPU is asked for only where the driver shows one.
    """
    if PROVIDER[place] not in onnxruntime.get_available_providers():
        return f"this onnxruntime was built without {place}{_instead(place)}"
    return _tried(place) if place == "cpu" else on_gpu(lambda: _tried(place))


def _tried(place: Place) -> str:
    load_libraries(place)
    try:
        with _quiet():
            runtime = onnxruntime.InferenceSession(_convolution(), providers=[PROVIDER[place]], enable_fallback=0)
            if PROVIDER[place] not in runtime.get_providers():
                return f"onnxruntime could not load {place} here{_instead(place)}"
            runtime.run(None, {"x": np.ones((1, 1, 4, 4), np.float32)})
    except RUNTIME_ERRORS as error:
        return f"onnxruntime could not run a convolution there ({first_line(error)}){_instead(place)}"
    return ""


def load_libraries(place: Place) -> None:
    """Load what pip has installed of a GPU's libraries: they lie where the dynamic linker does not look."""
    if place == "cpu":
        return
    if "torch" not in sys.modules:  # torch has loaded CUDA's where it is there
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            onnxruntime.preload_dlls()
    if place == "tensorrt" and importlib.util.find_spec("tensorrt_libs") is not None:
        importlib.import_module("tensorrt_libs")


def _instead(place: Place) -> str:
    return f"; install its libraries with `{INSTALL[place]}`" if place in INSTALL else ""


def first_line(error: Exception) -> str:
    """What the runtime says, in one line that a person reads to its end."""
    said = " ".join(str(error).split())
    return said if len(said) <= 240 else f"{said[:240]}..."


def on_gpu(work: Callable[[], Result]) -> Result:
    """Do something on the one thread of this process that uses CUDA, and wait for it.

    While a CUDA graph is captured, allocations and copies of every other thread fail (onnxruntime captures in the
    global mode), a session that captures may not run in two threads at once, and each thread would capture graphs of
    its own. The work must not call this function again.
    """
    return _thread().submit(work).result()


@cache
def _thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="gpu")


def engine_folder(sha256: str) -> Path:
    """Where TensorRT keeps the engines of one graph: onnxruntime's own key does not depend on the weights, so two
    trainings of one network would get the same engine."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "ganlib" / "tensorrt" / onnxruntime.__version__ / sha256[:16]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing on standard error: what is wrong becomes a line of ours."""
    onnxruntime.set_default_logger_severity(_SILENT)
    try:
        yield
    finally:
        onnxruntime.set_default_logger_severity(_WARNINGS)


@cache
def _convolution() -> bytes:
    """A graph with one convolution, which needs CUDA's and cuDNN's libraries."""
    from onnx import TensorProto, helper, numpy_helper

    def value(name: str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 1, 4, 4))

    kernel = numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "kernel")
    node = helper.make_node("Conv", ["x", "kernel"], ["y"], pads=[1, 1, 1, 1])
    graph = helper.make_graph([node], "convolution", [value("x")], [value("y")], [kernel])
    model: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    ).SerializeToString()
    return model
