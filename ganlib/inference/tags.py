"""The tags that a registry of releases is made of: what each says, and what they come to together.

A registry is the tags of a project's git repository in the forms of GTO (Git Tag Ops), so that `gto` and
`dvc artifacts get` read and write the same one. They are annotated; a lightweight tag of the same form says nothing.

    flowers@v3.0.0        the commit is version v3.0.0 of the model flowers
    flowers@v3.0.0!       it is that no longer
    flowers#prod#7        the version of this commit gets the stage prod; 7 counts the events of flowers
    flowers#prod!#8       it loses it
    flowers@deprecated    nothing of flowers is to be used any more, unless something follows

Any of them may end in `#` and a counter. A model of a project in a subfolder is called `FOLDER:NAME`, with `=` for the
colon in a tag. A stage belongs to the version that got it last and has not lost it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_NAME = r"[a-zA-Z0-9](?:[a-zA-Z0-9/_-]*[a-zA-Z0-9])?"
_VERSION = r"v(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)(?:-[0-9a-zA-Z.-]+)?(?:\+[0-9a-zA-Z.-]+)?"
ARTIFACT = rf"(?:[a-zA-Z0-9_./-]+=)?{_NAME}"
_EVENT = rf"(?:#(?P<stage>{_NAME})|@(?P<version>{_VERSION}))(?P<withdrawn>!?)|@deprecated"
_TAG = re.compile(rf"(?P<name>{ARTIFACT})(?:{_EVENT})(?:#(?P<counter>\d+))?")


@dataclass(frozen=True)
class Release:
    """A registered version of a model.

    Attributes:
        name: the model, `FOLDER:NAME` where its project lies in a subfolder of the repository.
        version: for example v3.0.0.
        commit: whose dvc.lock names the package, 40 hexadecimal digits.
        stages: that this version holds now, in alphabetical order.
    """

    name: str
    version: str
    commit: str
    stages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tag:
    """An event of the registry; one with neither version nor stage is a deprecation.

    Attributes:
        tag: its name in git.
        name: the model's.
        version, stage: what it is about.
        withdrawn: the version or stage is taken back.
        counter: of the model's events, 0 where the tag has none.
        commit: that the tag points to.
        when: in seconds since 1970; 0 where it was not read.
        who: made the tag; empty where it was not read.
        message: its first line; empty where it was not read.
    """

    tag: str
    name: str
    version: str | None
    stage: str | None
    withdrawn: bool
    counter: int
    commit: str
    when: int = 0
    who: str = ""
    message: str = ""


@dataclass(frozen=True)
class Standing:
    """What the tags of one model come to.

    Attributes:
        releases: its registered versions, the newest first.
        deprecated: its last event is a deprecation.
    """

    releases: tuple[Release, ...]
    deprecated: bool


def parse_tag(tag: str, commit: str) -> Tag | None:
    """What a tag says; None for one that is no event of a registry."""
    found = _TAG.fullmatch(tag)
    if not found:
        return None
    return Tag(
        tag=tag,
        name=found["name"].replace("=", ":"),
        version=found["version"],
        stage=found["stage"],
        withdrawn=found["withdrawn"] == "!",
        counter=int(found["counter"] or 0),
        commit=commit,
    )


def written(name: str) -> str:
    """A model's name as its tags have it."""
    return name.replace(":", "=")


def in_order(tags: Iterable[Tag]) -> list[Tag]:
    """One model's tags, the oldest first: by time where it was read, then by counter."""
    return sorted(tags, key=lambda tag: (tag.when, tag.counter, tag.tag))


def stand(tags: Sequence[Tag]) -> Standing:
    """What one model's tags come to; `when` is given in all or none of them."""
    registered: dict[str, str] = {}  # commit by version
    known: set[str] = set()  # commits that were a version once
    assigned: dict[tuple[str, str], None] = {}  # (stage, commit), the last assignment last
    ordered = in_order(tags)
    for tag in ordered:
        if tag.version is not None:
            known.add(tag.commit)
            registered.pop(tag.version, None)
            if not tag.withdrawn:
                registered[tag.version] = tag.commit
        elif tag.stage is not None:
            assigned.pop((tag.stage, tag.commit), None)
            if not tag.withdrawn:
                assigned[tag.stage, tag.commit] = None
    gone = known.difference(registered.values())
    holders = {stage: commit for stage, commit in assigned if commit not in gone}
    found = [
        Release(tags[0].name, version, commit, tuple(sorted(stage for stage in holders if holders[stage] == commit)))
        for version, commit in registered.items()
    ]
    found.sort(key=lambda release: precedence(release.version), reverse=True)
    last = ordered[-1]
    return Standing(tuple(found), deprecated=last.version is None and last.stage is None)


def precedence(version: str) -> tuple[tuple[int, ...], bool, tuple[tuple[bool, int, str], ...]]:
    """What versions are sorted by: precedence as Semantic Versioning 2.0.0, section 11, has it."""
    core, _, before = version.removeprefix("v").partition("+")[0].partition("-")
    parts = tuple((not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in before.split("."))
    return tuple(int(number) for number in core.split(".")), not before, parts


def ordered_by_name(tags: Iterable[Tag]) -> bool:
    """Whether counters alone tell the order: versions are registered without one, stages change with one. It is so of
    all that GTO and `flows.registry` write by default, until somebody takes back a version or deprecates a model."""
    return all(
        bool(tag.counter) if tag.stage else tag.version and not tag.withdrawn and not tag.counter for tag in tags
    )
