"""What is done to every graph: constants computed once, what nobody reads dropped, the images finished to bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ganlib.export.graph import UNIT, fold_constants, keep_what_is_used, unfinished
from ganlib.inference.session import open_session
from ganlib.problems import Refused

MATRIX = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)


def normalised() -> onnx.ModelProto:
    """x W / |W|, the norm computed in the graph, as of a spectrally normalised layer; and a node that nobody reads."""
    nodes = [
        helper.make_node("ReduceL2", ["W"], ["norm"], keepdims=0),
        helper.make_node("Div", ["W", "norm"], ["V"]),
        helper.make_node("Neg", ["V"], ["nobody"]),
        helper.make_node("MatMul", ["x", "V"], ["y"]),
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 5])
    taken = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])
    graph = helper.make_graph(nodes, "graph", [given], [taken], [numpy_helper.from_array(MATRIX, "W")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_what_depends_on_no_input_is_computed_once() -> None:
    model = normalised()
    fold_constants(model)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["MatMul"]
    (constant,) = model.graph.initializer
    np.testing.assert_allclose(numpy_helper.to_array(constant), MATRIX / np.linalg.norm(MATRIX), rtol=1e-6)
    fold_constants(model)  # nothing is left to do
    x = np.eye(5, dtype=np.float32)
    got = open_session(model.SerializeToString(), "cpu", 1).run(x=x)
    np.testing.assert_allclose(got, MATRIX / np.linalg.norm(MATRIX), rtol=1e-6)


def test_what_nobody_reads_is_dropped_and_what_an_inner_graph_reads_is_not() -> None:
    model = normalised()
    keep_what_is_used(model)
    assert [node.op_type for node in model.graph.node] == ["ReduceL2", "Div", "MatMul"]
    inner = helper.make_graph(
        [helper.make_node("Neg", ["norm"], ["chosen"])], "inner", [], [onnx.ValueInfoProto(name="chosen")]
    )
    branch = helper.make_node("If", ["ask"], ["y"], then_branch=inner, else_branch=inner)
    del model.graph.node[-2:]
    model.graph.node.append(branch)
    model.graph.input.append(helper.make_tensor_value_info("ask", TensorProto.BOOL, []))
    keep_what_is_used(model)
    assert [node.op_type for node in model.graph.node] == ["ReduceL2", "If"]
    fold_constants(model)
    assert [node.op_type for node in model.graph.node] == ["If"]
    assert [constant.name for constant in model.graph.initializer] == ["norm"]


def test_a_cut_graph_gives_the_images_before_quantisation(exported: Callable[[str], Path], tmp_path: Path) -> None:
    path = exported("class")
    model = unfinished(path)
    inputs = {"z": np.ones((3, 6), np.float32), "class": np.arange(3)}
    unit = open_session(model.SerializeToString(), "cpu", 1).run(**inputs)
    levels = np.rint((unit.transpose(0, 2, 3, 1) + 1) * 127.5)
    np.testing.assert_array_equal(open_session(path, "cpu", 1).run(**inputs), levels)
    assert not {"level_lowest", "level_highest"} & {constant.name for constant in model.graph.initializer}
    assert [value.name for value in model.graph.output] == [UNIT]
    onnx.save(normalised(), tmp_path / "other.onnx")
    with pytest.raises(Refused, match="no value unit_images; it was not written by `ganlib export`"):
        unfinished(tmp_path / "other.onnx")
