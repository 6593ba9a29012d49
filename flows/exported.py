"""Packages that a project exports, as versions in a folder that is served.

The outputs of a stage are removed before it runs again, so nothing serves from the project's own models/: what was
exported is copied aside, and stays until newer ones have taken its place.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from ganlib.files import whole_folder
from ganlib.inference.package import CARD, open_package
from ganlib.problems import Refused

KEPT = 3  # versions of a model


def publish(project: Path, served: Path) -> list[str]:
    """Copy each package that is new in a project to SERVED/NAME/VERSION, whole or not at all.

    Args:
        project: with models/NAME/package; one that is being written is left for another time.
        served: a folder of NAME/VERSION/, each VERSION a whole number. All but the newest three of a model are removed.

    Returns:
        NAME@VERSION of the new ones.

    Raises:
        OSError: where the folder cannot be written.
    """
    served.mkdir(parents=True, exist_ok=True)
    (served / ".gitignore").write_text("*\n")
    new = []
    for card in sorted(project.glob(f"models/*/package/{CARD}")):
        name = card.parents[1].name
        versions = _versions(served / name)
        if not versions or not _same(card, served / name / str(versions[-1]) / CARD):
            version = versions[-1] + 1 if versions else 1
            if _copy(card.parent, served / name / str(version)):
                new.append(f"{name}@{version}")
                for old in [*versions, version][:-KEPT]:
                    shutil.rmtree(served / name / str(old))
    return new


def _copy(package: Path, to: Path) -> bool:
    """Copy a package; whether it was whole."""
    try:
        opened = open_package(package)
        with whole_folder(to) as temporary:
            for name in (CARD, *opened.card.files):
                shutil.copyfile(package / name, temporary / name)
            open_package(temporary)
    except (Refused, FileNotFoundError):  # the stage is at it
        return False
    return True


def _versions(model: Path) -> list[int]:
    if not model.is_dir():
        return []
    return sorted(int(entry.name) for entry in model.iterdir() if entry.name.isdigit() and entry.is_dir())


def _same(one: Path, other: Path) -> bool:
    """Whether two cards, which name the hashes of all else, are the same; not where one has just gone."""
    try:
        return one.read_bytes() == other.read_bytes()
    except FileNotFoundError:
        return False
