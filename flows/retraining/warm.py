"""A training that begins with the champion's weights: a parameter, written down as every other one."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.command import CommandFailed, Report
from flows.retraining.look import Findings, hashes
from flows.worktree import Worktree
from ganlib.files import whole_file, write_whole
from ganlib.inference.tags import Release
from ganlib.problems import Failed

STATE = "state.safetensors"
KEY = "start_from"
FOLDER = "models/champions/"  # of what is begun with


def set_start(tree: Worktree, found: Findings, warm: bool, report: Report) -> str | None:
    """Let a training that is due begin with the networks of the champion, or by chance where that is not wanted.

    The networks are fetched into a folder of the worktree that is named by their hash, and the folder's name becomes
    `train.MODEL.start_from` in its params.yaml: DVC and the model's card keep it. A cold training takes that key out
    again; one that names another folder was written by a person and stays.

    Returns:
        the folder, below the project; None where the training is cold, or none is due.

    Raises:
        Failed: where the champion's networks cannot be had.
    """
    if f"train@{tree.model}" not in found.due:
        return None
    parameters = tree.project / "params.yaml"
    if not warm or found.champion is None:
        _set_parameter(parameters, ("train", tree.model, KEY), None, unless=lambda was: not str(was).startswith(FOLDER))
        return None
    path = f"models/{tree.model}/{STATE}"
    held = hashes(tree.git("show", f"{found.champion.commit}:./dvc.lock")).get(path)
    if held is None:
        raise Failed(
            f"warm: {tree.model}@{found.champion.version} has no {path} to begin with; set `warm: false` in "
            "retrain.yaml, and run this again"
        )
    folder = f"{FOLDER}{tree.model}-{found.champion.version}-{held[:12]}"
    if not (tree.project / folder / STATE).is_file():
        _fetch(tree, found.champion, path, tree.project / folder / STATE)
    _set_parameter(parameters, ("train", tree.model, KEY), folder)
    report(f"the training begins with the weights of {found.champion.version}, {folder}")
    return folder


def _set_parameter(
    file: Path, keys: tuple[str, ...], value: str | None, unless: Callable[[Any], bool] = lambda was: False
) -> None:
    """Set a value in a YAML file, or take it out, and leave its comments and its order as they are."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    content = yaml.load(file.read_text())
    section = content
    for key in keys[:-1]:
        section = section[key]
    if (was := section.get(keys[-1])) == value or unless(was):
        return
    if value is None:
        del section[keys[-1]]
    else:
        section[keys[-1]] = value
    written = io.StringIO()
    yaml.dump(content, written)
    write_whole(file, written.getvalue().encode())


def _fetch(tree: Worktree, champion: Release, path: str, file: Path) -> None:
    try:
        with whole_file(file) as temporary:
            tree.get(path, champion.commit, temporary)
    except CommandFailed as error:
        raise Failed(
            f"warm: the weights of {tree.model}@{champion.version} cannot be had: {error.reason}; `dvc push --all-tags "
            f"{path}` from where they were made, or set `warm: false` in retrain.yaml, and run this again"
        ) from error
