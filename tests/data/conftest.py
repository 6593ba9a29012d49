"""Small sources in their real formats, and a shorthand for preparing them."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ganlib.card import DatasetSpec
from ganlib.config import Ingest
from ganlib.data.prepare import prepare

Files = Mapping[str, bytes]


def encoded(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """An image file's bytes."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def encode() -> Callable[..., bytes]:
    return encoded


@pytest.fixture
def pictures() -> dict[str, bytes]:
    """Twelve PNG files in the class folders cat and dog, each of one colour of its own."""
    return {
        f"{name}/{number}.png": encoded(np.full((8, 8, 3), (20 * number, 100 if name == "cat" else 200, 7), np.uint8))
        for name in ("cat", "dog")
        for number in range(6)
    }


def write_folder(path: Path, files: Files) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def write_zip(path: Path, files: Files) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_tar(path: Path, files: Files, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def _tar_gz(path: Path, files: Files) -> Path:
    return write_tar(path, files, "w:gz")


def _tar_xz(path: Path, files: Files) -> Path:
    return write_tar(path, files, "w:xz")


WRITERS = {"folder": write_folder, "zip": write_zip, "tar": write_tar, "tar.gz": _tar_gz, "tar.xz": _tar_xz}


@pytest.fixture(params=sorted(WRITERS))
def container(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Files], Path]:
    """Writes files as a folder, a zip or a tar whose name does not say which, and returns its path."""
    return lambda files: WRITERS[request.param](tmp_path / "source", files)


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[Files], Path]:
    return lambda files: write_folder(tmp_path / "source", files)


@pytest.fixture
def ingest(tmp_path: Path) -> Callable[..., DatasetSpec]:
    """Prepares `tmp_path/source` (or `path`) to `tmp_path/prepared`, at 8 pixels unless told otherwise."""

    def run(report: Callable[[str], None] = lambda line: None, **settings: Any) -> DatasetSpec:
        config = Ingest(**{"source": "folder", "path": "source", "size": 8, **settings})
        return prepare(config, tmp_path, tmp_path / "prepared", report)

    return run
