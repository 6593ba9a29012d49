"""float16: the graph that is shipped is half the size and valid, and its emulation rounds where a GPU does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ganlib.export.graph import UNIT, unfinished
from ganlib.export.half import in_float16, rounded_as_float16
from ganlib.inference.session import open_session
from ganlib.problems import Failed


def graph(nodes: list[onnx.NodeProto], constants: dict[str, NDArray], shape: list[str | int]) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    given = helper.make_tensor_value_info("z", TensorProto.FLOAT, shape)
    taken = helper.make_tensor_value_info(UNIT, TensorProto.FLOAT, None)
    made = helper.make_graph(nodes, "graph", [given], [taken], initializers)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model: onnx.ModelProto, **inputs: NDArray) -> NDArray:
    return open_session(model.SerializeToString(), "cpu", 1).run(**inputs)


def test_each_step_is_rounded_as_numpys_float16_is() -> None:
    nodes = [
        helper.make_node("Mul", ["z", "factor"], ["larger"]),
        helper.make_node("Add", ["larger", "shift"], ["shifted"]),
        helper.make_node("Div", ["shifted", "factor"], [UNIT]),
    ]
    constants = {"factor": np.array(3.3, np.float32), "shift": np.array(100.1, np.float32)}
    model = graph(nodes, constants, ["batch", 4])
    z = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    factor, shift = np.float16(3.3), np.float16(100.1)
    expected = ((z.astype(np.float16) * factor + shift) / factor).astype(np.float32)
    np.testing.assert_array_equal(run(rounded_as_float16(model), z=z), expected)
    exact = (z * constants["factor"] + constants["shift"]) / constants["factor"]
    assert 1e-3 < np.abs(expected - exact).max() < 0.05  # there was something to round
    np.testing.assert_allclose(run(in_float16(model), z=z), expected, atol=0.05)


def test_what_float16_cannot_hold_is_seen() -> None:
    """onnxruntime itself rounds nothing between two steps on a CPU, and would give back what came in."""
    nodes = [
        helper.make_node("Mul", ["z", "thousand"], ["large"]),
        helper.make_node("Mul", ["large", "thousand"], ["larger"]),
        helper.make_node("Div", ["larger", "thousand"], ["smaller"]),
        helper.make_node("Div", ["smaller", "thousand"], [UNIT]),
    ]
    model = graph(nodes, {"thousand": np.array(1000, np.float32)}, ["batch", 1])
    z = np.array([[0.01], [1.0]], np.float32)
    np.testing.assert_array_equal(np.isfinite(run(rounded_as_float16(model), z=z)), [[True], [False]])
    np.testing.assert_allclose(run(in_float16(model), z=z), z, rtol=1e-3)


def test_scales_of_a_resize_stay_float32_where_they_are_shared() -> None:
    """The converter of onnxruntime halves a constant under one node and leaves the other without it."""
    nodes = [
        helper.make_node("Resize", ["z", "", "scales"], ["larger"], mode="nearest"),
        helper.make_node("Resize", ["larger", "", "scales"], ["largest"], mode="nearest"),
        helper.make_node("ReduceMax", ["scales", "axes"], ["two"], keepdims=0),
        helper.make_node("Mul", ["largest", "two"], [UNIT]),
    ]
    constants = {"scales": np.array([1, 1, 2, 2], np.float32), "axes": np.array([0])}
    model = graph(nodes, constants, ["batch", 1, 2, 2])
    half = in_float16(model)
    types = {constant.name: constant.data_type for constant in half.graph.initializer}
    assert types == {
        "scales": TensorProto.FLOAT16, "scales_float32": TensorProto.FLOAT, "axes": TensorProto.INT64
    }  # fmt: skip
    z = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
    expected = 2 * z.repeat(4, axis=2).repeat(4, axis=3)
    np.testing.assert_array_equal(run(half, z=z), expected)
    np.testing.assert_array_equal(run(rounded_as_float16(model), z=z), expected)


def test_float32_made_on_the_way_becomes_float16() -> None:
    """Zeros of a shape, a cast one-hot, a constant of a node: what a family's sample() may make of its own."""
    nodes = [
        helper.make_node("Shape", ["z"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("Greater", ["z", "zeros"], ["positive"]),
        helper.make_node("Cast", ["positive"], ["ones"], to=TensorProto.FLOAT),
        helper.make_node("Constant", [], ["half"], value=numpy_helper.from_array(np.array(0.5, np.float32))),
        helper.make_node("Mul", ["ones", "half"], [UNIT]),
    ]
    z = np.array([[-1.0, 2.0]], np.float32)
    np.testing.assert_array_equal(run(in_float16(graph(nodes, {}, ["batch", 2])), z=z), [[0.0, 0.5]])


def test_a_graph_inside_a_node_is_not_converted_by_halves() -> None:
    inner = helper.make_graph([helper.make_node("Neg", ["z"], ["y"])], "inner", [], [onnx.ValueInfoProto(name="y")])
    branch = helper.make_node("If", ["ask"], [UNIT], then_branch=inner, else_branch=inner)
    with pytest.raises(Failed, match="float16: the graph holds a If with a graph of its own"):
        in_float16(graph([branch], {"ask": np.array(True)}, ["batch", 2]))


def test_half_the_size_and_the_caller_keeps_its_own(exported: Callable[[str], Path]) -> None:
    model = unfinished(exported("text"))
    before = model.SerializeToString(deterministic=True)
    half, rounded = in_float16(model), rounded_as_float16(model)
    assert model.SerializeToString(deterministic=True) == before
    weights = [constant for constant in half.graph.initializer if len(constant.dims) == 4]
    assert {constant.data_type for constant in weights} == {TensorProto.FLOAT16}
    assert [len(constant.raw_data) // 2 for constant in weights] == [int(np.prod(one.dims)) for one in weights]
    inputs = {"z": np.ones((2, 6), np.float32), "text": np.ones((2, 5), np.float32)}
    expected = run(model, **inputs)
    for other in (half, rounded):
        got = run(other, **inputs)
        assert got.dtype == np.float32
        assert 0 < np.abs(got - expected).max() < 0.02
