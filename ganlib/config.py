"""params.yaml as frozen, typed sections: one for each stage, checked whole before anything runs.

Unknown keys, wrong types and impossible combinations are refused in one line that names the key, what was found and
what would do. What a GAN family sets by default (its preset: the published values) is merged under the values given
here; what may be chosen by name is handed in, so that this file needs no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ganlib.problems import Refused, first_problem

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """A part of params.yaml: frozen, no unknown keys, no conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Ingest(Section):
    """Raw files to a prepared dataset."""

    source: Literal["flowers", "mnist", "folder"] = Field("flowers", description="the reader")
    path: str | None = Field(
        None, description="what it reads: a folder, zip or tar; $NAME is taken from the environment; flowers needs none"
    )
    size: Positive = Field(32, description="height and width of the prepared images, in pixels")
    channels: Literal[1, 3] = Field(3, description="1 for grey, 3 for RGB")
    count: Positive = Field(6000, description="flowers: how many to draw")
    limit: Positive | None = Field(None, description="take at most this many items, chosen by the seed")
    classes: list[str] | None = Field(None, description="keep these classes alone")
    test_share: Share = Field(0.1, description="share held out where the source has no split of its own")
    max_refused: Share = Field(0.05, description="a larger share of unusable files fails the stage")
    max_pixels: Positive = Field(50_000_000, description="a larger image is refused as oversized")
    seed: int = Field(0, ge=0, description="of the drawing, the choice and the split")

    @model_validator(mode="after")
    def _source_has_what_it_reads(self) -> Self:
        if self.source != "flowers" and self.path is None:
            raise ValueError(f"path: missing; source {self.source} reads files: name their folder, zip or tar")
        if self.source == "flowers" and self.path is not None:
            raise ValueError(f"path: found {self.path!r}; flowers are drawn, remove it or take another source")
        if self.source == "flowers" and (self.size not in (32, 64) or self.channels != 3):
            raise ValueError("size: flowers are drawn at 32 or 64 pixels with 3 channels")
        return self


class Embed(Section):
    """Captions to vectors."""

    encoder: Literal["none", "skip-thought"] = Field("skip-thought", description="none where there are no captions")
    dimension: Positive = Field(128, description="length of an embedding (the encoder's recurrent width)")
    word_dimension: Positive = Field(64, description="length of a word vector")
    vocabulary: Positive = Field(20_000, description="most frequent words kept; the others are unknown")
    max_words: Positive = Field(30, description="words of a caption that are read; the rest is cut")
    steps: Positive = Field(600, description="training steps")
    batch: Positive = Field(64, description="captions a step")
    lr: float = Field(1e-2, gt=0, description="Adam's learning rate, falling to 0 at the end")
    clip: float = Field(5.0, gt=0, description="largest norm of the gradient")
    seed: int = Field(0, ge=0, description="of the initialisation and the order")


class Optimiser(Section):
    """How one network is trained."""

    name: Literal["adam", "rmsprop", "sgd"] = Field("adam", description="the optimiser")
    lr: float = Field(2e-4, gt=0, description="learning rate")
    betas: tuple[float, float] = Field((0.5, 0.999), description="adam: decay of both moments")

    @model_validator(mode="before")
    @classmethod
    def _yaml_has_lists(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("betas"), list):
            values = {**values, "betas": tuple(values["betas"])}
        return values


class Ema(Section):
    """The average of the generator's weights that is sampled from, evaluated and exported."""

    half_life: float = Field(10.0, ge=0, description="in thousands of images; 0 takes the weights as they are")
    ramp_up: Share | None = Field(0.05, description="half-life at most this share of the images seen so far")


