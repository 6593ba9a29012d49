"""A small package for each kind of condition, its graphs built node by node: no torch. `build_package` writes one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ganlib.card import Condition, FileRecord, Latent, ModelCard
from ganlib.files import sha256_of
from ganlib.text.tokenizer import Tokenizer

LATENT, SIZE, TEXT, WIDTH = 6, 8, 5, 96
CLASSES = ("daisy", "poppy", "rose")
CONDITION = {"none": 0, "class": len(CLASSES), "text": TEXT}


def tensor(name: str, kind: int, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def save(nodes: list, inputs: list, output: onnx.ValueInfoProto, constants: dict[str, np.ndarray], path: Path) -> None:
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "graph", inputs, [output], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def save_generator(kind: str, channels: int, path: Path, seed: int = 1) -> None:
    """(z, condition) -> dense 4 x 4 -> transposed convolution -> uint8."""
    rng = np.random.default_rng(seed)
    float32 = TensorProto.FLOAT
    inputs = [tensor("z", float32, "batch", LATENT)]
    nodes = [helper.make_node("Identity", ["z"], ["joined"])]
    if kind == "class":
        inputs.append(tensor("class", TensorProto.INT64, "batch"))
        nodes = [
            helper.make_node("OneHot", ["class", "classes", "off_on"], ["one_hot"]),
            helper.make_node("Concat", ["z", "one_hot"], ["joined"], axis=1),
        ]
    elif kind == "text":
        inputs.append(tensor("text", float32, "batch", TEXT))
        nodes = [helper.make_node("Concat", ["z", "text"], ["joined"], axis=1)]
    nodes += [
        helper.make_node("Gemm", ["joined", "dense"], ["flat"]),
        helper.make_node("Reshape", ["flat", "square"], ["small"]),
        helper.make_node("ConvTranspose", ["small", "kernel"], ["large"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Tanh", ["large"], ["unit"]),
        helper.make_node("Mul", ["unit", "half"], ["scaled"]),
        helper.make_node("Add", ["scaled", "half"], ["shifted"]),
        helper.make_node("Round", ["shifted"], ["levels"]),
        helper.make_node("Cast", ["levels"], ["bytes"], to=TensorProto.UINT8),
        helper.make_node("Transpose", ["bytes"], ["images"], perm=[0, 2, 3, 1]),
    ]
    constants = {
        "classes": np.array(len(CLASSES), np.int64),
        "off_on": np.array([0, 1], np.float32),
        "dense": rng.standard_normal((LATENT + CONDITION[kind], WIDTH * 16)).astype(np.float32),
        "square": np.array([-1, WIDTH, 4, 4], np.int64),
        "kernel": (rng.standard_normal((WIDTH, channels, 4, 4)) / 20).astype(np.float32),
        "half": np.array(127.5, np.float32),
    }
    used = {name for node in nodes for name in node.input}
    output = tensor("images", TensorProto.UINT8, "batch", SIZE, SIZE, channels)
    save(nodes, inputs, output, {name: value for name, value in constants.items() if name in used}, path)


def save_encoder(words: int, path: Path, not_finite: bool = False) -> None:
    """The mean of word vectors; the padding's is zero."""
    table = np.random.default_rng(2).standard_normal((words, TEXT)).astype(np.float32)
    table[0] = 0.0
    if not_finite:
        table[1:] = np.nan
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["vectors"]),
        helper.make_node("ReduceSum", ["vectors", "axis"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["lengths"], ["count"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["count", "axis"], ["column"]),
        helper.make_node("Div", ["sum", "column"], ["embedding"]),
    ]
    inputs = [tensor("ids", TensorProto.INT64, "batch", "words"), tensor("lengths", TensorProto.INT64, "batch")]
    output = tensor("embedding", TensorProto.FLOAT, "batch", TEXT)
    save(nodes, inputs, output, {"table": table, "axis": np.array([1], np.int64)}, path)


def seal(folder: Path, card: ModelCard) -> None:
    """Write the card with the files that lie in the folder."""
    files = {
        path.name: FileRecord(sha256=sha256_of(path), bytes=path.stat().st_size)
        for path in sorted(folder.iterdir())
        if path.name != "card.json"
    }
    card.model_copy(update={"files": files}).save(folder / "card.json")


def build_package(folder: Path, kind: str, channels: int = 3, name: str | None = None, seed: int = 1) -> Path:
    """Write the package of a kind of condition ("none", "class", "text") into a new folder and return it.

    Args:
        folder: where it goes; made with its parents.
        kind, channels: of the generator.
        name: in the card; `tiny-KIND` where not given.
        seed: of the generator's weights: another one gives other images.
    """
    folder.mkdir(parents=True)
    save_generator(kind, channels, folder / "generator.onnx", seed)
    if kind == "text":
        tokenizer = Tokenizer.build(["a red rose", "a blue poppy with petals"], 20, 6)
        tokenizer.save(folder / "tokenizer.json")
        save_encoder(len(tokenizer), folder / "text_encoder.onnx")
    card = ModelCard(
        name=name or f"tiny-{kind}",
        family="tiny",
        latent=Latent(size=LATENT, distribution="normal"),
        condition=Condition(kind=kind, size=CONDITION[kind]),
        size=SIZE,
        channels=channels,
        classes=CLASSES if kind == "class" else (),
        steps=1,
        images_seen=1,
        parameters={},
        data={},
    )
    seal(folder, card)
    return folder
