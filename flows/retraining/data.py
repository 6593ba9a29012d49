"""New data for a retraining: imports whose source has changed, and deliveries in a watched folder.

A folder counts as whole by its manifest: a file SHA256SUMS with a line for every other file, as `sha256sum` writes it,
uploaded last. Where it is missing or a file is not as it says, the upload is taken for half done: it waits for the next
run, and is named. A delivery is a folder with a manifest; its name becomes data/raw/NAME, tracked by DVC as a folder of
its own, and it is never changed afterwards: what comes later gets another name.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from flows.command import CommandFailed, Report, dvc
from flows.retraining.settings import Settings
from flows.worktree import Worktree
from ganlib.files import MANIFEST, sha256_of, whole_folder, write_whole
from ganlib.inference.registry import GitFailed
from ganlib.problems import Failed, Refused

RAW = "data/raw"
_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Arrivals:
    """What has come.

    Attributes:
        files: .dvc files of the project that are new or changed.
        lines: what each of them brings, for people.
        waiting: what is there and not whole, and why.
    """

    files: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()


class _Incomplete(Exception):
    """A folder is not what its manifest says, or has none."""


def bring_in(tree: Worktree, settings: Settings, report: Report) -> Arrivals:
    """Bring new data into the worktree, where it is tracked and not committed yet.

    Raises:
        Refused: where git ignores what DVC would write.
        Failed: where a source cannot be read.
    """
    imported, delivered = _imports(tree, settings, report), _deliveries(tree, settings, report)
    return Arrivals(
        files=imported.files + delivered.files,
        lines=imported.lines + delivered.lines,
        waiting=imported.waiting + delivered.waiting,
    )


def _imports(tree: Worktree, settings: Settings, report: Report) -> Arrivals:
    """Frozen imports below data/raw, from their sources as they are now."""
    tracked = tree.git("ls-files", "--", f"{RAW}.dvc", f"{RAW}/*.dvc").splitlines()
    imports = [file for file in tracked if (content := _tracking(tree, file)).get("deps") and content.get("frozen")]
    if not imports:
        return Arrivals()
    try:
        dvc("update", *imports, folder=tree.project, report=report)
    except CommandFailed as error:
        raise Failed(
            f"{', '.join(imports)}: the source could not be read: {error.reason}; nothing was started and prod is as "
            "it was: see to the source and run this again"
        ) from error
    files, lines, waiting = [], [], []
    for file in tree.git("diff", "--name-only", "--relative", "--", *imports).splitlines():
        before, now = _size(yaml.safe_load(tree.git("show", f"HEAD:./{file}"))), _size(_tracking(tree, file))
        place = tree.project / file.removesuffix(".dvc")
        try:
            if place.is_dir() and (settings.manifest_needed or (place / MANIFEST).exists()):
                _check_manifest(place)
        except _Incomplete as error:
            tree.git("checkout", "--quiet", "HEAD", "--", file)
            dvc("checkout", "--quiet", "--force", "--allow-missing", file, folder=tree.project)
            waiting.append(f"{file}: its source is not whole: {error}")
        else:
            files.append(file)
            lines.append(f"{file}: the source has changed: {before} before, {now} now")
    return Arrivals(tuple(files), tuple(lines), tuple(waiting))


def _deliveries(tree: Worktree, settings: Settings, report: Report) -> Arrivals:
    """Folders of the watched one that are not in data/raw yet."""
    if settings.watch is None:
        return Arrivals()
    watched = (tree.origin / Path(settings.watch).expanduser()).resolve()
    if not watched.is_dir():
        raise Failed(f"watch: {watched} is no folder; nothing was started: mount or make it and run this again")
    files, lines, waiting = list[str](), list[str](), list[str]()
    for delivery in sorted(place for place in watched.iterdir() if place.is_dir() and not place.name.startswith(".")):
        file = f"{RAW}/{delivery.name}.dvc"
        try:
            if not _NAME.fullmatch(delivery.name):
                raise _Incomplete("its name has other characters than letters, digits, dot, - and _; rename it")
            if (tree.project / file).is_file():
                _check_unchanged(delivery, _tracking(tree, file))
                continue
            report(f"delivery {delivery.name}")
            manifest = _copy(delivery, tree.project / RAW / delivery.name)
        except _Incomplete as error:
            waiting.append(f"{delivery}: {error}")
            continue
        _track(tree, file, manifest, report)
        files.append(file)
        lines.append(f"{file}: delivered, {_size(_tracking(tree, file))}")
    return Arrivals(tuple(files), tuple(lines), tuple(waiting))


def _copy(delivery: Path, place: Path) -> str:
    """Copy a whole delivery, every byte checked as it arrives, and give the sha256 of its manifest."""
    sums = _check_manifest(delivery, content=False)
    with whole_folder(place) as folder:
        for name in (*sums, MANIFEST):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(delivery / name, folder / name)
        _check_manifest(folder)
    return sha256_of(place / MANIFEST)


def _track(tree: Worktree, file: str, manifest: str, report: Report) -> None:
    """Let DVC keep data/raw/NAME; what its manifest was stands in the .dvc file."""
    try:
        tree.git("check-ignore", "--quiet", file)
    except GitFailed:  # it is not ignored
        dvc("add", "--quiet", file.removesuffix(".dvc"), folder=tree.project, report=report)
        described = _tracking(tree, file) | {"meta": {"manifest": manifest}}
        write_whole(tree.project / file, yaml.safe_dump(described, sort_keys=False).encode())
        return
    raise Refused(f".gitignore: ignores {file}, which has to be committed; write !/{RAW}/*.dvc into it and push that")


def _check_unchanged(delivery: Path, tracked: dict[str, Any]) -> None:
    known = (tracked.get("meta") or {}).get("manifest")
    manifest = delivery / MANIFEST
    if known and manifest.is_file() and sha256_of(manifest) != known:
        raise _Incomplete("was changed after it was taken; what is new has to come under another name")


def _check_manifest(folder: Path, content: bool = True) -> dict[str, str]:
    """The sums of a manifest by the paths of files, where they are the folder's files; with `content` each is read.

    Raises:
        _Incomplete: saying what is missing.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise _Incomplete(f"it has no {MANIFEST}; `sha256sum` over its files writes one, to be uploaded last")
    text = manifest.read_text(errors="replace")
    if not text.endswith("\n"):
        raise _Incomplete(f"its {MANIFEST} ends in the middle of a line")
    sums: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        found = _LINE.fullmatch(line)
        name = PurePosixPath(found[2]) if found else None
        if found is None or name is None or name.is_absolute() or ".." in name.parts:
            raise _Incomplete(f"line {number} of its {MANIFEST} is no sum and path below the folder")
        sums[name.as_posix()] = found[1].lower()
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
    if missing := sorted(sums.keys() - there):
        raise _Incomplete(f"{_named(missing)} of its {MANIFEST} is not there yet")
    if more := sorted(there - sums.keys()):
        raise _Incomplete(f"{_named(more)} is there and not in its {MANIFEST}")
    if content:
        for path, expected in sums.items():
            with (folder / path).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                    raise _Incomplete(f"{path} has another sum than its {MANIFEST} says: half of it, or damaged")
    return sums


def _named(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _tracking(tree: Worktree, file: str) -> dict[str, Any]:
    content = yaml.safe_load((tree.project / file).read_text())
    return content if isinstance(content, dict) else {}


def _size(tracked: dict[str, Any]) -> str:
    out = (tracked.get("outs") or [{}])[0]
    files = f"{out['nfiles']} files, " if "nfiles" in out else ""
    return f"{files}{out.get('size', 0)} bytes"
