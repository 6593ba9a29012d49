"""GAN families with their published presets on the device at hand: `python -m benchmarks.accelerator DATA`.

    python -m benchmarks.accelerator cifar10.tar.xz                                   # class folders, 32 pixels
    python -m benchmarks.accelerator mnist --source mnist --size 28 --channels 1
    python -m benchmarks.accelerator cifar10.tar.xz --families r3gan --precision float32,bfloat16 --compile

Every family trains for the same minutes after its first step, one after another in one run. The table has a row for
each:
    images/s    batch times training steps a second, as history.jsonl has it: the median after the first quarter of its
                lines. Steps differ in what they do: one of BigGAN trains the discriminator four times
    ratio       of the images/s to those of the first row
    peak GiB    torch's tensors on CUDA; on a CPU the resident memory of the process, where Linux tells
    kimg        thousands of images in the steps that were taken, the same for all phases of a step
    SWD         sliced Wasserstein distance of the averaged generator from real training images, lower is better; the
                line above the table has that of other real ones. It is said in thousandths
float32 is torch's own: convolutions on CUDA may compute in TF32. What a preset ties to a number of steps, as the
falling rate of wgan-gp and sngan, does not come about; what it ties to images does.

--out gets table.txt, anew after each row, and of each model the last grid, NAME.png, and its log, NAME.jsonl; project/
is an ordinary project's folder. Exit codes: 0 every model is measured, 1 one is not (the table says why), 2 the request
was wrong.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from ganlib import stages
from ganlib.data.batches import Batches
from ganlib.data.store import Split, load_split
from ganlib.evaluation.sliced_wasserstein import sliced_wasserstein_distance
from ganlib.families.base import Family, Values
from ganlib.files import write_whole
from ganlib.inference.latents import latents
from ganlib.models import build, sampler
from ganlib.problems import Failed, Refused
from ganlib.project import Project, Report
from ganlib.training.engine import Engine
from ganlib.training.grid import save_grid
from ganlib.training.hardware import choose_device
from ganlib.training.samples import Samples, sample

ENDLESS = 10**9
"""Steps that no time suffices for."""
LIMITED: Mapping[str, Any] = {"steps": ENDLESS, "checkpoint_every": ENDLESS, "sample_every": ENDLESS}
"""Of the `train` section of a training that ends by time: nothing is written in between, so that it takes no time."""

SEED = 0  # of the images that are compared
GRID_ROWS, GRID_COLUMNS = 10, 8
_FORGET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")  # see proc(5)


@dataclass(frozen=True)
class Row:
    """What was measured of a model; None where there is nothing to say.

    Attributes:
        name: in params.yaml.
        family: its name.
        device: for people.
        precision: float32 or bfloat16.
        compiled: whether the networks were compiled as far as they can be.
        batch: images a step.
        images_per_second: median after the warm-up.
        peak: GiB.
        steps: taken.
        distance: sliced Wasserstein distance.
        problem: why it could not be measured; empty where it could.
    """

    name: str
    family: str
    device: str
    precision: str
    compiled: bool
    batch: int
    images_per_second: float | None = None
    peak: float | None = None
    steps: int | None = None
    distance: float | None = None
    problem: str = ""


@dataclass(frozen=True)
class Reals:
    """Real images that generated ones are held against.

    Attributes:
        images: `(N, H, W, C)` uint8.
        labels: `(N,)` int64, what a family with classes is asked for.
        floor: distance of as many other real images from these.
    """

    images: np.ndarray
    labels: np.ndarray
    floor: float


def open_project(folder: Path, content: Mapping[str, Any]) -> Project:
    """The project of a params.yaml that is written into `folder`.

    Raises:
        Refused: where it cannot be used.
    """
    write_whole(folder / "params.yaml", yaml.safe_dump(dict(content), sort_keys=False).encode())
    return Project.open(folder / "params.yaml")


def train_for(project: Project, name: str, minutes: float, run: Path, report: Report) -> Engine:
    """A model of a project, trained from its beginning until the time is over or its steps are done.

    Args:
        project: with prepared data.
        name: of the model; a `train` section over `LIMITED` ends by time alone.
        minutes: from the end of the first step on, in which the device warms up and networks are compiled.
        run: a folder for its files; none of an earlier run may be there.
        report: takes a line for the user.

    Raises:
        Refused: where the data do not suit the family, or it trains in chapters.
        Failed: where training diverged.
    """
    config = project.training(name)
    family = build(project, config)
    if len(family.curriculum()) > 1:
        raise Refused(
            f"family: found {config.family}; it trains in chapters, each a share of all steps, and minutes do not tell "
            "how many those are; take another"
        )
    split = load_split(project.prepared, None, "train")
    batches = Batches(split, config.batch, config.seed, choose_device(config), config.mismatch)
    said = partial(_without_the_end, report)
    engine = Engine(name, family, batches, config, grid(split, family), run, run / "board", said)
    report(f"{name}: {config.family} on {engine.hardware} in batches of {config.batch}, for {minutes:g} min")
    _stop_after(engine, minutes)
    try:
        engine.train()
    except Failed:
        if not engine.stopping or any(bool(flag) for flag in engine.unsound.values()):
            raise
    return engine


def _stop_after(engine: Engine, minutes: float) -> None:
    """Have a training ask itself to end when the time is over; it begins when the first step is done."""
    family_does, started = engine.family.after_step, math.inf

    def after_step(values: Values) -> None:
        nonlocal started
        family_does(values)
        now = time.monotonic()
        started = min(started, now)
        if now - started >= 60 * minutes:
            engine.stop()

    engine.family.after_step = after_step  # type: ignore[method-assign]


def _without_the_end(report: Report, line: str) -> None:
    """Report a line of progress without steps and seconds that are left: nobody waits for `ENDLESS`."""
    report(re.sub(rf"/{ENDLESS}, (.+ steps/s), \d+ s left", r", \1", line))


def grid(split: Split, family: Family) -> Samples:
    """The grid of a family: up to ten rows, of a class each where it is asked for one."""
    if family.condition.kind == "none":
        return Samples(torch.from_numpy(latents(range(GRID_ROWS * GRID_COLUMNS), family.latent)), None, GRID_COLUMNS)
    chosen = np.unique(np.linspace(0, len(split.spec.classes) - 1, GRID_ROWS).round().astype(np.int64))
    z = torch.from_numpy(latents(range(GRID_COLUMNS), family.latent)).repeat(len(chosen), 1)
    return Samples(z, torch.from_numpy(chosen).repeat_interleave(GRID_COLUMNS), GRID_COLUMNS)


def chosen_reals(split: Split, samples: int) -> Reals:
    """At most `samples` random images of a split, fewer where it has not twice as many."""
    count = min(samples, len(split.images) // 2)
    rows = np.random.default_rng(SEED).permutation(len(split.images))[: 2 * count].reshape(2, count)
    images, others = (np.ascontiguousarray(split.images[np.sort(part)]) for part in rows)
    floor = sliced_wasserstein_distance(images, others, seed=SEED)
    return Reals(images, split.labels[np.sort(rows[0])], floor)


def measure(project: Project, name: str, minutes: float, reals: Reals, out: Path, report: Report) -> Row:
    """Train a model and measure it; NAME.png and NAME.jsonl are left in `out`.

    Raises:
        Refused, Failed: as `train_for`.
    """
    config = project.training(name)
    if config.compile:
        torch.compiler.reset()  # what was compiled for the model before counts against the limits of this one
    forget_peak(choose_device(config))
    with tempfile.TemporaryDirectory(dir=out) as folder:
        engine = train_for(project, name, minutes, Path(folder), report)
        peak, history = peak_memory(engine.device), Path(folder) / "history.jsonl"
        shutil.copy(history, out / f"{name}.jsonl")
        rate = images_per_second(history)
    with engine.averaged() as family:
        asked = reals.labels if family.condition.kind == "class" else None
        made = sampler(family)(asked, len(reals.images), SEED)
        sheet = sample(family, engine.samples.latents, engine.samples.condition)
    save_grid(sheet, engine.samples.columns, out / f"{name}.png")
    return Row(
        name,
        config.family,
        device_name(engine.device),
        str(engine.precision).removeprefix("torch."),
        config.compile,
        config.batch,
        rate,
        peak,
        engine.step,
        sliced_wasserstein_distance(reals.images, made, seed=SEED),
    )


def measured(project: Project, name: str, minutes: float, reals: Reals, out: Path, report: Report) -> Row:
    """As `measure`; a model that cannot be trained has a row that says why."""
    config = project.training(name)
    try:
        return measure(project, name, minutes, reals, out, report)
    except (Refused, Failed) as error:
        problem = str(error)
    except torch.OutOfMemoryError:
        problem = f"the device has too little memory; give less than --batch {config.batch}"
    report(f"{name}: {problem}")
    device = device_name(choose_device(config))
    return Row(name, config.family, device, config.precision, config.compile, config.batch, problem=problem)


def images_per_second(history: Path) -> float | None:
    """Median over the lines of a history.jsonl after the first quarter of them, one at least; None without further."""
    rows = [json.loads(line) for line in history.read_text().splitlines()]
    rates = [row["images_per_second"] for row in rows if "images_per_second" in row]
    kept = rates[max(1, len(rates) // 4) :]
    return statistics.median(kept) if kept else None


def forget_peak(device: torch.device) -> None:
    """Let `peak_memory` begin anew, as far as this machine can."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    elif os.access(_FORGET, os.W_OK):
        _FORGET.write_text("5")