class Train(Section):
    """One model: family, losses, optimisers and the run."""

    family: str = Field(description="a name of `ganlib list families`")
    network: dict[str, Any] = Field({}, description="the family's own settings, see `ganlib list families --json`")
    loss: str = Field("non-saturating", description="a name of `ganlib list losses`")
    penalties: dict[str, float] = Field({}, description="weights, by the names of `ganlib list penalties`")
    penalty_every: Positive = Field(1, description="penalties in every n-th step alone, weighted n times (lazy)")
    generator: Optimiser = Field(Optimiser(), description="the generator's optimiser")
    discriminator: Optimiser = Field(Optimiser(), description="the discriminator's optimiser")
    discriminator_steps: Positive = Field(1, description="discriminator steps for each generator step")
    decay_from: Share = Field(1.0, description="learning rates fall linearly to 0 from this share of the steps on")
    ema: Ema = Field(Ema(), description="the averaged generator")
    steps: Positive = Field(2000, description="generator steps")
    batch: Positive = Field(64, description="images a step")
    mismatch: Literal["class", "any", "near"] = Field(
        "class", description="the wrong pair's image: of another class, any other, or half of them near by caption"
    )
    captions: Positive = Field(1, description="random captions of an image averaged into its embedding")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 where the hardware computes in it (CUDA, AVX512-BF16, AMX)"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where there is one")
    seed: int = Field(0, ge=0, description="of initialisation, order, noise")
    checkpoint_every: Positive = Field(250, description="steps between checkpoints")
    log_every: Positive = Field(25, description="steps between lines of history.jsonl")
    sample_every: Positive = Field(250, description="steps between sample grids")

    @model_validator(mode="after")
    def _lazy_penalties_exist(self) -> Self:
        if self.penalty_every > 1 and not self.penalties:
            raise ValueError(
                f"penalty_every: found {self.penalty_every}, and there are no penalties; name one or take 1"
            )
        return self


class Extractor(Section):
    """The networks that judge: a classifier, attribute heads and a caption matcher, trained on the real data."""

    width: Positive = Field(32, description="channels of the first layer")
    features: Positive = Field(128, description="length of the feature vector")
    steps: Positive = Field(600, description="training steps")
    batch: Positive = Field(128, description="images a step")
    lr: float = Field(2e-3, gt=0, description="peak learning rate of a one-cycle schedule")
    seed: int = Field(0, ge=0, description="of the initialisation and the order")


class Evaluate(Section):
    """How quality is measured."""

    samples: Positive = Field(2000, description="generated images for the distances")
    prompts: Positive = Field(1000, description="held-out captions, or labels, that agreement is measured over")
    subsets: Positive = Field(20, description="kernel distance: number of subsets")
    subset_size: Positive = Field(200, description="kernel distance: images in a subset")
    batch: Positive = Field(100, description="images generated at once")
    seed: int = Field(0, ge=0, description="of the latents, prompts and subsets")


class Export(Section):
    """The trained generator to a package."""

    opset: Positive = Field(20, description="ONNX operator set")
    tolerance: float = Field(1e-4, gt=0, description="largest absolute difference from torch, images in -1 to 1")
    licence: str | None = Field(None, description="licence of the model, for its card")


class Params(Section):
    """All of params.yaml."""

    models: list[str] = Field(description="the models of `train` that the pipeline trains")
    ingest: Ingest = Ingest()
    embed: Embed = Embed()
    train: dict[str, Train]
    extractor: Extractor = Extractor()
    evaluate: Evaluate = Evaluate()
    export: Export = Export()

    @model_validator(mode="after")
    def _models_are_described(self) -> Self:
        for name in self.train:
            if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
                raise ValueError(f"train.{name}: a model's name is made of a-z, 0-9 and -")
            if name == "extractor":
                raise ValueError(
                    "train.extractor: models/extractor is taken by the stage extractor; choose another name"
                )
        for name in self.models:
            if name not in self.train:
                raise ValueError(f"models: found {name!r}, which `train` does not describe ({', '.join(self.train)})")
        if len(set(self.models)) < len(self.models):
            raise ValueError(f"models: found {self.models}; each name once")
        return self


