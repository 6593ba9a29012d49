"""The tags of the registry, written: made here, and brought to a git remote. See `ganlib.inference.tags`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ganlib.inference.registry import GitFailed, git
from ganlib.inference.tags import Tag, in_order, parse_tag, written
from ganlib.problems import Failed, Refused

_FIELDS = ("*objectname", "taggerdate:unix", "taggername", "contents:subject", "refname:strip=2")


class Taken(Failed):
    """Somebody else was first: what is to be done has to be put together anew, upon what they did."""


def local_tags(repository: Path, name: str | None = None) -> list[Tag]:
    """The events of the registry here, of one model or of all of the project in this folder.

    Raises:
        Refused: where the folder is in no git repository.
    """
    whose = None if name is None else artifact_name(repository, name)
    prefix = prefix_of(repository)
    form = "%00".join(f"%({field})" for field in _FIELDS)
    events = []
    for line in git("for-each-ref", f"--format={form}", "refs/tags", folder=repository).split("\n")[:-1]:
        commit, when, who, message, tag = line.split("\0")
        event = parse_tag(tag, commit) if commit else None  # a lightweight tag says nothing
        if event and (event.name == whose if whose else event.name.rpartition(":")[0] == prefix):
            events.append(replace(event, when=int(when or 0), who=who, message=message))
    return events


def make_tag(repository: Path, before: Iterable[Tag], tag: str, commit: str, message: str) -> None:
    """Make an annotated tag.

    Args:
        repository: folder of the project.
        before: the model's events so far. The tag is later than all of them, be it by a clock that is ahead: GTO goes
            by time, in whole seconds.
        tag, commit, message: of the tag.

    Raises:
        Taken: where a tag of that name exists.
    """
    when = max([int(time.time()), *(event.when + 1 for event in before)])
    who = identity(repository) | {"GIT_COMMITTER_DATE": f"{when} +0000"}
    try:
        git("tag", "--annotate", "--message", message, tag, commit, folder=repository, environment=who)
    except GitFailed as error:
        if "already exists" not in error.said:
            raise
        there = git("rev-parse", f"refs/tags/{tag}^{{commit}}", folder=repository).strip()
        raise Taken(f"{tag}: exists already, for {there[:12]}; if it is a mistake, git tag -d '{tag}'") from error


def push_tags(repository: Path, remote: str = "origin", name: str | None = None) -> tuple[str, ...]:
    """Bring those tags of the registry that the git remote lacks to it, all of them or none.

    Args:
        repository: folder of the project.
        remote: a name of git's.
        name: the model; None stands for all of the project.

    Returns:
        the tags that were brought.

    Raises:
        Taken: where the remote has another tag of the same name, or one that is not here.
        Failed: where it cannot be reached.
    """
    form = "--format=%(objectname) %(refname:strip=2)"
    listed = git("for-each-ref", form, "refs/tags", folder=repository).split("\n")[:-1]
    objects = {tag: identifier for identifier, tag in (line.split(" ", 1) for line in listed)}
    theirs = _at_remote(repository, remote)
    whose = None if name is None else artifact_name(repository, name)
    for tag in theirs.keys() - objects.keys():
        event = parse_tag(tag, theirs[tag])
        if event and event.name == whose:
            raise Taken(f"{tag}: {remote} has it and it is not here, somebody was first; publish again")
    lacking = []
    for event in in_order(local_tags(repository, name)):
        if event.tag not in theirs:
            lacking.append(event.tag)
        elif theirs[event.tag] != objects[event.tag]:
            raise Taken(f"{event.tag}: {remote} has another tag of this name, somebody was first; publish again")
    if lacking:
        every = [f"refs/tags/{tag}" for tag in lacking]
        try:  # without the hook that `dvc install` makes: it would push all data of the project first
            git("push", "--quiet", "--no-verify", "--atomic", remote, *every, folder=repository)
        except GitFailed as error:
            if "already exists" in error.said or "cannot lock ref" in error.said:
                raise Taken(f"{', '.join(lacking)}: somebody was first on {remote}; publish again") from error
            raise Failed(f"{', '.join(lacking)}: could not be pushed to {remote}: {error}; publish again") from error
    return tuple(lacking)


def delete_tags(repository: Path, tags: Iterable[Tag]) -> None:
    """Take back tags that were made here and never published."""
    if names := [tag.tag for tag in tags]:
        git("tag", "--delete", *names, folder=repository)


def fetch_tags(repository: Path, remote: str, name: str) -> None:
    """Make a model's tags here those that the git remote has. What was here alone, was never published and goes.

    Raises:
        Failed: where the remote cannot be reached.
    """
    stem = f"refs/tags/{written(artifact_name(repository, name))}"
    every = [f"+{stem}{mark}*:{stem}{mark}*" for mark in "@#"]
    try:
        git("fetch", "--quiet", "--no-tags", "--prune", remote, *every, folder=repository)
    except GitFailed as error:
        raise Failed(f"{remote}: its tags could not be read: {error}; nothing was changed, try again") from error


def identity(repository: Path) -> dict[str, str]:
    """Variables that say who commits and tags, for git on a machine that has not been told; empty on others."""
    variables: dict[str, str] = {}
    for part, otherwise in (("name", "ganlib"), ("email", "ganlib@localhost")):
        try:
            told = git("config", "--get", f"user.{part}", folder=repository).strip()
        except GitFailed:  # it has no such setting
            told = ""
        for role in ("AUTHOR", "COMMITTER"):
            variable = f"GIT_{role}_{part.upper()}"
            if not told and not os.environ.get(variable):
                variables[variable] = otherwise
    return variables


def artifact_name(repository: Path, name: str) -> str:
    """What a project's model is called in the registry: FOLDER:NAME where the project is not the whole repository.

    Raises:
        Refused: where the folder is in no git repository, or the name cannot be a tag's.
    """
    artifact = f"{prefix_of(repository)}:{name}".removeprefix(":")
    event = parse_tag(f"{written(artifact)}@v1.0.0", "")
    if event is None or event.name != artifact or ":" in name:
        raise Refused(f"name: found {artifact!r}; the registry takes letters, digits, - and _")
    return artifact


def prefix_of(repository: Path) -> str:
    """The project's folder below that of the git repository, for example examples/mnist; empty where it is the same.

    Raises:
        Refused: where the folder is in no git repository.
    """
    try:
        return git("rev-parse", "--show-prefix", folder=repository).strip().rstrip("/")
    except (GitFailed, FileNotFoundError, NotADirectoryError) as error:
        raise Refused(f"{repository}: no git repository, and releases are tags of one; name a project") from error


def commit_of(repository: Path, name: str) -> str:
    """The commit that git calls `name` here, 40 hexadecimal digits.

    Raises:
        Refused: where there is none.
    """
    try:
        return git("rev-parse", "--verify", "--end-of-options", f"{name}^{{commit}}", folder=repository).strip()
    except GitFailed as error:
        raise Refused(
            f"commit: found {name!r}, which {repository} does not have; git fetch, or name another"
        ) from error


def _at_remote(repository: Path, remote: str) -> dict[str, str]:
    """The objects of a remote's tags, by name."""
    try:
        listed = git("ls-remote", "--tags", "--refs", "--", remote, folder=repository)
    except GitFailed as error:
        raise Failed(f"{remote}: its tags could not be read: {error}; nothing was pushed, publish again") from error
    pairs = (line.split("\trefs/tags/", 1) for line in listed.split("\n")[:-1])
    return {tag: identifier for identifier, tag in pairs}
