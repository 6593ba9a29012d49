"""The training of one model of a project, from its data to models/NAME; alone or in several processes."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from ganlib.card import DatasetSpec, ModelCard, Parent
from ganlib.config import Train, resume_key
from ganlib.files import sha256_of, whole_folder
from ganlib.models import build, data_hashes, sampler
from ganlib.problems import Failed, Refused
from ganlib.project import Project, Report

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ganlib.data.store import Split
    from ganlib.families.base import Family
    from ganlib.training.distributed import Ranks
    from ganlib.training.engine import Engine
    from ganlib.training.samples import Samples

GRID_ROWS, GRID_COLUMNS = 10, 8
CODE = ("families", "networks", "losses", "training", "data", "config.py", "schedule.py", "models.py")
"""What decides, with parameters and data, which weights a step ends with."""


def train(project: Project, name: str, report: Report) -> None:
    """A generator: resumes where an earlier, interrupted run of the same parameters, data and code stopped.

    `ranks` processes of this machine do it together, or those that torchrun has started. On CUDA it waits until no
    other training has the devices.

    Raises:
        Refused: where the data does not suit the family, or there are fewer CUDA devices than processes.
        Failed: where training diverged, or another process trains the same model.
    """
    from ganlib.training.distributed import ranks
    from ganlib.training.hardware import choose_device
    from ganlib.training.launch import launch
    from ganlib.training.reservation import own_devices, reserved

    config = project.training(name)
    device = choose_device(config)
    if config.ranks > 1 and "RANK" not in os.environ:  # torchrun sets it for each process that it starts
        _check_devices(name, config, device)
        launch(train, config.ranks, report, project, name)
        return
    with reserved(own_devices(device), f"train {name}", report), ranks(device) as together:
        _train(project, name, config, together, report if together.first else lambda line: None)


def _check_devices(name: str, config: Train, device: torch.device) -> None:
    import torch

    found = torch.cuda.device_count()
    if device.type == "cuda" and config.ranks > found:
        raise Refused(
            f"train.{name}.ranks: found {config.ranks}, and torch sees {found} CUDA devices; take {found}, or the cpu"
        )


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
        parent = _parent(project, config) if together.first else None
        run = runs / _run_key(project, config, family, data, parent, together)
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
            _write_model(project, name, engine, split.spec, data, parent, rows)
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


def _parent(project: Project, config: Train) -> Parent | None:
    """What the training begins with; None where it begins anew.

    Raises:
        Refused: where that has no networks, or a card that cannot be read.
    """
    if config.start_from is None:
        return None
    file = _state_file(project, config.start_from)
    beside = file.with_name("card.json")
    card = ModelCard.load(beside) if beside.is_file() else None
    of = {} if card is None else {"name": card.name, "commit": card.commit}
    return Parent(folder=config.start_from, sha256=sha256_of(file), **of)


def _run_key(
    project: Project, config: Train, family: Family, data: dict[str, str], parent: Parent | None, together: Ranks
) -> str:
    """The name of all that decides a run's weights: parameters, data, code, and the weights of the parent, which the
    first process alone needs to have.

    Raises:
        Refused: where this process has not what the first one has.
    """
    from ganlib.training import checkpoint

    code = checkpoint.code_hash(Path(__file__).parent, *CODE)
    parts = {"parameters": resume_key(config, len(family.curriculum()) > 1), "data": data, "code": code}
    if config.start_from is not None:
        parts["start"] = together.share(parent.sha256 if parent is not None else None)
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
    # A column is one latent under every condition; without conditions every image has a latent of its own.
    z = torch.from_numpy(latents(range(GRID_COLUMNS), family.latent)).repeat(len(rows), 1)
    if condition is None:
        z = torch.from_numpy(latents(range(GRID_COLUMNS * len(rows)), family.latent))
    return Samples(latents=z, condition=condition, columns=GRID_COLUMNS), rows


def _write_model(
    project: Project,
    name: str,
    engine: Engine,
    spec: DatasetSpec,
    data: dict[str, str],
    parent: Parent | None,
    rows: list[str],
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
        parent=parent,
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
