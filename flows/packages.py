"""Whether a released package can be had: dvc.yaml declares it, and the DVC remote holds every byte of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from flows.tags import commit_of
from ganlib.inference.package import open_package
from ganlib.inference.registry import GitFailed, git, place, without_secrets
from ganlib.problems import Failed, Refused

DOWNLOAD = 3600.0  # seconds that dvc is given to fetch a package


def check_declared(repository: Path, name: str, commit: str = "HEAD") -> None:
    """Refuse a model that a commit's dvc.yaml does not declare as an artifact: `dvc artifacts get` would not find it.

    Raises:
        Refused: saying what to add.
    """
    declared = (_read_yaml(repository, commit, "dvc.yaml").get("artifacts") or {}).get(name) or {}
    if declared.get("path") != place(name):
        raise Refused(
            f"dvc.yaml of {commit[:12]}: artifacts.{name}.path: found {declared.get('path')!r}; write "
            f"`{name}: {{path: {place(name)}, type: model}}` under `artifacts:` and commit it"
        )


def verify_remote(repository: Path, commit: str, name: str) -> None:
    """Prove that the DVC remote holds a model's package as a commit has it: fetch it from there and check every byte.

    Args:
        repository: folder of the project, whose settings say where the remote is.
        commit: any name of it that git knows.
        name: the model.

    Raises:
        Refused: where the commit has no such package, or the project no remote.
        Failed: where it cannot be fetched whole.
    """
    called, path = f"{name} of {commit_of(repository, commit)[:12]}", place(name)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "package"
        try:
            fetch_package(repository, commit, name, folder)
        except Failed as error:
            raise Failed(f"{called}: not whole in the DVC remote: {error}; `dvc push {path}`, then repeat") from error
        card = open_package(folder).card
    if card.name != name:
        raise Refused(f"{called}: {path} is the package of {card.name}; export {name} again")


def fetch_package(repository: Path, commit: str, name: str, folder: Path) -> None:
    """Bring a model's package as a commit has it from the DVC remote, past the project's cache, every byte checked.

    Args:
        repository, commit, name: as `verify_remote`.
        folder: where it goes; it must not be there yet.

    Raises:
        Refused: as `verify_remote`.
        Failed: where it cannot be fetched whole.
    """
    path, commit = place(name), commit_of(repository, commit)
    called = f"{name} of {commit[:12]}"
    lock = _read_yaml(repository, commit, "dvc.lock")
    outs = [out for stage in (lock.get("stages") or {}).values() for out in stage.get("outs") or ()]
    found = next((out for out in outs if out.get("path") == path), None)
    if found is None:
        raise Refused(f"{called}: its dvc.lock has no {path}; run `dvc repro export@{name}` and commit dvc.lock")
    settings = dict(line.split("=", 1) for line in _dvc("config", "--list", folder=repository).splitlines())
    if "core.remote" not in settings:
        raise Refused(f"{called}: the project has no DVC remote to release from; `dvc remote add --default NAME URL`")
    with tempfile.TemporaryDirectory() as temporary:
        project = Path(temporary)
        _write_project(project, settings, path, found)
        try:
            _dvc("pull", f"{path}.dvc", folder=project)
            open_package(project / path)
        except (Failed, Refused) as error:
            raise Failed(str(error).replace(f"{project}{os.sep}", "")) from error
        shutil.copytree(project / path, folder)


def _read_yaml(repository: Path, commit: str, file: str) -> dict[str, Any]:
    """A YAML file of the project as a commit has it; an empty one where it has none."""
    try:
        text = git("show", f"{commit}:./{file}", folder=repository)
        content = yaml.safe_load(text)
    except GitFailed as error:
        if "does not exist" not in error.said and "exists on disk" not in error.said:
            raise
        return {}
    except yaml.YAMLError as error:
        raise Refused(f"{file} of {commit[:12]}: not YAML: {' '.join(str(error).split())}") from error
    return content if isinstance(content, dict) else {}


def _write_project(folder: Path, settings: Mapping[str, str], path: str, out: Mapping[str, Any]) -> None:
    """Write a dvc project of nothing but one output, with another project's remotes and a cache that is empty.

    Args:
        folder: where it goes.
        settings: of the other project, as `dvc config --list` has them: paths are absolute there.
        path, out: the output, and what dvc.lock says of it.
    """
    lines = ["[core]", "no_scm = true", f"remote = {settings['core.remote']}", f"site_cache_dir = {folder / 'site'}"]
    lines += ["[cache]", f"dir = {folder / 'cache'}"]
    for key, value in sorted(settings.items()):
        section, _, option = key.rpartition(".")
        if section.startswith("remote."):
            head = f"['remote \"{section.removeprefix('remote.')}\"']"
            quote = "'" if '"' in value else '"'
            lines += [*([head] if head not in lines else []), f"{option} = {quote}{value}{quote}"]
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text("\n".join(lines) + "\n")
    file = folder / f"{path}.dvc"
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump({"outs": [{**out, "path": file.stem}]}))


def _dvc(*arguments: str, folder: Path) -> str:
    """Run dvc and give what it prints.

    Raises:
        Failed: with its own reason.
    """
    try:
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "dvc", *arguments],  # -P: the folder is not searched for modules
            cwd=folder, env=os.environ | {"DVC_NO_ANALYTICS": "1"}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, errors="replace", timeout=DOWNLOAD, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise Failed(f"dvc {arguments[0]} was not done in {DOWNLOAD:.0f} s") from error
    if ended.returncode != 0:
        missing = [
            f"it lacks {found}" for found in re.findall(r"^.*\bmd5: [0-9a-f]{32}.*$", ended.stderr, re.MULTILINE)
        ]
        errors = re.findall(r"^ERROR: (?:unexpected error - )?(.*)$", ended.stderr, re.MULTILINE)
        raise Failed(without_secrets((missing or errors or [f"dvc exited with {ended.returncode}"])[0]))
    return ended.stdout
