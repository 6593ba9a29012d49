"""GAN families side by side: `python -m flows.compare PROJECT` trains each of them on one dataset under one budget, and
writes a table and a picture with a row for each model.

What is compared stands in a plan, PROJECT/compare.yaml:

    kimg: 300                       # the budget of each model
    defaults: {batch: 64}           # laid under the `train` section of each
    families: {dcgan: {}, sngan: {network: {width: 64}}}  # over the preset of each, what is given here
    losses: [own, hinge]            # every family with each of them; own is what the family has
    evaluate: {samples: 5000}       # laid over the project's section
    columns: 10                     # images in a row of the picture

`kimg` are thousands of real images shown to the discriminator, so that a family with more discriminator steps has fewer
generator steps: 1000 kimg / (batch * discriminator_steps), rounded down, boosts counted too. Real images that generator
steps look at, as relativistic ones do, are not counted.

The models become a project of their own (--out, usually PROJECT/build/compare) with the plan and the raw data of the
project, so a second run with another family trains that one alone. A model that fails gets a row that says why, and the
next run tries it again. Exit codes: 0 there is a comparison, 1 nothing could be compared, 2 the request or the plan was
wrong.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from flows import comparison_picture, summary
from flows.dvc import StageFailed, due_stages
from flows.pipeline import SETTINGS
from ganlib.config import Positive, Section, Train, merge
from ganlib.files import write_whole
from ganlib.problems import Failed, Refused, first_problem

OWN = "own"
LAST = "evaluate"  # the stage that a comparison wants of each model, with all that this one needs
MADE = "# Made by `python -m flows.compare`, anew each time: change its plan instead.\n"
DVC_CONFIG = "[core]\n    no_scm = true\n    analytics = false\n    autostage = false\n    check_update = false\n"
DVC_IGNORE = ".checkpoints/\nruns/\n.[0-9]*.*\n"

Known = Mapping[str, Mapping[str, Any]]


class Plan(Section):
    """compare.yaml."""

    kimg: float = Field(gt=0, allow_inf_nan=False, description="thousands of real images shown to a discriminator")
    defaults: dict[str, Any] = Field({}, description="a `train` section laid under every model's")
    families: dict[str, dict[str, Any] | None] = Field(min_length=1, description="`train` sections by family")
    losses: list[str] = Field([OWN], min_length=1, description="names of `ganlib list losses`, or own")
    evaluate: dict[str, Any] = Field({}, description="laid over the project's section of that name")
    columns: Positive = Field(10, description="images in a row of the picture")


@dataclass(frozen=True)
class Entry:
    """A model to compare.

    Attributes:
        name: in params.yaml.
        section: its `train` section there.
        train: the same with the family's preset under it.
    """

    name: str
    section: Mapping[str, Any]
    train: Train


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code."""
    options = _parser().parse_args(arguments)
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        return _compare(options)
    except (Refused, Failed) as error:
        print(f"flows.compare: {error}", file=sys.stderr)
        return 2 if isinstance(error, Refused) else 1


def _compare(options: argparse.Namespace) -> int:
    project: Path = options.project
    file: Path = options.plan or project / "compare.yaml"
    out: Path = options.out or project / "build" / "compare"
    given = {"kimg": options.kimg, "families": options.families, "losses": options.losses}
    plan = open_plan(file, {key: value for key, value in given.items() if value is not None})
    known: Known = json.loads(_ganlib("list", "families", "--json"))
    try:
        entries = entries_of(plan, known)
    except Refused as error:
        raise Refused(f"{file}: {error}") from error
    content = parameters(project, out, plan, entries)
    try:
        check(content, entries[0].name)
    except Refused as error:
        raise Refused(f"{file}: {error}") from error
    if options.dry_run:
        heads = ["model", "loss", "batch", "discriminator_steps", "steps"]
        lines = [[entry.name, *(str(getattr(entry.train, head)) for head in heads[1:])] for entry in entries]
        print(f"{summary.text([heads, *lines])}\n\nProject: {out}")
        return 0
    make(project, out, content)

    def finish(failures: Iterable[StageFailed]) -> list[comparison_picture.Row]:
        asked = [(entry.name, entry.train.family, entry.train.loss) for entry in entries]
        rows = comparison_picture.read_rows(asked, reasons(failures), out)
        about = {name: family["description"] for name, family in known.items()}
        comparison_picture.write(rows, plan.kimg, about, plan.columns, out)
        return rows

    rows = _run(out, options.jobs, finish)
    print(f"\n{summary.text(comparison_picture.table(rows))}\n\nComparison")
    for end in ("md", "csv", "png"):
        print(f"  {summary.shown(out.resolve() / f'comparison.{end}')}", flush=True)
    for row in rows:
        if row.failed:
            print(f"flows.compare: {row.name} failed: {row.failed}", file=sys.stderr)
    return 0 if any(row.model is not None for row in rows) else 1


