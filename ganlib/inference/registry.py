"""The registry of releases, read: which package `NAME@prod` is, and that package on disk.

The registry is the tags of a project's git repository (see `tags`), the packages, `models/NAME/package`, lie in the
project's DVC remote. git and dvc run as processes.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

from ganlib.files import whole_folder, write_whole
from ganlib.inference.package import open_package
from ganlib.inference.tags import ARTIFACT, Release, Standing, ordered_by_name, parse_tag, stand, written
from ganlib.problems import Failed, Refused

RECORD = "release.json"  # in a resolved package's folder: which release it is
ANSWER = 120.0  # seconds that git is given
DOWNLOAD = 3600.0  # seconds that dvc is given

_ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")  # a hook of git sets them
_LOG = logging.getLogger(__name__)


class GitFailed(Failed):
    """git ended with an error, or did not end.

    Attributes:
        said: what it printed.
    """

    def __init__(self, message: str, said: str) -> None:
        self.said = said
        super().__init__(message)


def releases(repository: str, name: str | None = None) -> list[Release]:
    """The versions in a registry, by name, the newest version of each first; none of a deprecated model.

    Args:
        repository: path or address of a git repository. Its list of tags is read, nothing is cloned; where the names of
            a model's tags do not tell their order, as when GTO took back a version, its tags are fetched too.
        name: of one model; None stands for all.

    Raises:
        Failed: where the repository cannot be read.
    """
    read = read_registry(repository, name)
    return [release for standing in read.values() if not standing.deprecated for release in standing.releases]


def read_registry(repository: str, name: str | None = None, folder: Path | None = None) -> dict[str, Standing]:
    """What stands in a registry, by model; see `releases`.

    Args:
        repository: as there, or the name of a remote of the repository that `folder` lies in.
        name: of one model; None stands for all.
        folder: where git runs.

    Raises:
        Failed: where the repository cannot be read.
    """
    try:
        listed = git("ls-remote", "--tags", "--", repository, *_patterns(name), folder=folder)
    except GitFailed as error:
        raise Failed(
            f"{without_secrets(repository)}: the registry could not be read: {error}; check the address and the "
            "network. A package that was resolved before can be named by its folder"
        ) from error
    tags = []
    for line in listed.splitlines():
        commit, _, reference = line.partition("\t")
        peeled = reference.removeprefix("refs/tags/").removesuffix("^{}")
        if reference.endswith("^{}") and (tag := parse_tag(peeled, commit)) and name in (None, tag.name):
            tags.append(tag)
    models = {model: [tag for tag in tags if tag.name == model] for model in sorted({tag.name for tag in tags})}
    unclear = [model for model, events in models.items() if not ordered_by_name(events)]
    times = _times(repository, unclear, folder) if unclear else {}
    return {
        model: stand([replace(event, when=times.get(event.tag, 0)) for event in events])
        for model, events in models.items()
    }


def resolve(reference: str, repository: str, cache: Path) -> Path:
    """A released package on disk, every byte of it checked.

    The first call for a version downloads it to CACHE/NAME/VERSION, which appears whole or not at all; later ones check
    what is there and download nothing. What was changed or damaged there is downloaded again.

    Args:
        reference: NAME@STAGE or NAME@VERSION, for example flowers@prod or flowers@v3.0.0.
        repository: path or address of the project's git repository.
        cache: a folder for packages from this repository, made where it is missing. Several processes may share it.

    Raises:
        Refused: for a reference that names nothing, with what is near it.
        Failed: where the repository or the package cannot be had, saying which object and what to do.
    """
    release = find_release(reference, repository)
    folder = cache.joinpath(*re.split("[:/]", release.name), release.version)
    if _fault(folder, release) is None:
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{release.version}.lock"):
        if fault := _fault(folder, release):  # otherwise another process has just brought it
            if folder.exists():
                _LOG.warning("%s: downloaded again: %s", folder, fault)
            _download(release, repository, folder)
    return folder


def find_release(reference: str, repository: str) -> Release:
    """The release that a reference means now.

    Raises:
        Refused: for a reference that names nothing, with what is near it.
        Failed: where the repository cannot be read.
    """
    name, at, wanted = reference.rpartition("@")
    if not at or not wanted or "=" in name or not re.fullmatch(ARTIFACT, written(name)):
        raise Refused(f"reference: found {reference!r}; expected NAME@STAGE or NAME@VERSION, such as flowers@prod")
    where = without_secrets(repository)
    standing = read_registry(repository, name).get(name)
    if standing is not None and standing.deprecated:
        raise Refused(f"{name}: is deprecated in {where}; name another model, or delete its tag {name}@deprecated")
    if standing is None or not standing.releases:
        there = [model for model, other in read_registry(repository).items() if other.releases]
        has = _near(name, there) if there else "it has no release yet; `python -m flows.registry register` makes one"
        raise Refused(f"{name}: no release of it in {where}; {has}")
    for release in standing.releases:
        if wanted == release.version or wanted in release.stages:
            return release
    stages = {stage: release.version for release in standing.releases for stage in release.stages}
    if re.match(r"v?\d", wanted):
        has = _near(wanted, [release.version for release in standing.releases])
        raise Refused(f"{name}: no version {wanted} in {where}; {has}")
    held = ", ".join(f"{stage} is {version}" for stage, version in sorted(stages.items())) or "no stage is held"
    near = difflib.get_close_matches(wanted, stages, n=1)
    has = f"did you mean {near[0]}? {held}" if near else f"{held}; the newest is {standing.releases[0].version}"
    raise Refused(f"{name}: no version holds {wanted} in {where}; {has}")


def place(name: str) -> str:
    """Where a model's package lies in the repository."""
    folder, _, model = name.rpartition(":")
    return f"{folder}/models/{model}/package".removeprefix("/")


