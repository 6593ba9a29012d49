"""The stages, and the only place where the parts meet: one function for each stage of dvc.yaml.

A stage reads params.yaml and what earlier stages wrote below the project's folder, and writes below it:

    ingest      -> data/prepared/
    embed       -> data/embedded/
    extractor   -> models/extractor/
    train       -> models/NAME/{weights.safetensors,state.safetensors,card.json,history.jsonl,samples/}
    evaluate    -> reports/NAME/
    export      -> models/NAME/package/
"""

from __future__ import annotations

import json
import platform
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from ganlib.card import DatasetSpec, ModelCard
from ganlib.config import Choices, Params, Train, load, resume_key
from ganlib.files import sha256_of, whole_folder
from ganlib.problems import Failed, Refused

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ganlib.data.store import Split
    from ganlib.families.base import Family
    from ganlib.families.objective import Objective
    from ganlib.training.distributed import Ranks
    from ganlib.training.engine import Engine
    from ganlib.training.samples import Samples

Report = Callable[[str], None]
GRID_ROWS, GRID_COLUMNS = 10, 8


@dataclass(frozen=True)
class Project:
    """A folder with a params.yaml: where a stage reads and writes."""

    folder: Path
    params: Params

    @classmethod
    def open(cls, params: Path) -> Project:
        """The project of a params.yaml.

        Raises:
            Refused: where it cannot be used, in one line.
        """
        from ganlib.families.objective import penalty_names
        from ganlib.families.registry import settings
        from ganlib.losses.adversarial import LOSSES
        from ganlib.training.augment import AUGMENTATIONS

        with_labels = {name: loss.smoothed is not None for name, loss in LOSSES.items()}
        choices = Choices(settings, with_labels, penalty_names(), AUGMENTATIONS)
        return cls(folder=params.resolve().parent, params=load(params, choices))

    @property
    def prepared(self) -> Path:
        return self.folder / "data" / "prepared"

    @property
    def embedded(self) -> Path:
        return self.folder / "data" / "embedded"

    @property
    def extractor(self) -> Path:
        return self.folder / "models" / "extractor"

    def model(self, name: str) -> Path:
        return self.folder / "models" / name

    def report(self, name: str) -> Path:
        return self.folder / "reports" / name

    def training(self, name: str) -> Train:
        """The resolved `train` section of a model.

        Raises:
            Refused: for a name that params.yaml does not describe.
        """
        if name not in self.params.train:
            raise Refused(f"params.yaml: train: no model {name!r}; it describes {', '.join(self.params.train)}")
        return self.params.train[name]


def ingest(project: Project, report: Report) -> None:
    """Raw files to the prepared dataset."""
    from ganlib.data.prepare import prepare

    prepare(project.params.ingest, project.folder, project.prepared, report)


def embed(project: Project, report: Report) -> None:
    """Captions to vectors, and the encoder that makes them."""
    from ganlib.text.embed import embed as embed_captions

    embed_captions(project.params.embed, project.prepared, project.embedded, report)


def extractor(project: Project, report: Report) -> None:
    """The networks that judge, trained on the real data."""
    from ganlib.evaluation.extractor import train_extractor

    train_extractor(project.params.extractor, project.prepared, project.extractor, report)


def train(project: Project, name: str, report: Report) -> None:
    """A generator: resumes where an earlier, interrupted run of the same parameters, data and code stopped.

    Raises:
        Refused: where the data does not suit the family.
        Failed: where training diverged, or another process trains the same model.
    """

    from ganlib.training.distributed import ranks
    from ganlib.training.hardware import choose_device

    config = project.training(name)
    with ranks(choose_device(config)) as together:
        _train(project, name, config, together, report if together.first else lambda line: None)


