from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows import summary
from flows.dvc import Outcome
from ganlib.card import Condition, Latent, ModelCard
from ganlib.problems import Refused


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project with a model by class, one by text without a package, and one that is described but not trained."""
    (tmp_path / "params.yaml").write_text("models: [by-class, by-text, later]\n")
    add(tmp_path, "by-class", Condition(kind="class", size=2), {"frechet_distance": 12.3456, "label_agreement": 1.0})
    add(tmp_path, "by-text", Condition(kind="text", size=8), {"frechet_distance": 0.001234, "r_precision": 0.5})
    (tmp_path / "models/by-class/package").mkdir()
    return tmp_path


def add(folder: Path, name: str, condition: Condition, metrics: dict[str, float]) -> None:
    model, report = folder / "models" / name, folder / "reports" / name
    (report / "pictures").mkdir(parents=True)
    (report / "pictures" / "samples.png").touch()
    (report / "metrics.json").write_text(json.dumps(metrics))
    ModelCard(
        name=name,
        family="cgan" if condition.kind == "class" else "gan-cls",
        latent=Latent(size=4, distribution="normal"),
        condition=condition,
        size=8,
        channels=3,
        classes=("red rose", "daisy") if condition.kind == "class" else (),
        steps=1,
        images_seen=1,
        parameters={},
        data={},
    ).save(model / "card.json")


def test_models_with_a_report_are_shown_side_by_side(folder: Path) -> None:
    models = summary.read_models(folder)
    assert [model.name for model in models] == ["by-class", "by-text"]
    outcomes = [
        Outcome("ingest", True, 3.0),
        Outcome("train@by-text", True, 61.7),
        Outcome("train@by-class", False, 1.0),
    ]
    rows = summary.table(models, outcomes)
    assert rows == [
        ["model", "by-class", "by-text"],
        ["family", "cgan", "gan-cls"],
        ["frechet_distance", "12.35", "0.001234"],
        ["label_agreement", "1", "-"],
        ["r_precision", "-", "0.5"],
        ["seconds to train", "-", "62"],
    ]
    assert summary.text(rows[:3]).splitlines() == [
        "model             by-class   by-text",
        "family                cgan   gan-cls",
        "frechet_distance     12.35  0.001234",
    ]
    assert (
        summary.markdown(rows[:2]) == "| model | by-class | by-text |\n| --- | --- | --- |\n| family | cgan | gan-cls |"
    )


def test_what_to_try_fits_each_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert summary.next_commands(summary.read_models(folder)) == [
        'ganlib generate models/by-class/package --class "red rose" --count 16 --out by-class.png',
        "dvc metrics show",
        "dvc plots show",
    ]
    (folder / "models/by-text/package").mkdir()
    (folder / "models/by-text/samples").mkdir()
    (folder / "models/by-text/samples/conditions.txt").write_text('a "white" daisy\nanother\n')
    prompted = summary.next_commands(summary.read_models(folder))[1]
    assert prompted.endswith('by-text/package --prompt "a \\"white\\" daisy" --count 16 --out by-text.png')
    monkeypatch.chdir(folder / "reports")
    assert str(folder / "models/by-class/package") in summary.next_commands(summary.read_models(folder))[0]


def test_a_project_of_another_kind_has_nothing_to_show(tmp_path: Path) -> None:
    assert summary.read_models(tmp_path) == []
    assert summary.next_commands([]) == []


def test_a_report_that_is_not_flat_numbers_is_refused(folder: Path) -> None:
    (folder / "reports/by-text/metrics.json").write_text('{"a": {"b": 1}}')
    with pytest.raises(Refused, match=r"by-text/metrics\.json: expected flat numbers"):
        summary.read_models(folder)
