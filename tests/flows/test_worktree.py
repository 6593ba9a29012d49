from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from flows.command import dvc
from flows.worktree import Worktree, worktree
from ganlib.problems import Failed, Refused
from tests.flows.releasing import Releasing, bare_machine, build_project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Releasing:
    """In a folder of its repository, with paths that are relative to it, and a password that is not in git."""
    for name, value in bare_machine().items():
        monkeypatch.setenv(name, value)
    made = build_project(tmp_path, below="examples/tiny", remote={"url": "../../../../storage"})
    (made.folder / ".dvc" / "config.local").write_text(
        '[\'remote "other"\']\n    url = ../other\n[\'remote "store"\']\n    password = it\'s a "secret"\n'
    )
    return made


def test_it_is_the_branch_of_the_git_remote(project: Releasing) -> None:
    (project.folder / "mine").write_text("not committed")
    with worktree(project.folder, "tiny") as tree:
        head = tree.refresh()
        assert head == project.git("rev-parse", "HEAD").strip()
        assert tree.project == tree.root / "examples/tiny"
        assert (tree.project / "dvc.yaml").read_bytes() == (project.folder / "dvc.yaml").read_bytes()
        assert not (tree.project / "mine").exists()
        assert tree.artifact == "examples/tiny:tiny"
        assert tree.state.parent == project.tree / ".git" / "ganlib" / "retrain"

        # Somebody else pushes; what an earlier run has left goes, what git ignores stays.
        other = project.clone(project.tree.parent / "other")
        (other.folder / "params.yaml").write_text("models: [tiny]\nmore: 1\n")
        pushed = other.commit("more")
        (tree.project / "models").mkdir()
        (tree.project / "models" / "weights").write_text("trained")
        (tree.project / "left").write_text("by a stage")
        (tree.project / "dvc.yaml").write_text("changed")
        (tree.project / ".checkpoints" / "state").write_text("a step")
        administration = Path(tree.git("rev-parse", "--absolute-git-dir").strip())
        (administration / "index.lock").touch()  # of a git that was killed
        assert tree.refresh() == pushed
        assert "more: 1" in (tree.project / "params.yaml").read_text()
        left = tree.git("status", "--porcelain", "--untracked-files=all")
        assert left == "?? examples/tiny/.checkpoints\n"
        assert (tree.project / "models" / "weights").read_text() == "trained"

        shutil.rmtree(tree.root)  # checkpoints outlive it
        assert tree.refresh() == pushed
        assert (tree.project / ".checkpoints" / "state").read_text() == "a step"
    assert project.git("status", "--porcelain") == "?? examples/tiny/mine\n"
    assert project.git("branch", "--list", "--all").split() == ["*", "main", "remotes/origin/main"]


def test_it_has_the_projects_dvc_settings_and_cache(project: Releasing) -> None:
    with worktree(project.folder, "tiny", dvc_remote="other") as tree:
        tree.refresh()
        file = tree.project / ".dvc" / "config.local"
        assert file.stat().st_mode & 0o777 == 0o600
        there = dvc("config", "--list", "--local", folder=tree.project)
    here = dvc("config", "--list", folder=project.folder)
    assert 'remote.store.password=it\'s a "secret"' in here and f"remote.store.url={project.storage}" in here
    own = {f"cache.dir={project.folder}/.dvc/cache", "core.remote=other"}
    assert set(there) == set(here) - {"core.remote=store"} | own


def test_what_a_killed_git_has_left_is_in_nobodys_way(project: Releasing) -> None:
    common = project.tree / ".git"
    with worktree(project.folder, "tiny") as tree:
        head = tree.refresh()
        references = common / tree._references
        (references / "base.lock").touch()
        (common / "FETCH_HEAD").write_text("people's")
        assert tree.refresh() == head
        assert (common / "FETCH_HEAD").read_text() == "people's"
        (next((common / "worktrees").iterdir()) / "locked").write_text("initializing")
        shutil.rmtree(tree.root)
        tree.root.write_text("a file")
        assert tree.refresh() == head
        (tree.project / ".dvc" / "config.local").chmod(0o644)
        tree.refresh()
        assert (tree.project / ".dvc" / "config.local").stat().st_mode & 0o777 == 0o600


def test_a_copied_repository_works_for_itself(project: Releasing) -> None:
    with worktree(project.folder, "tiny") as tree:
        tree.refresh()
    copy = project.tree.parent / "copy"
    shutil.copytree(project.tree, copy / "work", symlinks=True)
    with worktree(copy / "work" / "examples/tiny", "tiny") as tree:
        tree.refresh()
        assert Path(tree.git("rev-parse", "--path-format=absolute", "--git-common-dir").strip()) == copy / "work/.git"


def test_checkpoints_in_git_are_refused(project: Releasing) -> None:
    (project.folder / ".checkpoints").mkdir()
    (project.folder / ".checkpoints" / "lock").touch()
    project.commit("too much")
    with (
        worktree(project.folder, "tiny") as tree,
        pytest.raises(Refused, match=r"checkpoints/lock: is in git; `git rm -r --cached \.checkpoints`"),
    ):
        tree.refresh()


def test_machines_share_checkpoints(project: Releasing, tmp_path: Path) -> None:
    with worktree(project.folder, "tiny") as tree:
        tree.refresh()
    (tmp_path / "shared").mkdir()
    with worktree(project.folder, "tiny", checkpoints="../../../shared") as tree:
        tree.refresh()
        (tree.project / ".checkpoints" / "state").write_text("a step")
    assert [path.name for path in (tmp_path / "shared").rglob("state")] == ["state"]
    with (
        pytest.raises(Failed, match=r"checkpoints: .*gone is no folder; nothing was started: mount or make it"),
        worktree(project.folder, "tiny", checkpoints=str(tmp_path / "gone")),
    ):
        pass


def test_one_run_at_a_time(project: Releasing) -> None:
    def held(model: str) -> Worktree:
        with worktree(project.folder, model) as tree:
            return tree

    with worktree(project.folder, "tiny"):
        with pytest.raises(Failed, match=r"tiny: another run retrains it \(process \d+\); wait for it or stop it"):
            held("tiny")
        assert held("other").state != held("another").state
    assert held("tiny").model == "tiny"


def test_what_it_cannot_work_with(project: Releasing, tmp_path: Path) -> None:
    def refreshed(folder: Path, **given: str) -> None:
        with worktree(folder, "tiny", **given) as tree:
            tree.refresh()

    with pytest.raises(Refused, match="remote: found 'upstream', git has origin; `git remote add upstream URL`"):
        refreshed(project.folder, remote="upstream")
    with pytest.raises(Refused, match="dvc_remote: found 'nix', DVC has other, store"):
        refreshed(project.folder, dvc_remote="nix")
    with pytest.raises(Failed, match=r"origin: nix could not be fetched: .*see to the remote and run this again"):
        refreshed(project.folder, branch="nix")
    with pytest.raises(Refused, match="has no DVC; run `dvc init`"):
        refreshed(project.tree)
    with pytest.raises(Refused, match="no git repository"):
        refreshed(tmp_path)
    project.git("rm", "--quiet", "dvc.yaml")
    project.commit("no plan")
    with pytest.raises(Refused, match=r"origin/main: has no dvc\.yaml in the project's folder; commit and push it"):
        refreshed(project.folder)
