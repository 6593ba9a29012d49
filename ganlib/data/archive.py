"""A folder, a zip or a tar as the same thing: names, and the bytes behind them.

Archives are read in place: nothing is extracted, so no name can lead outside. Links, devices and names that are
absolute or go up are refused, and a file that declares more bytes than allowed is not read.
"""

from __future__ import annotations

import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Protocol

from ganlib.data.source import Refusal, Unusable
from ganlib.problems import Failed, Refused

_UNPACKING = (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error, OSError)
_IGNORED = ("__MACOSX", "Thumbs.db", "desktop.ini")


class Archive(Protocol):
    """Names of files, with "/" between folders, and a way to their bytes."""

    path: Path

    @property
    def names(self) -> Sequence[str]:
        """Every file that may be read."""
        ...

    @property
    def refused(self) -> Sequence[Refusal]:
        """What may not be."""
        ...

    def read(self, names: Collection[str], max_bytes: int) -> Iterator[tuple[str, bytes | Unusable]]:
        """The bytes of each of `names`, once, in the order they are stored in."""
        ...


def open_archive(path: Path) -> Archive:
    """A folder, zip or tar (plain or compressed), told apart by what it is and not by its name.

    Raises:
        Refused: where it is none of them.
    """
    if path.is_dir():
        return Folder(path)
    with path.open("rb") as file:
        zipped = file.read(2) == b"PK"
    if zipped:
        if not zipfile.is_zipfile(path):
            raise Refused(f"{path}: a zip without its table of contents, so truncated; fetch it again")
        return Zip(path)
    try:
        with tarfile.open(path, "r|*") as archive:
            archive.next()
    except _UNPACKING as error:
        raise Refused(f"{path}: neither a folder nor a readable zip or tar ({words(error)})") from error
    return Tar(path)


class Folder:
    """A folder on disk, with all below it. A link to a file is that file; a link to a folder is not entered."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.refused: list[Refusal] = []
        self.names = sorted(
            (Path(folder) / name).relative_to(path).as_posix()
            for folder, _, names in os.walk(path)
            for name in names
            if not _ignored((Path(folder) / name).relative_to(path).as_posix())
        )

    def read(self, names: Collection[str], max_bytes: int) -> Iterator[tuple[str, bytes | Unusable]]:
        """The bytes of each of `names`, in alphabetical order."""
        for name in sorted(names):
            file = self.path / name
            try:
                found = file.stat()
                if not stat.S_ISREG(found.st_mode):
                    yield name, Unusable("unsafe", "a pipe, socket or device")
                elif found.st_size > max_bytes:
                    yield name, _too_long(found.st_size, max_bytes)
                else:
                    yield name, file.read_bytes()
            except OSError as error:
                yield name, Unusable("missing", words(error))


class Zip:
    """A zip file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        if any(entry.flag_bits & 1 for entry in entries):
            raise Refused(f"{path}: encrypted; unpack it and name the folder")
        names = _Names()
        self._entries = {
            name: entry
            for entry in entries
            if (name := names.take(entry.filename, not stat.S_ISLNK(entry.external_attr >> 16)))
        }
        self.names, self.refused = sorted(self._entries), names.refused

    def read(self, names: Collection[str], max_bytes: int) -> Iterator[tuple[str, bytes | Unusable]]:
        """The bytes of each of `names`, in the order of the archive."""
        with zipfile.ZipFile(self.path) as archive:
            for name in sorted(names, key=lambda name: self._entries[name].header_offset):
                entry = self._entries[name]
                if entry.file_size > max_bytes:
                    yield name, _too_long(entry.file_size, max_bytes)
                    continue
                try:
                    yield name, archive.read(entry)  # stops at the declared size, then compares the checksum
                except EOFError as error:
                    yield name, Unusable("truncated", words(error))
                except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError) as error:
                    yield name, Unusable("undecodable", words(error))


class Tar:
    """A tar file, plain or compressed, always read from its start to its end: going back in xz means starting again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        names = _Names()
        self.names = sorted(name for member, _ in self._members() if (name := names.take(member.name, member.isreg())))
        self.refused = names.refused

    def read(self, names: Collection[str], max_bytes: int) -> Iterator[tuple[str, bytes | Unusable]]:
        """The bytes of each of `names`, in the order of the archive."""
        wanted, seen = set(names), _Names()
        for member, archive in self._members():
            name = seen.take(member.name, member.isreg())
            if name is None or name not in wanted:
                continue
            wanted.remove(name)
            if member.size > max_bytes:
                yield name, _too_long(member.size, max_bytes)
            else:
                with self._explained():
                    file = archive.extractfile(member)
                    assert file is not None  # of a regular member there is one
                    content = file.read()
                yield name, content
            if not wanted:
                return

    def _members(self) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
        with tarfile.open(self.path, "r|*") as archive:
            while True:
                with self._explained():
                    member = archive.next()
                    archive.members.clear()  # type: ignore[attr-defined]  # it keeps every header, which nothing here asks for again
                if member is None:
                    return
                if not member.isdir():
                    yield member, archive

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except _UNPACKING as error:
            raise Failed(f"{self.path}: damaged or truncated ({words(error)}); fetch it again") from error


class _Names:
    """Takes the names of an archive one by one: the safe ones normalised, each once."""

    def __init__(self) -> None:
        self.refused: list[Refusal] = []
        self._taken: set[str] = set()

    def take(self, raw: str, regular: bool) -> str | None:
        """The name to use, or None where it is refused or of no interest."""
        path = PurePosixPath(raw)
        if _ignored(path.as_posix()):
            return None
        if not regular:
            self.refused.append(Refusal(raw, "unsafe", "a link or a device"))
        elif path.is_absolute() or ".." in path.parts:
            self.refused.append(Refusal(raw, "unsafe", "its name leads outside"))
        elif path.as_posix() in self._taken:
            self.refused.append(Refusal(raw, "duplicate_id", "a second file of that name"))
        else:
            self._taken.add(path.as_posix())
            return path.as_posix()
        return None


def words(error: Exception) -> str:
    """An exception's text on one line, or its type's name where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def _too_long(size: int, max_bytes: int) -> Unusable:
    return Unusable("oversized", f"{size:,} bytes, and {max_bytes:,} are allowed")


def _ignored(name: str) -> bool:
    """Whether a name is one of those that file managers leave behind, or hidden."""
    return any(part in _IGNORED or (part.startswith(".") and part != "..") for part in PurePosixPath(name).parts)