def _train(project: Project, name: str, config: Train, together: Ranks, report: Report) -> None:
    """`train` in one of the processes that do it together."""
    from ganlib.data.batches import Batches
    from ganlib.data.store import load_split
    from ganlib.training.engine import Engine
    from ganlib.training.hardware import choose_device

    family = build(project, config)
    data = data_hashes(project, with_captions=family.condition.kind == "text")
    runs = project.folder / ".checkpoints" / name
    with _alone(name, runs, together):
        run = runs / _run_key(project, config, family, data, together)
        if together.first:
            run.mkdir(parents=True, exist_ok=True)
        split = load_split(project.prepared, project.embedded, "train")
        share = (together.rank, together.count)
        device = choose_device(config)
        batches = Batches(split, config.batch, config.seed, device, config.mismatch, config.captions, share)
        samples, rows = _samples(project, family)
        board = project.folder / "runs" / name / run.name
        score = _score(split, config) if config.best is not None else None
        engine = Engine(name, family, batches, config, samples, run, board, report, ranks=together, score=score)
        if config.start_from is not None and together.first:
            engine.start_from(*_weights_to_start_from(project, name, config.start_from))
        report(f"{name}: {config.family} on {engine.hardware}, {config.steps} steps of {config.batch} images")
        with _stopped_by_sigterm(engine):
            engine.train()
        if together.first:
            _write_model(project, name, engine, split.spec, data, rows)
            shutil.rmtree(run)
        together.wait()


