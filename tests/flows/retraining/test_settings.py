from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from flows import retrain
from flows.retraining.settings import Settings, chosen_models, open_settings
from ganlib.problems import Refused

TOP = Path(__file__).parents[3]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text("models: [one, two]\n")
    return tmp_path


def write(project: Path, **settings: object) -> None:
    (project / "retrain.yaml").write_text(yaml.safe_dump(settings))


def test_the_repositorys_own_settings_are_valid() -> None:
    settings = open_settings(TOP)
    assert set(chosen_models(TOP, settings)) == set(settings.gate)
    assert settings.score == Settings.model_fields["score"].default


def test_the_defaults(project: Path) -> None:
    write(project, gate={"one": {"floor": 1.5}, "two": {"floor": 2, "margin": 0.1}})
    settings = open_settings(project)
    assert (settings.gate["one"].floor, settings.gate["two"].margin) == (1.5, 0.1)
    assert (settings.branch, settings.remote, settings.frozen) == ("main", "origin", "data/frozen")
    assert chosen_models(project, settings) == ("one", "two")
    assert chosen_models(project, settings, ["two", "two"]) == ("two",)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gate": {}, "seed": 3}, r"retrain\.yaml: seed: unknown key; did you mean seeds\?"),
        ({"gate": {}, "seeds": 1}, r"retrain\.yaml: seeds: found 1; "),
        ({"gate": {"one": {"flor": 1.0}}}, r"gate\.one\.floor: missing"),
        ({"gate": {"one": {"floor": 1, "margn": 1.0}}}, r"gate\.one\.margn: unknown key; did you mean margin\?"),
        ({"gate": {"one": {}}}, r"retrain\.yaml: gate\.one\.floor: missing"),
        ({"frozen": "x"}, r"retrain\.yaml: gate: missing"),
        ({"gate": {}, "notify": "mail -s 'it's done' me"}, r"notify: \"mail .* is no command: no closing quotation"),
        ({"gate": {}, "score": "nix score"}, r"score: 'nix score': there is no program 'nix' on this machine"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named(settings, message, project: Path) -> None:
    write(project, **settings)
    with pytest.raises(Refused, match=message):
        open_settings(project)


def test_a_model_needs_a_gate_and_a_place_in_the_parameters(project: Path) -> None:
    write(project, gate={"one": {"floor": 1.0}})
    settings = open_settings(project)
    with pytest.raises(Refused, match=r"gate: found 'three'; params\.yaml has one, two"):
        chosen_models(project, settings.model_copy(update={"gate": {"three": settings.gate["one"]}}))
    with pytest.raises(Refused, match=r"gate: two is missing; say by `two: \{floor: VALUE\}`"):
        chosen_models(project, settings)
    with pytest.raises(Refused, match=r"model: found 'three'; params\.yaml has one, two"):
        chosen_models(project, settings, ["three"])
    assert chosen_models(project, settings.model_copy(update={"models": ["one"]})) == ("one",)


def test_files_that_are_no_settings(project: Path, capsys) -> None:
    assert retrain.main(["--project", str(project)]) == 2
    assert "retrain.yaml: no such file; write one with at least" in capsys.readouterr().err
    (project / "retrain.yaml").write_text("- a list\n")
    with pytest.raises(Refused, match=r"retrain\.yaml: found list; expected keys with values"):
        open_settings(project)
    (project / "retrain.yaml").write_text("a: [\n")
    with pytest.raises(Refused, match=r"retrain\.yaml: not YAML: "):
        open_settings(project)
    write(project, gate={"one": {"floor": 1.0}})
    (project / "params.yaml").unlink()
    with pytest.raises(Refused, match=r"params\.yaml: "):
        chosen_models(project, open_settings(project))