def peak_memory(device: torch.device) -> float | None:
    """GiB since `forget_peak`: of tensors on a CUDA device, or else of the process; None where nothing tells."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    found = re.search(r"^VmHWM:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE) if _STATUS.is_file() else None
    return int(found[1]) / 2**20 if found else None


def device_name(device: torch.device) -> str:
    """`cpu`, or what the CUDA device calls itself."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def table(rows: Sequence[Row]) -> str:
    """The rows in columns, and under them the problems; ratios are to the first row."""
    head = ("model", "family", "device", "precision", "compiled", "batch", "images/s", "ratio", "peak GiB", "steps")
    lines = [(*head, "kimg", "SWD")]
    base = rows[0].images_per_second
    for row in rows:
        rate = row.images_per_second
        lines.append(
            (
                row.name,
                row.family,
                row.device,
                row.precision,
                "yes" if row.compiled else "no",
                str(row.batch),
                _number(rate, 1),
                _number(None if rate is None or base is None else rate / base, 2),
                _number(row.peak, 2),
                _number(row.steps, 0),
                _number(None if row.steps is None else row.steps * row.batch / 1000, 1),
                _number(row.distance, 1),
            )
        )
    return "\n".join([aligned(lines, left=5), *(f"{row.name}: {row.problem}" for row in rows if row.problem)])


