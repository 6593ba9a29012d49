"""Which stages would have to run, told from dvc.lock alone, and what they would need: before anything is fetched."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from flows.dvc import with_dependents
from ganlib.problems import Failed, Refused


@dataclass(frozen=True)
class Graph:
    """The stages of a project that concern some of them.

    Attributes:
        stages: these and all that they need, needed ones first.
        due: those that may have to run: what is stale, and what needs it.
        needed: by stage, what it reads directly: stages, and .dvc files as paths below the project.
        why: what has changed for the first stage that is stale by itself; empty where none is.
    """

    stages: tuple[str, ...]
    due: tuple[str, ...]
    needed: Mapping[str, tuple[str, ...]]
    why: str = ""

    def inputs(self, stages: Collection[str]) -> tuple[str, ...]:
        """What these stages read, and is none of them."""
        return tuple(sorted({name for stage in stages for name in self.needed[stage]} - set(stages)))


def read_graph(project: Path, suffix: str) -> Graph:
    """The stages `...@SUFFIX` of a project with all that they need, and which of them are stale.

    A stage is stale where its command, settings or inputs are others than dvc.lock has. An input or output that is not
    here is taken to be as dvc.lock says, as `dvc repro --allow-missing` does.

    Internal parts of dvc are used; a test compares the result with `dvc repro --dry --allow-missing` and `dvc dag`.

    Raises:
        Refused: where dvc cannot read dvc.yaml.
        Failed: where another dvc is writing what has to be read.
    """
    from dvc.stage import PipelineStage

    def name_of(stage: Any) -> str:
        file = _file(stage, project)
        if not isinstance(stage, PipelineStage):
            return file
        return stage.name if file == "dvc.yaml" else f"{file}:{stage.name}"

    with _repository(project) as repo:
        graph = repo.index.graph
        stages: dict[str, Any] = {}
        waiting = [stage for stage in graph if name_of(stage).partition("@")[2] == suffix]
        while waiting:
            stage = waiting.pop()
            stages[name_of(stage)] = stage
            waiting += [needed for needed in graph.successors(stage) if name_of(needed) not in stages]
        needed = {name: tuple(map(name_of, graph.successors(stage))) for name, stage in stages.items()}
        ordered = TopologicalSorter(needed).static_order()
        runs = [name for name in ordered if isinstance(stages[name], PipelineStage)]
        stale = [
            name
            for name in runs
            if stages[name].changed(allow_missing=True, upstream=list(graph.successors(stages[name])))
        ]
        why = f"{stale[0]}: {_why(stages[stale[0]])}" if stale else ""
    return Graph(tuple(runs), tuple(with_dependents({name: needed[name] for name in runs}, set(stale))), needed, why)


def is_here(project: Path, files: Collection[str]) -> bool:
    """Whether what these .dvc files track lies in the project as they say, every file of it.

    Raises:
        Refused, Failed: as `read_graph`.
    """
    with _repository(project) as repo:
        tracking = [stage for stage in repo.index.stages if _file(stage, project) in files]
        return len(tracking) == len(files) and not any(stage.changed_outs() for stage in tracking)


def measure(project: Path, path: str, without: Collection[str] = ()) -> tuple[int, int]:
    """Number and bytes of the files of a file or folder, as DVC counts them for dvc.lock: but for what it ignores.

    Args:
        project: the project's folder.
        path: below it.
        without: paths below the project that are not counted.

    Raises:
        Refused, Failed: as `read_graph`.
    """
    place = project / path
    with _repository(project) as repo:
        files = [Path(file) for file in repo.dvcignore.find(repo.fs, str(place))] if place.is_dir() else [place]
    left_out = [project / name for name in without]
    here = [file for file in files if file.exists() and not any(file.is_relative_to(folder) for folder in left_out)]
    return len(here), sum(file.stat().st_size for file in here)


def _why(stage: Any) -> str:
    """What has changed for a stale stage, for people."""
    if stage.outs and not any(out.hash_info for out in stage.outs):
        return "it has never run"
    if stage.changed_stage():
        return "its command has changed"
    changed = []
    for dependency in stage.deps:
        for name, what in dependency.status().items():
            settings = isinstance(what, dict)  # by their names, in a file of settings
            if settings or what != "deleted":  # what is not here is taken to be as it was
                changed += (
                    [f"{setting} is {how}" for setting, how in what.items()] if settings else [f"{name} is {what}"]
                )
    if not changed:
        return "what it reads or has made is another than dvc.lock says"
    return changed[0] + (f", and {len(changed) - 1} more" if len(changed) > 1 else "")


@contextlib.contextmanager
def _repository(project: Path) -> Iterator[Any]:
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo, lock_repo

    try:
        with Repo(str(project), _wait_for_lock=True) as repo, lock_repo(repo):
            yield repo
    except LockError as error:
        raise Failed(f"{project}: another dvc is at work: {' '.join(str(error).split())}") from error
    except DvcException as error:
        raise Refused(f"{project}: {' '.join(str(error).split())}") from error
    except sqlite3.Error as error:  # of its records of what lies in files
        raise Failed(
            f"{project}: dvc could not write its records: {error}; prod is as it was: make room on the disk and run "
            "this again"
        ) from error


def _file(stage: Any, project: Path) -> str:
    return os.path.relpath(stage.path, project)
