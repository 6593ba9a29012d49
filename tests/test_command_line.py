"""The command line as a person meets it: what it lists, what it shows without running, and how it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ganlib.families.registry import FAMILIES
from ganlib.registries import REGISTRIES, describe

TOP = Path(__file__).parent.parent


def ganlib(*arguments: str, folder: Path = TOP) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ganlib", *arguments], cwd=folder, text=True, capture_output=True, check=False
    )


@pytest.mark.parametrize("what", REGISTRIES)
def test_every_registry_is_described(what: str) -> None:
    entries = describe(what)
    assert entries
    assert all(entry["description"].strip() for entry in entries.values())


def test_list_shows_families_for_people_and_for_programs() -> None:
    shown = ganlib("list", "families")
    assert [line.split()[0] for line in shown.stdout.splitlines()] == list(FAMILIES)
    entries = json.loads(ganlib("list", "families", "--json").stdout)
    assert entries["gan-cls"]["network"]["width"]["default"] == 128
    assert entries["gan-cls"]["preset"]["generator"]["lr"] == 2e-4


def test_a_dry_run_shows_the_resolved_section_and_does_nothing(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("models: [a]\ntrain:\n  a: {family: gan-cls, steps: 7}\n")
    shown = ganlib("train", "a", "--dry-run", folder=tmp_path)
    assert shown.returncode == 0, shown.stderr
    section = yaml.safe_load(shown.stdout)["train.a"]
    assert (section["steps"], section["captions"], section["network"]["z"]) == (7, 4, 100)
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("train", "b"), "params.yaml: train: no model 'b'; it describes a"),
        (("train", "a"), "data/prepared/dataset.json: no such file"),
        (("ingest", "--params", "other.yaml"), "other.yaml: no such file; run in a project's folder or name one"),
        (("generate", "nowhere", "--out", "x.png"), "nowhere"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2(tmp_path: Path, arguments: tuple[str, ...], line: str) -> None:
    (tmp_path / "params.yaml").write_text("models: [a]\ntrain:\n  a: {family: dcgan}\n")
    refused = ganlib(*arguments, folder=tmp_path)
    assert refused.returncode == 2
    assert line in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert refused.stderr.startswith("ganlib: ")
    verbose = ganlib(*arguments, "--verbose", folder=tmp_path)
    assert "Traceback" in verbose.stderr


def test_the_settings_of_this_repository_and_of_every_example_are_sound() -> None:
    for params in (TOP / "params.yaml", *(TOP / "examples").glob("*/params.yaml")):
        for model in yaml.safe_load(params.read_text())["models"]:
            shown = ganlib("train", model, "--dry-run", "--params", str(params))
            assert shown.returncode == 0, shown.stderr
