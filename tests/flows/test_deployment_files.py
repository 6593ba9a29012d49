"""The files of docs/deployment: the units load in systemd, and every program and option in them exists."""

from __future__ import annotations

import configparser
import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.deployments import POOL
from flows.machine import PROJECT

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "deployment"
UNITS = sorted(FOLDER.glob("*.service"))
COMPOSE = FOLDER / "compose.yaml"
DOCUMENT = ROOT / "docs" / "deployment.md"


def unit(path: Path) -> dict[str, dict[str, list[str]]]:
    """The sections of a unit file: the values of each key."""
    sections: dict[str, dict[str, list[str]]] = {}
    for line in path.read_text().splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            section.setdefault(key, []).append(value)
    return sections


def services() -> dict[str, list[str]]:
    """The command of each service, by where it stands."""
    commands = {path.name: shlex.split(unit(path)["Service"]["ExecStart"][0]) for path in UNITS}
    compose = yaml.safe_load(COMPOSE.read_text())["services"]
    return commands | {f"compose: {name}": shlex.split(service["command"]) for name, service in compose.items()}


@functools.cache
def options_of(module: str, *subcommands: str) -> frozenset[str]:
    """The options that a module's --help lists."""
    command = [sys.executable, "-m", module, *subcommands, "--help"]
    environment = os.environ | {"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}
    told = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True)
    return frozenset(re.findall(r"--[a-z][a-z-]*", told.stdout))


SUBCOMMANDS = {"prefect": 2, "ganlib": 1, "flows.deployments": 0}


@pytest.mark.parametrize("name", services())
def test_every_program_and_option_exists(name: str) -> None:
    command = services()[name]
    at = command.index("-m") + 1
    assert Path(command[0]).name == "python"
    module, rest = command[at], command[at + 1 :]
    subcommands, rest = rest[: SUBCOMMANDS[module]], rest[SUBCOMMANDS[module] :]
    asked = {word for word in rest if word.startswith("--")}
    assert asked
    assert asked <= options_of(module, *subcommands)


def test_the_units_are_the_services_of_compose() -> None:
    def meant(command: list[str]) -> str:
        return " ".join(command[command.index("-m") + 1 :][:2])

    ours = {meant(command) for name, command in services().items() if not name.startswith("compose")}
    theirs = {meant(command) for name, command in services().items() if name.startswith("compose")}
    assert ours == theirs
    assert len(UNITS) == 4


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="this machine has no systemd-analyze")
def test_the_units_load_in_systemd(tmp_path: Path) -> None:
    python = tmp_path / "opt" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    for path in UNITS:
        (tmp_path / path.name).write_text(path.read_text().replace("/opt/ganlib", str(tmp_path / "opt")))
    command = ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / path.name) for path in UNITS)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    broken = tmp_path / "ganlib-broken.service"
    broken.write_text(UNITS[0].read_text().replace("Restart=on-failure", "Restart=perhaps"))
    ended = subprocess.run([*command[:3], str(broken)], capture_output=True, text=True, timeout=60, check=False)
    assert "perhaps" in ended.stderr  # it would have said so


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_can_be_read_and_names_what_is_there(path: Path) -> None:
    assert configparser.ConfigParser(strict=False, interpolation=None).read(path) == [str(path)]
    content = unit(path)
    assert content.keys() == {"Unit", "Service", "Install"}
    others = " ".join(" ".join(content["Unit"].get(key, [])) for key in ("After", "Requires", "Wants")).split()
    known = {each.name for each in UNITS} | {"network-online.target"}
    assert set(others) <= known
    variables = dict(pair.split("=", 1) for line in content["Service"]["Environment"] for pair in line.split())
    if "worker" in path.name:
        assert variables[PROJECT] == "/opt/ganlib"
    if "worker" in path.name or "deployments" in path.name:
        assert variables["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"


def test_compose_is_whole() -> None:
    content = yaml.safe_load(COMPOSE.read_text())
    assert (FOLDER / content["x-image"]["build"]["context"]).resolve() == ROOT
    assert (ROOT / content["x-image"]["build"]["dockerfile"]).is_file()
    named = content["services"]
    for name, service in named.items():
        assert service["image"] == "ganlib", name
        assert set(service.get("depends_on", {})) <= named.keys()
        volumes = [volume.partition(":")[0] for volume in service.get("volumes", [])]
        assert {volume for volume in volumes if volume.isalpha()} <= content["volumes"].keys()
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")  # nothing asks for a password unless it is told to
    assert PROJECT in named["worker"]["environment"]
    assert f"--pool {POOL} " in named["worker"]["command"]


def test_the_document_links_and_names_what_is_there() -> None:
    text = DOCUMENT.read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (DOCUMENT.parent / link).exists(), link
    assert {f"deployment/{path.name}" for path in [*UNITS, COMPOSE]} <= set(re.findall(r"\]\(([^)#]+)\)", text))
    content = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    flows = {"flows.retraining.flow.retrain": "retrain", "flows.graph.pipeline": "pipeline"}
    for one in content["deployments"]:
        assert f"`{flows.get(one['entrypoint'], 'batch-job')}/{one['name']}`" in text
