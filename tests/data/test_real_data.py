"""The readers on published datasets, where GANLIB_REAL_DATA names a folder that holds them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ganlib.card import DatasetSpec
from ganlib.data.store import load_split

REAL = Path(os.environ.get("GANLIB_REAL_DATA", ""))
pytestmark = pytest.mark.skipif("GANLIB_REAL_DATA" not in os.environ, reason="GANLIB_REAL_DATA names no folder")


def test_mnist_has_its_published_statistics(tmp_path: Path, ingest: Callable[..., DatasetSpec]) -> None:
    spec = ingest(source="mnist", path=str(REAL / "mnist"), size=28, channels=1)
    assert spec.counts == {"train": 60_000, "test": 10_000}
    assert spec.mean[0] / 255 == pytest.approx(0.1307, abs=5e-5)
    assert spec.std[0] / 255 == pytest.approx(0.3081, abs=5e-5)
    test = load_split(tmp_path / "prepared", None, "test")
    assert np.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]


def test_emoji_from_a_zip_with_captions(tmp_path: Path, ingest: Callable[..., DatasetSpec]) -> None:
    spec = ingest(path=str(REAL / "noto-emoji" / "noto-emoji-64.zip"), size=32)
    assert sum(spec.counts.values()) == 3219
    assert not spec.refused
    assert 1 <= spec.captions_per_image <= 3
    assert "food & drink" in spec.classes


def test_cifar10_from_a_compressed_tar(ingest: Callable[..., DatasetSpec]) -> None:
    spec = ingest(path=str(REAL / "cifar10-jpeg" / "cifar10-jpeg.tar.xz"), size=32, limit=600)
    assert len(spec.classes) == 10
    assert sum(spec.counts.values()) == 600
    assert spec.counts["test"] == pytest.approx(100, abs=35)  # its own sixth, not a tenth
