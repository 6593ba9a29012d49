"""The champion on disk, both packages scored on the frozen set, and what was decided on which inputs before."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows import gate
from flows.command import CommandFailed, Report, dvc, run
from flows.packages import fetch_package
from flows.retraining.look import Findings, package_at, settings_key
from flows.retraining.settings import Settings
from flows.worktree import Worktree
from ganlib.files import whole_folder, write_whole
from ganlib.inference.package import open_package
from ganlib.inference.registry import place
from ganlib.inference.tags import Release
from ganlib.problems import Failed, Refused
from ganlib.score import Score

RECORD = "refused.jsonl"


def champion_package(tree: Worktree, champion: Release) -> Path:
    """The champion's package on disk, every byte checked.

    Raises:
        Failed: where it cannot be had any more.
    """
    folder = tree.state / "champions" / _called(champion)
    try:
        open_package(folder)
        return folder
    except Refused:  # not here yet, or damaged
        pass
    try:
        with whole_folder(folder) as temporary:
            fetch_package(tree.project, champion.commit, tree.model, temporary / "got")
            for file in list((temporary / "got").iterdir()):
                file.rename(temporary / file.name)
            (temporary / "got").rmdir()
    except (Failed, Refused) as error:
        raise Failed(
            f"{tree.model}@{champion.version}, which holds prod: its package cannot be had: {error}; nothing was "
            f"trained: `dvc push --all-tags {place(tree.model)}` from where it was made, or `python -m flows.registry "
            f"rollback {tree.model} --push`, then run this again"
        ) from error
    return folder


def score(tree: Worktree, settings: Settings, package: Path, who: str, report: Report) -> Score:
    """Score a package on the frozen set by the command of the settings.

    Args:
        tree, settings: of the retraining.
        package: its folder.
        who: challenger or champion.
        report: takes a line for the user.

    Raises:
        Failed: where it cannot be scored.
    """
    out = tree.state / f"{who}.json"
    out.unlink(missing_ok=True)
    command = [*shlex.split(settings.score), str(package), "--frozen", str(tree.project / settings.frozen)]
    try:
        run([*command, "--seeds", str(settings.seeds), "--out", str(out)], tree.project, report)
        return Score.load(out)
    except (CommandFailed, Refused) as error:
        reason = error.reason if isinstance(error, CommandFailed) else str(error)
        raise Failed(
            f"the {who} could not be scored: {reason}; prod is as it was: see to {package}, and run this again"
        ) from error


def compare(tree: Worktree, settings: Settings, found: Findings, report: Report) -> gate.Verdict:
    """Whether the package in the worktree takes the champion's place; both are scored now, on one frozen set.

    Raises:
        Failed: where one of them cannot be had or scored.
    """
    challenger = score(tree, settings, _whole_challenger(tree), "challenger", report)
    champion = None
    if found.champion is not None:
        champion = score(tree, settings, champion_package(tree, found.champion), "champion", report)
    return gate.judge(challenger, champion, settings.gate[tree.model])


def _whole_challenger(tree: Worktree) -> Path:
    """The challenger's package. What is damaged of it in the DVC cache goes, for DVC would bring it back each time."""
    package = tree.project / place(tree.model)
    try:
        open_package(package)
    except Refused as error:
        damaged = _drop_damaged(tree)
        what = f"{damaged} damaged files of it were removed from the DVC cache" if damaged else f"see to {package}"
        raise Failed(f"the challenger: {error}; {what}, prod is as it was: run this again, it is made anew") from error
    return package


def _drop_damaged(tree: Worktree) -> int:
    """Remove the objects of the challenger's package that are not what they are called by, and give their number."""
    objects = Path(dvc("cache", "dir", folder=tree.project)[-1]) / "files" / "md5"
    listing = package_at(tree) or ""
    file = objects / listing[:2] / listing[2:]
    damaged = 0
    for md5 in [entry["md5"] for entry in json.loads(file.read_bytes())] if file.is_file() else []:
        one = objects / md5[:2] / md5[2:]
        if one.is_file() and hashlib.md5(one.read_bytes(), usedforsecurity=False).hexdigest() != md5:
            one.unlink()
            damaged += 1
    return damaged


def refused_before(tree: Worktree, settings: Settings, found: Findings, trained: bool) -> str | None:
    """When and why the same challenger was refused already, in a line; None where it was not.

    Args:
        tree, settings, found: of the retraining.
        trained: the worktree has the challenger, so that it is known by its content; before, it is by its inputs.
    """
    key = _judged(tree, settings, found) if trained else found.inputs
    for entry in _entries(tree):
        if entry["judged" if trained else "inputs"] == key:
            if trained and entry["inputs"] != found.inputs:  # the next look knows it at once
                _write(tree, entry | {"inputs": found.inputs})
            return f"the same was refused at {entry['when']}: {entry['reasons'][0]}"
    return None


def remember(tree: Worktree, settings: Settings, found: Findings, verdict: gate.Verdict) -> None:
    """Keep that a challenger was refused."""
    when = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
    judged = _judged(tree, settings, found)
    _write(tree, {"inputs": found.inputs, "judged": judged, "when": when, "reasons": list(verdict.reasons)})


def forget_champions(tree: Worktree, kept: Release | None) -> None:
    """Remove packages of champions of the past."""
    folder = tree.state / "champions"
    for package in folder.iterdir() if folder.is_dir() else ():
        if kept is None or package.name != _called(kept):
            shutil.rmtree(package)


def _called(champion: Release) -> str:
    """Its folder. A version that was taken back may come again as another commit."""
    return f"{champion.version}-{champion.commit[:12]}"


def _judged(tree: Worktree, settings: Settings, found: Findings) -> str:
    """What a verdict is about: package, champion, rules."""
    champion = found.champion.commit if found.champion else None
    parts = {"package": package_at(tree), "champion": champion, "settings": settings_key(tree.model, settings)}
    return json.dumps(parts, sort_keys=True)


def _entries(tree: Worktree) -> Iterator[dict[str, Any]]:
    file = tree.state / RECORD
    for line in reversed(file.read_text().splitlines() if file.is_file() else []):
        try:
            entry = json.loads(line)
        except ValueError:  # somebody has been at it: what it said is judged once more
            continue
        yield entry


def _write(tree: Worktree, entry: dict[str, Any]) -> None:
    file = tree.state / RECORD
    before = file.read_bytes() if file.is_file() else b""
    write_whole(file, before + json.dumps(entry).encode() + b"\n")
