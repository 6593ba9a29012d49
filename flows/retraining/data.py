"""New data for a retraining: imports whose source has changed, and deliveries in a watched folder.

A folder counts as whole by its manifest: a file SHA256SUMS with a line for every other file, as `sha256sum` writes it,
uploaded last. Where it is missing or a file is not as it says, the upload is taken for half done: it waits for the next
run, and is named. A delivery is a folder with a manifest; its name becomes data/raw/NAME, tracked by DVC as a folder of
its own, and it is never changed afterwards: what comes later gets another name.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Mapping
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
_DVCS = ("dvc.yaml", ".dvcignore", ".dvc", ".git", ".hg")  # DVC reads the first ones and passes over the others
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_COPIES = "copies.json"


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
    tracked = ((file, content_of(tree, file)) for file in tracking_files(tree))
    imports = [file for file, content in tracked if content.get("deps") and content.get("frozen")]
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
    for file in filter(None, tree.git("diff", "--name-only", "--relative", "-z", "--", *imports).split("\0")):
        before, now = _size(yaml.safe_load(tree.git("show", f"HEAD:./{file}"))), _size(content_of(tree, file))
        place = tree.project / file.removesuffix(".dvc")
        try:
            if place.is_dir() and (settings.manifest_needed or (place / MANIFEST).exists()):
                _check_manifest(place)
        except _Incomplete as error:
            tree.git("checkout", "--quiet", "HEAD", "--", file)
            dvc("checkout", "--force", "--allow-missing", file, folder=tree.project)
            waiting.append(f"{file}: its source is not whole: {error}")
        else:
            files.append(file)
            lines.append(f"{file}: the source has changed: {before} before, {now} now")
    return Arrivals(tuple(files), tuple(lines), tuple(waiting))


def _deliveries(tree: Worktree, settings: Settings, report: Report) -> Arrivals:
    """Folders of the watched one that are not in data/raw yet. What is wrong with one stops no other."""
    watched = _watched(tree, settings)
    if watched is None:
        return Arrivals()
    copies = whole_copies(tree, settings)
    _record(tree, copies)
    files, lines, waiting = list[str](), list[str](), list[str]()
    for delivery in _visible(watched):
        file = f"{RAW}/{delivery.name}.dvc"
        try:
            _check_kind(delivery)
            if (tree.project / file).is_file() or tree.git("ls-files", "--", f"{RAW}/{delivery.name}"):
                _check_unchanged(delivery, tree, file)
                continue
            report(f"delivery {delivery.name}")
            if delivery.name not in copies:
                copies[delivery.name] = _copy(delivery, tree.project / RAW / delivery.name)
                _record(tree, copies)
            _track(tree, file, copies[delivery.name], report)
        except (_Incomplete, CommandFailed, OSError) as error:
            if _is_disk_full(error):
                raise
            if not isinstance(error, _Incomplete):  # of this run's own making
                shutil.rmtree(tree.project / RAW / delivery.name, ignore_errors=True)
                (tree.project / file).unlink(missing_ok=True)
            waiting.append(f"{_shown(delivery)}: {_reason(error)}")
        else:
            files.append(file)
            lines.append(f"{file}: delivered, {_size(content_of(tree, file))}")
    return Arrivals(tuple(files), tuple(lines), tuple(waiting))


def whole_copies(tree: Worktree, settings: Settings) -> dict[str, str]:
    """Deliveries that an earlier run has copied whole to data/raw/NAME, that nobody has tracked yet, and that lie in
    the watched folder as they did: the sha256 of their manifest by their names."""
    watched, record = _watched(tree, settings), tree.state / _COPIES
    if watched is None or not record.is_file():
        return {}
    return {
        name: manifest
        for name, manifest in json.loads(record.read_text()).items()
        if (tree.project / RAW / name).is_dir()
        and not (tree.project / RAW / f"{name}.dvc").is_file()
        and (watched / name / MANIFEST).is_file()
        and sha256_of(watched / name / MANIFEST) == manifest
    }


def _record(tree: Worktree, copies: Mapping[str, str]) -> None:
    write_whole(tree.state / _COPIES, json.dumps(copies).encode())


def _watched(tree: Worktree, settings: Settings) -> Path | None:
    if settings.watch is None:
        return None
    watched = (tree.origin / Path(settings.watch).expanduser()).resolve()
    if not watched.is_dir():
        raise Failed(f"watch: {watched} is no folder; nothing was started: mount or make it and run this again")
    return watched


def _visible(watched: Path) -> list[Path]:
    try:
        return sorted(place for place in watched.iterdir() if not place.name.startswith("."))
    except OSError as error:
        raise Failed(
            f"watch: {watched}: {error.strerror}; nothing was started: see to it and run this again"
        ) from error


def _check_kind(delivery: Path) -> None:
    if not delivery.is_dir():
        raise _Incomplete(f"is no folder; a delivery is a folder with {MANIFEST}, `dvc add` takes single files")
    if not _NAME.fullmatch(delivery.name):
        raise _Incomplete("its name has other characters than letters, digits, dot, - and _; rename it")
    if delivery.name.endswith(".dvc"):
        raise _Incomplete("its name ends in .dvc, as DVC's own files do; rename it")


def _copy(delivery: Path, place: Path) -> str:
    """Copy a whole delivery, every byte checked as it arrives, and give the sha256 of its manifest."""
    sums = _check_manifest(delivery, content=False)
    odd = [name for name in sums if name.endswith(".dvc") or any(part in _DVCS for part in PurePosixPath(name).parts)]
    if odd:
        raise _Incomplete(f"{_named(odd)} is what DVC or git keep for themselves; take it out")
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
        dvc("add", file.removesuffix(".dvc"), folder=tree.project)
        described = {**content_of(tree, file), "meta": {"manifest": manifest}}
        write_whole(tree.project / file, yaml.safe_dump(described, sort_keys=False).encode())
        return
    raise Refused(f".gitignore: ignores {file}, which has to be committed; write !/{RAW}/*.dvc into it and push that")


def _check_unchanged(delivery: Path, tree: Worktree, file: str) -> None:
    """Whether a delivery is what data/raw has under its name: taken from here, or added by people from the same."""
    content = content_of(tree, file) if (tree.project / file).is_file() else {}
    taken = (content.get("meta") or {}).get("manifest")
    manifest, here = delivery / MANIFEST, tree.project / file.removesuffix(".dvc") / MANIFEST
    known = taken or (sha256_of(here) if here.is_file() else None)
    if manifest.is_file() and sha256_of(manifest) == known:
        return
    if taken is None:
        raise _Incomplete(f"{RAW} has another {delivery.name}, which did not come from here; rename the delivery")
    if manifest.is_file():
        raise _Incomplete("was changed after it was taken; what is new has to come under another name")


def _is_disk_full(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in _DISK_FULL
    return isinstance(error, CommandFailed) and any(os.strerror(number) in error.reason for number in _DISK_FULL)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"could not be copied: {_shown(error.filename or '')}: {error.strerror or error}"
    return f"DVC does not take it: {_shown(error.reason)}" if isinstance(error, CommandFailed) else str(error)


def _check_manifest(folder: Path, content: bool = True) -> dict[str, str]:
    """The sums of a manifest by the paths of files, where they are the folder's files; with `content` each is read.

    Raises:
        _Incomplete: saying what is missing.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise _Incomplete(f"it has no {MANIFEST}; `sha256sum` over its files writes one, to be uploaded last")
    text = manifest.read_text("utf-8", "surrogateescape")
    if not text.endswith("\n"):
        raise _Incomplete(f"its {MANIFEST} ends in the middle of a line")
    sums: dict[str, str] = {}
    for number, line in enumerate(text.split("\n")[:-1], 1):
        if line.startswith("\\"):  # so `sha256sum` marks a line in which it has escaped them
            raise _Incomplete(f"line {number} of its {MANIFEST}: the name has a backslash or a line break; rename it")
        found = _LINE.fullmatch(line)
        name = PurePosixPath(found[2]) if found else None
        if found is None or name is None or name.is_absolute() or ".." in name.parts:
            raise _Incomplete(f"line {number} of its {MANIFEST} is no sum and path below the folder")
        sums[name.as_posix()] = found[1].lower()
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
    if unreadable := sorted(name for name in sums.keys() | there if not _is_utf8(name)):
        raise _Incomplete(f"{_named(unreadable)} has a name that is no UTF-8; rename it")
    if missing := sorted(sums.keys() - there):
        raise _Incomplete(f"{_named(missing)} of its {MANIFEST} is not there yet")
    if more := sorted(there - sums.keys()):
        raise _Incomplete(f"{_named(more)} is there and not in its {MANIFEST}")
    if content:
        for path, expected in sums.items():
            with (folder / path).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                    raise _Incomplete(
                        f"{_shown(path)} has another sum than its {MANIFEST} says: half of it, or damaged"
                    )
    return sums