@contextmanager
def _alone(name: str, runs: Path, together: Ranks) -> Iterator[None]:
    """No other training of this model while the block runs; the first process holds the lock for all."""
    from filelock import FileLock, Timeout

    if not together.first:
        yield
        return
    runs.mkdir(parents=True, exist_ok=True)
    lock = FileLock(runs / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise Failed(f"{name}: another process trains it (it holds {runs / 'lock'}); wait for it or stop it") from None
    try:
        yield
    finally:
        lock.release()


def _run_key(project: Project, config: Train, family: Family, data: dict[str, str], together: Ranks) -> str:
    """The name of all that decides a run's weights: parameters, data, code, and the weights that it starts from, which
    the first process alone needs to have.

    Raises:
        Refused: where this process has not what the first one has.
    """
    from ganlib.training import checkpoint

    package = Path(__file__).parent
    code = checkpoint.code_hash(*(package / part for part in ("families", "networks", "losses", "training", "data")))
    parts = {"parameters": resume_key(config, len(family.curriculum()) > 1), "data": data, "code": code}
    if config.start_from is not None:
        parts["start"] = together.share(sha256_of(_state_file(project, config.start_from)) if together.first else None)
    key = checkpoint.run_key(parts)
    if together.share(key) != key:
        raise Refused(
            f"{project.folder}: params.yaml, data or ganlib of process {together.rank} are not those of process 0; "
            "give every machine the same"
        )
    return key


def _state_file(project: Project, start_from: str) -> Path:
    """The file of all networks of a trained model."""
    file = project.folder / start_from / "state.safetensors"
    if not file.is_file():
        raise Refused(f"train.*.start_from: {file}: no such file; name the folder of a trained model, models/NAME")
    return file


def _weights_to_start_from(project: Project, name: str, start_from: str) -> tuple[dict[str, Tensor], str]:
    from safetensors.torch import load_file

    file = _state_file(project, start_from)
    return load_file(file), str(file)


def _score(split: Split, config: Train) -> Callable[[Family], float]:
    """The metric of `config.best` for the averaged networks: of the same latents and conditions each time."""
    import numpy as np

    from ganlib.evaluation.sliced_wasserstein import sliced_wasserstein_distance

    assert config.best is not None
    count = min(config.best.samples, len(split.images))
    rows = np.sort(np.random.default_rng(config.seed).choice(len(split.images), count, replace=False))
    real = np.ascontiguousarray(split.images[rows])

    texts = None if split.embeddings is None else split.embeddings[split.first_caption[rows]]

    def score(family: Family) -> float:
        condition = {"none": None, "class": split.labels[rows], "text": texts}[family.condition.kind]
        return sliced_wasserstein_distance(real, sampler(family)(condition, count, config.seed), seed=config.seed)

    return score


def evaluate(project: Project, name: str, report: Report) -> None:
    """Scores and pictures of a trained generator."""
    from ganlib.evaluation.suite import evaluate as measure

    family, _ = trained(project, name)
    measure(
        sampler(family),
        family.condition.kind,
        project.prepared,
        project.embedded,
        project.extractor,
        project.params.evaluate,
        project.model(name) / "history.jsonl",
        project.report(name),
        report,
    )


def export(project: Project, name: str, report: Report) -> None:
    """The package: ONNX graphs that give what torch gives, with all that is known of them."""
    from ganlib.export.package import write_package

    family, card = trained(project, name)
    embedded = project.embedded if family.condition.kind == "text" else None
    write_package(
        family, card, embedded, project.report(name), project.params.export, project.model(name) / "package", report
    )


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


def _samples(project: Project, family: Family) -> tuple[Samples, list[str]]:
    """The fixed grid of a run, a row for each condition, and a line that says what each row shows."""
    import numpy as np
    import torch

    from ganlib.data.store import load_split
    from ganlib.inference.latents import latents
    from ganlib.training.samples import Samples

    rows: list[str] = ["anything"] * GRID_ROWS
    condition = None
    if family.condition.kind == "class":
        classes = DatasetSpec.load(project.prepared / "dataset.json").classes
        chosen = np.unique(np.linspace(0, len(classes) - 1, GRID_ROWS).round().astype(np.int64))
        rows = [classes[label] for label in chosen]
        condition = torch.from_numpy(chosen).repeat_interleave(GRID_COLUMNS)
    elif family.condition.kind == "text":
        split = load_split(project.prepared, project.embedded, "test")
        assert split.embeddings is not None
        shown = [item for item in range(len(split.images)) if split.captions(item)][:GRID_ROWS]
        rows = [split.captions(item)[0] for item in shown]
        condition = torch.from_numpy(split.embeddings[split.first_caption[shown]]).repeat_interleave(GRID_COLUMNS, 0)
    z = torch.from_numpy(latents(range(GRID_COLUMNS), family.latent)).repeat(len(rows), 1)
    return Samples(latents=z, condition=condition, columns=GRID_COLUMNS), rows


def _write_model(
    project: Project, name: str, engine: Engine, spec: DatasetSpec, data: dict[str, str], rows: list[str]
) -> None:
    """The result of a training, models/NAME: written whole beside the checkpoints, then moved file by file."""
    from safetensors.torch import save_file

    family, config, run = engine.family, engine.config, engine.run
    card = ModelCard(
        name=name,
        family=config.family,
        latent=family.latent,
        condition=family.condition,
        size=spec.size,
        channels=spec.channels,
        classes=spec.classes if family.condition.kind == "class" else (),
        steps=engine.step,
        images_seen=engine.images_seen,
        best={} if config.best is None else {config.best.metric: engine.best.value, "step": engine.best.step},
        parameters=config.model_dump(mode="json"),
        data=data,
        environment=_environment() | {"hardware": engine.hardware},
        commit=_commit(project.folder),
    )
    with whole_folder(run / "result") as folder:
        for file, weights in (("weights", engine.result()), ("state", engine.networks())):
            # cloned: tied tensors share memory, which the format does not allow
            tensors = {key: value.detach().cpu().clone().contiguous() for key, value in weights.items()}
            save_file(tensors, folder / f"{file}.safetensors")
        card.save(folder / "card.json")
        shutil.copy(run / "history.jsonl", folder)
        shutil.copytree(run / "samples", folder / "samples")
        (folder / "samples" / "conditions.txt").write_text("\n".join(rows) + "\n")
    target = project.model(name)
    target.mkdir(parents=True, exist_ok=True)
    for made in (run / "result").iterdir():
        place = target / made.name
        if place.is_dir():
            shutil.rmtree(place)
        made.replace(place)


@contextmanager
def _stopped_by_sigterm(engine: Engine) -> Iterator[None]:
    """SIGTERM ends the training with a checkpoint, where this is the main thread (no other may handle signals)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: engine.stop())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _environment() -> dict[str, str]:
    packages = {name: version(name) for name in ("ganlib", "torch", "numpy", "pandas")}
    return {"python": platform.python_version(), "platform": platform.platform(), **packages}


def _commit(folder: Path) -> str | None:
    """The commit of the project's folder, `-dirty` where files differ from it; None outside a repository."""
    if shutil.which("git") is None:
        return None
    said = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return said.stdout.strip() or None
