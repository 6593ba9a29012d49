"""data/raw of a worktree: what the branch has tracked there, all of it and nothing else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from flows.command import CommandFailed, dvc
from flows.retraining.data import RAW, content_of, tracking_files
from flows.retraining.stale import is_here, measure
from flows.worktree import Worktree
from ganlib.problems import Failed, Refused


def clear_raw(tree: Worktree, kept: Collection[str]) -> None:
    """Remove what lies below data/raw and is neither in git nor tracked there by a .dvc file that git has: half a copy,
    a delivery that was refused or withdrawn, data whose .dvc file was removed. Stages would learn from it.

    Args:
        tree: the worktree.
        kept: names of folders in data/raw that stay.

    Raises:
        Refused: for a .dvc file that is no YAML.
    """
    raw = tree.project / RAW
    if raw.is_symlink() or not raw.is_dir():
        return
    stays = {name for name in tree.git("ls-files", "-z", "--", RAW).split("\0") if name}
    stays |= {f"{RAW}/{name}" for name in kept}
    for file in tracking_files(tree):
        content = content_of(tree, file)
        folder = Path(file).parent / content.get("wdir", ".")
        stays |= {os.path.normpath(folder / out["path"]) for out in content.get("outs") or ()}
    if RAW not in stays:
        _remove_others(raw, RAW, stays, {above.as_posix() for name in stays for above in PurePosixPath(name).parents})


def _remove_others(folder: Path, below: str, stays: Collection[str], above: Collection[str]) -> None:
    for place in folder.iterdir():
        name = f"{below}/{place.name}"
        if name in stays:
            continue
        if place.is_symlink() or not place.is_dir():
            place.unlink()
        elif name in above:
            _remove_others(place, name, stays, above)
        else:
            shutil.rmtree(place)


def pull_raw(tree: Worktree) -> None:
    """Bring raw data that DVC keeps. All of it has to be here: with a part missing, a stage would learn from the rest.

    Raises:
        Failed: where the DVC remote does not give it.
    """
    tracked = tracking_files(tree)
    if is_here(tree.project, tracked):
        return
    try:
        dvc("pull", "--force", *tracked, folder=tree.project)
    except CommandFailed as error:
        reason = " ".join([error.reason, ", ".join(line for line in error.lines if _is_raw(line))]).rstrip()
        raise Failed(
            f"{RAW}: the DVC remote does not give it: {reason}; nothing was started and prod is as it was: see to the "
            "remote, or `dvc push` from where the data was added, and run this again"
        ) from error


def check_raw(tree: Worktree, kept: Collection[str]) -> None:
    """Refuse raw data of which a part was never tracked: the models at the head have learnt from more than is here, and
    a retraining would forget it.

    Untracked files show by dvc.lock: a stage was made of more files or bytes below data/raw than the head has, and
    since the commit that brought this into dvc.lock none has changed anything there, nor did it remove or change
    anything itself. DVC counts .dvc files as well, so that there may be more here than dvc.lock says, where people have
    added after a `dvc repro` what it had read.

    Args:
        tree: the worktree.
        kept: names of folders in data/raw that do not count.

    Raises:
        Refused: naming both counts.
    """
    lock = tree.project / "dvc.lock"
    stages = read_lock(lock.read_text(), "dvc.lock").values() if lock.is_file() else ()
    if any(_is_raw(out["path"]) for stage in stages for out in stage.get("outs") or ()):
        return  # a stage makes a part, and that is not here yet
    for dep in (dep for stage in stages for dep in stage.get("deps") or () if _is_raw(dep["path"])):
        if "md5" not in dep or "size" not in dep:
            continue
        files, size = measure(tree.project, dep["path"], {f"{RAW}/{name}" for name in kept})
        if files >= dep.get("nfiles", 1) and size >= dep["size"]:
            continue
        commit = tree.git("log", "-1", "--format=%H", f"-S{dep['md5']}", "HEAD", "--", "dvc.lock").strip()
        if commit and not _changed_properly(tree, commit):
            raise Refused(
                f"{dep['path']}: dvc.lock of {commit[:12]} was made of {dep.get('nfiles', 1)} files, {dep['size']} "
                f"bytes, and {tree.remote}/{tree.branch} has {files} files, {size} bytes: the rest was never tracked; "
                f"where it lies `dvc add {RAW}/NAME` and `dvc push`, then commit and push the .dvc file; where it is "
                "to be forgotten, remove it, `dvc repro` and push dvc.lock"
            )


def _changed_properly(tree: Worktree, commit: str) -> bool:
    """Whether git has a change of raw data that is newer than dvc.lock, or came with it and may be newer."""
    where = ("--", RAW, f"{RAW}.dvc")
    since = tree.git("diff", "--name-only", "-z", commit, "HEAD", *where)
    return bool(since or tree.git("show", "--format=", "--name-only", "-z", "-m", "--diff-filter=DM", commit, *where))


def read_lock(text: str, where: str) -> Mapping[str, Any]:
    """The stages of a dvc.lock by name.

    Raises:
        Refused: naming `where`, for what is no dvc.lock.
    """
    try:
        content = yaml.safe_load(text) or {}
        stages = content.get("stages") or {}
        if all(isinstance(stage, dict) for stage in stages.values()):
            return dict(stages)
        why = "a stage is no mapping"
    except yaml.YAMLError as error:
        why = " ".join(str(error).split())
    except AttributeError:
        why = "no mapping of stages"
    raise Refused(f"{where}: no dvc.lock: {why}; mend it, for example by `dvc repro` or `dvc commit`, commit and push")


def _is_raw(path: str) -> bool:
    return path == RAW or path.startswith(f"{RAW}/")
