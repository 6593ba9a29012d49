"""Releases of a registry as versions to serve: whatever holds a stage now, fetched and checked before it is offered."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ganlib.files import write_whole
from ganlib.inference.registry import releases, resolve
from ganlib.inference.tags import Release
from ganlib.problems import Failed, Refused
from ganlib.serving.logs import LOGGER
from ganlib.serving.sources import NAME, Offer

RECORD = "served.json"  # in the cache: what was wanted last, for a start while the registry is away
_VERSION = re.compile(r"v([1-9][0-9]{0,17})\.0\.0")


@dataclass(frozen=True)
class _Fetched:
    """A release on disk.

    Attributes:
        version: in the registry, for example v3.0.0.
        commit: it was released from.
        folder: below the cache.
    """

    version: str
    commit: str
    folder: str


class Registry:
    """Releases by their references, NAME@STAGE or NAME@VERSION, as the stages go from version to version.

    v3.0.0 is version 3 for clients. Several references may be of one model, such as flowers@prod and
    flowers@challenger: the first of them is what `flowers` alone answers with, and without it there is no flowers here.
    The version that a reference has left is offered on while there is room, so that whoever asks for it by its number,
    and a rollback, find it loaded.

    A registry that cannot be read, and a release that cannot be fetched, change nothing; it is said once.
    """

    demanded = False

    def __init__(
        self,
        references: Sequence[str],
        repository: str,
        cache: Path,
        *,
        keep: int = 2,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        """
        Args:
            references: in the order of what they mean for `NAME`.
            repository: path or address of the project's git repository.
            cache: a folder for its packages; see `ganlib.inference.registry.resolve`.
            keep: versions of a model that are offered at most.
            report: takes a line for the operator when a reference means another version.

        Raises:
            Refused: for references that cannot be, or more of one model than `keep`.
        """
        self._references = {reference: _parts(reference) for reference in references}
        models = [name for name, _ in self._references.values()]
        for name in dict.fromkeys(models):
            others = [other for other in models if other != name and _called(other) == _called(name)]
            if others:
                raise Refused(f"{name} and {others[0]}: both are {_called(name)} for clients; serve one of them here")
            if models.count(name) > keep:
                raise Refused(f"keep: found {keep}, and {models.count(name)} versions of {name} are named; raise it")
        self._repository = repository
        self._cache = cache
        self._keep = keep
        self._report = report
        self._wanted: dict[str, _Fetched] = {}
        self._left: dict[str, list[_Fetched]] = {}  # by model, the latest first
        self._said: dict[str, str] = {}

    def offers(self) -> list[Offer]:
        """Those that the references mean now; new ones are downloaded first.

        Raises:
            OSError: where the registry cannot be read and never could.
        """
        names = {name for name, _ in self._references.values()}
        try:
            found = releases(self._repository, names.pop() if len(names) == 1 else None)
        except Failed as error:
            self._wanted = self._wanted or self._recorded()
            if not self._wanted:
                raise OSError(str(error)) from error
            self._say("registry", f"what it said last is served on: {error}")
            return self._offered()
        self._say("registry", None)
        before = dict(self._wanted)
        for reference, (name, held) in self._references.items():
            mine = [release for release in found if release.name == name]
            self._left[name] = [old for old in self._left.get(name, []) if any(_is(old, release) for release in mine)]
            release = next((release for release in mine if held == release.version or held in release.stages), None)
            if release is None:
                self._wanted.pop(reference, None)
                self._say(reference, "no version holds it; it is served as soon as one does")
            else:
                self._want(reference, release)
        if self._wanted != before:
            content = {reference: asdict(fetched) for reference, fetched in self._wanted.items()}
            write_whole(self._cache / RECORD, (json.dumps(content, indent=2) + "\n").encode())
        return self._offered()

    def _want(self, reference: str, release: Release) -> None:
        """Let a reference mean a release, once that is on disk."""
        now = self._wanted.get(reference)
        if now is not None and _is(now, release):
            self._say(reference, None)
            return
        try:
            if not _VERSION.fullmatch(release.version):
                raise Refused(f"{release.name}: found version {release.version}; expected v1.0.0, v2.0.0, ... to serve")
            folder = resolve(f"{release.name}@{release.version}", self._repository, self._cache)
        except (Refused, Failed, OSError) as error:
            stays = f", {now.version} is served on" if now else ""
            self._say(reference, f"{release.version} could not be had{stays}: {error}")
            return
        self._say(reference, None)
        self._wanted[reference] = _Fetched(release.version, release.commit, str(folder.relative_to(self._cache)))
        if now is not None:
            self._left[release.name] = [now, *(old for old in self._left[release.name] if old != now)][: self._keep]
        self._report(f"{reference}: {release.version}")

    def _offered(self) -> list[Offer]:
        offers: list[Offer] = []
        for name in dict.fromkeys(name for name, _ in self._references.values()):
            mine = [reference for reference, (model, _) in self._references.items() if model == name]
            if mine[0] not in self._wanted:
                continue  # another version would answer in its place
            wanted = [self._wanted[reference] for reference in mine if reference in self._wanted]
            chosen = list(dict.fromkeys([*wanted, *self._left.get(name, [])]))
            offers += [
                Offer(
                    _called(name),
                    fetched.version.removeprefix("v").partition(".")[0],
                    self._cache / fetched.folder,
                    ((fetched.commit, 0, 0),),
                    current=place == 0,
                )
                for place, fetched in enumerate(chosen[: self._keep])
            ]
        return offers

    def _recorded(self) -> dict[str, _Fetched]:
        """What the references meant when the registry was read last, by whatever process; nothing where that is not
        known."""
        try:
            content = json.loads((self._cache / RECORD).read_bytes())
            recorded = {name: _Fetched(**content[name]) for name in self._references if name in content}
        except (OSError, ValueError, TypeError):
            return {}
        return {
            reference: fetched for reference, fetched in recorded.items() if (self._cache / fetched.folder).is_dir()
        }

    def _say(self, what: str, problem: str | None) -> None:
        """Log a problem when it is new, and its end."""
        before = self._said.pop(what, None)
        if problem is not None:
            self._said[what] = problem
            if problem != before:
                LOGGER.error("%s: %s", what, problem)
        elif before is not None:
            LOGGER.info("%s: in order again", what)


def _parts(reference: str) -> tuple[str, str]:
    """The model and what it has to hold.

    Raises:
        Refused: for one that cannot be.
    """
    name, _, held = reference.rpartition("@")
    if not (held and NAME.fullmatch(_called(name))):
        raise Refused(
            f"package: found {reference!r}; from a registry expected NAME@STAGE or NAME@VERSION: flowers@prod"
        )
    return name, held


def _called(name: str) -> str:
    """A registry's model as clients call it: without the project's folder."""
    return name.rpartition(":")[2]


def _is(fetched: _Fetched, release: Release) -> bool:
    return (fetched.version, fetched.commit) == (release.version, release.commit)
