"""A GRU sentence encoder as an ONNX graph, written out of the operators of the standard: no tracing, no torch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 20
_IR_VERSION = 10  # what runtimes of opset 20 read


def gru_graph(
    words: np.ndarray, gru: Mapping[str, np.ndarray], centre: np.ndarray, matrix: np.ndarray
) -> onnx.ModelProto:
    """The graph of `(normalised(last states) - centre) @ matrix`.

    Args:
        words: the word vectors `(vocabulary, word dimension)` float32.
        gru: the state of a one-layer `torch.nn.GRU` as arrays, by its names (`weight_ih_l0`, `bias_hh_l0_reverse`,
            ...). With the reverse direction both last states are joined, the forward one first.
        centre: `(d,)` float32, subtracted from the joined states of length 1.
        matrix: `(d, k)` float32, what the difference is multiplied by.

    Returns:
        a checked model as `ganlib.text.fitted.Fitted` describes it.
    """
    ends = ("_l0", "_l0_reverse") if "weight_ih_l0_reverse" in gru else ("_l0",)
    hidden = gru["weight_hh_l0"].shape[1]
    biases = [np.concatenate([_zrh(gru[f"bias_{part}{end}"]) for part in ("ih", "hh")]) for end in ends]
    constants = {
        "words": words,
        "input_weights": np.stack([_zrh(gru[f"weight_ih{end}"]) for end in ends]),
        "recurrent_weights": np.stack([_zrh(gru[f"weight_hh{end}"]) for end in ends]),
        "biases": np.stack(biases),
        "centre": centre,
        "matrix": matrix,
        "smallest": np.array(1e-12, dtype=np.float32),  # as torch.nn.functional.normalize
    }
    nodes = [
        helper.make_node("Transpose", ["ids"], ["ids_by_time"], perm=[1, 0]),
        helper.make_node("Gather", ["words", "ids_by_time"], ["vectors"]),
        helper.make_node("Cast", ["lengths"], ["sequence_lengths"], to=TensorProto.INT32),
        helper.make_node(
            "GRU",
            ["vectors", "input_weights", "recurrent_weights", "biases", "sequence_lengths"],
            ["", "last"],
            hidden_size=hidden,
            direction="bidirectional" if len(ends) == 2 else "forward",
            linear_before_reset=1,  # r * (U h + b), as in torch and cuDNN
        ),
        helper.make_node("Transpose", ["last"], ["last_by_caption"], perm=[1, 0, 2]),
        helper.make_node("Flatten", ["last_by_caption"], ["states"], axis=1),
        helper.make_node("ReduceL2", ["states", "features"], ["length"], keepdims=1),
        helper.make_node("Max", ["length", "smallest"], ["divisor"]),
        helper.make_node("Div", ["states", "divisor"], ["normalised"]),
        helper.make_node("Sub", ["normalised", "centre"], ["centred"]),
        helper.make_node("MatMul", ["centred", "matrix"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "caption_encoder",
        [
            helper.make_tensor_value_info("ids", TensorProto.INT64, ["captions", "words"]),
            helper.make_tensor_value_info("lengths", TensorProto.INT64, ["captions"]),
        ],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["captions", matrix.shape[1]])],
        [
            *(numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()),
            numpy_helper.from_array(np.array([1], dtype=np.int64), "features"),
        ],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION, producer_name="ganlib"
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _zrh(rows: np.ndarray) -> np.ndarray:
    """torch's order of the gates, reset, update, new, to ONNX's update, reset, new."""
    reset, update, new = np.split(rows, 3)
    return np.concatenate([update, reset, new])
