"""int8: integers between and in the convolutions, and images that are near those of float32."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from ganlib.export.graph import UNIT, finish, unfinished
from ganlib.export.inputs import BATCHES, Drawing
from ganlib.export.onnx import export_generator
from ganlib.export.quantise import in_int8
from ganlib.inference.session import open_session
from ganlib.inference.verify import psnr


@pytest.fixture(scope="module")
def convolutional(tiny: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Drawing]:
    """A generator of plain and transposed convolutions, its images of some contrast."""
    family = tiny.Family("class")
    torch.manual_seed(1)
    family.networks["generator"].layers = nn.Sequential(
        nn.ConvTranspose2d(6 + 3, 24, 4),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.Conv2d(24, 24, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(24, 3, 4, 2, 1),
        nn.Tanh(),
    )
    for parameter in family.networks["generator"].parameters():
        if parameter.dim() == 4:
            nn.init.normal_(parameter, 0.0, 0.2)
    path = tmp_path_factory.mktemp("convolutional") / "generator.onnx"
    export_generator(family, family.card(), path, 20)
    return path, Drawing(family.card())


def test_a_network_in_integers_gives_nearly_the_same_images(convolutional: tuple[Path, Drawing]) -> None:
    path, drawing = convolutional
    model = in_int8(unfinished(path), drawing)
    assert model is not None
    kinds = [node.op_type for node in model.graph.node]
    assert "ConvTranspose" not in kinds
    assert kinds.count("Conv") == 3
    weights = [c for c in model.graph.initializer if c.data_type == TensorProto.INT8 and len(c.dims) == 4]
    assert [c.dims[0] for c in weights] == [24 * 16, 24, 3 * 4]  # those of the transposed ones by phases
    for constant in weights:
        values = np.frombuffer(constant.raw_data, np.int8)
        assert 60 <= np.abs(values).max() <= 64  # seven bits: no CPU saturates the sum of two products
    finish(model, drawing.card)
    float32, int8 = (open_session(one, "cpu", 1) for one in (path, model.SerializeToString()))
    assert int8.signature() == float32.signature()
    for batch in BATCHES:
        inputs = drawing.of_parity(batch, 1.0)
        expected = float32.run(**inputs)
        assert 32 < psnr(int8.run(**inputs), expected) < 60
        assert 25 < expected.std() < 100


def test_the_same_graph_is_the_same_to_the_byte(convolutional: tuple[Path, Drawing]) -> None:
    first, second = (in_int8(unfinished(convolutional[0]), convolutional[1]) for _ in range(2))
    assert first is not None and second is not None
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


def test_without_convolution_or_dense_layer_there_is_nothing_to_quantise(convolutional: tuple[Path, Drawing]) -> None:
    given = helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", 6])
    taken = helper.make_tensor_value_info(UNIT, TensorProto.FLOAT, ["batch", 6])
    graph = helper.make_graph([helper.make_node("Tanh", ["z"], [UNIT])], "graph", [given], [taken])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    assert in_int8(model, convolutional[1]) is None


def test_nothing_is_said_while_quantising(
    convolutional: tuple[Path, Drawing], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    in_int8(unfinished(convolutional[0]), convolutional[1])
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
