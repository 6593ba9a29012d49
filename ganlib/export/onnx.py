"""A trained family as an ONNX graph: from latents and conditions to finished images."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from ganlib.card import ModelCard
from ganlib.export.graph import UNIT, finish, fold_constants, write_graph
from ganlib.families.base import Family
from ganlib.problems import Failed

LARGEST_BATCH = 4096
EXAMPLE = 2  # torch.export takes a size of 1 for a constant
_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
)


class Sampler(nn.Module):
    """`family.sample` as a module whose parameters are those of the networks that are the family's result."""

    def __init__(self, family: Family) -> None:
        super().__init__()
        self.networks = nn.ModuleDict({name: family.networks[name] for name in family.averaged()})
        self._family = family

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Latents `(N, latent.size)` and conditions to images `(N, C, H, W)` in [-1, 1]."""
        return self._family.sample(z, condition)


def export_generator(family: Family, card: ModelCard, path: Path, opset: int) -> None:
    """Write the generator as one ONNX file.

    Inputs are `z` float32 `(N, latent.size)` and, by the card's condition, `class` int64 `(N,)` or `text` float32
    `(N, d)`; the output is `images` uint8 `(N, H, W, C)`, N from 1 to `LARGEST_BATCH`. The value before quantisation
    is called `UNIT`, so that parity can read it from this very file and other precisions can be made of it.

    Args:
        family: with its trained weights, on the CPU.
        card: the model's card.
        path: the file.
        opset: the ONNX operator set.

    Raises:
        Failed: where torch cannot export the family, or the graph would draw random numbers of its own.
    """
    example: list[Tensor] = [torch.zeros(EXAMPLE, card.latent.size)]
    names = ["z"]
    if card.condition.kind == "class":
        example.append(torch.zeros(EXAMPLE, dtype=torch.int64))
    elif card.condition.kind == "text":
        example.append(torch.zeros(EXAMPLE, card.condition.size))
    if card.condition.kind != "none":
        names.append(card.condition.kind)
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    # Forward's second argument has a default, so its place may be left out of both tuples.
    with evaluating(family), _quiet():
        try:
            program = torch.onnx.export(
                Sampler(family),
                tuple(example),
                dynamo=True,
                dynamic_shapes=tuple({0: batch} for _ in example),
                input_names=names,
                output_names=[UNIT],
                opset_version=opset,
                verbose=False,
            )
        except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            first = next((line for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
            raise Failed(f"{card.name}: torch cannot export family {card.family}: {first}") from error
    assert program is not None
    model = program.model_proto
    if drawn := sorted({node.op_type for node in model.graph.node} & _RANDOM):
        raise Failed(f"{card.name}: family {card.family} draws random numbers in sample ({', '.join(drawn)}); take z")
    fold_constants(model)
    finish(model, card)
    write_graph(model, _metadata(family, card), path)


@contextlib.contextmanager
def evaluating(family: Family) -> Iterator[None]:
    """The family's networks as they are sampled from: no dropout, running statistics; as before when the block ends."""
    training = {name: network.training for name, network in family.networks.items()}
    for network in family.networks.values():
        network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for name, network in family.networks.items():
            network.train(training[name])


def weights_sha256(family: Family) -> str:
    """The sha256 of the exported networks' parameters and buffers: names, types, shapes and bytes, in order."""
    digest = hashlib.sha256()
    for network in family.averaged():
        for name, value in sorted(family.networks[network].state_dict().items()):
            digest.update(f"{network}.{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _metadata(family: Family, card: ModelCard) -> dict[str, str]:
    """What the file says of itself where it is found without its card."""
    return {
        "name": card.name,
        "family": card.family,
        "precision": "float32",
        "weights_sha256": weights_sha256(family),
        "latent": card.latent.model_dump_json(),
        "condition": card.condition.model_dump_json(),
        "classes": json.dumps(card.classes, ensure_ascii=False),
        "steps": str(card.steps),
        "commit": card.commit or "",
        "licence": card.licence or "",
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter without its progress and its remarks on itself; what it raises is raised."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
