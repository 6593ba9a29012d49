"""ONNX graphs in the runtime: which device they really run on, and what they take and give."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as problems

from ganlib.card import Place
from ganlib.problems import Refused

Device = Literal["auto"] | Place
Signature = dict[str, tuple[str | int | None, ...]]
"""Each input and output by name: element type, then its sides, None where they vary: `("tensor(float)", None, 64)`."""

_UNREADABLE = (
    problems.Fail,
    problems.InvalidArgument,
    problems.InvalidGraph,
    problems.InvalidProtobuf,
    problems.NotImplemented,
    problems.RuntimeException,
)
_ERRORS_ONLY = 3  # of onnxruntime's severities: warnings of a sound graph are its authors' business
_CUDA_OPTIONS = {
    "cudnn_conv_algo_search": "HEURISTIC",  # the default tries every algorithm for every new batch size
    "arena_extend_strategy": "kSameAsRequested",
    "use_tf32": "0",  # full float32, so that images are those of the parity check
}


@dataclass(frozen=True)
class Session:
    """A graph in the runtime.

    Attributes:
        runtime: the `onnxruntime.InferenceSession`; several threads may run it at once.
        device: what it got, "cpu" or "cuda".
        metadata: what the graph's file says of itself.
    """

    runtime: Any
    device: Place
    metadata: Mapping[str, str]

    def run(self, **inputs: NDArray[Any]) -> NDArray[Any]:
        """The graph's first output for the inputs by name; they must be of the graph's types and shapes."""
        first: NDArray[Any] = self.runtime.run(None, inputs)[0]
        return first

    def signature(self) -> Signature:
        """What the graph takes and gives."""
        values = (*self.runtime.get_inputs(), *self.runtime.get_outputs())
        return {
            value.name: (value.type, *(side if isinstance(side, int) else None for side in value.shape))
            for value in values
        }


def open_session(graph: Path | bytes, device: Device = "auto", threads: int = 0) -> Session:
    """Load a graph, fully optimised.

    Args:
        graph: an ONNX file or its content.
        device: "auto" takes CUDA where the driver shows a GPU and onnxruntime can use it, else the CPU.
        threads: of the CPU for one run; 0 leaves it to the runtime (one for each core).

    Raises:
        Refused: for a graph that the runtime cannot read, and for "cuda" where the graph would not run on CUDA:
            onnxruntime lists CUDA without a GPU and silently falls back to the CPU, so what it got is read back.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise Refused(f"device: found {device!r}; expected auto, cpu or cuda")
    if threads < 0:
        raise Refused(f"threads: found {threads}; expected 0 (the runtime's choice) or more")
    gpus = 0 if device == "cpu" else cuda_devices()
    if device == "cuda" and not gpus:
        raise Refused("device: found cuda, but the driver shows no NVIDIA GPU on this machine; take cpu or auto")
    providers: list[Any] = ["CPUExecutionProvider"]
    if gpus and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        if "torch" not in sys.modules:  # torch has loaded CUDA's libraries where it is there
            onnxruntime.preload_dlls()
        providers.insert(0, ("CUDAExecutionProvider", _CUDA_OPTIONS))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS_ONLY
    name = graph if isinstance(graph, Path) else "the graph"
    try:
        runtime = onnxruntime.InferenceSession(str(graph) if isinstance(graph, Path) else graph, options, providers)
    except _UNREADABLE as error:
        raise Refused(f"{name}: onnxruntime cannot read it: {' '.join(str(error).split())}") from error
    got: Literal["cpu", "cuda"] = "cuda" if "CUDAExecutionProvider" in runtime.get_providers() else "cpu"
    if device == "cuda" and got != "cuda":
        raise Refused(
            "device: found cuda, but onnxruntime could not load it here; "
            "install its libraries with `pip install 'onnxruntime-gpu[cuda,cudnn]'`, or take cpu"
        )
    return Session(runtime, got, dict(runtime.get_modelmeta().custom_metadata_map))


def resolve(device: Device) -> Place:
    """Where "auto" runs: CUDA where the driver shows a GPU and onnxruntime can use it, else the CPU. A place that is
    named stays as it is; `open_session` proves that it is to be had."""
    if device != "auto":
        return device
    return "cuda" if cuda_devices() and "CUDAExecutionProvider" in onnxruntime.get_available_providers() else "cpu"


def cuda_devices() -> int:
    """How many NVIDIA GPUs the driver shows; 0 where there is no driver."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value