def open_plan(file: Path, given: Mapping[str, Any]) -> Plan:
    """Read a plan.

    Args:
        file: compare.yaml; it may be missing where `given` has all that is needed.
        given: `kimg` and lists `families` and `losses` that are taken in place of the file's.

    Raises:
        Refused: one line with the file, the key, what was found and what would do.
    """
    content: Any = {}
    if file.is_file():
        try:
            content = yaml.safe_load(file.read_text())
        except yaml.YAMLError as error:
            raise Refused(f"{file}: not YAML: {' '.join(str(error).split())}") from error
        if not isinstance(content, dict):
            raise Refused(f"{file}: found {type(content).__name__}; expected kimg, families and the like")
    elif not {"kimg", "families"} <= given.keys():
        raise Refused(f"{file}: no such file; write a plan, or give --kimg and --families")
    described = content.get("families")
    content = content | given
    if "families" in given:
        described = described if isinstance(described, dict) else {}
        content["families"] = {name: described.get(name) for name in given["families"]}
    try:
        plan = Plan.model_validate(content)
    except ValidationError as error:
        raise Refused(f"{file}: {first_problem(error, Plan.model_fields)}") from error
    for key, section in {
        "defaults": plan.defaults,
        **{f"families.{k}": v or {} for k, v in plan.families.items()},
    }.items():
        for wrong, reason in _DECIDED.items():
            if wrong in section and (wrong != "loss" or key == "defaults"):
                raise Refused(f"{file}: {key}.{wrong}: {reason}; remove it")
    return plan


_DECIDED = {
    "steps": "kimg decides the steps",
    "family": "a family is named by its key",
    "loss": "every family has its own, or those of losses",
}


def entries_of(plan: Plan, known: Known) -> list[Entry]:
    """The models of a plan: every family with each loss, the same combination once.

    Args:
        plan: what is compared.
        known: what `ganlib list families --json` prints.

    Raises:
        Refused: for an unknown family, a `train` section that is wrong, or a budget below one step.
    """
    entries: dict[str, Entry] = {}
    for family, over in plan.families.items():
        if family not in known:
            raise Refused(f"families: found {family!r}; expected one of {', '.join(known)}")
        preset = known[family]["preset"]
        section = {"family": family, **merge(plan.defaults, over or {})}
        own = merge(preset, section).get("loss", Train.model_fields["loss"].default)
        for loss in plan.losses:
            if loss == own and OWN in plan.losses:
                continue
            name, chosen = (family, section) if loss == OWN else (f"{family}-{loss}", {**section, "loss": loss})
            if name in entries:
                raise Refused(f"losses: two models are called {name}; name each loss once, or drop a family")
            try:
                train = Train.model_validate(merge(preset, chosen))
            except ValidationError as error:
                raise Refused(f"train.{name}.{first_problem(error, Train.model_fields)}") from error
            steps = steps_within(train, plan.kimg)
            if not steps:
                raise Refused(f"kimg: found {plan.kimg:g}; a single step of {name} shows more images")
            entries[name] = Entry(name, {**chosen, "steps": steps}, train.model_copy(update={"steps": steps}))
    return list(entries.values())


