"""One retraining with the real stages of ganlib, on flowers and a network that is far too small: begun on one machine,
where its training is killed, and ended on another.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter

from flows import retrain
from ganlib.inference.package import open_package
from ganlib.inference.registry import resolve
from ganlib.score import Score
from tests.flows.releasing import bare_machine, build_project

TOP = Path(__file__).parents[3]
PARAMETERS = {
    "models": ["tiny"],
    "ingest": {"source": "flowers", "count": 150},
    "embed": {"encoder": "none"},
    "train": {
        "tiny": {
            "family": "cgan",
            "network": {"width": 4, "discriminator_width": 4},
            "batch": 8,
            "steps": 300,
            "checkpoint_every": 5,
            "device": "cpu",
            "precision": "float32",
        }
    },
    "extractor": {"width": 4, "features": 8, "steps": 2, "batch": 16},
    "evaluate": {"samples": 40, "prompts": 20, "subsets": 2, "subset_size": 10},
    "export": {"precisions": ["float32"]},
}


def kill_training(checkpoints: Path, killed: list[int]) -> None:
    """Kill the training beneath this process once it has written a checkpoint."""
    end = time.monotonic() + 120.0
    while not killed and time.monotonic() < end:
        if list(checkpoints.glob("tiny/tiny/*/step-*/manifest.json")):
            for folder in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):  # it has ended meanwhile
                    if folder.joinpath("cmdline").read_bytes().endswith(b"-m\0ganlib\0train\0tiny\0"):
                        os.kill(int(folder.name), signal.SIGKILL)
                        killed.append(int(folder.name))
        time.sleep(0.02)


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
def test_from_nothing_to_a_released_model(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, caplog
) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for name, value in (bare_machine() | {"PREFECT_API_URL": server, "OMP_NUM_THREADS": "1", "PATH": path}).items():
        monkeypatch.setenv(name, value)
    stages = yaml.safe_load((TOP / "dvc.yaml").read_text())["stages"]
    project = build_project(tmp_path, ["tiny"], plan=yaml.safe_dump({"stages": stages}))
    shared = tmp_path / "shared"
    shared.mkdir()
    rules = {"floor": 1e9, "least_agreement": 0.0, "least_diversity": 0.0}
    settings = {"gate": {"tiny": rules}, "seeds": 2, "min_free_disk": 0.01, "checkpoints": str(shared)}
    for name, content in {
        "params.yaml": yaml.safe_dump(PARAMETERS),
        "retrain.yaml": yaml.safe_dump(settings),
        "data/raw/.gitkeep": "",
        ".gitignore": "models/\n",
    }.items():
        (project.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (project.folder / name).write_text(content)
    assert retrain.main(["--project", str(project.folder)]) == 2
    assert "tiny: failed: frozen: origin/main has no data/frozen; `ganlib freeze --out" in capsys.readouterr().err
    project.commit("settings")
    project.dvc("repro", "--quiet", "extractor")
    freeze = [sys.executable, "-m", "ganlib", "freeze", "--out", "data/frozen"]
    subprocess.run(freeze, cwd=project.folder, check=True, capture_output=True)
    project.dvc("add", "--quiet", "data/frozen", then=["push", "--quiet"])
    project.commit("the frozen set")

    killed: list[int] = []
    killer = threading.Thread(target=kill_training, args=(shared, killed))
    killer.start()
    assert retrain.main(["--project", str(project.folder)]) == 1
    killer.join()
    assert killed
    assert "tiny: failed: stage train@tiny failed" in capsys.readouterr().err

    logging.getLogger("prefect.task_runs").addHandler(caplog.handler)
    project = project.clone(tmp_path / "another")
    assert retrain.main(["--project", str(project.folder)]) == 0, capsys.readouterr().err
    logging.getLogger("prefect.task_runs").removeHandler(caplog.handler)
    assert re.search(r"tiny: resumes after step [1-9]\d* of 300", caplog.text)
    assert "tiny: promoted: v1.0.0 is prod: frechet_distance of the challenger is" in capsys.readouterr().out
    package = resolve("tiny@prod", str(project.folder), tmp_path / "cache")
    card = open_package(package).card
    assert (card.name, card.size, card.metrics.keys() >= {"frechet_distance"}) == ("tiny", 32, True)
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key={"any_": ["tiny-data"]}))
    assert "- train: 136 images" in max(found, key=lambda one: one.created).data
    score = Score.load(project.tree / ".git" / "ganlib" / "retrain" / "tiny" / "challenger.json")
    assert score.seeds == (0, 1)
    head = project.git("ls-remote", str(project.origin), "refs/heads/main").split()[0]
    show = lambda name: project.git("--git-dir", str(project.origin), "show", f"{head}:{name}")  # noqa: E731
    assert "frechet_distance" in show("reports/tiny/metrics.json")
    assert "frechet_distance" in show("reports/tiny/protocol.json")
    assert "export@tiny" in yaml.safe_load(show("dvc.lock"))["stages"]
