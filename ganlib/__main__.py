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
Package = Annotated[Path, typer.Argument(help="a package: models/NAME/package, or NAME@prod with --registry")]
RegistryOption = Annotated[
    str | None,
    typer.Option("--registry", help="a project's git repository, path or address: packages are its releases"),
]
CacheOption = Annotated[
    Path | None, typer.Option("--cache", help="where releases are kept; where not given a folder of the user's")
]


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


class Device(StrEnum):
    """Where a package runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    tensorrt = "tensorrt"


class Precision(StrEnum):
    """The numbers that a generator's graph computes in."""

    auto = "auto"
    float32 = "float32"
    float16 = "float16"
    int8 = "int8"


@app.command()
def export(
    name: Annotated[str | None, typer.Argument(help="a model of params.yaml's section train")] = None,
    params: ParamsFile = HERE,
    dry_run: DryRun = False,
    check: Annotated[
        Path | None, typer.Option(help="in place of NAME: a package to check, anywhere and without torch")
    ] = None,
    device: Annotated[Device, typer.Option(help="of --check: where its graphs are run")] = Device.auto,
) -> None:
    """The package of a trained generator, models/NAME/package; or, by --check, whether one is sound."""
    if (name is None) is (check is None):
        found = "neither" if name is None else f"{name} and --check {check}"
        raise Refused(f"export: found {found}; name a model to export, or a package by --check")
    if check is None:
        _run("export", params, dry_run, name)
        return
    from ganlib.inference.verify import verify

    package = verify(check, say, device.value)
    say(f"{package.card.name}: {check} is sound")


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
    package: Package,
    out: Annotated[Path, typer.Option(help="a .png file (a grid where --count is above 1), or a folder")],
    prompt: Annotated[str | None, typer.Option(help="what to show, for a text-to-image model")] = None,
    class_name: Annotated[str | None, typer.Option("--class", help="a class, for a class-conditional model")] = None,
    count: Annotated[int, typer.Option(help="images; image i has the seed SEED + i")] = 1,
    seed: Annotated[int | None, typer.Option(help="the same seed gives the same bytes; drawn where not given")] = None,
    truncation: Annotated[float, typer.Option(help="above 0, at most 1; lower is more typical, less varied")] = 1.0,
    to_seed: Annotated[int | None, typer.Option(help="interpolate: --count frames from --seed to this one")] = None,
    to_prompt: Annotated[str | None, typer.Option(help="interpolate: --count frames from --prompt to this one")] = None,
    position: Annotated[float | None, typer.Option(help="no frames, but images at 0 to 1 of that way")] = None,
    device: Annotated[
        Device, typer.Option(help="auto says what it got; a GPU that is named and not to be had is an error")
    ] = Device.auto,
    precision: Annotated[Precision, typer.Option(help="auto takes what the card prefers there")] = Precision.auto,
    threads: Annotated[int, typer.Option(help="of the runtime; 0 takes every core")] = 0,
    sign_certificate: Annotated[
        Path | None, typer.Option(help="C2PA: chain of certificates in PEM, the signer's first")
    ] = None,
    sign_key: Annotated[Path | None, typer.Option(help="C2PA: the signer's private key in PEM")] = None,
    timestamp_url: Annotated[str | None, typer.Option(help="C2PA: a time-stamping authority to ask")] = None,
    grid: Annotated[bool, typer.Option("--grid", help="into a folder: one picture of all as well")] = False,
    registry: RegistryOption = None,
    cache: CacheOption = None,
) -> None:
    """Images from a package, by prompt or class; needs no torch."""
    from ganlib.inference import command
    from ganlib.inference.references import package_of
    from ganlib.inference.signing import asked_signer

    signer = asked_signer(sign_certificate, sign_key, timestamp_url)
    command.generate(
        package_of(package, registry, cache), prompt, class_name, count, seed, truncation, out, say,
        to_seed=to_seed, to_prompt=to_prompt, position=position, device=device.value, threads=threads,
        precision=precision.value, with_grid=grid, sign=signer.sign if signer else None,
    )  # fmt: skip


@app.command()
def card(
    package: Package,
    registry: RegistryOption = None,
    cache: CacheOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="card.json as it is, for programs")] = False,
) -> None:
    """What a package is: lineage, parameters, scores and files, as Markdown; every byte is checked, needs no torch."""
    from ganlib.inference.model_card import markdown
    from ganlib.inference.package import CARD, open_package
    from ganlib.inference.references import package_of

    folder = package_of(package, registry, cache)
    say((open_package(folder).folder / CARD).read_text("utf-8").rstrip() if as_json else markdown(folder))


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False) -> None:
    """What this machine can do: versions, devices that really work, extras, memory; exit code 1 where it cannot run."""
    from ganlib.inference.doctor import examine

    findings = examine()
    say(findings.model_dump_json(indent=2) if as_json else "\n".join(findings.lines()))
    if findings.problems:
        raise typer.Exit(1)


