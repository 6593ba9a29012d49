from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from flows.exported import publish
from ganlib.files import sha256_of
from ganlib.serving.sources import Repository
from tests.packages import build_package


def export(project: Path, name: str, seed: int) -> Path:
    package = project / "models" / name / "package"
    shutil.rmtree(package, ignore_errors=True)
    return build_package(package, "none", name=name, seed=seed)


def versions(served: Path) -> list[str]:
    return sorted(f"{offer.name}@{offer.version}" for offer in Repository(served).offers())


def test_each_new_package_becomes_the_next_version_and_the_newest_three_are_kept(tmp_path: Path) -> None:
    project, served = tmp_path / "project", tmp_path / "project" / ".served"
    project.mkdir()
    assert publish(project, served) == []
    assert versions(served) == []
    first = export(project, "flowers", 1)
    export(project, "birds", 1)
    assert publish(project, served) == ["birds@1", "flowers@1"]
    assert publish(project, served) == []
    assert sha256_of(served / "flowers" / "1" / "generator.onnx") == sha256_of(first / "generator.onnx")
    shutil.rmtree(project / "models")  # a stage removes its outputs before it runs
    assert publish(project, served) == []
    assert versions(served) == ["birds@1", "flowers@1"]
    for seed in (2, 3, 4, 1):
        export(project, "flowers", seed)
        assert publish(project, served) == [f"flowers@{5 if seed == 1 else seed}"]  # an old one again is new
    assert versions(served) == ["birds@1", "flowers@3", "flowers@4", "flowers@5"]
    assert (served / ".gitignore").read_text() == "*\n"


@pytest.mark.parametrize("name", ["generator.onnx", "card.json"])
def test_a_package_that_is_not_whole_is_left_for_another_time(tmp_path: Path, name: str) -> None:
    project, served = tmp_path / "project", tmp_path / "served"
    package = export(project, "flowers", 1)
    whole = (package / name).read_bytes()
    (package / name).write_bytes(whole[: len(whole) // 2])
    assert publish(project, served) == []
    assert versions(served) == []
    assert not list(served.glob("flowers/*"))
    (package / name).write_bytes(whole)
    assert publish(project, served) == ["flowers@1"]


def test_what_was_changed_after_export_is_never_served(tmp_path: Path) -> None:
    project, served = tmp_path / "project", tmp_path / "served"
    package = export(project, "flowers", 1)
    content = bytearray((package / "generator.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (package / "generator.onnx").write_bytes(content)
    assert publish(project, served) == []
    assert versions(served) == []
