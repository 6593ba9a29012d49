"""Where versions of models come from: packages that were named, or a folder that is looked at again and again."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ganlib.card import ModelCard
from ganlib.inference.package import CARD, open_package
from ganlib.problems import Refused

Stamp = tuple[tuple[str, int, int], ...]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")


@dataclass(frozen=True)
class Offer:
    """A version that may be loaded.

    Attributes:
        name, version: what clients call it; the version is a whole number.
        folder: the package.
        stamp: changes with the folder's content: name, size and time of each file.
        current: this one answers to the name alone. Where no version of a model says so, the newest does.
    """

    name: str
    version: str
    folder: Path
    stamp: Stamp
    current: bool = False


class Source(Protocol):
    """Versions to serve.

    Attributes:
        demanded: whether a version that cannot be loaded at the start ends the server.
    """

    @property
    def demanded(self) -> bool: ...

    def offers(self) -> list[Offer]:
        """What there is now, in any order. It may take its time: it is called off the event loop.

        Raises:
            OSError: where it cannot be found out now; what is loaded is served on.
        """
        ...


class Packages:
    """Packages by their folders: each is version 1 of the name in its card."""

    demanded = True

    def __init__(self, folders: Sequence[Path]) -> None:
        """
        Raises:
            Refused: where a folder is no package at a glance (the hashes are checked when it is loaded), its name
                cannot stand in an address, or two have the same name.
        """
        self._folders: dict[str, Path] = {}
        for folder in folders:
            name = glance(folder).name
            if not NAME.fullmatch(name):
                raise Refused(f"{folder / CARD}: name: found {name!r}; expected letters, digits, '.', '_' and '-' only")
            if name in self._folders:
                raise Refused(
                    f"{folder}: {name} is the name of {self._folders[name]} too; take a --repository for both"
                )
            self._folders[name] = folder

    def offers(self) -> list[Offer]:
        """One for each folder, whether or not it is still there: what was loaded is served on."""
        return [Offer(name, "1", folder, ()) for name, folder in self._folders.items()]


class Repository:
    """A folder of NAME/VERSION/, each VERSION a whole number and a package. Versions come, change and go while it is
    served; it is looked at instead of watched, since file systems on a network tell nothing."""

    demanded = False

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            Refused: where there is no such folder.
        """
        if not folder.is_dir():
            raise Refused(f"repository: found {folder}, which is no folder; expected one of NAME/VERSION/")
        self._folder = folder

    def offers(self) -> list[Offer]:
        """Every NAME/VERSION/ that is there now; one that is being written too.

        Raises:
            OSError: where the repository's folder cannot be read: it is away, which does not mean that it is empty.
        """
        return [
            Offer(name.name, version.name, version, _stamp(version))
            for name in sorted(self._folder.iterdir())
            if NAME.fullmatch(name.name)
            for version in _versions(name)
        ]


def glance(folder: Path) -> ModelCard:
    """The card of a package whose files are all there and of the right size; no content is read.

    Raises:
        Refused: as `open_package` does.
    """
    path = folder / CARD
    if not path.is_file():
        return open_package(folder).card  # says what is wrong
    card = ModelCard.load(path)
    whole = all(_size(folder / name) == record.bytes for name, record in card.files.items())
    return card if card.files and whole else open_package(folder).card


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _versions(model: Path) -> list[Path]:
    """The folders of a model's versions; none where there is no such folder, or no longer."""
    try:
        return [entry for entry in model.iterdir() if _VERSION.fullmatch(entry.name) and entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _stamp(folder: Path) -> Stamp:
    stamp = []
    with contextlib.suppress(FileNotFoundError):  # something has gone since it was listed: the next look sees it
        for path in sorted(folder.iterdir()):
            status = path.stat()
            stamp.append((path.name, status.st_size, status.st_mtime_ns))
    return tuple(stamp)
