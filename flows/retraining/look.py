"""What there is to do for a model: new data, stages that are stale, a package that is committed and not released."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from flows.command import CommandFailed, Report, dvc
from flows.packages import check_declared
from flows.registry import PROD
from flows.retraining.data import Arrivals, bring_in, whole_copies
from flows.retraining.raw import check_raw, clear_raw, pull_raw, read_lock
from flows.retraining.settings import Settings
from flows.retraining.stale import Graph, read_graph
from flows.worktree import CHECKPOINTS, Worktree, dvc_folder
from ganlib.inference.registry import place, read_registry
from ganlib.inference.tags import Release
from ganlib.problems import Failed, Refused


@dataclass(frozen=True)
class Findings:
    """What a look at a model has found.

    Attributes:
        head: the branch's commit that is built upon.
        champion: the release that holds prod.
        arrivals: new data.
        graph: the stages of the model with all that they need, and which may have to run.
        unreleased: the package at the head is no release's.
        inputs: names by content all that decides the outcome.
    """

    head: str
    champion: Release | None
    arrivals: Arrivals
    graph: Graph
    unreleased: bool
    inputs: str

    @property
    def due(self) -> tuple[str, ...]:
        """Stages that may have to run, in order."""
        return self.graph.due

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why there is something to do, a line each; none where there is nothing."""
        lines = list(self.arrivals.lines)
        if self.due:
            why = f" ({self.graph.why})" if self.graph.why else ""
            lines.append(f"not up to date: {', '.join(self.due)}{why}")
        if self.unreleased:
            lines.append(f"the package at {self.head[:12]} is no release yet")
        return tuple(lines)


def look(tree: Worktree, settings: Settings, report: Report) -> Findings:
    """Bring the worktree to the branch's head with the newest data, and see what there is to do.

    Raises:
        Refused: where the project lacks what a retraining needs.
        Failed: where a remote or a source cannot be read, or the disk is nearly full.
    """
    head = tree.refresh()
    _check_disk(tree, settings)
    check_declared(tree.project, tree.model, head)
    _check_frozen(tree, settings)
    standing = read_registry(tree.remote, tree.artifact, tree.origin).get(tree.artifact)
    if standing is not None and standing.deprecated:
        raise Refused(f"{tree.model}: is deprecated at {tree.remote}; delete the tag {tree.artifact}@deprecated there")
    releases = standing.releases if standing else ()
    champion = next((release for release in releases if PROD in release.stages), None)
    _clear(tree, head)
    copies = whole_copies(tree, settings)
    clear_raw(tree, copies)
    pull_raw(tree)
    check_raw(tree, copies)
    arrivals = bring_in(tree, settings, report)
    graph = read_graph(tree.project, tree.model)
    if not graph.stages:
        raise Refused(f"dvc.yaml: no stage of {tree.model}; a retraining runs train@{tree.model} and the like")
    return Findings(
        head=head,
        champion=champion,
        arrivals=arrivals,
        graph=graph,
        unreleased=_unreleased(tree, head, releases),
        inputs=_inputs(tree, settings, champion),
    )


def fetch(tree: Worktree, settings: Settings, found: Findings, report: Report) -> None:
    """Bring what the due stages read from the DVC remote, and the frozen set.

    Raises:
        Failed: where the remote cannot be reached.
    """
    here = found.arrivals.files
    targets = [name for name in (*own_stages(tree, found), *found.graph.inputs(found.due)) if name not in here]
    if (tree.project / f"{settings.frozen}.dvc").is_file():
        targets.append(f"{settings.frozen}.dvc")
    try:
        dvc("pull", "--force", "--allow-missing", *targets, folder=tree.project, report=report)
    except CommandFailed as error:
        raise Failed(
            f"the DVC remote could not be read: {error.reason}; nothing was trained and prod is as it was: see to the "
            "remote and run this again"
        ) from error
    if not any((tree.project / settings.frozen).glob("*")):
        raise Failed(
            f"{settings.frozen}: the DVC remote does not have it; `dvc push {settings.frozen}` where it was made, and "
            "run this again"
        )