def steps_within(train: Train, kimg: float) -> int:
    """The most training steps that show the discriminator no more than `kimg` thousand real images."""
    budget = round(kimg * 1000)
    shown = partial(comparison_picture.images_shown, train)
    return bisect_right(range(budget // train.batch + 1), budget, key=shown) - 1


def parameters(project: Path, out: Path, plan: Plan, entries: Sequence[Entry]) -> dict[str, Any]:
    """What the comparison's params.yaml holds: the project's, with these models in the place of its own.

    Args:
        project: whose data is learnt from.
        out: folder of the comparison, which a relative path of the data is told from.
        plan: how it is evaluated.
        entries: the models.

    Raises:
        Refused: where the project has no settings.
    """
    file = project / "params.yaml"
    content = yaml.safe_load(file.read_text()) if file.is_file() else None
    if not isinstance(content, dict) or not isinstance(content.get("ingest"), dict):
        raise Refused(f"{file}: found no settings of a project; name a project's folder")
    ingest = dict(content["ingest"])
    path = ingest.get("path")
    if isinstance(path, str) and path[:1] not in ("$", "~", "/") and Path(path).parts[:2] != ("data", "raw"):
        ingest["path"] = os.path.relpath((project / path).resolve(), out.resolve())
    return content | {
        "models": [entry.name for entry in entries],
        "ingest": ingest,
        "train": {entry.name: dict(entry.section) for entry in entries},
        "evaluate": merge(content.get("evaluate") or {}, plan.evaluate),
    }


def check(content: Mapping[str, Any], model: str) -> None:
    """Have ganlib check a whole params.yaml.

    Args:
        content: what it holds.
        model: one of its models.

    Raises:
        Refused: one line with the key, what was found and what would do.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "params.yaml"
        file.write_text(yaml.safe_dump(content))
        try:
            _ganlib("train", model, "--dry-run", "--params", str(file))
        except Refused as error:
            raise Refused(str(error).removeprefix(f"{file}: ")) from error


def make(project: Path, out: Path, content: Mapping[str, Any]) -> None:
    """Write the comparison's project: params.yaml, the project's dvc.yaml, a link to its raw data, and settings with
    which DVC works in and outside of a git repository.

    Args:
        project: whose data is learnt from.
        out: the folder; what an earlier comparison left there is kept.
        content: of params.yaml.

    Raises:
        Refused: where something else stands in its place, or the project lacks what is needed.
    """
    file, raw, link = out / "params.yaml", project / "data" / "raw", out / "data" / "raw"
    if file.is_file() and not file.read_text().startswith(MADE):
        raise Refused(f"--out: {out} is a project and no comparison; name another folder")
    for needed in (project / "dvc.yaml", raw):
        if not needed.exists():
            raise Refused(f"{needed}: missing; a project has a dvc.yaml, and data/raw, which may be empty")
    if link.exists() and link.resolve() != raw.resolve():
        raise Refused(f"{link}: found other data than {raw}; remove it, or name another --out")
    write_whole(file, (MADE + yaml.safe_dump(content, sort_keys=False, width=120)).encode())
    write_whole(out / "dvc.yaml", (project / "dvc.yaml").read_bytes())
    write_whole(out / ".dvc" / "config", DVC_CONFIG.encode())
    write_whole(out / ".dvcignore", DVC_IGNORE.encode())
    if not link.exists():
        link.unlink(missing_ok=True)  # one that leads nowhere
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(os.path.relpath(raw.resolve(), link.parent.resolve()), target_is_directory=True)


def _run(out: Path, jobs: int, finish: Callable[[Iterable[StageFailed]], list[Any]]) -> list[Any]:
    """Train and evaluate what is not up to date, in a flow with the comparison as artifacts, and give what `finish`
    makes of the stages that failed."""
    due = due_stages(out, [LAST])
    if not due:
        print("Every model is up to date: nothing to run.")
        return finish(())
    if jobs > 1:  # they share the processor: threads of several stages on one core wait for each other
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    print(f"To run, at most {jobs} at once: {', '.join(due)}", flush=True)

    from prefect import flow
    from prefect.artifacts import create_image_artifact, create_markdown_artifact

    from flows.graph import pipeline
    from flows.server import server

    @flow(name="compare")
    def compare(out: Path, jobs: int) -> list[Any]:
        run: Any = pipeline(out, [LAST], jobs, return_state=True).result(raise_on_failure=False)
        if isinstance(run, Exception):  # what went wrong between the stages
            raise run
        rows = finish(run.failures)
        create_markdown_artifact((out / "comparison.md").read_text(), key="comparison", description="models")
        encoded = base64.b64encode((out / "comparison.png").read_bytes()).decode()
        create_image_artifact(f"data:image/png;base64,{encoded}", key="comparison-picture")
        return rows

    try:
        with server():
            return compare(out, jobs)
    except KeyboardInterrupt:
        raise Failed("interrupted, and no stage runs any more; the same command goes on from here") from None


def reasons(failures: Iterable[StageFailed]) -> dict[str, str]:
    """Why models failed, by their names, each in one line.

    Raises:
        Refused: where a stage that all models need failed for a wrong setting.
        Failed: where it failed otherwise.
    """
    found: dict[str, str] = {}
    for failure in failures:
        stage, _, model = failure.stage.partition("@")
        said = [line for line in failure.tail if not line.startswith("ERROR: failed to ")]
        ours = [line.removeprefix("ganlib: ") for line in said if line.startswith("ganlib: ")]
        reason = (ours or said or [str(failure)])[-1]
        if not model:
            raise (Refused if failure.code == 2 else Failed)(f"stage {stage} failed: {reason}")
        found[model] = reason.removeprefix(f"{model}: ").partition("; ")[0]  # what would do is in the log
    return found


def _ganlib(*arguments: str) -> str:
    """What a command of ganlib prints; where it ends with an error, its line as `Refused` or `Failed`."""
    done = subprocess.run([sys.executable, "-m", "ganlib", *arguments], capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"ganlib {arguments[0]} ended with {done.returncode}"]
        raise (Refused if done.returncode == 2 else Failed)(said[-1].removeprefix("ganlib: "))
    return done.stdout


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flows.compare", description="GAN families side by side: a table and a picture."
    )
    parser.add_argument("project", type=Path, metavar="PROJECT", help="folder of the project whose data is learnt from")
    parser.add_argument("--plan", type=Path, metavar="FILE", help="what is compared (default: PROJECT/compare.yaml)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="of the comparison (default: PROJECT/build/compare)")
    parser.add_argument("--families", type=_names, metavar="A,B", help="these, with what the plan has for them")
    parser.add_argument("--losses", type=_names, metavar="A,B", help="each with every family; own is the family's")
    parser.add_argument("--kimg", type=float, help="thousands of real images shown to each discriminator")
    parser.add_argument(
        "--jobs", type=_positive, default=1, metavar="N",
        help="stages that may run at once, each with its share of the cores (default 1: one has every core or the GPU)",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="show the models and their steps, and train none")
    return parser


def _names(value: str) -> list[str]:
    return [name.strip() for name in value.split(",") if name.strip()]


def _positive(value: str) -> int:
    number = int(value)
    if number < 1:
        raise ValueError(value)
    return number


if __name__ == "__main__":
    sys.exit(main())
