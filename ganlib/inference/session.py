"""ONNX graphs in the runtime: which device they really run on, and what they take and give."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import onnxruntime
from numpy.typing import NDArray

from ganlib.card import Place, Precision
from ganlib.files import sha256_of
from ganlib.inference.gpu import (
    PROVIDER,
    RUNTIME_ERRORS,
    OnGPU,
    Result,
    engine_folder,
    first_line,
    gpu_names,
    load_libraries,
    on_gpu,
    problem_with,
)
from ganlib.problems import Failed, Refused

Device = Literal["auto"] | Place
DEVICES: tuple[str, ...] = ("auto", *get_args(Place))
Signature = dict[str, tuple[str | int | None, ...]]
"""Each input and output by name: element type, then its sides, None where they vary: `("tensor(float)", None, 64)`."""
LARGEST_BATCH = 64  # images in one run of a graph at most; parity is measured up to here

_ERRORS_ONLY = 3  # of onnxruntime's severities: warnings of a sound graph are its authors' business
_CUDA_OPTIONS = {
    "cudnn_conv_algo_search": "HEURISTIC",  # the default tries every algorithm for every new batch size
    "arena_extend_strategy": "kSameAsRequested",
    "use_tf32": "0",  # full float32, so that images are those of the parity check
}
_COUNTING = frozenset(
    ("Add", "Cast", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Expand", "Floor", "Gather", "Identity",
     "Max", "Min", "Mod", "Mul", "Range", "ReduceProd", "Reshape", "Shape", "Size", "Slice", "Squeeze", "Sub",
     "Unsqueeze", "Where")
)  # fmt: skip
"""Operators that work out shapes. onnxruntime puts them on the CPU for good reason; where a GPU is asked for, these
alone may run there. Its option session.disable_cpu_ep_fallback would refuse graphs for them."""


@dataclass(frozen=True)
class Choice:
    """Where graphs are to run.

    Attributes:
        place: proved to be usable.
        because: the GPU's name, or why "auto" took the CPU; empty where the CPU was asked for.
    """

    place: Place
    because: str = ""

    def __str__(self) -> str:
        return f"{self.place} ({self.because})" if self.because else self.place


@dataclass(frozen=True)
class Session:
    """A graph in the runtime. Several threads may run it at once; on CUDA they take turns.

    Attributes:
        runtime: the `onnxruntime.InferenceSession`.
        device: what it got.
        metadata: what the graph's file says of itself.
        captures: whether runs with fixed addresses are captured as CUDA graphs.
        options: of a run, for onnxruntime.
    """

    runtime: Any
    device: Place
    metadata: Mapping[str, str]
    captures: bool = False
    options: Any = None

    def run(self, **inputs: NDArray[Any]) -> NDArray[Any]:
        """The graph's first output for the inputs by name; they must be of the graph's types and shapes."""
        outputs: list[NDArray[Any]] = self.doing(lambda: self.runtime.run(None, inputs, self.options))
        return outputs[0]

    def doing(self, work: Callable[[], Result]) -> Result:
        """Do something with the runtime where its device wants it done.

        Raises:
            Failed: with what the runtime says, for example that the GPU has no memory left.
        """
        try:
            return on_gpu(work) if self.device == "cuda" else work()
        except RUNTIME_ERRORS as error:
            raise Failed(f"the graph could not be run on {self.device}: {first_line(error)}") from error

    def signature(self) -> Signature:
        """What the graph takes and gives."""
        return _signature(self.runtime)


def choose(device: Device) -> Choice:
    """Where a device is: "auto" takes CUDA where there is a GPU on which onnxruntime can run a convolution, else the
    CPU. TensorRT is taken only by name: it builds an engine for minutes when it first sees a graph.

    Raises:
        Refused: for a named GPU that is not to be had.
    """
    if device not in DEVICES:
        raise Refused(f"device: found {device!r}; expected {', '.join(DEVICES[:-1])} or {DEVICES[-1]}")
    if device == "cpu":
        return Choice("cpu")
    place: OnGPU = "cuda" if device == "auto" else device
    names = gpu_names()
    problem = problem_with(place) if names else ""
    if names and not problem:
        return Choice(place, names[0])
    if device == "auto":
        return Choice("cpu", f"{names[0]} not used: {problem}" if names else "no NVIDIA GPU found")
    if not names:
        raise Refused(f"device: found {device}, but the driver shows no NVIDIA GPU on this machine; take cpu or auto")
    raise Refused(f"device: found {device}, but {problem}; or take cpu or auto")


def open_session(
    graph: Path | bytes,
    device: Device | Choice = "auto",
    threads: int = 0,
    *,
    precision: Precision = "float32",
    capture: bool = False,
    shrink: bool = False,
) -> Session:
    """Load a graph, fully optimised.

    Args:
        graph: an ONNX file or its content.
        device: see `choose`, whose result serves as well.
        threads: of the CPU for one run; 0 leaves it to the runtime (one for each core). Two callers with one thread
            each get more done than one caller with two.
        precision: what the graph computes in; TensorRT has to be told.
        capture: on CUDA, record each run with fixed addresses once as a CUDA graph and replay it from then on; see
            `ganlib.inference.bucketed`. Elsewhere it changes nothing.
        shrink: on a CPU, give back after every run the memory that it has taken; the runtime keeps the most that any
            run took otherwise. Of a 128-pixel generator 43 MB after one batch of 64, for up to a tenth of the time;
            of the 32-pixel ones of the demo less than 5 MB.

    Raises:
        Refused: for a graph that the runtime cannot read, and for a GPU on which the whole of it would not run: what
            onnxruntime has made of it is read back, node by node.
    """
    if threads < 0:
        raise Refused(f"threads: found {threads}; expected 0 (the runtime's choice) or more")
    place = (device if isinstance(device, Choice) else choose(device)).place
    options, run = onnxruntime.SessionOptions(), onnxruntime.RunOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS_ONLY
    captures = capture and place == "cuda"
    if captures:
        run.add_run_config_entry("gpu_graph_id", "-1")  # a run with addresses of its own is neither kept nor replayed
    if shrink and place == "cpu":
        run.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    def load() -> Any:
        return _load(graph, place, options, precision, captures)

    if place != "cpu":
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    runtime = on_gpu(load) if place == "cuda" else load()
    if place != "cpu":
        _expect_on_gpu(_name(graph), place, runtime)
    return Session(runtime, place, dict(runtime.get_modelmeta().custom_metadata_map), captures, run)


def _load(graph: Path | bytes, place: Place, options: Any, precision: Precision, captures: bool) -> Any:
    providers: list[Any] = [PROVIDER["cpu"]]
    if place != "cpu":
        load_libraries(place)
        providers.insert(0, (PROVIDER["cuda"], _CUDA_OPTIONS | ({"enable_cuda_graph": "1"} if captures else {})))
    if place == "tensorrt":
        providers.insert(0, (PROVIDER["tensorrt"], _tensorrt_options(graph, precision)))
    return _opened(graph, options, providers)


def _opened(graph: Path | bytes, options: Any, providers: list[Any]) -> Any:
    content = str(graph) if isinstance(graph, Path) else graph
    try:  # without `enable_fallback=0`, an error of a GPU is printed and the work goes on on the CPU
        return onnxruntime.InferenceSession(content, options, providers, enable_fallback=0)
    except RUNTIME_ERRORS as error:
        raise Refused(f"{_name(graph)}: onnxruntime cannot read it: {first_line(error)}") from error


def _tensorrt_options(graph: Path | bytes, precision: Precision) -> dict[str, str]:
    """Engines for every batch up to the largest, kept on disk for the next time; without the bounds, each larger batch
    would build another."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = _ERRORS_ONLY
    plain = _opened(graph, options, [PROVIDER["cpu"]])
    folder = engine_folder(sha256_of(graph) if isinstance(graph, Path) else hashlib.sha256(graph).hexdigest())
    folder.mkdir(parents=True, exist_ok=True)
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
        "trt_fp16_enable": "1" if precision == "float16" else "0",
        "trt_int8_enable": "1" if precision == "int8" else "0",
        "trt_profile_min_shapes": profile(plain, 1),
        "trt_profile_opt_shapes": profile(plain, LARGEST_BATCH),
        "trt_profile_max_shapes": profile(plain, LARGEST_BATCH),
    }