def aligned(lines: Sequence[Sequence[str]], left: int) -> str:
    """Lines of as many values each in columns, the first `left` of them to the left."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            value.ljust(width) if column < left else value.rjust(width)
            for column, (value, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def sections(given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The `train` sections by the models' names: every family in every precision, and compiled where that is asked.

    Raises:
        Refused: for a family that is named twice, or a section for one that is not named.
    """
    families, precisions = given.families.split(","), given.precision.split(",")
    for names, option in ((families, "--families"), (precisions, "--precision")):
        if len(set(names)) < len(names):
            raise Refused(f"{option}: found {','.join(names)}; each once")
    for family, section in given.train.items():
        if family not in families or not isinstance(section, dict):
            raise Refused(f"--train: found {family}: {section!r}; give sections of {', '.join(families)}")
    made = {}
    for family in families:
        for precision in precisions:
            for compiled in (False, True) if given.compile else (False,):
                name = "-".join([family, *[precision] * (len(precisions) > 1), *["compiled"] * compiled])
                decided = {"family": family, "precision": precision, "compile": compiled, "device": given.device}
                batch = {} if given.batch is None else {"batch": given.batch}
                made[name] = {**LIMITED, **given.train.get(family, {}), **batch, **decided}
    return made


def run(given: argparse.Namespace, report: Report) -> bool:
    """Prepare the data, measure every model and write the table; whether all could be measured.

    Raises:
        Refused: where the request is wrong.
        Failed: where the data cannot be prepared.
    """
    train = sections(given)
    ingest = {"source": given.source, "path": str(given.data.absolute()), "size": given.size}
    ingest |= {"channels": given.channels} | ({} if given.limit is None else {"limit": given.limit})
    content = {"models": list(train), "ingest": ingest, "embed": {"encoder": "none"}, "train": train}
    project = open_project(given.out / "project", content)
    stages.ingest(project, report)
    split = load_split(project.prepared, None, "train")
    reals = chosen_reals(split, given.samples)
    spec = split.spec
    head = (
        f"{len(split.images):,} training images of {spec.size} x {spec.size} x {spec.channels}; "
        f"{given.minutes:g} min each; torch {torch.__version__}\n"
        f"SWD from {len(reals.images):,} real images; other real ones: {reals.floor:.1f}\n\n"
    )
    rows: list[Row] = []
    for name in train:
        rows.append(measured(project, name, given.minutes, reals, given.out, report))
        write_whole(given.out / "table.txt", (head + table(rows) + "\n").encode())
    print(head + table(rows))
    report(f"table, grids and logs: {given.out}")
    return not any(row.problem for row in rows)


