"""A project's models: built from their sections of params.yaml, and read again when they are trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from ganlib.card import DatasetSpec, ModelCard
from ganlib.config import Train
from ganlib.files import sha256_of
from ganlib.problems import Refused
from ganlib.project import Project

if TYPE_CHECKING:
    import numpy as np

    from ganlib.families.base import Family
    from ganlib.families.objective import Objective


def build(project: Project, config: Train) -> Family:
    """The family of a `train` section, with fresh weights from its seed, for the project's data.

    Raises:
        Refused: where the data does not suit the family.
    """
    import torch

    from ganlib.families.registry import family

    kind = family(config.family)
    torch.manual_seed(config.seed)
    return kind(
        DatasetSpec.load(project.prepared / "dataset.json"),
        _text_dimension(project),
        kind.Network.model_validate(config.network),
        objective(config),
    )


def objective(config: Train) -> Objective:
    """The loss, the penalties and the augmentation of a `train` section."""
    from ganlib.families.objective import Objective, Repeats
    from ganlib.losses.adversarial import LOSSES
    from ganlib.training.augment import AUGMENTATIONS, Adaptive

    sections = ("label_smoothing", "instance_noise", "augment", "penalties", "generator_penalties")
    boost, augment = config.discriminator_boost, config.augment
    repeats = Repeats(config.discriminator_steps)
    if boost is not None:
        repeats = Repeats(config.discriminator_steps, boost.steps, boost.warm_up, boost.every)
    adaptive = None
    if augment is not None and augment.target is not None:
        adaptive = Adaptive(augment.target, augment.every, augment.ramp)
    return Objective(
        loss=LOSSES[config.loss],
        values={key: value for key, value in config.numbers().items() if key.partition(".")[0] in sections},
        penalty_every=config.penalty_every,
        generator_penalty_every=config.generator_penalty_every,
        discriminator_steps=repeats,
        generator_batches=config.generator_batches,
        augmentation=AUGMENTATIONS[augment.name] if augment is not None else None,
        adaptive=adaptive,
    )


def trained(project: Project, name: str) -> tuple[Family, ModelCard]:
    """The trained family of models/NAME, on the CPU, and its card.

    Raises:
        Refused: where it is missing or was trained on other data than the project now has.
    """
    from safetensors.torch import load_file

    project.training(name)
    folder = project.model(name)
    card = ModelCard.load(folder / "card.json")
    family = build(project, Train.model_validate_json(json.dumps(card.parameters)))
    now = data_hashes(project, with_captions=family.condition.kind == "text")
    if now != card.data:
        raise Refused(f"{folder / 'card.json'}: trained on other data than {project.prepared} now holds; train again")
    weights = load_file(folder / "weights.safetensors")
    for key in family.averaged():
        network = family.networks[key].eval()
        network.load_state_dict({n.removeprefix(f"{key}."): w for n, w in weights.items() if n.startswith(f"{key}.")})
    return family, card


def sampler(family: Family) -> Callable[[np.ndarray | None, int, int], np.ndarray]:
    """A function of (condition, count, seed) to images `(count, H, W, C)` uint8; image i is that of seed + i."""
    import torch

    from ganlib.inference.latents import latents
    from ganlib.training.samples import sample

    def draw(condition: np.ndarray | None, count: int, seed: int) -> np.ndarray:
        z = torch.from_numpy(latents(range(seed, seed + count), family.latent))
        return sample(family, z, None if condition is None else torch.from_numpy(condition))

    return draw


def data_hashes(project: Project, with_captions: bool) -> dict[str, str]:
    """The sha256 of the files that decide what a model learns from, by their names below data/."""
    files = [project.prepared / "images.npy", project.prepared / "items.parquet"]
    if with_captions:
        files.append(project.embedded / "embeddings.npy")
    for file in files:
        if not file.is_file():
            raise Refused(f"{file}: no such file; run ganlib ingest and ganlib embed first")
    return {f"{file.parent.name}/{file.name}": sha256_of(file) for file in files}


def _text_dimension(project: Project) -> int:
    """Length of the embedded captions' vectors, 0 where there are none."""
    file = project.embedded / "encoder.json"
    return int(json.loads(file.read_text())["dimension"]) if file.is_file() else 0
