"""What a pipeline has made, for people: metrics side by side, pictures, and what to do next."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from flows.dvc import Outcome
from ganlib.card import ModelCard
from ganlib.problems import Refused

Table = list[list[str]]


@dataclass(frozen=True)
class Model:
    """A trained and evaluated model of a project.

    Attributes:
        name, card: as in params.yaml and card.json.
        metrics: the numbers of its report.
        pictures: the PNG files of its report.
        package: its exported folder, None where there is none.
    """

    name: str
    card: ModelCard
    metrics: dict[str, float]
    pictures: tuple[Path, ...]
    package: Path | None


def read_models(project: Path) -> list[Model]:
    """The models of params.yaml that have a report, in their order; none where the project is of another kind."""
    parameters = project / "params.yaml"
    content = yaml.safe_load(parameters.read_text()) if parameters.is_file() else None
    names = content.get("models") if isinstance(content, dict) else None
    models = []
    for name in names or ():
        folder, report = project / "models" / name, project / "reports" / name
        if (folder / "card.json").is_file() and (report / "metrics.json").is_file():
            package = folder / "package"
            models.append(
                Model(
                    name=name,
                    card=ModelCard.load(folder / "card.json"),
                    metrics=_numbers(report / "metrics.json"),
                    pictures=tuple(sorted((report / "pictures").glob("*.png"))),
                    package=package if package.is_dir() else None,
                )
            )
    return models


def table(models: Sequence[Model], outcomes: Iterable[Outcome] = ()) -> Table:
    """Rows of text, a column for each model: its family, every metric, and the seconds of what ran for it alone."""
    seconds = {outcome.stage: outcome.seconds for outcome in outcomes if outcome.ran}
    rows = [["model", *(model.name for model in models)], ["family", *(model.card.family for model in models)]]
    for metric in dict.fromkeys(metric for model in models for metric in model.metrics):
        values = (model.metrics.get(metric) for model in models)
        rows.append([metric, *("-" if value is None else f"{value:.4g}" for value in values)])
    for group in dict.fromkeys(stage.partition("@")[0] for stage in seconds if "@" in stage):
        times = (seconds.get(f"{group}@{model.name}") for model in models)
        rows.append([f"seconds to {group}", *("-" if time is None else f"{time:.0f}" for time in times)])
    return rows


def markdown(rows: Table) -> str:
    """A table in Markdown; the first row is its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def text(rows: Table) -> str:
    """A table in plain text: names flush left, values flush right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = (
        "  ".join(cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in rows)
    )
    return "\n".join(lines)


def next_commands(models: Sequence[Model]) -> list[str]:
    """Commands to try now, with paths as a shell in the current folder reads them."""
    commands = []
    for model in models:
        if model.package is None:
            continue
        wanted = ""
        if model.card.condition.kind == "class" and model.card.classes:
            wanted = f" --class {_quoted(model.card.classes[0])}"
        elif model.card.condition.kind == "text":
            wanted = f" --prompt {_quoted(_caption(model))}"
        package = shlex.quote(shown(model.package))
        commands.append(f"ganlib generate {package}{wanted} --count 16 --out {model.name}.png")
    return [*commands, "dvc metrics show", "dvc plots show"] if models else []


def shown(path: Path) -> str:
    """A path as seen from the current folder, where it lies below it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _caption(model: Model) -> str:
    """A caption that the model was not trained on: the first that its sample grid shows."""
    shown_captions = (model.package.parent if model.package else Path()) / "samples" / "conditions.txt"
    lines = shown_captions.read_text().splitlines() if shown_captions.is_file() else []
    return lines[0] if lines else "..."


def _quoted(words: str) -> str:
    return '"' + words.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$").replace("`", "\\`") + '"'


def _numbers(path: Path) -> dict[str, float]:
    """The flat numbers of a metrics.json.

    Raises:
        Refused: where it holds something else.
    """
    content = json.loads(path.read_text())
    if not isinstance(content, dict) or not all(isinstance(value, int | float) for value in content.values()):
        raise Refused(f"{path}: expected flat numbers by name; run its evaluate stage again")
    return content