def profile(runtime: Any, batch: int) -> str:
    """The shapes of a graph's inputs at a batch size as TensorRT reads them: `z:64x100,class:64`."""
    shapes = ((value.name, [batch, *value.shape[1:]]) for value in runtime.get_inputs())
    return ",".join(f"{name}:{'x'.join(str(side) for side in shape)}" for name, shape in shapes)


def _expect_on_gpu(name: str, place: Place, runtime: Any) -> None:
    """Refuse a graph of which any part but counting is not on the GPU."""
    if PROVIDER[place] not in runtime.get_providers():
        raise Refused(
            f"{name}: onnxruntime did not take {place}, it got {', '.join(runtime.get_providers())}; take cpu"
        )
    nodes = assigned(runtime)
    if strays := sorted(nodes.get(PROVIDER["cpu"], set()) - _COUNTING):
        raise Refused(f"{name}: {place} has no kernel for {', '.join(strays)}, which would run on the CPU; take cpu")
    if PROVIDER[place] not in nodes:
        raise Refused(f"{name}: {place} has taken no part of the graph; take cuda or cpu")


def assigned(runtime: Any) -> dict[str, set[str]]:
    """The types of a graph's operators by the provider that runs them; of a session that has recorded it."""
    nodes: dict[str, set[str]] = {}
    for part in runtime.get_provider_graph_assignment_info():
        nodes.setdefault(part.ep_name, set()).update(node.op_type for node in part.get_nodes())
    return nodes


def _signature(runtime: Any) -> Signature:
    values = (*runtime.get_inputs(), *runtime.get_outputs())
    return {
        value.name: (value.type, *(side if isinstance(side, int) else None for side in value.shape)) for value in values
    }


def _name(graph: Path | bytes) -> str:
    return str(graph) if isinstance(graph, Path) else "the graph"
