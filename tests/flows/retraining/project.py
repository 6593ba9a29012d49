"""A small project that is retrained: real git and DVC remotes, stages that take no time, and data that says how good a
model is that learns from it.

    project = a_copy_of(build(elsewhere), tmp_path / "project")
    project.deliver("monday", distance=8.0)
    main(["--project", str(project.folder)])
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ganlib.inference.registry import releases
from tests.flows.releasing import Releasing, build_project
from tests.packages import build_package

REPOSITORY = Path(__file__).parents[3]  # the project has what is ignored in common with it
MODEL = "one"
ARTIFACT, TAG = "project:one", "project=one"  # in the registry: the project is not all of its repository

PLAN = """stages:
  ingest:
    cmd: exec python stage.py ingest
    deps: [data/raw]
    outs: [data/prepared]
  train:
    matrix:
      model: ${models}
    cmd: exec python stage.py train ${item.model}
    deps: [data/prepared]
    params: ["train.${item.model}"]
    outs: ["models/${item.model}/state.safetensors", "models/${item.model}/package"]
    metrics:
      - reports/${item.model}/metrics.json:
          cache: false
"""

# A model is as good as the newest data says: quality.json of a delivery has what `ganlib score` is to find.
STAGE = """
import hashlib, json, os, pathlib, shutil, sys, time
import yaml
stage, *model = sys.argv[1:]
print(f"{stage} begins", flush=True)
with open(os.environ["LOG"], "a") as log:
    log.write(f"{stage} {os.getpid()} {os.getppid()}\\n")
once = pathlib.Path(os.environ["LOG"] + "." + stage)
if once.exists():
    once.unlink()
    print(f"{stage} sleeps", flush=True)
    time.sleep(60)
prepared = pathlib.Path("data/prepared/quality.json")
if stage == "ingest":
    quality = {}
    for delivery in sorted(pathlib.Path("data/raw").glob("*/quality.json")):
        quality |= json.loads(delivery.read_text())
    if quality.get("bad"):
        sys.exit("ganlib: data/raw: 7 of 9 files are unusable; look at them")
    prepared.parent.mkdir()
    prepared.write_text(json.dumps(quality))
else:
    out = pathlib.Path("models", *model)
    package, report = out / "package", pathlib.Path("reports", *model, "metrics.json")
    settings = yaml.safe_load(pathlib.Path("params.yaml").read_text())["train"][model[0]]
    quality = json.loads(prepared.read_text()) | settings
    start = pathlib.Path(settings.get("start_from", "nothing"), "state.safetensors")
    quality["began"] = start.read_text() if start.exists() else None
    shutil.copytree("template", package)
    card = json.loads((package / "card.json").read_text()) | {"name": model[0], "parameters": quality}
    (package / "card.json").write_text(json.dumps(card))
    (out / "state.safetensors").write_text(json.dumps(quality).ljust(3_000_000))
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(json.dumps({"frechet_distance": quality["distance"]}))
"""

SCORE = """
import hashlib, json, os, pathlib, sys
package, _, frozen, _, seeds, _, out = sys.argv[1:]
with open(os.environ["LOG"], "a") as log:
    log.write(f"score {os.getpid()}\\n")
card = pathlib.Path(package, "card.json").read_bytes()
quality = json.loads(card)["parameters"]
if quality.get("unscorable"):
    sys.exit("ganlib: frechet_distance is not finite")
