"""Packages for each kind of condition, in a folder of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ganlib.card import ModelCard
from ganlib.inference.package import Package, open_package
from tests.packages import build_package, save_encoder, seal


@pytest.fixture
def reseal() -> Callable[[Path, ModelCard], None]:
    """Writes a card that agrees with changed files: what an attacker or a mistaken tool would leave."""
    return seal


@pytest.fixture
def encoder() -> Callable[..., None]:
    """Writes a text encoder of so many words."""
    return save_encoder


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Path]:
    """Builds a package of a kind of condition and returns its folder."""
    return lambda kind, channels=3: build_package(tmp_path / f"package-{kind}", kind, channels)


@pytest.fixture
def package(build: Callable[..., Path]) -> Callable[..., Package]:
    """Builds and opens a package of a kind of condition."""
    return lambda kind, channels=3: open_package(build(kind, channels))
