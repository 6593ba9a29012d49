"""Image files in a folder, zip or tar: class folders, or a metadata table beside the files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ganlib.data.archive import Folder, open_archive
from ganlib.data.metadata import NAMES, SPLITS, Row, read_metadata
from ganlib.data.source import Content, Item, Refusal, Unusable
from ganlib.files import MANIFEST
from ganlib.problems import Refused

_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
_ARCHIVES = (
    ".zip", ".7z", ".rar", ".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst",
)  # fmt: skip
_TABLE_BYTES = 1 << 30


class ImageFolder:
    """Image files with what their folders or a table say of them.

    Two layouts are read, in a folder, a zip or a tar alike:

    - class folders: `CLASS/anything.jpg`, below `train/` and `test/` where the source has splits;
    - a table `metadata.csv`, `.jsonl` or `.parquet` with `file_name` relative to it, and `captions` (a list), `caption`
      or `text`, `label` and `split` where they are known. There may be one in `train/` and one in `test/`.

    Folders around the whole, as archives have them, are not classes: so there are none where there is one folder only.
    Where there are deliveries, folders with a file SHA256SUMS, they are taken together: each by its tables where it has
    some, by its class folders (`DELIVERY/CLASS/anything.jpg`, or with splits above the classes) where it has none. The
    ids are the files' names as they are stored.

    Args:
        path: the folder, zip or tar.
        max_bytes: a file that is longer is not read.

    Raises:
        Refused: where there is neither, a table cannot be read, files lie beside deliveries, an archive lies among the
            files, a delivery has a folder more around its classes than another, or classes differ only in case.
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
        _check_archives(self._archive.names, path)
        self.items = self._listed(self._archive.names)

    def read(self, chosen: Sequence[Item]) -> Iterator[tuple[Item, Content]]:
        """The bytes of each of `chosen`, in the order they are stored in."""
        items = {item.id: item for item in chosen}
        for name, content in self._archive.read(items.keys(), self._max_bytes):
            yield items[name], content

    def _listed(self, names: Sequence[str]) -> list[Item]:
        """The items of the deliveries with tables, then of those without."""
        deliveries = _deliveries(names, self._archive.path)
        tables = {around: [name for name in own if _is_table(name)] for around, own in deliveries.items()}
        every = [table for own in tables.values() for table in own]
        items = self._from_tables(every, set(names)) if every else []
        if untabled := {around: own for around, own in deliveries.items() if not tables[around]}:
            labelled = any(item.label is not None for item in items)
            named = _from_folders(untabled, labelled, self._archive.path)
            _check_case(named, self._archive.path)
            items += named
        return items

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


class _Place(NamedTuple):
    """Where a file lies below its delivery: its split, and the folders below that, of which the first is its class."""

    split: str | None
    folders: tuple[str, ...]


def _check_archives(names: Sequence[str], path: Path) -> None:
    if found := [name for name in names if name.lower().endswith(_ARCHIVES)]:
        raise Refused(
            f"{path}: found the archive {found[0]} among the files, where it is not read; unpack it into a folder, or "
            "name it alone in ingest.path if it is a zip or tar"
        )


def _is_table(name: str) -> bool:
    return PurePosixPath(name).name in NAMES


def _deliveries(names: Sequence[str], path: Path) -> dict[str, list[str]]:
    """The files of each delivery, by its folder with a slash; all files, by nothing, where there are no deliveries."""
    manifests = [name for name in names if PurePosixPath(name).name == MANIFEST]
    if not manifests:
        return {"": list(names)}
    # of two around each other the outer one, which lists the files of both
    folders = sorted((name.removesuffix(MANIFEST) for name in manifests), key=len)
    deliveries: dict[str, list[str]] = {folder: [] for folder in folders}
    for name in names:
        around = next((folder for folder in folders if name.startswith(folder)), None)
        if around is None and ("/" in name or _is_table(name) or name.lower().endswith(_SUFFIXES)):
            raise Refused(
                f"{path}: found {name} beside the delivery {folders[0]}, which its {MANIFEST} makes one; put it "
                f"into a folder with a {MANIFEST} of its own"
            )
        if around is not None and PurePosixPath(name).name != MANIFEST:
            deliveries[around].append(name)
    return deliveries