count = int(seeds)
values = {"frechet_distance": quality["distance"], "diversity": quality.get("diversity", 1.0)}
values |= {"label_agreement/rose": quality.get("rose", 1.0)}
metrics = {name: [value * (1 + seed / 1000) for seed in range(count)] for name, value in values.items()}
pathlib.Path(out).write_text(json.dumps({
    "name": json.loads(card)["name"], "package": hashlib.sha256(card).hexdigest(),
    "frozen": hashlib.sha256(pathlib.Path(frozen, "frozen.json").read_bytes()).hexdigest(),
    "version": "1", "precision": "float32", "seeds": list(range(count)), "metrics": metrics,
    "machine": "here", "latency_ms": {"1": 1.0},
}))
print("scored", flush=True)
"""

SETTINGS = {
    "gate": {MODEL: {"floor": 50.0}},
    "seeds": 2,
    "score": "python score.py",
    "watch": "../../watched",
    "min_free_disk": 0.001,
}


@dataclass(frozen=True)
class Retraining:
    """The project.

    Attributes:
        base: folder of all that belongs to it.
        releasing: its repositories.
    """

    base: Path
    releasing: Releasing

    @property
    def folder(self) -> Path:
        return self.releasing.folder

    @property
    def watched(self) -> Path:
        return self.base / "watched"

    @property
    def log(self) -> Path:
        return self.base / "log"

    def ran(self) -> list[str]:
        """What was run, in order: stages and scores."""
        return [line.split()[0] for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def last_process(self) -> tuple[int, int]:
        """Ids of the process of the last stage that began, and of the dvc above it."""
        _, process, above = self.log.read_text().splitlines()[-1].split()
        return int(process), int(above)

    def sleeps(self, stage: str) -> None:
        """Let the next run of a stage take a minute."""
        Path(f"{self.log}.{stage}").touch()

    def deliver(self, name: str, **quality: Any) -> Path:
        """A whole delivery in the watched folder; a model that learns from it will be as good as it says."""
        folder = self.watched / name
        folder.mkdir(parents=True)
        write_delivery(folder, quality)
        return folder

    def change(self, **quality: Any) -> str:
        """Let people push settings that make a model as good as they say, and give their commit."""
        self.releasing.git("pull", "--quiet", "origin", "main")
        file = self.folder / "params.yaml"
        content = yaml.safe_load(file.read_text())
        content["train"][MODEL] |= quality
        file.write_text(yaml.safe_dump(content))
        return self.releasing.commit(f"settings {quality}")

    def prod(self) -> str | None:
        """The version that the git remote has as prod."""
        return next((r.version for r in releases(self.releasing.address) if "prod" in r.stages), None)

    def forget_cache(self) -> None:
        """Be a machine that has no data and no model."""
        for left in (".dvc/cache", "data/raw/first", "data/frozen", "data/prepared", "models"):
            shutil.rmtree(self.folder / left, ignore_errors=True)

    def stored(self, path: str) -> Path:
        """The file of the DVC remote that lists what a folder of the newest commit has."""
        described = [f"{path}.dvc"] if (self.folder / f"{path}.dvc").exists() else ["dvc.lock"]
        content = yaml.safe_load((self.folder / described[0]).read_text())
        outs = [out for stage in content.get("stages", {"": content}).values() for out in stage["outs"]]
        md5 = next(out["md5"] for out in outs if out["path"] in (path, Path(path).name))
        return self.releasing.storage / "files" / "md5" / md5[:2] / md5[2:]

    def head(self) -> str:
        """The commit of main that the git remote has."""
        return self.releasing.git("ls-remote", str(self.releasing.origin), "refs/heads/main").split()[0]

    def settle(self, **settings: Any) -> None:
        """Settings of retrain.yaml beside the usual ones."""
        (self.folder / "retrain.yaml").write_text(yaml.safe_dump(SETTINGS | settings))


def write_delivery(folder: Path, quality: dict[str, Any]) -> None:
    content = json.dumps(quality).encode()
    (folder / "quality.json").write_bytes(content)
    (folder / "SHA256SUMS").write_text(f"{hashlib.sha256(content).hexdigest()}  quality.json\n")


def build(base: Path) -> Retraining:
    """Make the project, with its first data pushed, nothing trained, and no release. It lies in a folder of its own in
    the repository."""
    base.mkdir()
    made = build_project(base, [MODEL], below="project", remote={"url": "../../../storage"}, plan=PLAN)
    project = Retraining(base, made)
    project.watched.mkdir()
    for name, content in {
        "stage.py": STAGE,
        "score.py": SCORE,
        "params.yaml": yaml.safe_dump({"models": [MODEL], "train": {MODEL: {"steps": 1}}}),
        ".gitignore": (REPOSITORY / ".gitignore").read_text(),
        "data/frozen/frozen.json": "{}",
    }.items():
        (project.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (project.folder / name).write_text(content)
    project.settle()
    build_package(project.folder / "template", "class", name=MODEL)
    first = project.folder / "data" / "raw" / "first"
    first.mkdir(parents=True)
    write_delivery(first, {"distance": 10.0})
    made.dvc("add", "--quiet", "data/raw/first", "data/frozen", then=["push", "--quiet"])
    made.commit("first data")
    return project


def a_copy_of(project: Retraining, base: Path) -> Retraining:
    """The same elsewhere, for one test to change."""
    shutil.copytree(project.base, base, symlinks=True)
    old, new = str(project.base), str(base)
    config = base / "work" / ".git" / "config"
    config.write_text(config.read_text().replace(old, new))
    for left in ("ganlib", "worktrees"):  # they know where they are
        shutil.rmtree(base / "work" / ".git" / left, ignore_errors=True)
    moved = {key: Path(str(value).replace(old, new)) for key, value in vars(project.releasing).items()}
    return Retraining(base, replace(project.releasing, **moved))
