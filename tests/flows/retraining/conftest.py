"""The small project that is retrained, before and after its first release, made once for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows import retrain
from tests.flows.releasing import bare_machine
from tests.flows.retraining.project import Retraining, a_copy_of, build


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Retraining:
    """The project with its first data, and no model yet. Not to be changed."""
    return build(tmp_path_factory.mktemp("untrained") / "base")


@pytest.fixture(scope="session")
def released(untrained: Retraining, server: str, tmp_path_factory: pytest.TempPathFactory) -> Retraining:
    """The project with v1.0.0 as prod, a Frechet distance of 10. Not to be changed."""
    project = a_copy_of(untrained, tmp_path_factory.mktemp("released") / "base")
    with pytest.MonkeyPatch.context() as patch:
        _surround(patch, project, server)
        assert retrain.main(["--project", str(project.folder)]) == 0
    assert project.prod() == "v1.0.0"
    project.log.unlink()
    project.releasing.git("pull", "--quiet", "origin", "main")
    return project


@pytest.fixture
def project(released: Retraining, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Retraining:
    """A copy of the released project for one test."""
    project = a_copy_of(released, tmp_path / "base")
    _surround(monkeypatch, project, server)
    return project


def _surround(patch: pytest.MonkeyPatch, project: Retraining, server: str) -> None:
    for name, value in (bare_machine() | {"LOG": str(project.log), "PREFECT_API_URL": server}).items():
        patch.setenv(name, value)
