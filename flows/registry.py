"""Releases of a project: `python -m flows.registry show | history | register | promote | rollback`.

A release is a version of a model: a commit whose dvc.lock names its package. The registry is tags of GTO's forms (see
`ganlib.inference.tags`), so `gto show`, `gto history` and `dvc artifacts get` read it too, the last where dvc.yaml
declares the model under `artifacts`. Versions go v1.0.0, v2.0.0, ...: every release is another network, whose images
for a seed are others, so that in the sense of semantic versions none is compatible with the one before.

What a function here has done it does not do again, so a release that was cut off is finished by repeating it. Nothing
counts before its tags are on the git remote; `publish` brings them there, all or none, and makes them anew where
somebody else was first. Exit codes of the command: 0 done, 1 it failed, 2 the request was wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from flows import summary
from flows.packages import check_declared, verify_remote
from flows.tags import Taken, artifact_name, commit_of, delete_tags, fetch_tags, local_tags, make_tag, push_tags
from ganlib.inference.registry import git
from ganlib.inference.tags import Release, Standing, Tag, in_order, parse_tag, stand, written
from ganlib.problems import Failed, Refused

PROD = "prod"
ANYONE = "anyone"  # as a champion: it does not matter who holds the stage
ATTEMPTS = 5  # of publishing where others publish at the same time
PATIENCE = 600.0  # seconds to wait for another release on this machine
_BACK = "Rolling back"  # how the message of a rollback's tag begins


@dataclass(frozen=True)
class Event:
    """Something that happened to a model.

    Attributes:
        when: in UTC.
        what: registered, assigned, rolled back, unassigned, deregistered or deprecated.
        version: that it is about, the first digits of a commit that is none; None of a deprecation.
        stage: None where it is about none.
        commit: 40 hexadecimal digits.
        who: made the tag.
    """

    when: datetime
    what: str
    version: str | None
    stage: str | None
    commit: str
    who: str


def register(repository: Path, name: str, commit: str) -> str:
    """Make a commit the next version of a model; one that is a version already stays that.

    Args:
        repository: folder of the project.
        name: the model.
        commit: any name of it that git knows.

    Returns:
        the version, for example v3.0.0.

    Raises:
        Refused: where the commit has no such package or does not declare it, or it or the model was taken back.
        Failed: where the DVC remote does not hold the whole package, or the tag is taken.
    """
    return _register(repository, name, commit, set())


def _register(repository: Path, name: str, commit: str, verified: set[str]) -> str:
    commit = commit_of(repository, commit)
    tags = local_tags(repository, name)
    for release in _standing(name, tags).releases:
        if release.commit == commit:
            return release.version
    for tag in tags:
        if tag.version and tag.commit == commit:
            raise Refused(f"{name}: {commit[:12]} was {tag.version}, which was taken back; release another commit")
    check_declared(repository, name, commit)
    if commit not in verified:
        verify_remote(repository, commit, name)
        verified.add(commit)
    version = f"v{max((int(tag.version[1:].split('.')[0]) for tag in tags if tag.version), default=0) + 1}.0.0"
    artifact = artifact_name(repository, name)
    message = f"Registering artifact {artifact} version {version}"
    make_tag(repository, tags, f"{written(artifact)}@{version}", commit, message)
    return version


def assign(repository: Path, name: str, version: str, stage: str) -> None:
    """Give a stage to a version; nothing happens where it holds it already.

    Raises:
        Refused: for an unknown version, or a stage that cannot be a tag's.
        Failed: where the tag is taken.
    """
    _assign(repository, name, version, stage, "Assigning")


def _assign(repository: Path, name: str, version: str, stage: str, how: str) -> None:
    tags = local_tags(repository, name)
    release = _find(name, version, _standing(name, tags))
    artifact = artifact_name(repository, name)
    tag = f"{written(artifact)}#{stage}#{max((tag.counter for tag in tags), default=0) + 1}"
    if (event := parse_tag(tag, release.commit)) is None or event.stage != stage:
        raise Refused(f"stage: found {stage!r}; expected letters, digits, - and _, such as {PROD}")
    if stage not in release.stages:
        message = f"{how} stage {stage} to artifact {artifact} version {version}"
        make_tag(repository, tags, tag, release.commit, message)


def rollback(repository: Path, name: str, stage: str = PROD, held: str | None = None) -> str:
    """Give a stage back to the version that held it before. A second rollback goes one further back, not forth again:
    after v1, v2, v3 they lead to v2 and v1.

    Args:
        repository: folder of the project.
        name: the model.
        stage: which one.
        held: roll back from this version only, so that the call can be repeated without going further back.

    Returns:
        the version that holds the stage now.

    Raises:
        Refused: where none has held it before, or another version than `held` has taken it meanwhile.
        Failed: where the DVC remote does not hold that version's package any more.
    """
    tags = local_tags(repository, name)
    standing = _standing(name, tags)
    now = _holder(name, stage, standing)
    before = _before(held or now, stage, tags, standing)
    if before is None:
        raise Refused(f"{name}: no version has held {stage} before {held or now}; promote another one")
    if held and now == before:
        return before
    if held and now != held:
        raise Refused(f"{name}: {stage} is held by {now}, not by {held}; `history {name}` shows what happened")
    verify_remote(repository, _find(name, before, standing).commit, name)
    _assign(repository, name, before, stage, _BACK)
    return before


def history(repository: Path, name: str) -> list[Event]:
    """What happened to a model, the latest first, as far as its tags are here.

    Raises:
        Refused: where the folder is in no git repository.
    """
    tags = local_tags(repository, name)
    versions = {tag.commit: tag.version for tag in tags if tag.version}
    events = []
    for tag in reversed(in_order(tags)):
        if tag.stage:
            what = "unassigned" if tag.withdrawn else "rolled back" if tag.message.startswith(_BACK) else "assigned"
        else:
            what = "deprecated" if not tag.version else "deregistered" if tag.withdrawn else "registered"
        version = tag.version or (versions.get(tag.commit, tag.commit[:12]) if tag.stage else None)
        events.append(Event(datetime.fromtimestamp(tag.when, UTC), what, version, tag.stage, tag.commit, tag.who))
    return events


def publish(
    repository: Path,
    name: str,
    commit: str,
    stages: Sequence[str] = (),
    remote: str = "origin",
    champion: str | None = ANYONE,
    verified: bool = False,
) -> str:
    """Register a commit, give it stages in their order, and bring the tags to the git remote, all of them or none.

    What is there already is not made again. Where somebody else publishes at the same time, the tags are made anew upon
    theirs. Tags of this model that are here alone, left by an attempt that was cut off, go first.

    Args:
        repository: folder of the project.
        name: the model.
        commit: any name of it that git knows.
        stages: what it is given. The tag of the first has the next number, so that whoever else gives that stage at the
            same time makes a tag of the same name, and one of the two is turned away.
        remote: a name of git's.
        champion: the version that has to hold the first of the stages still, or have lost it to this one; None where
            nobody held it.
        verified: `verify_remote` has just proved that the DVC remote holds the commit's package.

    Returns:
        the version.

    Raises:
        Refused, Failed: as `register` and `assign`; where somebody has promoted another one over the champion; where
            the git remote cannot be reached, or others were first each time.
    """
    proved = {commit_of(repository, commit)} if verified else set()

    def act() -> str:
        version = _register(repository, name, commit, proved)
        if champion != ANYONE and stages:
            releases = _standing(name, local_tags(repository, name)).releases
            now = next((release.version for release in releases if stages[0] in release.stages), None)
            if now not in (champion, version):
                raise Refused(
                    f"{name}: {stages[0]} went to {now or 'nobody'} meanwhile, this was compared with "
                    f"{champion or 'none'}; repeat it"
                )
        for stage in stages:
            assign(repository, name, version, stage)
        return version

    return _published(repository, name, remote, act)


def _published(repository: Path, name: str, remote: str, act: Callable[[], str]) -> str:
    """Do `act` upon what the remote has, and push; again where somebody else was first."""
    common = Path(git("rev-parse", "--path-format=absolute", "--git-common-dir", folder=repository).strip())
    try:
        with FileLock(common / "ganlib-registry.lock", timeout=PATIENCE):  # worktrees share their tags
            for _ in range(ATTEMPTS):
                fetch_tags(repository, remote, name)
                before = local_tags(repository, name)
                version = act()
                try:
                    push_tags(repository, remote, name)
                except Taken:
                    continue
                except Failed:  # what nobody else has seen counts here neither
                    delete_tags(repository, set(local_tags(repository, name)) - set(before))
                    raise
                return version
            fetch_tags(repository, remote, name)
    except Timeout as error:
        raise Failed(f"{name}: another release on this machine takes over {PATIENCE:.0f} s; repeat it") from error
    raise Failed(f"{name}: others were first on {remote} {ATTEMPTS} times in a row; repeat it")


def _standing(name: str, tags: Sequence[Tag]) -> Standing:
    standing = stand(tags) if tags else Standing((), deprecated=False)
    if standing.deprecated:
        raise Refused(f"{name}: is deprecated by the tag {in_order(tags)[-1].tag}; delete that to release {name} again")
    return standing


def _find(name: str, version: str, standing: Standing) -> Release:
    for release in standing.releases:
        if release.version == version:
            return release
    has = ", ".join(release.version for release in standing.releases) or "none; register one"
    raise Refused(f"{name}: no version {version}; there is {has}")


def _holder(name: str, stage: str, standing: Standing) -> str:
    """The version that holds a stage."""
    for release in standing.releases:
        if stage in release.stages:
            return release.version
    held = sorted({stage for release in standing.releases for stage in release.stages})
    raise Refused(f"{name}: no version holds {stage}; held are {', '.join(held) or 'no stages'}")


def _before(version: str, stage: str, tags: Sequence[Tag], standing: Standing) -> str | None:
    """The version under another one, when that last was the top, on the stack of those that held a stage: an assignment
    puts a version on top, a rollback takes off what lies above the one that it leads to."""
    versions = {release.commit: release.version for release in standing.releases}
    stack: list[str] = []
    before: str | None = None
    for tag in in_order(tags):
        if tag.stage != stage or tag.withdrawn or (holder := versions.get(tag.commit)) is None:
            continue
        if tag.message.startswith(_BACK) and holder in stack:
            while stack[-1] != holder:
                stack.pop()
        elif stack[-1:] != [holder]:
            stack.append(holder)
        if holder == version:
            before = stack[-2] if len(stack) > 1 else None
    return before


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code."""
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except (Refused, Failed) as error:
        print(f"flows.registry: {error}", file=sys.stderr)
        return 2 if isinstance(error, Refused) else 1
    return 0


