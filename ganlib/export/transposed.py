"""Transposed convolutions as plain ones, exactly: int8 has a kernel for these alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, shape_inference

from ganlib.export.graph import keep_what_is_used, replace_nodes

_END = 2**31 - 1  # beyond every side


def as_convolutions(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph without transposed convolutions, where they are square, neither grouped nor dilated, padded alike
    on all sides and have constant weights; others stay.

    Along one side, out[o] = sum_i x[i] W[o + p - s i] with stride s, padding p and 0 <= o + p - s i < k. With
    o + p = s m + t and 0 <= t < s this is sum_j x[m - j] W[s j + t]: for each of the s phases t a convolution of J =
    ceil(k / s) taps, whose results at m stand side by side (DepthToSpace); then p are cut off (Slice). An image of one
    pixel is read once whatever the stride, so that s = k serves it best: a single tap.
    """
    model = shape_inference.infer_shapes(model)
    sides = {
        value.name: [side.dim_value for side in value.type.tensor_type.shape.dim][2:]
        for value in (*model.graph.input, *model.graph.value_info)
    }
    constants = {constant.name: constant for constant in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        settings = _settings(node, constants)
        if settings is None:
            nodes.append(node)
        else:
            stride, padding = settings
            one_pixel = sides.get(node.input[0]) == [1, 1]
            nodes += _rewritten(model, node, constants, None if one_pixel else stride, padding)
    replace_nodes(model, nodes)
    keep_what_is_used(model)
    return model


def _settings(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> tuple[int, int] | None:
    """Stride and padding of a transposed convolution that can be rewritten; None of any other node."""
    if node.op_type != "ConvTranspose" or not all(name in constants for name in node.input[1:]):
        return None
    found: dict[str, Any] = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    strides, pads = found.get("strides", [1, 1]), found.get("pads", [0] * 4)
    shape = constants[node.input[1]].dims
    plain = (
        len(shape) == 4
        and shape[2] == shape[3]
        and len(set(strides)) == len(set(pads)) == 1
        and found.get("group", 1) == 1
        and set(found.get("dilations", [1])) == {1}
        and set(found.get("output_padding", [0])) == {0}
        and "output_shape" not in found
        and found.get("auto_pad", b"NOTSET") == b"NOTSET"
    )
    return (strides[0], pads[0]) if plain else None


def _rewritten(
    model: onnx.ModelProto,
    node: onnx.NodeProto,
    constants: dict[str, onnx.TensorProto],
    stride: int | None,
    padding: int,
) -> list[onnx.NodeProto]:
    weight, (name,) = numpy_helper.to_array(constants[node.input[1]]), node.output
    kernel = weight.shape[2]
    stride = stride or kernel
    taps = -(-kernel // stride)

    def constant(what: str, values: NDArray[Any]) -> str:
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), f"{name}_{what}"))
        return f"{name}_{what}"

    inputs = [node.input[0], constant("phases", _phases(weight, stride, taps))]
    if len(node.input) > 2:
        inputs.append(constant("biases", np.tile(numpy_helper.to_array(constants[node.input[2]]), stride**2)))
    convolution = helper.make_node(
        "Conv", inputs, [f"{name}_apart"], f"{name}_conv", kernel_shape=[taps] * 2, pads=[taps - 1] * 4
    )
    after = stride * taps - kernel + padding
    whole = f"{name}_whole" if padding or after else name
    together = helper.make_node(
        "DepthToSpace", [f"{name}_apart"], [whole], f"{name}_together", blocksize=stride, mode="DCR"
    )
    if whole == name:
        return [convolution, together]
    cut = [
        constant("starts", np.array([padding] * 2)),
        constant("ends", np.array([-after if after else _END] * 2)),
        constant("axes", np.array([2, 3])),
    ]
    return [convolution, together, helper.make_node("Slice", [whole, *cut], [name], f"{name}_cut")]


def _phases(weight: NDArray[Any], stride: int, taps: int) -> NDArray[Any]:
    """Weights `(in, out, k, k)` to those of all phases, `(s s out, in, J, J)`: at [t, u, o, i, J - 1 - a, J - 1 - b]
    stands W[i, o, s a + t, s b + u]."""
    inputs, outputs, kernel, _ = weight.shape
    padded = np.zeros((inputs, outputs, taps * stride, taps * stride), weight.dtype)
    padded[:, :, :kernel, :kernel] = weight
    apart = padded.reshape(inputs, outputs, taps, stride, taps, stride)[:, :, ::-1, :, ::-1, :]
    return apart.transpose(3, 5, 1, 0, 2, 4).reshape(stride * stride * outputs, inputs, taps, taps)
