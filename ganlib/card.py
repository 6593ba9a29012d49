"""What travels with the data and with the models: two descriptions that need no torch.

`DatasetSpec` is `dataset.json` of a prepared dataset; `ModelCard` is `card.json` of a trained model and, completed, of
a package. Both refuse unknown keys, so a card of another version is an error and not a surprise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from ganlib.files import write_whole
from ganlib.problems import Refused, first_problem

Precision = Literal["float32", "float16", "int8"]
"""The numbers that a generator's graph computes in."""
Place = Literal["cpu", "cuda", "tensorrt"]
"""Where a graph runs."""


class _Description(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read `path`; `Refused` where it is missing or does not describe what it should."""
        if not path.is_file():
            raise Refused(f"{path}: no such file")
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValueError as error:
            raise Refused(f"{path}: {first_problem(error, cls.model_fields)}") from error

    def save(self, path: Path) -> None:
        """Write `path` whole or not at all."""
        write_whole(path, (self.model_dump_json(indent=2) + "\n").encode())


class DatasetSpec(_Description):
    """A prepared dataset, as the stages behind `ingest` need to know it."""

    name: str = Field(description="the reader that made it: flowers, mnist, folder")
    size: int = Field(description="height and width of every image, in pixels")
    channels: Literal[1, 3] = Field(description="1 for grey, 3 for RGB")
    counts: dict[str, int] = Field(description="images per split: train and test")
    classes: tuple[str, ...] = Field(default=(), description="class names; a label is an index into them")
    captions_per_image: float = Field(
        default=0.0, description="mean number of captions an image; 0 where there are none"
    )
    attributes: dict[str, tuple[str, ...]] = Field(
        default={}, description="known attributes of every image and their values, in the order of their indices"
    )
    mean: tuple[float, ...] = Field(description="mean of each channel over the train split, 0 to 255")
    std: tuple[float, ...] = Field(description="standard deviation of each channel over the train split, 0 to 255")
    parameters: dict[str, Any] = Field(default={}, description="the resolved section of params.yaml that prepared it")
    sources: dict[str, str] = Field(default={}, description="sha256 of each source file, by its name")
    refused: dict[str, int] = Field(default={}, description="refused items, counted by reason")
    refused_examples: dict[str, tuple[str, ...]] = Field(default={}, description="up to five names for each reason")


class FileRecord(_Description):
    """A file of a package."""

    sha256: str
    bytes: int


class Latent(_Description):
    """The random input of a generator."""

    size: int = Field(description="length of z")
    distribution: Literal["normal", "uniform"] = Field(description="N(0, 1) or U(-1, 1), each value independent")


class Condition(_Description):
    """What a generator is asked for."""

    kind: Literal["none", "class", "text"]
    size: int = Field(default=0, description="text: length of an embedding; class: number of classes")


class Variant(_Description):
    """generator.onnx in other numbers: a further file of the package, with the same inputs and outputs."""

    file: str = Field(description="its name in the package")
    psnr: float = Field(description="peak signal-to-noise ratio of its images against those of generator.onnx, in dB")
    metric: str | None = Field(default=None, description="the project's metric that it was held to, float32 beside it")
    value: float | None = Field(default=None, description="that metric of this graph's images")
    reference: float | None = Field(default=None, description="that metric of generator.onnx, from the same latents")
    bound: float | None = Field(default=None, description="the largest value that was let pass")


class Latency(_Description):
    """How long one run of a graph takes, measured at export: the median of some runs, in milliseconds."""

    machine: str = Field(description="processor and number of cores")
    threads: int = Field(description="of the CPU for one run")
    milliseconds: dict[str, float] = Field(description="by precision and batch size, for example float32/1")


class Parent(_Description):
    """The trained model whose networks a training began with."""

    folder: str = Field(description="its folder, as params.yaml names it in `start_from`")
    sha256: str = Field(description="of its state.safetensors")
    name: str | None = Field(default=None, description="its name, where its card.json lies beside")
    commit: str | None = Field(default=None, description="the commit that trained it, of the same card")


class ModelCard(_Description):
    """A trained generator: what goes in, what comes out, where it is from and how good it is."""

    format: Literal[1] = 1
    name: str = Field(description="the model's name in params.yaml")
    family: str = Field(description="the GAN family, a name of `ganlib list families`")
    latent: Latent
    condition: Condition
    size: int = Field(description="height and width of an image, in pixels")
    channels: Literal[1, 3]
    classes: tuple[str, ...] = Field(default=(), description="class names, in the order of the labels")
    steps: int = Field(description="training steps done")
    images_seen: int = Field(description="real images drawn for training, one batch for each of a step's repeats")
    best: dict[str, float] = Field(default={}, description="where the best weights were kept: the metric, and the step")
    parameters: dict[str, Any] = Field(description="the resolved section of params.yaml that trained it")
    data: dict[str, str] = Field(description="sha256 of the prepared dataset's and the embedded captions' files")
    parent: Parent | None = Field(default=None, description="what the training began with; None where it began anew")
    environment: dict[str, str] = Field(default={}, description="versions of Python and packages, and the device")
    commit: str | None = Field(default=None, description="the commit that trained it, -dirty where files had changed")
    licence: str | None = Field(default=None, description="licence of the model, as the project states it")
    files: dict[str, FileRecord] = Field(default={}, description="every other file of the package (filled by export)")
    metrics: dict[str, float] = Field(default={}, description="metrics.json of its report (filled by export)")
    protocol: dict[str, Any] = Field(default={}, description="protocol.json of its report (filled by export)")
    variants: dict[Literal["float16", "int8"], Variant] = Field(
        default={}, description="the further graphs of the generator, by their precision (filled by export)"
    )
    preferred: dict[Place, Precision] = Field(
        default={}, description="the precision that `auto` takes there; float32 where nothing is said"
    )
    latency: Latency | None = Field(default=None, description="measured at export")
    parity: dict[str, float] = Field(
        default={},
        description="ONNX against torch by batch size, and truncation where it is not 1: error/7, differing/7@0.05",
    )