def _run(options: argparse.Namespace) -> None:
    project, name = options.project, options.name
    if options.command in ("show", "history"):
        if options.fetch is not None:
            for model in [name] if name else sorted({tag.name.rpartition(":")[2] for tag in local_tags(project)}):
                fetch_tags(project, options.fetch, model)
        rows = _shown(project, name) if options.command == "show" else _told(project, name)
        empty = f"{name or 'The project'} has no release here; `register` makes one, `--fetch` looks at the git remote"
        print(summary.text(rows) if len(rows) > 1 else empty)
        return
    act, done = _action(options)
    version = _published(project, name, options.remote, act) if options.push else act()
    where = f"on {options.remote}" if options.push else "here alone: with --push it is published"
    print(f"{name} {version} {done}, {where}")


def _action(options: argparse.Namespace) -> tuple[Callable[[], str], str]:
    """What a command does, giving the version that it is about, and how to say that it is done."""
    project, name = options.project, options.name
    verified: set[str] = set()
    if options.command == "register":
        return lambda: _register(project, name, options.commit, verified), "is registered"

    def promote() -> str:
        release = _find(name, options.version, _standing(name, local_tags(project, name)))
        verify_remote(project, release.commit, name)
        assign(project, name, release.version, options.stage)
        return release.version

    def back() -> str:  # a second attempt, after somebody else was first, begins at the same version
        options.held = options.held or _holder(name, options.stage, _standing(name, local_tags(project, name)))
        return rollback(project, name, options.stage, options.held)

    return (
        (promote, f"holds {options.stage}") if options.command == "promote" else (back, f"holds {options.stage} again")
    )


