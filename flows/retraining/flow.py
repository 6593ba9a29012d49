"""The retraining as a Prefect flow: a task for each step, an artifact for each decision.

Importing this imports Prefect: `flows.retrain` does so when there is something to do.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from prefect import flow, get_run_logger, states, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.exceptions import CancelledRun

from flows import gate
from flows.command import Report
from flows.dvc import PROCESSES
from flows.graph import run_stage
from flows.retraining import judge, look, notice, release, warm
from flows.retraining.ended import Ended, failed, skipped
from flows.retraining.look import Findings
from flows.retraining.settings import Settings, chosen_models, open_settings, open_worktree
from flows.worktree import Worktree
from ganlib.card import DatasetSpec
from ganlib.inference.model_card import markdown
from ganlib.inference.package import open_package
from ganlib.problems import Failed, Refused

ATTEMPTS = 3  # where others push to the branch or promote meanwhile

Given = ParamSpec("Given")
Made = TypeVar("Made")


def step(name: str) -> Callable[[Callable[Given, Made]], Callable[Given, Made]]:
    """A task of a retraining. A problem that is expected ends it without a traceback of ours."""

    def as_task(function: Callable[Given, Made]) -> Callable[Given, Made]:
        @functools.wraps(function)
        def guarded(*args: Given.args, **kwargs: Given.kwargs) -> Made | State[Any]:
            get_run_logger().info(name)
            try:
                return function(*args, **kwargs)
            except (Refused, Failed, OSError) as error:
                return states.Failed(message=str(error), data=error)

        run = task(name=name, task_run_name="{tree.model}: " + name, cache_policy=NO_CACHE)(guarded)

        @functools.wraps(function)
        def call(*args: Given.args, **kwargs: Given.kwargs) -> Made:
            state: State[Any] = run(*args, **kwargs, return_state=True)
            return state.result()  # raises the problem

        return call

    return as_task


@step("look for new data and stale stages")
def look_around(tree: Worktree, settings: Settings) -> Findings:
    return look.look(tree, settings, _log())


@step("have the champion")
def have_champion(tree: Worktree, found: Findings) -> None:
    judge.forget_champions(tree, found.champion)
    if found.champion is not None:
        judge.champion_package(tree, found.champion)


@step("fetch data")
def fetch_data(tree: Worktree, settings: Settings, found: Findings) -> None:
    look.fetch(tree, settings, found, _log())


@step("choose the weights to begin with")
def choose_start(tree: Worktree, settings: Settings, found: Findings) -> None:
    warm.set_start(tree, found, settings.warm, _log())


@step("score and judge")
def score_and_judge(tree: Worktree, settings: Settings, found: Findings) -> gate.Verdict:
    return judge.compare(tree, settings, found, _log())


@step("commit")
def commit(tree: Worktree, found: Findings, message: str) -> str:
    return release.commit(tree, found, message)


@step("push data and prove it")
def push_data(tree: Worktree, found: Findings, made: str) -> None:
    release.push_data(tree, found, made, _log())


@step("push the commit")
def push_commit(tree: Worktree, found: Findings, made: str) -> None:
    release.push_commit(tree, found, made)


@step("register and promote")
def promote(tree: Worktree, found: Findings, made: str) -> str:
    return release.promote(tree, found, made)


@flow(name="retrain")
def retrain(models: list[str] | None = None, project: Path = Path(), force: bool = False) -> State[Any]:
    """Train models anew where their data or settings have changed, and promote what is better.

    Args:
        models: names of params.yaml; none stands for those of retrain.yaml.
        project: the project's folder, with dvc.yaml, params.yaml and retrain.yaml.
        force: judge again what was refused before.

    Returns:
        a state with an `Ended` for each model: Skipped, Promoted, Refused, or failed.
    """
    try:
        settings = open_settings(project)
        chosen = chosen_models(project, settings, models or ())
    except Refused as error:
        return states.Failed(message=str(error))
    ended = [_retrain(model, project, settings, force) for model in chosen]
    message = "; ".join(map(str, ended))
    if any(one.how == "failed" for one in ended):
        return states.Failed(message=message, data=ended)
    for how in ("promoted", "refused"):
        if any(one.how == how for one in ended):
            return states.Completed(name=how.capitalize(), message=message, data=ended)
    return states.Completed(name="Skipped", message=message, data=ended)


def _retrain(model: str, project: Path, settings: Settings, force: bool) -> Ended:
    log = get_run_logger()
    try:
        with open_worktree(project, settings, model) as tree:
            ended = _in_tree(tree, settings, force)
            if ended.how == "promoted":
                notice.tell(settings, str(ended), log.warning)
                notice.told(tree)
    except (Refused, Failed, OSError) as error:
        ended = failed(model, error)
    except CancelledRun:
        raise
    except Exception as error:  # a defect: the other models go on, and somebody is told
        log.exception("%s: unexpected", model)
        ended = Ended(model, "failed", f"{type(error).__name__}: {error}; a defect: its traceback is in the log", 1)
    (log.error if ended.how == "failed" else log.info)(str(ended))
    if ended.how in ("refused", "failed") or (ended.how == "skipped" and ended.waiting):
        notice.tell(settings, str(ended), log.warning)
    return ended


def _in_tree(tree: Worktree, settings: Settings, force: bool) -> Ended:
    for _ in range(ATTEMPTS):
        found = look_around(tree, settings)
        notice.tell_late(tree, settings, found, get_run_logger().warning)
        before = None if force else judge.refused_before(tree, settings, found, trained=False)
        if before or not found.reasons:
            return skipped(tree.model, found, before)
        try:
            return _challenge(tree, settings, found, force)
        except release.Overtaken as error:
            get_run_logger().warning("%s; once more upon that", error)
    raise Failed(f"others have pushed or promoted {ATTEMPTS} times meanwhile; run this again, what was trained is kept")


def _challenge(tree: Worktree, settings: Settings, found: Findings, force: bool) -> Ended:
    _publish_data(tree, found)
    have_champion(tree, found)
    fetch_data(tree, settings, found)
    choose_start(tree, settings, found)
    _run_stages(tree, found)
    _publish_data(tree, found)
    if not force and (before := judge.refused_before(tree, settings, found, trained=True)):
        return skipped(tree.model, found, before)
    verdict = score_and_judge(tree, settings, found)
    _publish_decision(tree, found, verdict)
    why, waiting = verdict.reasons[0], found.arrivals.waiting
    if not verdict.promote:
        if verdict.lasting:
            judge.remember(tree, settings, found, verdict)
        return Ended(tree.model, "refused", why, waiting=waiting)
    made = commit(tree, found, _message(tree, found, verdict))
    push_data(tree, found, made)
    push_commit(tree, found, made)
    notice.intend(tree, made, str(Ended(tree.model, "promoted", why, waiting=waiting)))
    version = promote(tree, found, made)
    _publish_card(tree, made, version)
    return Ended(tree.model, "promoted", f"{version} is prod: {why}", waiting=waiting)


def _run_stages(tree: Worktree, found: Findings) -> None:
    with PROCESSES.accepting():  # however this ends, no process is left behind
        for stage in found.due:
            run_stage(stage, tree.project, return_state=True).result()


def _message(tree: Worktree, found: Findings, verdict: gate.Verdict) -> str:
    """Of the commit."""
    lines = [f"Retrain {tree.model}", "", *found.reasons, "", *verdict.reasons]
    return "\n".join(lines) + "\n"


def _publish_data(tree: Worktree, found: Findings) -> None:
    """What is new, and where it was ingested already how much of it there is."""
    lines = [f"# {tree.model}: why there is something to do", *(f"- {reason}" for reason in found.reasons)]
    if found.arrivals.waiting:
        lines += ["", "Not whole, and left for another run:", *(f"- {line}" for line in found.arrivals.waiting)]
    card = tree.project / "data" / "prepared" / "dataset.json"
    if card.is_file():
        spec = DatasetSpec.load(card)
        lines += ["", "Ingested:", *(f"- {split}: {count} images" for split, count in spec.counts.items())]
        lines += [f"- refused as {reason}: {count}" for reason, count in spec.refused.items()]
        lines += _classes(tree, found, spec)
    create_markdown_artifact("\n".join(lines), key=_key(tree.artifact, "data"), description="what is new")


def _classes(tree: Worktree, found: Findings, spec: DatasetSpec) -> list[str]:
    """Those of the data, and those that the champion does not know: new ones, or a delivery in the wrong folders."""
    if not spec.classes:
        return []
    lines = [f"- classes: {', '.join(spec.classes)}"]
    if found.champion is not None:
        known = open_package(judge.champion_package(tree, found.champion)).card.classes
        if new := [name for name in spec.classes if name not in known] if known else []:
            lines.append(f"- **new to {found.champion.version}:** {', '.join(new)}")
    return lines


def _publish_decision(tree: Worktree, found: Findings, verdict: gate.Verdict) -> None:
    against = f"{found.champion.version} ({found.champion.commit[:12]})" if found.champion else "none yet"
    lines = [f"# {tree.model}", f"Built upon {found.head[:12]}; champion: {against}.", "", verdict.markdown()]
    create_markdown_artifact(
        "\n".join(lines), key=_key(tree.artifact, "decision"), description="champion or challenger"
    )


def _publish_card(tree: Worktree, made: str, version: str) -> None:
    """What has become prod. That Prefect cannot take it changes nothing any more."""
    log = get_run_logger()
    try:
        card = markdown(tree.project / "models" / tree.model / "package")
        lines = [f"{tree.artifact}@{version}, commit {made[:12]}", "", card]
        create_markdown_artifact("\n".join(lines), key=_key(tree.artifact, "card"), description="what was promoted")
    except Exception:  # of many kinds: its server is gone, or has gone mad
        log.exception("the model card was not published in Prefect; `ganlib card` prints it")


def _key(*parts: str) -> str:
    return re.sub("[^a-z0-9]+", "-", "-".join(parts).lower())


def _log() -> Report:
    return get_run_logger().info