@dataclass(frozen=True)
class Choices:
    """The names that `train` sections may use, as the registries know them."""

    family: Callable[[str], tuple[Mapping[str, Any], type[BaseModel], str]]  # preset, own settings, condition's kind
    losses: Collection[str]
    penalties: Collection[str]


def load(path: Path, choices: Choices) -> Params:
    """Read and check params.yaml; each model's section comes back with its family's preset filled in.

    Args:
        path: the YAML file.
        choices: what may be chosen by name.

    Raises:
        Refused: one line with the file, the key, what was found and what would do.
    """
    if not path.is_file():
        raise Refused(f"{path}: no such file; run in a project's folder or name one with --params")
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise Refused(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise Refused(f"{path}: found {type(content).__name__}; expected sections such as ingest: and train:")
    described = content.get("train")
    if not isinstance(described, dict):
        raise Refused(f"{path}: train: found {described!r}; expected a section for each model")
    try:
        models = {name: _model(f"train.{name}", section, choices) for name, section in described.items()}
        params = Params.model_validate(content | {"train": models})
        _check_conditions(params, choices)
        return params
    except ValidationError as error:
        raise Refused(f"{path}: {first_problem(error, _known_keys(error))}") from error
    except Refused as error:
        raise Refused(f"{path}: {error}") from error


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `under`, section by section; penalties and lists are replaced whole."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        deep = isinstance(below, Mapping) and isinstance(value, Mapping) and key != "penalties"
        merged[key] = merge(below, value) if deep else value  # type: ignore[arg-type]
    return merged


def resume_key(train: Train) -> dict[str, Any]:
    """What of a `train` section decides which weights a step ends with: all but the reporting, and not how many steps
    are asked for unless the learning rate depends on it. A run with more steps goes on where a shorter one stopped."""
    reporting = {"checkpoint_every", "log_every", "sample_every"}
    return train.model_dump(mode="json", exclude=reporting | ({"steps"} if train.decay_from == 1.0 else set()))


def _model(key: str, section: Any, choices: Choices) -> dict[str, Any]:
    """One model's section with its family's preset under it, and all that it chooses by name checked."""
    if not isinstance(section, dict) or not isinstance(section.get("family"), str):
        raise Refused(f"{key}.family: missing; name one of `ganlib list families`")
    try:
        preset, own, _ = choices.family(section["family"])
    except Refused as error:
        raise Refused(f"{key}.{error}") from error
    merged = merge(preset, section)
    try:
        network = own.model_validate(merged.get("network", {}))
    except ValidationError as error:
        raise Refused(f"{key}.network.{first_problem(error, own.model_fields)}") from error
    for part, names, known in (
        ("loss", [merged["loss"]], choices.losses),
        ("penalties", merged.get("penalties") or {}, choices.penalties),
    ):
        for chosen in names:
            if chosen not in known:
                raise Refused(f"{key}.{part}: found {chosen!r}; expected one of {', '.join(known)}")
    return merged | {"network": network.model_dump()}


def _check_conditions(params: Params, choices: Choices) -> None:
    """Refuse a model whose condition the other sections rule out."""
    for name in params.models:
        _, _, kind = choices.family(params.train[name].family)
        if kind == "text" and params.embed.encoder == "none":
            raise Refused(f"train.{name}.family: {params.train[name].family} reads captions, and embed.encoder is none")
        if kind == "class" and params.ingest.classes is not None and len(params.ingest.classes) < 2:
            raise Refused(
                f"ingest.classes: found {params.ingest.classes}; train.{name} tells two classes or more apart"
            )


def _known_keys(error: ValidationError) -> list[str]:
    """The keys that may stand where the first problem of `error` was found."""
    section: Any = Params
    for part in error.errors()[0]["loc"][:-1]:
        if section is Params and part == "train":
            section = dict
        elif section is dict:
            section = Train
        else:
            section = section.model_fields[str(part)].annotation
    return list(section.model_fields) if isinstance(section, type) and issubclass(section, Section) else []
