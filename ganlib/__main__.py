"""The command line: `ganlib ...` or `python -m ganlib ...`. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
import yaml

from ganlib.problems import Failed, Refused

app = typer.Typer(
    help="From images and captions to a served GAN generator.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
ParamsFile = Annotated[Path, typer.Option("--params", help="the settings; results are written beside it")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="show the resolved settings and do nothing")]
ModelName = Annotated[str, typer.Argument(help="a model of params.yaml's section train")]
HERE = Path("params.yaml")


def say(line: str) -> None:
    """A line for the user, at once."""
    print(line, flush=True)


def _run(stage: str, params: Path, dry_run: bool, name: str | None = None) -> None:
    from ganlib import stages
    from ganlib.processes import follow_parent
    from ganlib.project import Project

    project = Project.open(params)
    section = project.training(name) if stage == "train" and name else getattr(project.params, stage)
    if name:
        project.training(name)
    if dry_run:
        title = f"{stage}.{name}" if stage == "train" and name else stage
        say(yaml.safe_dump({title: section.model_dump(mode="json")}, sort_keys=False).rstrip())
        return
    if os.environ.get("RANK", "0") == "0":  # torchrun numbers its processes: one of them speaks
        say(f"{stage}: {json.dumps(section.model_dump(mode='json'))}")
    follow_parent()
    run: Callable[..., None] = getattr(stages, stage)
    run(project, name, say) if name else run(project, say)


@app.command()
def ingest(params: ParamsFile = HERE, dry_run: DryRun = False) -> None:
    """Raw files to the prepared dataset, data/prepared."""
    _run("ingest", params, dry_run)


@app.command()
def embed(params: ParamsFile = HERE, dry_run: DryRun = False) -> None:
    """Captions to vectors and their encoder, data/embedded."""
    _run("embed", params, dry_run)


@app.command()
def extractor(params: ParamsFile = HERE, dry_run: DryRun = False) -> None:
    """The networks that judge, trained on the real data, models/extractor."""
    _run("extractor", params, dry_run)


@app.command()
def train(name: ModelName, params: ParamsFile = HERE, dry_run: DryRun = False) -> None:
    """A generator, models/NAME; goes on where an interrupted run stopped."""
    _run("train", params, dry_run, name)


@app.command()
def evaluate(name: ModelName, params: ParamsFile = HERE, dry_run: DryRun = False) -> None:
    """Scores and pictures of a trained generator, reports/NAME."""
    _run("evaluate", params, dry_run, name)


@app.command()
def export(name: ModelName, params: ParamsFile = HERE, dry_run: DryRun = False) -> None:
    """The package of a trained generator, models/NAME/package."""
    _run("export", params, dry_run, name)


class Device(StrEnum):
    """Where a package runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Listable(StrEnum):
    """What `ganlib list` knows."""

    families = "families"
    losses = "losses"
    penalties = "penalties"
    augmentations = "augmentations"
    datasets = "datasets"
    encoders = "encoders"
    metrics = "metrics"


@app.command(name="list")
def list_(
    what: Annotated[Listable, typer.Argument(help="the registry to show")],
    as_json: Annotated[bool, typer.Option("--json", help="with all details, for programs")] = False,
) -> None:
    """The names that params.yaml may use, and what they are."""
    from ganlib.registries import describe

    entries = describe(what.value)
    if as_json:
        say(json.dumps(entries, indent=2))
        return
    width = max(len(name) for name in entries)
    for name, entry in entries.items():
        say(f"{name:<{width}}  {entry['description']}")


@app.command()
def generate(
    package: Annotated[Path, typer.Argument(help="a package: models/NAME/package")],
    out: Annotated[Path, typer.Option(help="a .png file (a grid where --count is above 1), or a folder")],
    prompt: Annotated[str | None, typer.Option(help="what to show, for a text-to-image model")] = None,
    class_name: Annotated[str | None, typer.Option("--class", help="a class, for a class-conditional model")] = None,
    count: Annotated[int, typer.Option(help="images; image i has the seed SEED + i")] = 1,
    seed: Annotated[int | None, typer.Option(help="the same seed gives the same bytes; drawn where not given")] = None,
    truncation: Annotated[float, typer.Option(help="above 0, at most 1; lower is more typical, less varied")] = 1.0,
    device: Annotated[Device, typer.Option(help="auto says what it got; cuda fails without CUDA")] = Device.auto,
    threads: Annotated[int, typer.Option(help="of the runtime; 0 takes every core")] = 0,
    grid: Annotated[bool, typer.Option("--grid", help="into a folder: one picture of all as well")] = False,
) -> None:
    """Images from a package, by prompt or class; needs no torch."""
    from ganlib.inference import command

    command.generate(
        package, prompt, class_name, count, seed, truncation, out, say,
        device=device.value, threads=threads, with_grid=grid,
    )  # fmt: skip


def main() -> None:
    """Run the command line; an expected problem is one line, on standard error.

    Exit codes: 0 done, 1 failed while working, 2 the request or the configuration was wrong.
    """
    arguments = [argument for argument in sys.argv[1:] if argument != "--verbose"]
    try:
        app(args=arguments)
    except (Refused, Failed) as error:
        if "--verbose" in sys.argv:
            traceback.print_exc()
        print(f"ganlib: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, Refused) else 1)


if __name__ == "__main__":
    main()