def _named(names: Collection[str]) -> str:
    return _shown(min(names)) + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _shown(name: str | Path) -> str:
    """A name in one line that any terminal takes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(name))


def _is_utf8(name: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in name)


def tracking_files(tree: Worktree) -> list[str]:
    """The .dvc files at data/raw and below it that git has, as paths below the project."""
    return [file for file in tree.git("ls-files", "-z", "--", f"{RAW}.dvc", f"{RAW}/*.dvc").split("\0") if file]


def content_of(tree: Worktree, file: str) -> Mapping[str, Any]:
    """What a .dvc file of the worktree says.

    Raises:
        Refused: where it is no mapping of YAML.
    """
    try:
        content = yaml.safe_load((tree.project / file).read_text())
    except yaml.YAMLError as error:
        raise Refused(f"{file}: not YAML: {' '.join(str(error).split())}; mend it, commit and push") from error
    if not isinstance(content, dict):
        raise Refused(f"{file}: found {type(content).__name__}, expected keys with values; mend it, commit and push")
    return content


def _size(tracked: Mapping[str, Any]) -> str:
    out = (tracked.get("outs") or [{}])[0]
    files = f"{out['nfiles']} files, " if "nfiles" in out else ""
    return f"{files}{out.get('size', 0)} bytes"
