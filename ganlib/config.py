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
from typing import Annotated, Any, Literal, Self, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ganlib.card import Precision
from ganlib.problems import Refused, first_problem
from ganlib.schedule import Shape, between

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
    momentum: float = Field(0.0, ge=0, lt=1, description="sgd and rmsprop: decay of the velocity")
    clip_weights: float | None = Field(None, gt=0, description="weights are kept in +- this after each step (WGAN)")

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


class Schedule(Section):
    """How a number of a `train` section changes over the training. It begins as the section has it."""

    to: float = Field(description="the value at the end")
    kimg: float = Field(gt=0, description="thousands of images that the way there takes")
    after: float = Field(0.0, ge=0, description="thousands of images before it sets out")
    shape: Shape = Field("linear", description="linear, cosine (flat at both ends) or exponential")

    def at(self, start: float, images: float) -> float:
        """The value after `images` images."""
        return between(start, self.to, (images / 1000 - self.after) / self.kimg, self.shape)


class Boost(Section):
    """More discriminator steps now and then."""

    steps: Positive = Field(100, description="discriminator steps in such a training step")
    warm_up: int = Field(25, ge=0, description="in the first training steps")
    every: int = Field(500, ge=0, description="and in every n-th; 0 for never")


class Augment(Section):
    """What the discriminator sees images through."""

    name: str = Field(description="a name of `ganlib list augmentations`")
    p: Share = Field(1.0, description="probability of each transform")
    target: float | None = Field(
        None, gt=-1, lt=1, description="adaptive: p starts at 0 and moves so that the mean sign of real logits is this"
    )
    every: Positive = Field(4, description="adaptive: training steps between moves")
    ramp: float = Field(500.0, gt=0, description="adaptive: thousands of images in which p can go from 0 to 1")


class Best(Section):
    """A metric that is watched while training; the weights of its best value are the result."""

    metric: Literal["sliced_wasserstein_distance"] = Field(
        "sliced_wasserstein_distance", description="between patches; needs no trained extractor"
    )
    every: Positive = Field(500, description="steps between measurements")
    samples: Positive = Field(1000, description="generated images, against as many real ones")
    patience: Positive | None = Field(None, description="end after so many measurements without a new best")