def mapping(text: str) -> dict[str, Any]:
    """An option in YAML."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise argparse.ArgumentTypeError(f"found {text!r}; expected keys and values in YAML, as {{key: value}}")
    return content


def positive(text: str) -> float:
    """A number above 0."""
    if not 0 < float(text) < float("inf"):
        raise argparse.ArgumentTypeError(f"found {text}; take more than 0")
    return float(text)


def whole(text: str) -> int:
    """A whole number above 0."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text}; take 1 or more")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="class folders in a folder, zip or tar, or MNIST's folder")
    parser.add_argument("--families", default="r3gan,biggan,dcgan", help="names of `ganlib list families`, with commas")
    parser.add_argument("--precision", default="auto", help="auto, float32 and bfloat16; several with commas")
    parser.add_argument("--compile", action="store_true", help="every model once more with compiled networks")
    parser.add_argument("--minutes", type=positive, default=3.0, help="of training, each")
    parser.add_argument("--batch", type=whole, help="of all families, in the place of their own")
    parser.add_argument("--train", type=mapping, default={}, help="`train` sections by family, {dcgan: {batch: 64}}")
    parser.add_argument("--source", choices=("folder", "mnist"), default="folder", help="the reader")
    parser.add_argument("--size", type=whole, default=32, help="pixels of a side")
    parser.add_argument("--channels", type=int, choices=(1, 3), default=3, help="1 for grey")
    parser.add_argument("--limit", type=whole, help="images to take of the data, at most")
    parser.add_argument("--samples", type=whole, default=1000, help="images to compare with as many real ones")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: CUDA if there is one")
    parser.add_argument("--out", type=Path, default=Path("build/accelerator"), help="folder for what is found")
    try:
        return 0 if run(parser.parse_args(arguments), lambda line: print(line, file=sys.stderr, flush=True)) else 1
    except (Refused, Failed) as error:
        print(f"benchmarks.accelerator: {error}", file=sys.stderr)
        return 2 if isinstance(error, Refused) else 1


if __name__ == "__main__":
    sys.exit(main())
