"""retrain.yaml: what is retrained, what a challenger is held against, and when it takes the champion's place."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import yaml
from pydantic import Field, ValidationError, field_validator

from flows.gate import Rules
from flows.worktree import Worktree, worktree
from ganlib.config import Section
from ganlib.problems import Refused, first_problem

FILE = "retrain.yaml"


class Settings(Section):
    """retrain.yaml, read from the project's folder that the command was given."""

    models: list[str] | None = Field(None, min_length=1, description="what is retrained; none means params.yaml's")
    frozen: str = Field("data/frozen", description="the folder of `ganlib freeze`, tracked by DVC and never changed")
    seeds: int = Field(5, ge=2, description="how often each package is scored; noise shows from 2 on")
    gate: dict[str, Rules] = Field(description="by model, when a challenger takes the champion's place")
    warm: bool = Field(False, description="begin the training with the champion's weights, as `start_from` says it")
    branch: str = Field("main", min_length=1, description="of git, that is retrained from and committed to")
    remote: str = Field("origin", min_length=1, description="of git")
    dvc_remote: str | None = Field(None, description="of DVC; none means its default")
    watch: str | None = Field(
        None, description="a folder whose complete deliveries, a folder each, are added to data/raw; ~ is the home"
    )
    manifest_needed: bool = Field(
        True, description="an imported folder without SHA256SUMS is taken for half an upload, and waits"
    )
    checkpoints: str | None = Field(
        None,
        description="a folder that machines share, so that a training goes on elsewhere; none means this machine's",
    )
    min_free_disk: float = Field(2.0, ge=0, description="GB that have to be free before anything starts")
    score: str = Field("python -m ganlib score", description="the command that scores a package on the frozen set")
    notify: str | None = Field(None, description="a command that gets the message on its standard input; no shell")

    @field_validator("score", "notify")
    @classmethod
    def _a_command(cls, value: str | None) -> str | None:
        """Raises ValueError where the quotes are unbalanced or there is no such program."""
        if value is None:
            return None
        try:
            program = next(iter(shlex.split(value)), "")
        except ValueError as error:
            raise ValueError(f"{value!r} is no command: {str(error).lower()}") from error
        if program != "python" and shutil.which(program) is None:
            raise ValueError(f"{value!r}: there is no program {program!r} on this machine")
        return value


def open_settings(project: Path) -> Settings:
    """Read PROJECT/retrain.yaml.

    Raises:
        Refused: one line with the file, the key, what was found and what would do.
    """
    file = project / FILE
    if not file.is_file():
        raise Refused(f"{file}: no such file; write one with at least `gate: {{MODEL: {{floor: VALUE}}}}`")
    content = _mapping(file)
    try:
        return Settings.model_validate(content)
    except ValidationError as error:
        in_rules = str(error.errors()[0]["loc"][:1]) == "('gate',)" and len(error.errors()[0]["loc"]) > 2
        known = Rules.model_fields if in_rules else Settings.model_fields
        raise Refused(f"{file}: {first_problem(error, known)}") from error


def chosen_models(project: Path, settings: Settings, asked: Sequence[str] = ()) -> tuple[str, ...]:
    """The models to retrain: those asked for, or those of the settings, or all of params.yaml.

    Raises:
        Refused: for a model that params.yaml does not name or that has no gate.
    """
    names = _mapping(project / "params.yaml").get("models")
    if not isinstance(names, list) or not names:
        raise Refused(f"{project / 'params.yaml'}: models: found {names!r}; expected a list of names")
    if unknown := [name for name in settings.gate if name not in names]:
        raise Refused(f"{project / FILE}: gate: found {unknown[0]!r}; params.yaml has {', '.join(map(str, names))}")
    chosen = tuple(dict.fromkeys(asked or settings.models or names))
    for name in chosen:
        if name not in names:
            raise Refused(f"model: found {name!r}; params.yaml has {', '.join(map(str, names))}")
        if name not in settings.gate:
            raise Refused(
                f"{project / FILE}: gate: {name} is missing; say by `{name}: {{floor: VALUE}}` what is good enough"
            )
    return chosen


def open_worktree(project: Path, settings: Settings, model: str) -> AbstractContextManager[Worktree]:
    """The worktree of a model's retraining, as the settings have it; see `flows.worktree.worktree`."""
    return worktree(
        project, model, settings.remote, settings.branch, settings.dvc_remote, checkpoints=settings.checkpoints
    )


def _mapping(file: Path) -> dict[str, object]:
    try:
        content = yaml.safe_load(file.read_text()) if file.is_file() else None
    except yaml.YAMLError as error:
        raise Refused(f"{file}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise Refused(f"{file}: found {type(content).__name__}; expected keys with values")
    return content
