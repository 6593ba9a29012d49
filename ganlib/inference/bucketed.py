"""Graphs that run at a few batch sizes alone, each with inputs and outputs at addresses that never change.

That is what a CUDA graph needs: a run is recorded once, and replayed with one call instead of one for every kernel.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ganlib.inference.session import LARGEST_BATCH, Session
from ganlib.problems import Refused

BUCKETS = (1, 8, 32, LARGEST_BATCH)
_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
}


@dataclass(frozen=True)
class _Bucket:
    """A batch size with its addresses.

    Attributes:
        staged: each input as the CPU fills it.
        inputs: the same where the graph reads them; on a CPU the very memory of `staged`.
        output: where the graph writes.
        binding: of the session to these addresses.
        options: of a run; names the CUDA graph.
        lock: for who uses the addresses.
    """

    staged: Mapping[str, NDArray[Any]]
    inputs: Mapping[str, Any]
    output: Any
    binding: Any
    options: Any
    lock: Any = field(default_factory=threading.Lock)


class Bucketed:
    """A session whose batches are padded up to the next of a few sizes. Several threads may use one; those that need
    the same size take turns, and on CUDA all do."""

    def __init__(self, session: Session, buckets: Sequence[int] = BUCKETS) -> None:
        """
        Args:
            session: of a graph with one output, in which nothing but the first side of inputs and output varies.
            buckets: batch sizes, each larger than the one before; a larger batch is run in parts of the last.

        Raises:
            Refused: for buckets that are none, and a graph of another kind.
        """
        self.buckets = tuple(buckets)
        if not buckets or buckets[0] < 1 or any(b <= a for a, b in pairwise(buckets)):
            raise Refused(f"buckets: found {self.buckets}; expected batch sizes from 1 on, each larger than the last")
        self.session = session
        self._values = session.signature()
        self._names = [value.name for value in session.runtime.get_inputs()]
        outputs = [value.name for value in session.runtime.get_outputs()]
        for name, (kind, *sides) in self._values.items():
            if kind not in _TYPES or not sides or sides[0] is not None or None in sides[1:] or len(outputs) != 1:
                raise Refused(f"buckets: found {name} {kind} {sides}; a graph may vary in its batch size alone")
        self._output = outputs[0]
        self._made: dict[int, _Bucket] = {}
        self._making = threading.Lock()

    @property
    def device(self) -> str:
        """Where it runs."""
        return self.session.device

    def run(self, **inputs: NDArray[Any]) -> NDArray[Any]:
        """The graph's output for the inputs by name, all of one batch size from 1 on; they must be of the graph's types
        and shapes. What it gives for an input does not depend on how it was padded."""
        count, largest = len(next(iter(inputs.values()))), self.buckets[-1]
        parts = [
            self._run({name: value[first : first + largest] for name, value in inputs.items()})
            for first in range(0, count, largest)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _run(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        count = len(next(iter(inputs.values())))
        size = next(size for size in self.buckets if size >= count)

        def padded() -> NDArray[Any]:
            bucket = self._bucket(size)
            with bucket.lock:
                return self._bound(bucket, inputs, count)

        return self.session.doing(padded)

    def _bound(self, bucket: _Bucket, inputs: Mapping[str, NDArray[Any]], count: int) -> NDArray[Any]:
        on_cpu = self.session.device == "cpu"
        for name, staged in bucket.staged.items():
            staged[:count] = inputs[name]
            staged[count:] = inputs[name][0]  # a row that the graph is made for; zeros may be divided by their length
            if not on_cpu:
                bucket.inputs[name].update_inplace(staged)
        bucket.binding.synchronize_inputs()
        self.session.runtime.run_with_iobinding(bucket.binding, bucket.options)
        bucket.binding.synchronize_outputs()
        images: NDArray[Any] = bucket.output.numpy()[:count]
        return images.copy() if on_cpu else images

    def _bucket(self, size: int) -> _Bucket:
        with self._making:
            if size not in self._made:
                self._made[size] = self._make(size)
            return self._made[size]

    def _make(self, size: int) -> _Bucket:
        where = "cpu" if self.session.device == "cpu" else "cuda"
        staged = {name: self._array(name, size) for name in self._names}
        binding, options = self.session.runtime.io_binding(), onnxruntime.RunOptions()
        inputs = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array, where) for name, array in staged.items()}
        output = onnxruntime.OrtValue.ortvalue_from_numpy(self._array(self._output, size), where)
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        binding.bind_ortvalue_output(self._output, output)
        if self.session.captures:
            options.add_run_config_entry("gpu_graph_id", str(self.buckets.index(size) + 1))
        return _Bucket(staged, inputs, output, binding, options)

    def _array(self, name: str, size: int) -> NDArray[Any]:
        kind, _, *sides = self._values[name]
        return np.zeros((size, *(int(side or 0) for side in sides)), _TYPES[str(kind)])
