"""Image files in a folder, zip or tar: class folders, or a metadata table beside the files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from ganlib.data.archive import Folder, open_archive
from ganlib.data.metadata import NAMES, SPLITS, Row, read_metadata
from ganlib.data.source import Content, Item, Refusal, Unusable
from ganlib.files import MANIFEST
from ganlib.problems import Refused

_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
_TABLE_BYTES = 1 << 30


class ImageFolder:
    """Image files with what their folders or a table say of them.

    Two layouts are read, in a folder, a zip or a tar alike:

    - class folders: `CLASS/anything.jpg`, below `train/` and `test/` where the source has splits;
    - a table `metadata.csv`, `.jsonl` or `.parquet` with `file_name` relative to it, and `captions` (a list), `caption`
      or `text`, `label` and `split` where they are known. There may be one in `train/` and one in `test/`.

    Folders around the whole, as archives have them, are not classes: so there are none where there is one folder only.
    Where there are deliveries, folders with a file SHA256SUMS, they are taken together: `DELIVERY/CLASS/anything.jpg`.
    The ids are the files' names as they are stored.

    Args:
        path: the folder, zip or tar.
        max_bytes: a file that is longer is not read.

    Raises:
        Refused: where there is neither, a table cannot be read, or files lie beside deliveries.
        Failed: where an archive is damaged.
    """

    name = "folder"
    classes: Sequence[str] | None = None
    attributes: Mapping[str, tuple[str, ...]] = {}

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._archive = open_archive(path)
        self._max_bytes = max_bytes
        self.folder = path if isinstance(self._archive, Folder) else None
        self.files: list[Path] = [] if self.folder else [path]
        self.refused = list(self._archive.refused)
        names = self._archive.names
        tables = [name for name in names if PurePosixPath(name).name in NAMES]
        self.items = self._from_tables(tables, set(names)) if tables else _from_folders(names, path)

    def read(self, chosen: Sequence[Item]) -> Iterator[tuple[Item, Content]]:
        """The bytes of each of `chosen`, in the order they are stored in."""
        items = {item.id: item for item in chosen}
        for name, content in self._archive.read(items.keys(), self._max_bytes):
            yield items[name], content

    def _from_tables(self, tables: Sequence[str], present: set[str]) -> list[Item]:
        folders = Counter(PurePosixPath(table).parent for table in tables)
        if twice := [folder for folder, count in folders.items() if count > 1]:
            raise Refused(f"{self._archive.path}: several tables in {twice[0]}/: keep one")
        items: dict[str, Item] = {}
        for table, content in self._archive.read(tables, _TABLE_BYTES):
            if isinstance(content, Unusable):
                raise Refused(f"{self._archive.path}: {table}: {content}")
            if self.folder:
                self.files.append(self.folder / table)
            for row in read_metadata(table, content):
                self._add(row, PurePosixPath(table).parent, present, items)
        return list(items.values())

    def _add(self, row: Row, folder: PurePosixPath, present: set[str], items: dict[str, Item]) -> None:
        name = (folder / row.file_name).as_posix()
        if name in items:
            self.refused.append(Refusal(name, "duplicate_id", "a second row for it"))
        elif name not in present:  # also whatever leads outside
            self.refused.append(Refusal(name, "missing", "in the table alone"))
        else:
            split = row.split or SPLITS.get(folder.name.lower())
            items[name] = Item(id=name, source=name, label=row.label, captions=row.captions, split=split)


def _from_folders(names: Sequence[str], path: Path) -> list[Item]:
    """Items from `[SPLIT/][CLASS/...]FILE`. In class folders every file counts, beside them those named as images."""
    stored = _below_deliveries(names, path)
    depth, names = _below_common_folders(list(stored))
    parts = {name: PurePosixPath(below).parts[depth:] for below in names for name in stored[below]}
    own = all(len(part) > 1 and part[0].lower() in SPLITS for part in parts.values())
    if not parts:
        raise Refused(f"{path}: no images: neither class folders with files, nor {', '.join(NAMES)}, nor image files")
    return [
        Item(
            id=name,
            source=name,
            label=part[own] if len(part) > 1 + own else None,
            split=SPLITS[part[0].lower()] if own else None,
        )
        for name, part in parts.items()
    ]


def _below_deliveries(names: Sequence[str], path: Path) -> dict[str, list[str]]:
    """The files by what they are called below their delivery; by their names where there are no deliveries."""
    deliveries = [name.removesuffix(MANIFEST) for name in names if PurePosixPath(name).name == MANIFEST]
    stored: dict[str, list[str]] = {}
    for name in names:
        around = next((delivery for delivery in deliveries if name.startswith(delivery)), None)
        if around is None and deliveries and ("/" in name or name.lower().endswith(_SUFFIXES)):
            raise Refused(
                f"{path}: found {name} beside the delivery {deliveries[0]}, which its {MANIFEST} makes one; put it "
                f"into a folder with a {MANIFEST} of its own"
            )
        if PurePosixPath(name).name != MANIFEST:
            stored.setdefault(name.removeprefix(around or ""), []).append(name)
    return stored


def _below_common_folders(names: Sequence[str]) -> tuple[int, list[str]]:
    """How many folders stand around everything, and the names less those loose files that are not named as images."""
    depth = 0
    while True:
        names = [name for name in names if name.count("/") > depth or name.lower().endswith(_SUFFIXES)]
        if not names or any(name.count("/") == depth for name in names):
            return depth, names
        if len({PurePosixPath(name).parts[depth] for name in names}) > 1:
            return depth, names
        depth += 1
