"""Packages as a command line names them: by a folder, or by a reference to a release of a registry."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from ganlib.inference.registry import resolve
from ganlib.problems import Refused

_REFERENCE = re.compile(r"[^@]+@[A-Za-z0-9][A-Za-z0-9._-]*")


def package_of(named: Path, registry: str | None, cache: Path | None) -> Path:
    """The folder of a package.

    Args:
        named: the folder itself; with a registry NAME@STAGE or NAME@VERSION, for example flowers@prod.
        registry: path or address of the git repository whose releases are meant; None for a folder.
        cache: where its packages are kept; None for a folder of the user's.

    Raises:
        Refused: for a reference that names nothing, or has no registry.
        Failed: where the registry or the package cannot be had.
    """
    if registry is not None:
        return resolve(str(named), address_of(registry), cache or cache_of(registry))
    if _REFERENCE.fullmatch(str(named)) and not named.exists():
        raise Refused(f"{named}: no such folder; for a release say whose with --registry REPOSITORY")
    return named


def address_of(registry: str) -> str:
    """A registry's address; a folder here as its whole path, so that it does not hang on where a command is run."""
    return str(Path(registry).resolve()) if Path(registry).exists() else registry


def cache_of(registry: str) -> Path:
    """Where the packages of a registry are kept unless somebody says otherwise: below XDG_CACHE_HOME, or ~/.cache."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(named) if Path(named).is_absolute() else Path.home() / ".cache"
    return folder / "ganlib" / "packages" / hashlib.sha256(address_of(registry).encode()).hexdigest()[:16]