def _from_folders(deliveries: Mapping[str, Sequence[str]], labelled: bool, path: Path) -> list[Item]:
    """Items from `[SPLIT/][CLASS/...]FILE` below each delivery; `labelled` where items from tables have labels."""
    parts = _below_common_folders(deliveries, labelled)
    if not any(parts):
        raise Refused(f"{path}: no images: neither class folders with files, nor {', '.join(NAMES)}, nor image files")
    alike = not labelled and all(_first_folders(delivery) <= SPLITS.keys() for delivery in parts)
    places = [_places(delivery, alike) for delivery in parts]
    _check_depth(places, path)
    return [
        Item(id=name, source=name, label=place.folders[0] if place.folders else None, split=place.split)
        for delivery in places
        for name, place in delivery.items()
    ]


def _below_common_folders(deliveries: Mapping[str, Sequence[str]], labelled: bool) -> list[dict[str, tuple[str, ...]]]:
    """For each delivery its files, with their folders and names less the folders that stand around those of all.

    In class folders every file counts, beside them those named as images. Among labelled items the last folder is a
    class, even where it is the only one.
    """
    below = [(around, [name.removeprefix(around) for name in names]) for around, names in deliveries.items()]
    depth, left = 0, [name for _, names in below for name in names]
    while True:
        left = [name for name in left if _counts(name, depth)]
        if not left or any(name.count("/") <= depth + labelled for name in left):
            break
        if len({PurePosixPath(name).parts[depth] for name in left}) > 1:
            break
        depth += 1
    return [
        {around + name: PurePosixPath(name).parts[depth:] for name in names if _counts(name, depth)}
        for around, names in below
    ]


def _counts(name: str, depth: int) -> bool:
    return name.count("/") > depth or name.lower().endswith(_SUFFIXES)


def _first_folders(parts: Mapping[str, tuple[str, ...]]) -> set[str]:
    """What the first folders of a delivery are called, in lower case; an empty name where a file is in none."""
    return {part[0].lower() if len(part) > 1 else "" for part in parts.values()}


def _places(parts: Mapping[str, tuple[str, ...]], alike: bool) -> dict[str, _Place]:
    """Where the files of one delivery lie; `alike` where the first folders of all deliveries are called as splits are.

    Else a single folder with files in it is a class, though it be called train.
    """
    first = _first_folders(parts)
    deep = all(len(part) > 2 for part in parts.values())
    if first <= SPLITS.keys() and (alike or len(first) > 1 or deep):
        return {name: _Place(SPLITS[part[0].lower()], part[1:-1]) for name, part in parts.items()}
    return {name: _Place(None, part[:-1]) for name, part in parts.items()}


def _check_depth(deliveries: Sequence[Mapping[str, _Place]], path: Path) -> None:
    """A class of one delivery is in another a folder below a class: there, a folder stands around the classes.

    A delivery that has both as classes shows that it is not so.
    """
    classes = [{place.folders[0]: name for name, place in own.items() if place.folders} for own in deliveries]
    for own in deliveries:
        within = {(place.folders[0], inner): name for name, place in own.items() for inner in place.folders[1:]}
        for (outer, inner), name in within.items():
            other = next((found[inner] for found in classes if inner in found), None)
            if other is not None and not any(outer in found and inner in found for found in classes):
                raise Refused(
                    f"{path}: found {name}, where {inner} lies in the folder {outer}, and {other}, where {inner} is a "
                    "class; lay the files of all deliveries at DELIVERY/CLASS/FILE"
                )


def _check_case(items: Sequence[Item], path: Path) -> None:
    """Folders that differ only in case are one class to a person; labels of a table may be letters, large and small."""
    files = {item.label: item.id for item in items if item.label is not None}
    known: dict[str, str] = {}
    for label in files:
        same = known.setdefault(label.casefold(), label)
        if same != label:
            raise Refused(
                f"{path}: found the classes {same} ({files[same]}) and {label} ({files[label]}), which differ only in "
                "case; give them one name, or two that differ"
            )
