"""A generator's graph in float16, made of the float32 graph: float32 in and out, half the size.

Every family is a graph of the same operators, so what is converted is the graph and not the networks: a family that
makes float32 of its own on the way, as of a class, needs no care, and torch is not asked twice.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from ganlib.export.graph import UNIT, replace_nodes
from ganlib.problems import Failed

_STAYS_FLOAT32 = {"Resize": (1, 2)}  # region and scales, which the operator wants in float32
_TYPE_ATTRIBUTES = ("to", "dtype")


def in_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph computing in float16.

    Args:
        model: a graph that gives `UNIT`, its constants folded.

    Returns:
        another graph; what it takes and gives is float32 as before.

    Raises:
        Failed: for a graph inside a node (a loop, a branch).
    """
    model = onnx.ModelProto.FromString(model.SerializeToString())
    graph = model.graph
    renamed, nodes = {UNIT: f"{UNIT}_float16"}, []
    for value in graph.input:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            renamed[value.name] = f"{value.name}_float16"
            nodes.append(_cast(value.name, renamed[value.name], TensorProto.FLOAT16))
    float32 = _keep_float32(model)
    for constant in graph.initializer:
        if constant.data_type == TensorProto.FLOAT and constant.name not in float32:
            constant.CopyFrom(_halved(constant))
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = renamed.get(name, name)
        _halve_attributes(node)
        nodes.append(node)
    nodes.append(_cast(renamed[UNIT], UNIT, TensorProto.FLOAT))
    replace_nodes(model, nodes)
    return model


def rounded_as_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """The float32 graph with every constant and every step's result rounded to float16: what a GPU computes.

    onnxruntime computes a float16 graph in float32 on a CPU and rounds nothing in between, so that it would not show
    what is lost, or a value beyond float16's 65504.

    Args:
        model: a graph that gives `UNIT`, its constants folded.
    """
    model = onnx.shape_inference.infer_shapes(model)
    graph = model.graph
    values = (*graph.input, *graph.value_info, *graph.output)
    float32 = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    stays = _keep_float32(model)
    for constant in graph.initializer:
        if constant.data_type == TensorProto.FLOAT and constant.name not in stays:
            rounded = numpy_helper.to_array(_halved(constant)).astype(np.float32)
            constant.CopyFrom(numpy_helper.from_array(rounded, constant.name))
    float32.discard(UNIT)  # rounded under its own name
    nodes = [step for value in graph.input if value.name in float32 for step in _rounding(value.name)]
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name in float32:
                node.input[place] = f"{name}_rounded"
        nodes.append(node)
        for place, name in enumerate(node.output):
            if name == UNIT:
                node.output[place] = f"{UNIT}_exact"
                nodes += _rounding(f"{UNIT}_exact", UNIT)
            elif name in float32:
                nodes += _rounding(name)
    replace_nodes(model, nodes)
    return model


def _keep_float32(model: onnx.ModelProto) -> set[str]:
    """Give the inputs that stay float32 constants of their own, which no other node shares; the names of these."""
    constants = {constant.name: constant for constant in model.graph.initializer}
    own: set[str] = set()
    for node in model.graph.node:
        for place in _STAYS_FLOAT32.get(node.op_type, ()):
            if place < len(node.input) and (name := node.input[place]) in constants:
                node.input[place] = f"{name}_float32"
                if node.input[place] not in own:
                    kept = onnx.TensorProto.FromString(constants[name].SerializeToString())
                    kept.name = node.input[place]
                    model.graph.initializer.append(kept)
                    own.add(kept.name)
    return own


def _halve_attributes(node: onnx.NodeProto) -> None:
    if node.op_type == "ConstantOfShape" and not node.attribute:
        node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.zeros(1, np.float32))))
    for attribute in node.attribute:
        if attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
            raise Failed(f"float16: the graph holds a {node.op_type} with a graph of its own, which is not converted")
        if attribute.type == AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
            attribute.t.CopyFrom(_halved(attribute.t))
        elif attribute.name in _TYPE_ATTRIBUTES and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16


def _halved(tensor: onnx.TensorProto) -> onnx.TensorProto:
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and the images show it
        return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name)


def _rounding(name: str, to: str | None = None) -> list[onnx.NodeProto]:
    half, rounded = f"{name}_half", to or f"{name}_rounded"
    return [_cast(name, half, TensorProto.FLOAT16), _cast(half, rounded, TensorProto.FLOAT)]


def _cast(name: str, to: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [name], [to], f"cast_{to}", to=kind)
