"""A small project that releases: a git repository with a bare remote, a DVC remote, and packages committed through dvc.

    project = build_project(tmp_path)
    commit = project.export("tiny", seed=2)
    resolve("tiny@prod", project.address, tmp_path / "cache")

`export` takes about a second, the rest some hundredths. Nothing of the machine's git and dvc settings is used.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from tests.packages import build_package

PLAN = """stages:
  export:
    matrix:
      model: ${models}
    cmd: python -m ganlib export ${item.model}
    outs:
      - models/${item.model}/package
"""
TWO_COMMANDS = """
import sys
from dvc.cli import main
at = sys.argv.index("--")
sys.exit(main(sys.argv[1:at]) or (main(sys.argv[at + 1:]) if sys.argv[at + 1:] else 0))
"""


def environment() -> dict[str, str]:
    """Variables with which git and dvc see no settings but the project's, and commits are made by Test."""
    who = {f"GIT_{role}_{part}": part.lower() for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}
    return os.environ | who | bare_machine()


def bare_machine() -> dict[str, str]:
    """Variables with which git and dvc see no settings but the project's."""
    nowhere = "/nonexistent"
    return {
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "DVC_GLOBAL_CONFIG_DIR": nowhere,
        "DVC_SYSTEM_CONFIG_DIR": nowhere,
        "DVC_NO_ANALYTICS": "1",
    }


@dataclass(frozen=True)
class Releasing:
    """The project.

    Attributes:
        folder: of the project, where packages are made: the working tree of the repository, or a folder in it.
        tree: the working tree.
        origin: the bare git repository that is its remote `origin`.
        storage: the folder that is its DVC remote; where that is another kind, nothing is there.
    """

    folder: Path
    tree: Path
    origin: Path
    storage: Path

    @property
    def address(self) -> str:
        """Of the bare repository, as somebody elsewhere would name it."""
        return f"file://{self.origin}"

    def git(self, *arguments: str) -> str:
        """Run git in the project's folder and give what it prints."""
        return _run(["git", *arguments], self.folder)

    def dvc(self, *arguments: str, then: Sequence[str] = ()) -> str:
        """Run dvc in the project's folder, and once more in the same process with the arguments `then`."""
        return _run([sys.executable, "-c", TWO_COMMANDS, *arguments, "--", *then], self.folder)

    def export(self, name: str, seed: int = 1, kind: str = "class", push: bool = True) -> str:
        """Put another package in a model's place, commit it, push both remotes, and give the commit.

        Args:
            name: the model.
            seed: of its weights; another one gives another package.
            kind: of its condition: none, class or text.
            push: False leaves the package and the commit here alone.
        """
        package = self.folder / "models" / name / "package"
        shutil.rmtree(package, ignore_errors=True)
        build_package(package, kind, name=name, seed=seed)
        path = f"models/{name}/package"
        self.dvc("commit", "--quiet", "--force", f"export@{name}", then=["push", "--quiet", path] if push else [])
        return self.commit(f"{name} with seed {seed}", push)

    def commit(self, message: str, push: bool = True) -> str:
        """Commit all that has changed, push the branch, and give the commit."""
        self.git("add", "--all", ".")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        if push:
            self.git("push", "--quiet", "origin", "HEAD:main")
        return self.git("rev-parse", "HEAD").strip()

    def clone(self, folder: Path) -> Releasing:
        """Another working tree of the same remotes, for somebody else; it has no package and no cache."""
        _run(["git", "clone", "--quiet", str(self.origin), str(folder)], self.tree)
        return replace(self, tree=folder, folder=folder / self.folder.relative_to(self.tree))

    def objects(self, name: str) -> dict[str, Path]:
        """The files of the DVC remote that a model's package in the newest commit is made of, by its file's name; the
        list of them is called `.dir`."""
        listing = self._stored(self.md5(name))
        files = {entry["relpath"]: self._stored(entry["md5"]) for entry in json.loads(listing.read_bytes())}
        return {".dir": listing} | files

    def md5(self, name: str) -> str:
        """Of the list of a package's files, as the dvc.lock of the newest commit has it; it ends in `.dir`."""
        lock = yaml.safe_load(self.git("show", "HEAD:./dvc.lock"))
        return lock["stages"][f"export@{name}"]["outs"][0]["md5"]

    def _stored(self, md5: str) -> Path:
        return self.storage / "files" / "md5" / md5[:2] / md5[2:]


def build_project(
    base: Path,
    models: Sequence[str] = ("tiny",),
    below: str = "",
    remote: Mapping[str, str] | None = None,
    plan: str = PLAN,
) -> Releasing:
    """Make a project with a first commit that is pushed and has no package yet.

    Args:
        base: a folder for the repository `work`, the bare one `origin.git` and the DVC remote `storage`.
        models: of params.yaml, each declared as an artifact.
        below: the project's folder in the repository, for example examples/mnist; empty for the repository itself.
        remote: options of the DVC remote `store`, `url` and what it needs; None is the folder `storage`.
        plan: the stages of dvc.yaml.
    """
    tree, origin, storage = base / "work", base / "origin.git", base / "storage"
    project = Releasing(tree / below, tree, origin, storage)
    project.folder.mkdir(parents=True)
    storage.mkdir()
    _run(["git", "init", "--quiet", "--bare", "--initial-branch=main", str(origin)], base)
    _run(["git", "init", "--quiet", "--initial-branch=main"], tree)
    project.git("remote", "add", "origin", str(origin))
    options = [f"    {key} = {value}\n" for key, value in (remote or {"url": str(storage)}).items()]
    settings = "[core]\n    analytics = false\n    remote = store\n['remote \"store\"']\n" + "".join(options)
    artifacts = {name: {"path": f"models/{name}/package", "type": "model"} for name in models}
    for name, content in {
        ".dvc/config": settings,
        ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
        ".dvcignore": "",
        ".gitignore": "models/\n",
        "dvc.yaml": plan + yaml.safe_dump({"artifacts": artifacts}),
        "params.yaml": yaml.safe_dump({"models": list(models)}),
    }.items():
        file = project.folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(content)
    project.commit("a project")
    return project


def _run(command: list[str], folder: Path) -> str:
    ended = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"{' '.join(command[:6])}: {ended.stderr}"
    return ended.stdout