class Train(Section):
    """One model: family, losses, optimisers and the run."""

    family: str = Field(description="a name of `ganlib list families`")
    network: dict[str, Any] = Field({}, description="the family's own settings, see `ganlib list families --json`")
    loss: str = Field("non-saturating", description="a name of `ganlib list losses`")
    penalties: dict[str, float] = Field({}, description="weights, by the names of `ganlib list penalties`")
    penalty_every: Positive = Field(1, description="penalties in every n-th step alone, weighted n times (lazy)")
    generator_penalties: dict[str, float] = Field({}, description="the same for the generator")
    generator_penalty_every: Positive = Field(1, description="lazy penalties of the generator")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="real images count as 1 - this (one-sided)")
    instance_noise: float = Field(0.0, ge=0, description="standard deviation of noise on what the discriminator sees")
    augment: Augment | None = Field(None, description="augmentation of all that the discriminator sees")
    generator: Optimiser = Field(Optimiser(), description="the generator's optimiser")
    discriminator: Optimiser = Field(Optimiser(), description="the discriminator's optimiser")
    discriminator_steps: Positive = Field(1, description="discriminator steps for each generator step")
    discriminator_boost: Boost | None = Field(None, description="more discriminator steps at first and now and then")
    generator_batches: Positive = Field(1, description="fakes of a generator step, in batches")
    schedules: dict[str, Schedule] = Field(
        {},
        description="numbers that change, by key: generator.lr, penalties.r1, ema.half_life, network.NAME ...",
    )
    decay_from: Share = Field(1.0, description="learning rates fall linearly to 0 from this share of the steps on")
    ema: Ema = Field(Ema(), description="the averaged generator")
    steps: Positive = Field(2000, description="generator steps")
    batch: Positive = Field(64, description="images a step")
    accumulate: Positive = Field(1, description="parts that a batch is taken in, for little memory")
    start_from: str | None = Field(
        None, description="a folder models/NAME of the same family and sizes, whose networks this model begins with"
    )
    best: Best | None = Field(None, description="keep the best weights by a metric, and stop early")
    mismatch: Literal["class", "any", "near"] = Field(
        "class", description="the wrong pair's image: of another class, any other, or half of them near by caption"
    )
    captions: Positive = Field(1, description="random captions of an image averaged into its embedding")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 where the hardware computes in it (CUDA, AVX512-BF16, AMX)"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where there is one")
    ranks: Positive = Field(
        1,
        description="processes of this machine that train together, on CUDA one for each device; see docs/multi-gpu.md",
    )
    compile: bool = Field(False, description="compile the networks (those that no penalty is differentiated through)")
    deterministic: bool = Field(False, description="cuda: resume to the bit, at some cost; the CPU always does")
    seed: int = Field(0, ge=0, description="of initialisation, order, noise")
    checkpoint_every: Positive = Field(250, description="steps between checkpoints")
    log_every: Positive = Field(25, description="steps between lines of history.jsonl")
    sample_every: Positive = Field(250, description="steps between sample grids")

    @model_validator(mode="after")
    def _lazy_penalties_exist(self) -> Self:
        for key, every, penalties in (
            ("penalty_every", self.penalty_every, self.penalties),
            ("generator_penalty_every", self.generator_penalty_every, self.generator_penalties),
        ):
            if every > 1 and not penalties:
                raise ValueError(f"{key}: found {every}, and there are no penalties; name one or take 1")
        return self

    @model_validator(mode="after")
    def _parts_are_equal(self) -> Self:
        if self.batch % self.accumulate:
            raise ValueError(
                f"accumulate: found {self.accumulate}; a batch of {self.batch} does not fall into such parts"
            )
        if self.batch % (self.ranks * self.accumulate):
            parts = f" in {self.accumulate} parts each" if self.accumulate > 1 else ""
            raise ValueError(
                f"ranks: found {self.ranks}, which share a batch of {self.batch}{parts}; take a batch that is a "
                f"multiple of {self.ranks * self.accumulate}"
            )
        return self

    @model_validator(mode="after")
    def _schedules_name_numbers(self) -> Self:
        known = self.numbers()
        for key, schedule in self.schedules.items():
            if key not in known:
                raise ValueError(f"schedules: found {key!r}; a schedule may have {', '.join(known)}")
            if schedule.shape == "exponential" and (schedule.to <= 0 or known[key] <= 0):
                raise ValueError(f"schedules.{key}: an exponential goes from above 0 to above 0; take linear or cosine")
        if self.augment is not None and self.augment.target is not None and "augment.p" in self.schedules:
            raise ValueError("schedules.augment.p: augment.target moves p already; remove one of them")
        return self

    def numbers(self) -> dict[str, float]:
        """The numbers that may follow a schedule, by their keys, as the section has them."""
        numbers = {"label_smoothing": self.label_smoothing, "instance_noise": self.instance_noise}
        for part in ("generator", "discriminator"):
            chosen: Optimiser = getattr(self, part)
            numbers |= {f"{part}.lr": chosen.lr}
            if chosen.name == "adam":
                numbers |= {f"{part}.betas.{i}": beta for i, beta in enumerate(chosen.betas)}
        numbers["ema.half_life"] = self.ema.half_life
        if self.augment is not None:
            numbers["augment.p"] = self.augment.p
        numbers |= {f"penalties.{name}": weight for name, weight in self.penalties.items()}
        numbers |= {f"generator_penalties.{name}": weight for name, weight in self.generator_penalties.items()}
        numbers |= {f"network.{name}": value for name, value in self.network.items() if isinstance(value, float)}
        return numbers

    def numbers_at(self, images: float) -> dict[str, float]:
        """`numbers` after `images` images."""
        return {
            key: self.schedules[key].at(value, images) if key in self.schedules else value
            for key, value in self.numbers().items()
        }


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
    precisions: list[Precision] = Field(
        ["float32", "float16", "int8"], description="graphs to make; float32 is the one that others are held against"
    )
    psnr: float = Field(40.0, gt=0, description="float16: its images at least so near to float32's, in dB")
    bound: float = Field(
        0.05, ge=0, description="int8: largest rise of frechet_distance, and fall of an agreement, as a share"
    )
    licence: str | None = Field(None, description="licence of the model, for its card")

    @model_validator(mode="after")
    def _float32_is_made(self) -> Self:
        if "float32" not in self.precisions or len(set(self.precisions)) < len(self.precisions):
            raise ValueError(f"precisions: found {self.precisions}; expected float32, and each at most once")
        return self


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

    family: Callable[[str], tuple[Mapping[str, Any], type[BaseModel], Callable[[Any], str]]]
    """of a name: preset, own settings, and from these the condition's kind"""
    losses: Mapping[str, bool]
    """whether a loss has labels to smooth"""
    penalties: Mapping[str, Collection[str]]
    """by the keys `penalties` and `generator_penalties`"""
    augmentations: Collection[str]


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