def git(*arguments: str, folder: Path | None = None, environment: Mapping[str, str] | None = None) -> str:
    """Run git and give what it prints. It asks for no password.

    Args:
        arguments: of git.
        folder: where it runs.
        environment: variables beside those of this process.

    Raises:
        Refused: where there is no git.
        GitFailed: where it fails or gives no answer.
    """
    if shutil.which("git") is None:
        raise Refused("git: not found; the registry is read and written by it, install it")
    variables = {key: value for key, value in os.environ.items() if key not in _ELSEWHERE}
    variables = {"GIT_TERMINAL_PROMPT": "0"} | variables | {"LC_ALL": "C"} | dict(environment or {})
    try:
        ended = subprocess.run(
            ["git", *arguments], cwd=folder, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            encoding="utf-8", errors="replace", timeout=ANSWER, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise GitFailed(f"git {arguments[0]} gave no answer for {ANSWER:.0f} s", "") from error
    if ended.returncode != 0:
        said = without_secrets(ended.stderr.strip())
        raise GitFailed(_reason(said) or f"git {arguments[0]} exited with {ended.returncode}", said)
    return ended.stdout


def without_secrets(text: str) -> str:
    """A text in which addresses have no user name and password."""
    return re.sub(r"://[^/@\s]+@", "://", text)


def _patterns(name: str | None) -> tuple[str, ...]:
    return () if name is None else tuple(f"refs/tags/{written(name)}{mark}*" for mark in "@#")


def _times(repository: str, names: Iterable[str], folder: Path | None) -> dict[str, int]:
    """When the tags of some models were made, by tag."""
    address = repository
    if folder is not None:
        address = git("ls-remote", "--get-url", "--", repository, folder=folder).strip()
    if (local := (folder or Path()) / address).exists():
        address = str(local.resolve())
    wanted = [f"{pattern}:{pattern}" for name in names for pattern in _patterns(name)]
    with tempfile.TemporaryDirectory() as bare:
        git("init", "--quiet", "--bare", bare)
        git("fetch", "--quiet", "--no-tags", "--depth=1", "--filter=tree:0", "--", address, *wanted, folder=Path(bare))
        listed = git("for-each-ref", "--format=%(taggerdate:unix) %(refname:strip=2)", "refs/tags", folder=Path(bare))
    pairs = (line.split(" ", 1) for line in listed.splitlines())
    return {tag: int(when) for when, tag in pairs if when}


def _fault(folder: Path, release: Release) -> str | None:
    """Why a folder is not this release, None where it is, every byte checked."""
    if not folder.is_dir():
        return "it is not there"
    try:
        if (folder / RECORD).read_bytes() != _record(release):
            return f"it is not version {release.version} of commit {release.commit[:12]}"
        open_package(folder)
    except (OSError, Refused) as error:
        return str(error)
    return None


def _record(release: Release) -> bytes:
    content = {"name": release.name, "version": release.version, "commit": release.commit}
    return (json.dumps(content, indent=2) + "\n").encode()


def _download(release: Release, repository: str, folder: Path) -> None:
    """Bring a release into its folder.

    Raises:
        Failed: where it cannot be had as it was released.
    """
    with whole_folder(folder) as temporary:
        got = temporary / "package"
        _get(release, repository, got)
        for file in list(got.iterdir()):
            file.rename(temporary / file.name)
        got.rmdir()
        try:
            card = open_package(temporary).card
        except Refused as error:
            found = str(error).removeprefix(f"{temporary}{os.sep}")
            raise Failed(
                f"{_called(release, repository)}: its DVC remote holds something else: {found}; {_ADVICE}"
            ) from error
        if card.name != release.name.rpartition(":")[2]:
            raise Failed(
                f"{_called(release, repository)}: the package there is of {card.name}; promote another version"
            )
        write_whole(temporary / RECORD, _record(release))


_ADVICE = "`dvc push` it again from where it was made, or promote another version"


def _called(release: Release, repository: str) -> str:
    return f"{release.name}@{release.version} ({release.commit[:12]}) of {without_secrets(repository)}"


def _get(release: Release, repository: str, out: Path) -> None:
    """`dvc get` of a release's package.

    Raises:
        Refused: where dvc is not installed.
        Failed: where it fails.
    """
    if find_spec("dvc") is None:
        raise Refused("dvc: not installed, and packages of a registry come by it; pip install 'ganlib[pipeline]'")
    # -P: the current folder is not searched for modules
    command = [sys.executable, "-P", "-m", "dvc", "get", "--rev", release.commit, "--out", str(out)]
    try:
        ended = subprocess.run(
            [*command, "--", repository, place(release.name)], env=os.environ | {"DVC_NO_ANALYTICS": "1"},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=DOWNLOAD, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{_called(release, repository)}: dvc was not done in {DOWNLOAD:.0f} s; try again") from error
    if ended.returncode != 0 or not out.is_dir():
        reason = _reason(without_secrets(ended.stderr)) or f"dvc exited with {ended.returncode}"
        raise Failed(f"{_called(release, repository)}: could not be fetched: {reason}; {_ADVICE}")


def _reason(said: str) -> str:
    """The line of an error among those that git or dvc printed."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    marked = [line for line in lines if re.match("(fatal|error|ERROR|remote: error|! )", line)]
    line = (marked or lines or [""])[0]
    return re.sub(r"^(fatal|error|ERROR): (unexpected error - )?", "", line).rstrip(".")


def _near(found: str, known: Sequence[str]) -> str:
    near = [name for name in known if name.startswith(f"{found}.")] or difflib.get_close_matches(found, known, n=1)
    more = ", ..." if len(known) > 8 else ""
    return f"did you mean {near[0]}?" if near else f"it has {', '.join(known[:8])}{more}"
