"""ONNX graphs of generators: cut at the images in [-1, 1], finished to bytes, written so that equal graphs are equal
files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from ganlib.card import ModelCard
from ganlib.files import whole_file
from ganlib.inference.session import open_session
from ganlib.problems import Refused

UNIT = "unit_images"  # the graph's value before quantisation: float32 (N, C, H, W) in [-1, 1]


def unfinished(path: Path) -> onnx.ModelProto:
    """The graph of a file that `ganlib export` wrote, up to the images in [-1, 1], which it gives instead.

    Raises:
        Refused: for another file.
    """
    model = onnx.load(path)
    if not any(UNIT in node.output for node in model.graph.node):
        raise Refused(f"{path}: no value {UNIT}; it was not written by `ganlib export`")
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(UNIT, TensorProto.FLOAT, None))
    keep_what_is_used(model)
    return model


def finish(model: onnx.ModelProto, card: ModelCard) -> None:
    """The graph's images `(N, C, H, W)` in [-1, 1] to uint8 `(N, H, W, C)`, by the arithmetic of `data.store.to_uint8`;
    ONNX's Round, like torch's, takes halves to the even neighbour."""
    graph = model.graph
    levels = {"unit_to_level_shift": 1.0, "unit_to_level_scale": 127.5, "level_lowest": 0.0, "level_highest": 255.0}
    for name, value in levels.items():
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    graph.node.extend(
        [
            helper.make_node("Add", [UNIT, "unit_to_level_shift"], ["shifted"], "shift"),
            helper.make_node("Mul", ["shifted", "unit_to_level_scale"], ["scaled"], "scale"),
            helper.make_node("Round", ["scaled"], ["rounded"], "round"),
            helper.make_node("Clip", ["rounded", "level_lowest", "level_highest"], ["levels"], "clip"),
            helper.make_node("Cast", ["levels"], ["levels_uint8"], "cast", to=TensorProto.UINT8),
            helper.make_node("Transpose", ["levels_uint8"], ["images"], "channels_last", perm=[0, 2, 3, 1]),
        ]
    )
    shape: list[str | int | None] = ["batch", card.size, card.size, card.channels]
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("images", TensorProto.UINT8, shape))


def write_graph(model: onnx.ModelProto, metadata: Mapping[str, str], path: Path) -> None:
    """Check a finished graph and write it, with what it says of itself and without notes on where it was made.

    Raises:
        onnx.checker.ValidationError: where it is not sound.
    """
    forget_where_it_was_made(model)
    helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    with whole_file(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))


def fold_constants(model: onnx.ModelProto) -> None:
    """Compute what depends on no input, once and in float32: the runtime does so at every start, but in the graph's own
    numbers, and the norm of a spectrally normalised weight is lost in float16."""
    graph = model.graph
    known = {constant.name for constant in graph.initializer}
    folded, left = [], []
    for node in graph.node:
        nested = any(attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for attribute in node.attribute)
        if not nested and known.issuperset(reads(node)):
            folded.append(node)
            known.update(node.output)
        else:
            left.append(node)
    given = {value.name for value in graph.output}
    read = given.union(*(reads(node) for node in left))
    wanted = [name for node in folded for name in node.output if name in read]
    if not wanted or given & set(wanted):
        return
    outputs = [onnx.ValueInfoProto(name=name) for name in wanted]
    constants = helper.make_model(
        helper.make_graph(folded, "constants", [], outputs, graph.initializer), opset_imports=model.opset_import
    )
    constants.ir_version = model.ir_version
    values = open_session(constants.SerializeToString(), "cpu", threads=1).runtime.run(None, {})
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in zip(wanted, values, strict=True))
    replace_nodes(model, left)
    keep_what_is_used(model)


def keep_what_is_used(model: onnx.ModelProto) -> None:
    """Drop nodes and constants that no output depends on."""
    graph = model.graph
    needed, kept = {value.name for value in graph.output}, []
    for node in reversed(graph.node):  # a node stands behind those that it reads
        if needed & set(node.output):
            needed.update(reads(node))
            kept.append(node)
    replace_nodes(model, kept[::-1])
    constants = [constant for constant in graph.initializer if constant.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(constants)


def replace_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    """Let a graph have these nodes, which may be some of its own; what was noted of its values is dropped."""
    del model.graph.node[:]
    del model.graph.value_info[:]
    model.graph.node.extend(nodes)


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """The values that a node reads, those of graphs inside it included."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for inner in (*((attribute.g,) if attribute.type == AttributeProto.GRAPH else ()), *attribute.graphs):
            for nested in inner.node:
                yield from reads(nested)


def forget_where_it_was_made(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes on source files and folders: they tell of one machine and differ on the next."""
    graph = model.graph
    graph.doc_string = model.doc_string = ""
    for noted in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        noted.ClearField("metadata_props")
        noted.ClearField("doc_string")
    for function in model.functions:
        for noted in (function, *function.node, *function.value_info):
            noted.ClearField("metadata_props")
            noted.ClearField("doc_string")
