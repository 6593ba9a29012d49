from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.retraining import warm
from ganlib.inference.tags import Release
from ganlib.problems import Failed

PARAMETERS = """# what is trained
models: [one, 'two']
train:
  one: {family: gan-cls, steps: 2} # few
  two:
    family: cgan
    penalties: {r1: 1.0e-3} # gentle
"""
CHAMPION = Release("two", "v3.0.0", "c" * 40, ("prod",))
LOCK = "stages: {train@two: {outs: [{path: models/two/state.safetensors, md5: abcdef0123456789}]}}"


class Tree(SimpleNamespace):
    """As much of a worktree as is looked at: `git show` gives a dvc.lock."""

    def git(self, *arguments: str) -> str:
        assert arguments == ("show", f"{CHAMPION.commit}:./dvc.lock")
        return self.lock


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    (tmp_path / "params.yaml").write_text(PARAMETERS)
    start = tmp_path / "models/champions/two-v3.0.0-abcdef012345"
    start.mkdir(parents=True)
    (start / "state.safetensors").write_text("weights")
    return Tree(model="two", artifact="two", root=tmp_path, project=tmp_path, state=tmp_path, lock=LOCK)


def begun_with(tree: Tree, wanted: bool, due: tuple[str, ...] = ("train@two",), champion: Release | None = CHAMPION):
    return warm.set_start(tree, SimpleNamespace(champion=champion, due=due), wanted, lambda line: None)


def parameters(tree: Tree) -> str:
    return (tree.project / "params.yaml").read_text()


def test_the_start_is_a_parameter_and_comments_stay(tree: Tree) -> None:
    folder = begun_with(tree, wanted=True)
    assert folder == "models/champions/two-v3.0.0-abcdef012345"
    with_start = PARAMETERS.rstrip("\n") + f"\n    start_from: {folder}\n"
    assert parameters(tree) == with_start
    assert begun_with(tree, wanted=True) == folder
    assert parameters(tree) == with_start
    assert begun_with(tree, wanted=False) is None
    assert parameters(tree) == PARAMETERS


@pytest.mark.parametrize(
    "how", [{"due": ("export@two",), "wanted": True}, {"champion": None, "wanted": True}, {"wanted": False}]
)
def test_nothing_changes_without_a_reason(how, tree: Tree) -> None:
    assert begun_with(tree, **how) is None
    assert parameters(tree) == PARAMETERS


def test_what_a_person_chose_to_begin_with_stays_in_a_cold_training(tree: Tree) -> None:
    chosen = PARAMETERS + "    start_from: models/one\n"
    (tree.project / "params.yaml").write_text(chosen)
    assert begun_with(tree, wanted=False) is None
    assert parameters(tree) == chosen


def test_a_champion_without_weights(tree: Tree) -> None:
    tree.lock = "stages: {}"
    with pytest.raises(Failed, match=r"warm: two@v3\.0\.0 has no models/two/state\.safetensors to begin with; set"):
        begun_with(tree, wanted=True)
