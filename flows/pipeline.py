"""Bring a project up to date: `python -m flows.pipeline [STAGE...]`, the end of `make demo`.

The plan is dvc.yaml, each of its stages runs as a Prefect task through `dvc repro`, and both see the same results
afterwards. Where nothing has changed it says so, and starts nothing. Exit codes: 0 done, 1 a stage failed or it was
interrupted, 2 the request or the configuration was wrong.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows import summary
from flows.dvc import Outcome, due_stages, read_plan
from ganlib.problems import Failed, Refused

if TYPE_CHECKING:
    from flows.graph import Run

# What this command wants of Prefect and of its server, unless whoever runs it has said something else. Where no server
# is configured, one is started for the run; its records lie where Prefect keeps them (PREFECT_HOME).
SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code."""
    options = _parser().parse_args(arguments)
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        return _run(options.project, options.stages, options.jobs, options.dry_run)
    except (Refused, Failed) as error:
        print(f"flows.pipeline: {error}", file=sys.stderr)
        return 2 if isinstance(error, Refused) else 1


def _run(project: Path, stages: Sequence[str], jobs: int, dry_run: bool) -> int:
    due = due_stages(project, stages)
    if dry_run:
        for stage, needed in read_plan(project).items():
            needs = f"needs {', '.join(needed)}" if needed else ""
            print(f"{'run' if stage in due else 'up to date':<12}{stage:<24}{needs}".rstrip())
        return 0
    if not due:
        print("Every stage is up to date: nothing to run.")
        _show(project, ())
        return 0
    if jobs > 1:  # they share the processor: threads of several stages on one core wait for each other
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    print(f"To run, at most {jobs} at once: {', '.join(due)}", flush=True)

    from flows.graph import pipeline
    from flows.server import server

    try:
        with server():
            state = pipeline(project, stages, jobs, return_state=True)
    except KeyboardInterrupt:
        raise Failed("interrupted, and no stage runs any more; the same command goes on from here") from None
    if not state.is_completed() and not state.is_failed():
        raise Failed(f"the flow ended as {state}")
    run: Any = state.result(raise_on_failure=False)  # a `Run`, or what went wrong between the stages
    if isinstance(run, Exception):
        raise run
    _show(project, run.outcomes)
    return _explain(run)


def _explain(run: Run) -> int:
    """Say what failed, with the last lines of each, and give the exit code."""
    for failure in run.failures:
        print(f"\nThe last lines of {failure.stage}:", *failure.tail, sep="\n  ", file=sys.stderr)
    for failure in run.failures:
        print(f"flows.pipeline: {failure}", file=sys.stderr)
    if run.skipped:
        print(f"flows.pipeline: not started, for need of these: {', '.join(run.skipped)}", file=sys.stderr)
    if not run.failures:
        return 0
    return 2 if all(failure.code == 2 for failure in run.failures) else 1


def _show(project: Path, outcomes: Sequence[Outcome]) -> None:
    """Print what the project has: metrics, pictures and what to try."""
    models = summary.read_models(project.resolve())
    if not models:
        return
    print("\n" + summary.text(summary.table(models, outcomes)))
    print("\nPictures", *(summary.shown(picture) for model in models for picture in model.pictures), sep="\n  ")
    print("\nTry", *summary.next_commands(models), sep="\n  ", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m flows.pipeline", description="Bring a project up to date.")
    parser.add_argument(
        "stages", nargs="*", metavar="STAGE", help="these and what they need; `train` stands for every train@..."
    )
    parser.add_argument("--project", type=Path, default=Path(), help="folder with a dvc.yaml (default: this one)")
    parser.add_argument(
        "--jobs", type=_positive, default=1, metavar="N",
        help="stages that may run at once, each with its share of the cores (default 1: one has every core or the GPU)",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="show the plan and run nothing")
    return parser


def _positive(value: str) -> int:
    number = int(value)
    if number < 1:
        raise ValueError(value)
    return number


if __name__ == "__main__":
    sys.exit(main())