@app.command()
def freeze(
    out: Annotated[Path, typer.Option(help="a new folder; never changed afterwards")], params: ParamsFile = HERE
) -> None:
    """Today's test images and extractor as a frozen set, which packages of any day are scored on."""
    from ganlib import scoring
    from ganlib.project import Project

    scoring.freeze(Project.open(params), out, say)


@app.command()
def score(
    package: Annotated[Path, typer.Argument(help="a package: models/NAME/package")],
    frozen: Annotated[Path, typer.Option(help="what `ganlib freeze` wrote")],
    out: Annotated[Path, typer.Option(help="the file to write, JSON")],
    seeds: Annotated[int, typer.Option(help="how often, under the seeds 0, 1, ...; noise shows from 2 on")] = 5,
    device: Annotated[Device, typer.Option(help="the same for all that is to be compared")] = Device.cpu,
    threads: Annotated[int, typer.Option(help="of the runtime; 0 takes every core")] = 1,
) -> None:
    """What a package scores on a frozen set, seed by seed and class by class, and how long it takes."""
    from ganlib import scoring

    scoring.score(package, frozen, seeds, out, say, device=device.value, threads=threads)


@app.command()
def batch(
    package: Package,
    requests: Annotated[
        Path, typer.Argument(help=".csv, .jsonl or .parquet: prompt or class, seed, count, truncation")
    ],
    out: Annotated[Path, typer.Option(help="folder of the job; the same command goes on there")],
    shard_size: Annotated[int, typer.Option(help="images in a shard")] = 1000,
    seed: Annotated[int, typer.Option(help="where a row says none: image i of the job has SEED + i")] = 0,
    truncation: Annotated[float, typer.Option(help="where a row says none")] = 1.0,
    device: Annotated[Device, typer.Option(help="auto says what it got; cuda fails without CUDA")] = Device.auto,
    threads: Annotated[int, typer.Option(help="of the runtime; 0 takes every core")] = 0,
    precision: Annotated[Precision, typer.Option(help="auto takes what the card prefers there")] = Precision.auto,
    strict: Annotated[bool, typer.Option("--strict", help="do not start where a row is rejected")] = False,
    registry: RegistryOption = None,
    cache: CacheOption = None,
) -> None:
    """Images of a table of requests, as WebDataset shards with Parquet manifests; needs no torch."""
    from ganlib.inference.batch import command
    from ganlib.inference.references import package_of

    command.batch(
        package_of(package, registry, cache), requests, out, say,
        shard_size=shard_size, seed=seed, truncation=truncation,
        device=device.value, threads=threads, precision=precision.value, strict=strict,
    )  # fmt: skip


@app.command()
def serve(
    packages: Annotated[
        list[Path] | None, typer.Argument(help="packages: models/NAME/package, or NAME@prod with --registry")
    ] = None,
    repository: Annotated[
        Path | None, typer.Option(help="in place of packages: a folder of NAME/VERSION/, followed as it changes")
    ] = None,
    registry: RegistryOption = None,
    cache: CacheOption = None,
    keep: Annotated[int, typer.Option(help="of a repository or registry: versions of a model served at most")] = 2,
    interval: Annotated[
        float | None, typer.Option(help="seconds between looks; where not given 2 at a repository, 30 at a registry")
    ] = None,
    host: Annotated[str, typer.Option(help="where to listen; 0.0.0.0 for other machines")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="where to listen; 0 takes a free one")] = 8000,
    token_file: Annotated[
        Path | None, typer.Option(help="a file with the bearer token that clients have to show")
    ] = None,
    device: Annotated[
        Device, typer.Option(help="auto says what it got; a GPU that is named and not to be had is an error")
    ] = Device.auto,
    precision: Annotated[Precision, typer.Option(help="auto takes what the card prefers there")] = Precision.auto,
    threads: Annotated[int, typer.Option(help="of one run; 0 takes every core")] = 1,
    workers: Annotated[
        int | None, typer.Option(help="runs at a time; where not given a core each, one on a GPU")
    ] = None,
    queue: Annotated[int, typer.Option(help="images of a version that may wait; more are answered by 429")] = 256,
    timeout: Annotated[float, typer.Option(help="seconds that a request may take; then 504")] = 30.0,
    grace: Annotated[float, typer.Option(help="seconds after SIGTERM for what was accepted")] = 30.0,
    largest_body: Annotated[int, typer.Option(help="bytes of a request's body; more are answered by 413")] = 16 * 2**20,
    largest_count: Annotated[int, typer.Option(help="images of a request of the OpenAI API")] = 10,
    triton_repository: Annotated[
        Path | None, typer.Option(help="write the folder that Triton serves from the packages, and end")
    ] = None,
) -> None:
    """Packages over HTTP: Open Inference Protocol, OpenAI images API, a page, metrics; needs no torch."""
    from ganlib.serving import command

    command.serve(
        packages or [], repository, say, registry=registry, cache=cache, keep=keep, interval=interval,
        host=host, port=port, token_file=token_file, device=device.value, precision=precision.value,
        threads=threads, workers=workers, queue=queue, timeout=timeout, grace=grace,
        largest_body=largest_body, largest_count=largest_count, triton_repository=triton_repository,
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
