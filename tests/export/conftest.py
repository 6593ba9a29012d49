"""Tiny families, their cards and a tiny text encoder."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from pydantic import BaseModel
from torch import Tensor, nn

from ganlib.card import Condition, Latent, ModelCard
from ganlib.config import Export
from ganlib.export.onnx import export_generator
from ganlib.export.package import write_package
from ganlib.families.base import Family
from ganlib.text.tokenizer import Tokenizer

LATENT, SIZE, TEXT = 6, 8, 5
CLASSES = ("daisy", "poppy", "rose")


class TinyNetwork(nn.Module):
    """Latent and condition joined, two transposed convolutions and a batch norm."""

    def __init__(self, condition: int, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(LATENT + condition, 12, 4, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.ConvTranspose2d(12, channels, 4, 2, 1),
            nn.Tanh(),
        )

    def forward(self, joined: Tensor) -> Tensor:
        return self.layers(joined[:, :, None, None])


class TinyFamily(Family):
    """A generator for each kind of condition, with random weights and running statistics."""

    preset: ClassVar[dict[str, Any]] = {}
    tiny: ClassVar[dict[str, Any]] = {}
    Network = BaseModel
    condition_kind = "none"

    def __init__(self, kind: str, channels: int = 3) -> None:
        torch.manual_seed(0)
        sizes = {"none": 0, "class": len(CLASSES), "text": TEXT}
        self.networks = {"generator": TinyNetwork(sizes[kind], channels), "discriminator": nn.Linear(1, 1)}
        for parameter in self.networks["generator"].parameters():
            nn.init.normal_(parameter, 0.0, 0.5)
        norm = self.networks["generator"].layers[1]
        nn.init.normal_(norm.running_mean, 0.0, 1.0)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
        self.latent = Latent(size=LATENT, distribution="normal")
        self.condition = Condition(kind=kind, size=sizes[kind])
        self.channels = channels

    def phases(self) -> tuple[()]:
        return ()

    def sample(self, z: Tensor, condition: Tensor | None) -> Tensor:
        if self.condition.kind == "class":
            condition = nn.functional.one_hot(condition, len(CLASSES)).float()
        return self.networks["generator"](z if condition is None else torch.cat([z, condition], dim=1))

    def card(self) -> ModelCard:
        return ModelCard(
            name=f"tiny-{self.condition.kind}",
            family="tiny",
            latent=self.latent,
            condition=self.condition,
            size=SIZE,
            channels=self.channels,
            classes=CLASSES if self.condition.kind == "class" else (),
            steps=1,
            images_seen=1,
            parameters={},
            data={},
        )


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny() -> SimpleNamespace:
    """The class of the tiny families."""
    return SimpleNamespace(Family=TinyFamily, Network=TinyNetwork)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The exported generator of the tiny family of a kind, made once: copy it to change it."""

    @cache
    def export(kind: str) -> Path:
        family, path = TinyFamily(kind), tmp_path_factory.mktemp("exported") / "generator.onnx"
        export_generator(family, family.card(), path, 20)
        return path

    return export


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory, embedded: Path) -> Callable[[str], Path]:
    """The package of the tiny family of a kind, made once: read it and change nothing."""

    @cache
    def pack(kind: str) -> Path:
        family, out = TinyFamily(kind), tmp_path_factory.mktemp("packed") / "package"
        write_package(family, family.card(), embedded, None, Export(), out, lambda line: None)
        return out

    return pack


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Embedded captions as `ganlib embed` leaves them: the mean of word vectors as the encoder."""
    folder = tmp_path_factory.mktemp("embedded")
    tokenizer = Tokenizer.build(["a red rose", "a blue poppy with petals"], 20, 8)
    tokenizer.save(folder / "tokenizer.json")
    table = np.random.default_rng(0).standard_normal((len(tokenizer), TEXT)).astype(np.float32)
    table[0] = 0.0
    lengths = helper.make_tensor_value_info("lengths", TensorProto.INT64, ["batch"])
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "words"])
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["vectors"]),
        helper.make_node("ReduceSum", ["vectors", "axis"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["lengths"], ["count"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["count", "axis"], ["column"]),
        helper.make_node("Div", ["sum", "column"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "encoder",
        [ids, lengths],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", TEXT])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([1]), "axis")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, folder / "text_encoder.onnx")
    np.save(folder / "embeddings.npy", table[2:])
    return folder
