"""Train models anew where their data or settings have changed: `python -m flows.retrain [MODEL...]`.

What is retrained is the branch's head at the git remote with the newest data, in a worktree of its own. A challenger
takes prod where the gate says that it is better. Exit codes: 0 promoted, refused by the gate, or nothing to do, which
is said; 1 it failed, and the same command goes on from there; 2 the request or the configuration was wrong.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.pipeline import SETTINGS
from flows.retraining import judge
from flows.retraining.ended import failed, skipped
from flows.retraining.look import Findings, look
from flows.retraining.settings import Settings, chosen_models, open_settings, open_worktree
from ganlib.problems import Failed, Refused


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code."""
    options = _parser().parse_args(arguments)
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        if options.dry_run:
            settings = open_settings(options.project)
            for model in chosen_models(options.project, settings, options.models):
                try:
                    _show(options.project, settings, model)
                except OSError as error:
                    raise Failed(str(failed(model, error))) from error
            return 0
        return _run(options.project, options.models, options.force)
    except (Refused, Failed) as error:
        print(f"flows.retrain: {error}", file=sys.stderr)
        return 2 if isinstance(error, Refused) else 1


def _run(project: Path, models: Sequence[str], force: bool) -> int:
    settings = open_settings(project)
    chosen = chosen_models(project, settings, models)
    if "PREFECT_API_URL" not in os.environ and not any(_has_work(project, settings, model, force) for model in chosen):
        return 0

    from flows.retraining.flow import retrain
    from flows.server import server

    try:
        with server():
            state = retrain(list(chosen), project, force, return_state=True)
    except KeyboardInterrupt:
        raise Failed("interrupted, and nothing runs any more; the same command goes on from here") from None
    ended: Any = state.result(raise_on_failure=False)
    if isinstance(ended, Exception):
        raise ended
    if not isinstance(ended, list):
        raise Failed(f"the flow ended as {state}")
    for one in ended:
        print(f"flows.retrain: {one}", file=sys.stderr if one.code else sys.stdout, flush=True)
    codes = {one.code for one in ended if one.code}
    return min(codes, default=0)


def _has_work(project: Path, settings: Settings, model: str, force: bool) -> bool:
    """Whether a flow is to be run for a model, where a server would have to be started for it; else it is said why not.
    What goes wrong is the flow's to record."""
    try:
        found, before = _look(project, settings, model)
    except (Refused, Failed, OSError):
        return True
    if found.reasons and (force or before is None):
        return True
    print(f"flows.retrain: {skipped(model, found, before)}", flush=True)
    return False


def _show(project: Path, settings: Settings, model: str) -> None:
    """Print what there is to do, and do none of it."""
    found, before = _look(project, settings, model)
    print(f"{model}: head {found.head[:12]}, champion {found.champion.version if found.champion else 'none yet'}")
    waiting = (f"waiting: {line}" for line in found.arrivals.waiting)
    for line in (*(found.reasons or ("nothing has changed",)), *waiting, *((before,) if before else ())):
        print(f"  {line}")


def _look(project: Path, settings: Settings, model: str) -> tuple[Findings, str | None]:
    """What there is to do, and whether it was refused before."""
    with open_worktree(project, settings, model) as tree:
        found = look(tree, settings, lambda line: None)
        return found, judge.refused_before(tree, settings, found, trained=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flows.retrain", description="Train models anew, and promote what is better."
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help="default: those of retrain.yaml")
    parser.add_argument("--project", type=Path, default=Path(), help="folder with a dvc.yaml (default: this one)")
    parser.add_argument("--dry-run", action="store_true", help="show what there is to do, and do none of it")
    parser.add_argument("--force", action="store_true", help="judge again what was refused before")
    return parser


if __name__ == "__main__":
    sys.exit(main())
