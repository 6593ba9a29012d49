"""A transposed convolution as a plain one is the same linear map, to the bit of what float32 can say."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ganlib.export.transposed import as_convolutions
from ganlib.inference.session import open_session


def layer(kernel: int, side: int, bias: bool = True, group: int = 1, **attributes: object) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    constants = {"W": rng.standard_normal((4, 3, kernel, kernel)).astype(np.float32)}
    if bias:
        constants["b"] = rng.standard_normal(3 * group).astype(np.float32)
    node = helper.make_node("ConvTranspose", ["x", *constants], ["y"], group=group, **attributes)
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, side, side])
    taken = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph([node], "graph", [given], [taken], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("side", [1, 2, 5])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [(4, 2, 1), (4, 1, 0), (3, 2, 1), (5, 2, 2), (2, 2, 0), (3, 3, 0), (5, 3, 1), (4, 4, 0), (2, 3, 0), (1, 1, 0)],
)
def test_it_gives_what_the_transposed_one_gives(kernel: int, stride: int, padding: int, side: int) -> None:
    model = layer(kernel, side, bias=stride != 3, strides=[stride] * 2, pads=[padding] * 4)
    rewritten = as_convolutions(model)
    onnx.checker.check_model(rewritten, full_check=True)
    kinds = [node.op_type for node in rewritten.graph.node]
    assert kinds[0] == "Conv"
    assert "ConvTranspose" not in kinds
    x = np.random.default_rng(1).standard_normal((3, 4, side, side)).astype(np.float32)
    expected, got = (open_session(one.SerializeToString(), "cpu", 1).run(x=x) for one in (model, rewritten))
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=2e-5)
    assert np.abs(expected).max() > 0.1


def test_an_image_of_one_pixel_takes_one_tap() -> None:
    """As a 4 x 4 convolution with padding it would be fifteen sixteenths of zeros."""
    graph = as_convolutions(layer(4, 1, strides=[1, 1])).graph
    assert [node.op_type for node in graph.node] == ["Conv", "DepthToSpace"]
    assert {constant.name: list(constant.dims) for constant in graph.initializer} == {
        "y_phases": [16 * 3, 4, 1, 1],
        "y_biases": [16 * 3],
    }


@pytest.mark.parametrize(
    "attributes",
    [
        {"strides": [2, 1]},
        {"strides": [2, 2], "pads": [1, 1, 0, 0]},
        {"strides": [2, 2], "output_padding": [1, 1]},
        {"dilations": [2, 2]},
        {"group": 2},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    ],
)
def test_what_is_not_so_plain_stays(attributes: dict) -> None:
    model = layer(4, 5, **attributes)
    assert [node.op_type for node in as_convolutions(model).graph.node] == ["ConvTranspose"]