def _shown(project: Path, name: str | None) -> summary.Table:
    """The releases of a project, and which stages each holds."""
    tags = local_tags(project, name)
    rows = [["model", "version", "stages", "commit", "registered"]]
    for model in sorted({tag.name for tag in tags}):
        own = in_order([tag for tag in tags if tag.name == model])
        standing = stand(own)
        when = {tag.version: f"{datetime.fromtimestamp(tag.when, UTC):%Y-%m-%d %H:%M}" for tag in own if tag.version}
        for release in standing.releases:
            stages = "deprecated" if standing.deprecated else ", ".join(release.stages) or "-"
            rows.append([model, release.version, stages, release.commit[:12], when[release.version]])
    return rows


def _told(project: Path, name: str) -> summary.Table:
    return [["when (UTC)", "what", "version", "stage", "commit", "who"]] + [
        [
            f"{event.when:%Y-%m-%d %H:%M}",
            event.what,
            event.version or "-",
            event.stage or "-",
            event.commit[:12],
            event.who,
        ]
        for event in history(project, name)
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m flows.registry", description="Releases of a project's models.")
    parser.add_argument("--project", type=Path, default=Path(), help="folder with a dvc.yaml (default: this one)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    show = commands.add_parser("show", help="the versions, and which stages each holds")
    show.add_argument("name", nargs="?", metavar="NAME", help="a model (default: all)")
    told = commands.add_parser("history", help="what happened to a model")
    adding = commands.add_parser("register", help="make a commit the next version of a model")
    promoting = commands.add_parser("promote", help="give a stage to a version")
    going_back = commands.add_parser("rollback", help="give a stage back to the version that held it before")
    for command in (show, told):
        command.add_argument(
            "--fetch", nargs="?", const="origin", metavar="REMOTE",
            help="first make the tags here those of a git remote (default: origin); unpublished ones go",
        )  # fmt: skip
    for command in (told, adding, promoting, going_back):
        command.add_argument("name", metavar="NAME", help="a model")
    for command in (adding, promoting, going_back):
        command.add_argument(
            "--push", action="store_true", help="begin with what the git remote has, and publish there"
        )
        command.add_argument("--remote", default="origin", help="the git remote (default: origin)")
    adding.add_argument("commit", nargs="?", default="HEAD", metavar="COMMIT", help="default: HEAD")
    promoting.add_argument("version", metavar="VERSION", help="for example v3.0.0")
    for command in (promoting, going_back):
        command.add_argument("--stage", default=PROD, help=f"default: {PROD}")
    going_back.add_argument(
        "--from", dest="held", metavar="VERSION", help="roll back from this version only, so that it can be repeated"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