def own_stages(tree: Worktree, found: Findings) -> tuple[str, ...]:
    """The due stages; where none is, those of the model alone."""
    return found.due or tuple(name for name in found.graph.stages if name.partition("@")[2] == tree.model)


def package_at(tree: Worktree, commit: str | None = None) -> str | None:
    """DVC's hash of the model's package, as a commit's dvc.lock has it, or the worktree's; None where it has none."""
    try:
        text = tree.git("show", f"{commit}:./dvc.lock") if commit else (tree.project / "dvc.lock").read_text()
    except (OSError, Failed):
        return None
    return hashes(text, f"dvc.lock of {commit[:12]}" if commit else "dvc.lock").get(place(tree.model))


def hashes(lock: str, where: str = "dvc.lock") -> Mapping[str, str]:
    """DVC's hashes of all outputs in a dvc.lock, by path.

    Raises:
        Refused: naming `where`, for what is no dvc.lock.
    """
    stages = read_lock(lock, where)
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs") or () if "md5" in out}


def _clear(tree: Worktree, head: str) -> None:
    """Remove outputs of an earlier run: a look counts what is not here as unchanged, `fetch` brings what is needed."""
    lock = tree.project / "dvc.lock"
    outputs = list(hashes(lock.read_text(), f"dvc.lock of {head[:12]}")) if lock.is_file() else []
    kept = set(tree.git("ls-files", "-z", "--", *outputs).split("\0")) if outputs else set()  # small texts are in git
    for path in outputs:
        output = tree.project / path
        if output.is_dir() and not any(name.startswith(f"{path}/") for name in kept):
            shutil.rmtree(output)
        elif output.is_file() and path not in kept:
            output.unlink()


def _unreleased(tree: Worktree, head: str, releases: tuple[Release, ...]) -> bool:
    """Whether the head has a package that no release has: a run was cut off, or a person has committed it."""
    package = package_at(tree, head)
    return package is not None and all(package_at(tree, release.commit) != package for release in releases)


def _inputs(tree: Worktree, settings: Settings, champion: Release | None) -> str:
    tree.git("add", "--all", "--", ".", f":(exclude){CHECKPOINTS}")
    prefix = tree.git("rev-parse", "--show-prefix").strip()
    parts: dict[str, Any] = {
        "project": tree.git("write-tree", *([f"--prefix={prefix}"] if prefix else [])).strip(),
        "settings": settings_key(tree.model, settings),
        "champion": champion.commit if champion else None,
        "ganlib": version("ganlib"),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def settings_key(model: str, settings: Settings) -> dict[str, Any]:
    """What of the settings decides on a verdict."""
    decides = settings.model_dump(mode="json", include={"frozen", "seeds", "warm", "score"})
    return decides | {"gate": settings.gate[model].model_dump(mode="json")}


def _check_frozen(tree: Worktree, settings: Settings) -> None:
    if not tree.git("ls-files", "--", f"{settings.frozen}.dvc", settings.frozen):
        raise Refused(
            f"frozen: {tree.remote}/{tree.branch} has no {settings.frozen}; `ganlib freeze --out {settings.frozen}`, "
            f"`dvc add {settings.frozen}`, `dvc push`, then commit and push {settings.frozen}.dvc"
        )


def _check_disk(tree: Worktree, settings: Settings) -> None:
    for folder in (tree.state, dvc_folder(tree.origin)):
        free = shutil.disk_usage(folder).free / 1e9
        if free < settings.min_free_disk:
            raise Failed(
                f"{folder}: {free:.1f} GB are free, min_free_disk demands {settings.min_free_disk:.1f}; nothing was "
                "started: make room, for example by `dvc gc --workspace --all-tags`, and run this again"
            )
