"""A generator's graph in int8 for the CPU: static quantisation, calibrated on latents and conditions as they come."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from ganlib.export.inputs import TRUNCATIONS, Drawing
from ganlib.export.transposed import as_convolutions

_COMPUTING = ("Conv", "Gemm", "MatMul")
_PASSING = ("Add", "Concat", "DepthToSpace", "LeakyRelu", "MaxPool", "Relu", "Resize", "Slice")  # cheap between those
_PARTS, _PART, _SEED = 4, 32, 2_000_000  # of the calibration, at each truncation
_WARNINGS, _ERRORS = 2, 3  # of onnxruntime's severities; it begins with the former


def in_int8(model: onnx.ModelProto, drawing: Drawing) -> onnx.ModelProto | None:
    """The same graph with 8-bit integers in and between its convolutions and dense layers, and float32 elsewhere.

    Weights have a scale for each output channel and seven bits: an x86 CPU without VNNI adds two products of eight bits
    in 16 and saturates, so that its images would be others than those that were measured.

    Args:
        model: a graph that gives `UNIT`, its constants folded.
        drawing: of the latents and conditions whose smallest and largest values set the activations' scales.

    Returns:
        another graph of the same inputs and output; None where there is nothing to quantise.
    """
    prepared = _fused(as_convolutions(model))
    constants = {constant.name for constant in prepared.graph.initializer}
    if not any(node.op_type in _COMPUTING and node.input[1] in constants for node in prepared.graph.node):
        return None
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "int8.onnx"
        quantize_static(
            prepared,
            path,
            _Calibration(drawing),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*_COMPUTING, *_PASSING],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
        return onnx.load(path)


def _fused(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with normalisations taken into the convolutions before them, by onnxruntime's basic optimisations,
    which keep to ONNX's own operators."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fused.onnx"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path)
        options.log_severity_level = _ERRORS
        onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        fused = onnx.load(path)
    used = {node.domain for node in fused.graph.node}
    imports = [entry for entry in fused.opset_import if entry.domain in used]
    del fused.opset_import[:]
    fused.opset_import.extend(imports)
    return fused


class _Calibration(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    def __init__(self, drawing: Drawing) -> None:
        self._parts = iter(
            [
                drawing.inputs(range(first, first + _PART), truncation)
                for truncation in TRUNCATIONS
                for first in range(_SEED, _SEED + _PARTS * _PART, _PART)
            ]
        )

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._parts, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """onnxruntime without remarks on how it quantises; what it raises is raised."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    onnxruntime.set_default_logger_severity(_ERRORS)
    try:
        yield
    finally:
        onnxruntime.set_default_logger_severity(_WARNINGS)
        logging.disable(disabled)