WHOLE = {"penalties", "generator_penalties", "schedules", "augment"}


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `under`, section by section; penalties, schedules, augment and lists are replaced whole."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        deep = isinstance(below, Mapping) and isinstance(value, Mapping) and key not in WHOLE
        merged[key] = merge(below, value) if deep else value  # type: ignore[arg-type]
    return merged


def resume_key(train: Train, in_chapters: bool) -> dict[str, Any]:
    """What of a `train` section decides which weights a step ends with: all but the reporting and the number of
    processes (which share one batch, so that it is a matter of rounding), and not how many steps are asked for unless
    the learning rate or the chapters of the family's training depend on it. A run with more steps goes on where a
    shorter one stopped."""
    excluded = {"checkpoint_every", "log_every", "sample_every", "ranks"}
    if train.decay_from == 1.0 and not in_chapters:
        excluded.add("steps")
    return train.model_dump(mode="json", exclude=excluded)


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
    augment = merged.get("augment")
    augmentations = [augment["name"]] if isinstance(augment, Mapping) and "name" in augment else []
    for part, names, known in (
        ("loss", [merged["loss"]], choices.losses),
        *((part, merged.get(part) or {}, known) for part, known in choices.penalties.items()),
        ("augment.name", augmentations, choices.augmentations),
    ):
        for chosen in names:
            if chosen not in known:
                raise Refused(f"{key}.{part}: found {chosen!r}; expected one of {', '.join(known)}")
    if merged.get("label_smoothing") and not choices.losses[merged["loss"]]:
        with_labels = ", ".join(name for name, labels in choices.losses.items() if labels)
        raise Refused(f"{key}.label_smoothing: loss {merged['loss']} has no labels; take 0, or one of {with_labels}")
    return merged | {"network": network.model_dump()}


def _check_conditions(params: Params, choices: Choices) -> None:
    """Refuse a model whose condition the other sections rule out."""
    for name in params.models:
        _, own, kind_of = choices.family(params.train[name].family)
        kind = kind_of(own.model_validate(params.train[name].network))
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
        if isinstance(section, type) and issubclass(section, Section):
            section = section.model_fields[str(part)].annotation if str(part) in section.model_fields else None
        elif get_origin(section) is dict:
            section = get_args(section)[1]
        section = next((kind for kind in get_args(section) if kind in _OPTIONAL), section)
    return list(section.model_fields) if isinstance(section, type) and issubclass(section, Section) else []


_OPTIONAL = (Boost, Augment, Best)
