"""What a machine's worker does before each run: go to the project that it was started for."""

from __future__ import annotations

import os
from pathlib import Path

from ganlib.problems import Refused

PROJECT = "GANLIB_PROJECT"  # variable of a worker: the folder of the project that it works on


def enter_project() -> dict[str, str]:
    """Go to the project's folder: the step `pull` of prefect.yaml.

    Raises:
        Refused: where the worker was started without one, or there is none.
    """
    named = os.environ.get(PROJECT)
    if not named:
        raise Refused(f"{PROJECT}: not set on this machine; start its worker with the project's folder in it")
    project = Path(named).expanduser().resolve()
    if not (project / "dvc.yaml").is_file():
        raise Refused(f"{PROJECT}: found {named}, which has no dvc.yaml; expected the folder of a project")
    os.chdir(project)
    return {"directory": str(project)}
