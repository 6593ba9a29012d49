"""Releases made: each step can be repeated, nothing is tagged that cannot be had, and nobody's release is lost."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gto.api
import pytest

from flows import registry, tags
from flows.packages import check_declared, verify_remote
from flows.registry import assign, history, main, publish, register, rollback
from flows.tags import Taken, fetch_tags, identity, local_tags, push_tags
from ganlib.inference.package import open_package
from ganlib.inference.registry import place, read_registry, releases, resolve
from ganlib.problems import Failed, Refused
from tests.flows.releasing import Releasing, bare_machine, build_project, environment
from tests.packages import build_package

# Ends itself as by kill -9, having written a number of times: registered, given two stages, pushed.
KILLED = """
import os, signal, sys
from pathlib import Path
import flows.registry as registry

project, commit, last = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
registry.verify_remote = lambda *_: None
writes = 0

def dying(function):
    def run(*given):
        global writes
        result = function(*given)
        writes += 1
        if writes == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return run

registry.make_tag, registry.push_tags = dying(registry.make_tag), dying(registry.push_tags)
registry.publish(project, "tiny", commit, ["challenger", "prod"])
"""


@pytest.fixture(autouse=True)
def _bare_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in bare_machine().items():
        monkeypatch.setenv(variable, value)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Releasing:
    """A project for tags alone: any of its commits may be released."""
    monkeypatch.setattr(registry, "verify_remote", lambda *given: None)
    return build_project(tmp_path)


def held(project: Releasing) -> dict[str, tuple[str, ...]]:
    """What the git remote says: the stages of each version."""
    return {release.version: release.stages for release in releases(project.address)}


def by_another_clock(project: Releasing, tag: str) -> None:
    """Tag the newest commit at 4,000,000,000 seconds since 1970."""
    variables = environment() | {"GIT_COMMITTER_DATE": "4000000000 +0000"}
    subprocess.run(["git", "tag", "-a", "-m", "later", tag], cwd=project.tree, env=variables, check=True)


def test_versions_are_counted_and_a_commit_keeps_its_own(project: Releasing) -> None:
    first, second = project.commit("1"), project.commit("2")
    assert register(project.folder, "tiny", first) == "v1.0.0"
    assert register(project.folder, "tiny", "HEAD") == "v2.0.0"
    assert register(project.folder, "tiny", first[:9]) == "v1.0.0"
    assert [event.tag for event in local_tags(project.folder)] == ["tiny@v1.0.0", "tiny@v2.0.0"]
    assert {event.tag: event.commit for event in local_tags(project.folder)}["tiny@v2.0.0"] == second
    project.git("tag", "-a", "-m", "made by gto", "tiny@v9.3.1", project.commit("3"))
    project.commit("4")
    assert register(project.folder, "tiny", "HEAD") == "v10.0.0"


def test_a_stage_goes_to_and_fro_without_a_flag_and_gto_says_the_same(project: Releasing) -> None:
    for number in "12":
        register(project.folder, "tiny", project.commit(number))
    for version in ("v1.0.0", "v1.0.0", "v2.0.0", "v1.0.0", "v1.0.0"):
        assign(project.folder, "tiny", version, "prod")
        assert [v["version"] for v in gto.api.show(project.tree, "tiny#prod")] == [version]
    tags = [event.tag for event in local_tags(project.folder) if event.stage]
    assert tags == ["tiny#prod#1", "tiny#prod#2", "tiny#prod#3"]


def test_later_events_have_later_times_whatever_the_clock_says(project: Releasing) -> None:
    register(project.folder, "tiny", project.commit("1"))
    by_another_clock(project, "tiny#prod#1")
    register(project.folder, "tiny", project.commit("2"))
    assign(project.folder, "tiny", "v2.0.0", "prod")
    times = {event.tag: event.when for event in local_tags(project.folder)}
    assert (times["tiny@v2.0.0"], times["tiny#prod#2"]) == (4_000_000_001, 4_000_000_002)


def test_a_rollback_goes_back_one_version_each_time(project: Releasing) -> None:
    for number in range(1, 5):
        register(project.folder, "tiny", project.commit(str(number)))
    for version in ("v1.0.0", "v3.0.0", "v4.0.0"):
        assign(project.folder, "tiny", version, "prod")
    assert rollback(project.folder, "tiny") == "v3.0.0"
    assert rollback(project.folder, "tiny", held="v4.0.0") == "v3.0.0"  # the same again: nothing
    assert rollback(project.folder, "tiny") == "v1.0.0"
    with pytest.raises(Refused, match=r"tiny: no version has held prod before v1.0.0; promote another one"):
        rollback(project.folder, "tiny")
    assign(project.folder, "tiny", "v4.0.0", "prod")
    assign(project.folder, "tiny", "v1.0.0", "prod")  # promoted, not rolled back to
    assert rollback(project.folder, "tiny") == "v4.0.0"
    with pytest.raises(Refused, match=r"prod is held by v4.0.0, not by v3.0.0; `history tiny`"):
        rollback(project.folder, "tiny", held="v3.0.0")
    with pytest.raises(Refused, match=r"no version holds next; held are prod"):
        rollback(project.folder, "tiny", "next")


def test_history_tells_what_happened(project: Releasing) -> None:
    commits = [project.commit(number) for number in "12"]
    for commit, version in zip(commits, ("v1.0.0", "v2.0.0"), strict=True):
        register(project.folder, "tiny", commit)
        assign(project.folder, "tiny", version, "prod")
    rollback(project.folder, "tiny")
    told = history(project.folder, "tiny")
    assert [(event.what, event.version, event.stage, event.commit) for event in told] == [
        ("rolled back", "v1.0.0", "prod", commits[0]),
        ("assigned", "v2.0.0", "prod", commits[1]),
        ("registered", "v2.0.0", None, commits[1]),
        ("assigned", "v1.0.0", "prod", commits[0]),
        ("registered", "v1.0.0", None, commits[0]),
    ]
    assert all(told[i].when > told[i + 1].when for i in range(4))
    assert {event.who for event in told} == {"ganlib"}  # a machine that git was not told about
    assert history(project.folder, "other") == []


def test_who_git_was_told_about_makes_the_tags(project: Releasing, monkeypatch: pytest.MonkeyPatch) -> None:
    project.git("config", "user.name", "Somebody")
    monkeypatch.setenv("GIT_COMMITTER_EMAIL", "somebody@localhost")
    assert identity(project.folder) == {"GIT_AUTHOR_EMAIL": "ganlib@localhost"}
    register(project.folder, "tiny", "HEAD")
    assert [event.who for event in history(project.folder, "tiny")] == ["Somebody"]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda folder: register(folder, "tiny", "nothing"), r"commit: found 'nothing', which .* does not have"),
        (lambda folder: register(folder, "other", "HEAD"), r"artifacts.other.path: found None; write `other: \{"),
        (lambda folder: register(folder, "a b", "HEAD"), r"name: found 'a b'; the registry takes letters"),
        (lambda folder: assign(folder, "tiny", "v2.0.0", "prod"), r"tiny: no version v2.0.0; there is v1.0.0"),
        (lambda folder: assign(folder, "tiny", "v1.0.0", "a prod"), r"stage: found 'a prod'; expected letters"),
        (lambda folder: assign(folder, "tiny", "v1.0.0", "prod#1"), r"stage: found 'prod#1'; expected letters"),
        (lambda folder: rollback(folder, "tiny"), r"tiny: no version holds prod; held are no stages"),
        (lambda folder: history(folder.parent, "tiny"), r"no git repository, and releases are tags of one"),
        (lambda folder: history(folder / "nowhere", "tiny"), r"nowhere: no git repository"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused(what: Callable[[Path], object], message: str, project: Releasing) -> None:
    register(project.folder, "tiny", "HEAD")
    with pytest.raises(Refused, match=message) as caught:
        what(project.folder)
    assert "\n" not in str(caught.value)
    assert [event.tag for event in local_tags(project.folder)] == ["tiny@v1.0.0"]


def test_what_was_taken_back_is_not_released_again(project: Releasing) -> None:
    register(project.folder, "tiny", "HEAD")
    project.git("tag", "-a", "-m", "a mistake", "tiny@v1.0.0!", "HEAD")
    with pytest.raises(Refused, match=r"was v1.0.0, which was taken back; release another commit"):
        register(project.folder, "tiny", "HEAD")
    project.commit("2")
    assert register(project.folder, "tiny", "HEAD") == "v2.0.0"
    by_another_clock(project, "tiny@deprecated")
    project.commit("3")
    with pytest.raises(
        Refused, match=r"tiny: is deprecated by the tag tiny@deprecated; delete that to release tiny again"
    ):
        register(project.folder, "tiny", "HEAD")


def test_a_tag_that_exists_for_something_else_is_named(project: Releasing) -> None:
    first = project.commit("1")
    project.commit("2")
    project.git("tag", "tiny@v1.0.0", first)  # a lightweight one, that says nothing
    with pytest.raises(Taken, match=rf"tiny@v1.0.0: exists already, for {first[:12]}; if it is a mistake, git tag -d"):
        register(project.folder, "tiny", "HEAD")


def test_tags_are_pushed_once(project: Releasing) -> None:
    register(project.folder, "tiny", "HEAD")
    assign(project.folder, "tiny", "v1.0.0", "prod")
    project.git("tag", "-a", "-m", "no release", "v7")
    assert held(project) == {}
    assert push_tags(project.folder) == ("tiny@v1.0.0", "tiny#prod#1")
    assert held(project) == {"v1.0.0": ("prod",)}
    assert push_tags(project.folder) == ()
    assert "refs/tags/v7" not in project.git("ls-remote", "origin")


def test_publishing_again_changes_nothing(project: Releasing) -> None:
    for _ in range(2):
        assert publish(project.folder, "tiny", "HEAD", ["challenger", "prod"]) == "v1.0.0"
        assert len(history(project.folder, "tiny")) == 3
    assert held(project) == {"v1.0.0": ("challenger", "prod")}


@pytest.mark.parametrize("writes", [1, 2, 3, 4])
def test_a_killed_release_is_finished_by_repeating_it(writes: int, project: Releasing) -> None:
    old = publish(project.folder, "tiny", "HEAD", ["challenger", "prod"])
    commit = project.commit("2")
    command = [sys.executable, "-c", KILLED, str(project.folder), commit, str(writes)]
    assert subprocess.run(command, env=environment(), cwd=Path(__file__).parents[2], check=False).returncode == -9
    new = {"v2.0.0": ("challenger", "prod"), old: ()}
    assert held(project) == (new if writes == 4 else {old: ("challenger", "prod")})
    assert publish(project.folder, "tiny", commit, ["challenger", "prod"]) == "v2.0.0"
    assert held(project) == new
    assert len(local_tags(project.folder)) == 6


def test_two_releasers_at_once_both_release(
    project: Releasing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = project.clone(tmp_path / "other")
    theirs, ours = project.commit("theirs"), project.commit("ours")
    other.git("fetch", "--quiet")
    push, done = registry.push_tags, []

    def first(*given: object) -> object:  # the other one is a moment faster
        if not done:
            done.append(True)
            assert publish(other.folder, "tiny", theirs, ["prod"]) == "v1.0.0"
        return push(*given)

    monkeypatch.setattr(registry, "push_tags", first)
    monkeypatch.setattr(registry, "FileLock", lambda *given, **named: contextlib.nullcontext())  # two machines
    assert publish(project.folder, "tiny", ours, ["prod"]) == "v2.0.0"
    assert {release.commit: release.stages for release in releases(project.address)} == {theirs: (), ours: ("prod",)}
    assert {event.tag for event in local_tags(project.folder)} == {
        "tiny@v1.0.0", "tiny#prod#1", "tiny@v2.0.0", "tiny#prod#2",
    }  # fmt: skip


def test_others_who_are_always_first_end_it(
    project: Releasing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = project.clone(tmp_path / "other")
    commit, push = project.commit("ours"), registry.push_tags

    def too_late(*given: object) -> object:
        register(other.folder, "tiny", other.commit("theirs", push=False))
        push_tags(other.folder)
        return push(*given)

    monkeypatch.setattr(registry, "push_tags", too_late)
    monkeypatch.setattr(registry, "ATTEMPTS", 2)
    with pytest.raises(Failed, match=r"tiny: others were first on origin 2 times in a row; repeat it"):
        publish(project.folder, "tiny", commit, ["prod"])
    assert list(held(project)) == [f"v{number}.0.0" for number in (2, 1)]
    assert commit not in {event.commit for event in local_tags(project.folder)}
    monkeypatch.setattr(registry, "push_tags", push)
    assert publish(project.folder, "tiny", commit, ["prod"]) == "v3.0.0"


def test_releasers_on_one_machine_wait_for_each_other(project: Releasing, tmp_path: Path) -> None:
    commits = [project.commit(str(number)) for number in range(3)]
    trees = []
    for number, commit in enumerate(commits):  # worktrees share their tags
        trees.append(tmp_path / f"tree{number}")
        project.git("worktree", "add", "--quiet", "--detach", str(trees[-1]), commit)
    versions: list[str] = []
    threads = [
        threading.Thread(
            target=lambda tree, commit: versions.append(publish(tree, "tiny", commit, ["prod"])), args=given
        )
        for given in zip(trees, commits, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(versions) == ["v1.0.0", "v2.0.0", "v3.0.0"]
    assert sum("prod" in stages for stages in held(project).values()) == 1


def test_a_champion_that_was_replaced_meanwhile_is_not_overruled(project: Releasing, tmp_path: Path) -> None:
    publish(project.folder, "tiny", project.commit("1"), ["prod"])
    publish(project.folder, "tiny", project.commit("2"), ["prod"])
    commit = project.commit("3")
    with pytest.raises(Refused, match=r"tiny: prod went to v2.0.0 meanwhile, this was compared with v1.0.0; repeat it"):
        publish(project.folder, "tiny", commit, ["prod", "challenger"], champion="v1.0.0")
    with pytest.raises(Refused, match=r"tiny: prod went to v2.0.0 meanwhile, this was compared with none; repeat it"):
        publish(project.folder, "tiny", commit, ["prod", "challenger"], champion=None)
    assert held(project) == {"v2.0.0": ("prod",), "v1.0.0": ()}
    for _ in range(2):
        assert publish(project.folder, "tiny", commit, ["prod", "challenger"], champion="v2.0.0") == "v3.0.0"


@pytest.mark.parametrize("late", [False, True])
def test_a_rollback_between_the_look_and_the_push_is_not_overruled(
    late: bool, project: Releasing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the last look at the remote's tags, and after it."""
    for number in ("1", "2"):
        publish(project.folder, "tiny", project.commit(number), ["prod"])
    other, commit = project.clone(tmp_path / "other"), project.commit("3")
    where, function = (tags, "_at_remote") if late else (registry, "push_tags")
    reached, done = getattr(where, function), []

    def meanwhile(*given: object) -> object:
        seen = reached(*given) if late else None
        if not done:
            done.append(True)
            assert main(["--project", str(other.folder), "rollback", "tiny", "--push"]) == 0
        return seen if late else reached(*given)

    monkeypatch.setattr(where, function, meanwhile)
    monkeypatch.setattr(registry, "FileLock", lambda *given, **named: contextlib.nullcontext())  # two machines
    with pytest.raises(Refused, match=r"tiny: prod went to v1.0.0 meanwhile, this was compared with v2.0.0; repeat it"):
        publish(project.folder, "tiny", commit, ["prod", "challenger"], champion="v2.0.0")
    assert held(project) == {"v2.0.0": (), "v1.0.0": ("prod",)}


def test_an_unreachable_git_remote_changes_nothing(project: Releasing) -> None:
    elsewhere = project.origin.with_name("elsewhere.git")
    project.origin.rename(elsewhere)
    with pytest.raises(
        Failed, match=r"origin: its tags could not be read: .*; nothing was changed, try again"
    ) as caught:
        publish(project.folder, "tiny", "HEAD", ["prod"])
    assert "\n" not in str(caught.value)
    assert local_tags(project.folder) == []
    register(project.folder, "tiny", "HEAD")
    with pytest.raises(Failed, match=r"origin: its tags could not be read: .*; nothing was pushed, publish again"):
        push_tags(project.folder)
    elsewhere.rename(project.origin)
    assert publish(project.folder, "tiny", "HEAD", ["prod"]) == "v1.0.0"


def test_a_remote_that_takes_nothing_says_so(project: Releasing) -> None:
    hook = project.origin / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(Failed, match=r"tiny@v1.0.0: could not be pushed to origin: .*declined.*; publish again"):
        publish(project.folder, "tiny", "HEAD")
    assert held(project) == {}
    assert local_tags(project.folder) == []  # what nobody else has seen counts here neither


def test_tags_here_alone_go_when_the_remote_is_read(project: Releasing) -> None:
    publish(project.folder, "tiny", project.commit("1"), ["prod"])
    register(project.folder, "tiny", project.commit("2"))
    project.git("tag", "-a", "-m", "another model", "tiny-2@v1.0.0")
    fetch_tags(project.folder, "origin", "tiny")
    assert {event.tag for event in local_tags(project.folder)} == {"tiny@v1.0.0", "tiny#prod#1", "tiny-2@v1.0.0"}


@pytest.mark.parametrize("address", ["../origin.git", "absolute"])
def test_a_remote_is_read_by_its_name(address: str, project: Releasing) -> None:
    project.git("remote", "set-url", "origin", str(project.origin) if address == "absolute" else address)
    publish(project.folder, "tiny", project.commit("1"), ["prod"])
    publish(project.folder, "tiny", project.commit("2"), ["prod"])
    expected = {"v2.0.0": ("prod",), "v1.0.0": ()}
    read = read_registry("origin", "tiny", project.folder)["tiny"]
    assert {release.version: release.stages for release in read.releases} == expected
    by_another_clock(project, "tiny@v2.0.0!")  # from here on, times are read as well
    project.git("push", "--quiet", "origin", "tiny@v2.0.0!")
    read = read_registry("origin", "tiny", project.folder)["tiny"]
    assert {release.version: release.stages for release in read.releases} == {"v1.0.0": ("prod",)} == held(project)


@pytest.mark.parametrize("below", ["", "examples/mnist"])
def test_dvc_and_resolve_get_the_same_package(below: str, tmp_path: Path) -> None:
    project = build_project(tmp_path, below=below)
    publish(project.folder, "tiny", project.export("tiny", seed=1), ["prod"])
    name = f"{below}:tiny".removeprefix(":")
    assert releases(project.address)[0].name == name
    folder = resolve(f"{name}@prod", project.address, tmp_path / "cache")
    assert folder == tmp_path / "cache" / below / "tiny" / "v1.0.0"
    got = tmp_path / "got"
    project.dvc("artifacts", "get", "--quiet", project.address, name, "--stage", "prod", "--out", str(got))
    assert open_package(got).card == open_package(folder).card
    if not below:  # by the path of a working tree, too, and from the cache there
        project.storage.rename(tmp_path / "gone")
        assert resolve(f"{name}@prod", str(project.tree), tmp_path / "again").name == "v1.0.0"


def test_nothing_is_tagged_that_the_dvc_remote_does_not_hold(tmp_path: Path) -> None:
    project = build_project(tmp_path)
    folder = project.folder
    with pytest.raises(Refused, match=r"its dvc.lock has no models/tiny/package; run `dvc repro export@tiny`"):
        register(folder, "tiny", "HEAD")
    commit = project.export("tiny", push=False)
    with pytest.raises(
        Failed, match=rf"tiny of {commit[:12]}: not whole in the DVC remote: .*lacks.*md5: [0-9a-f]+"
    ) as caught:
        publish(folder, "tiny", commit, ["prod"])
    assert "\n" not in str(caught.value) and str(caught.value).endswith("`dvc push models/tiny/package`, then repeat")
    project.dvc("push", "--quiet")
    stored = project.objects("tiny")["generator.onnx"]
    content = stored.read_bytes()
    stored.unlink()
    with pytest.raises(Failed, match=rf"DVC remote: .*{stored.parent.name}{stored.name}.*; `dvc push"):
        register(folder, "tiny", commit)
    stored.write_bytes(b"half of it")
    with pytest.raises(Failed, match=r"models/tiny/package/generator.onnx: found 10 bytes, the card says"):
        register(folder, "tiny", commit)
    assert local_tags(folder) == []
    stored.write_bytes(content)
    assert publish(folder, "tiny", commit, ["prod"]) == "v1.0.0"
    publish(folder, "tiny", project.commit("the same package"), ["prod"])
    stored.unlink()
    with pytest.raises(Failed, match=rf"tiny of {commit[:12]}: not whole in the DVC remote"):
        rollback(folder, "tiny")
    assert held(project) == {"v2.0.0": ("prod",), "v1.0.0": ()}


def test_a_package_of_another_name_or_no_remote_is_refused(tmp_path: Path) -> None:
    project = build_project(tmp_path)
    build_package(project.folder / "models/tiny/package", "none", name="other")
    project.dvc("commit", "--quiet", "--force", then=["push", "--quiet"])
    project.commit("another name")
    with pytest.raises(Refused, match=r"models/tiny/package is the package of other; export tiny again"):
        register(project.folder, "tiny", "HEAD")
    settings = project.folder / ".dvc" / "config"
    settings.write_text(settings.read_text().replace("remote = store", ""))
    with pytest.raises(Refused, match=r"has no DVC remote to release from; `dvc remote add --default NAME URL`"):
        register(project.folder, "tiny", "HEAD")


def test_settings_of_this_machine_alone_and_relative_paths_are_minded(tmp_path: Path) -> None:
    project = build_project(tmp_path, below="examples/mnist", remote={"url": "../../../../nowhere"})
    (project.folder / ".dvc" / "config.local").write_text("['remote \"store\"']\n    url = ../../../../storage\n")
    commit = project.export("tiny")
    verify_remote(project.folder, commit, "tiny")
    assert project.objects("tiny")[".dir"].is_file()
    check_declared(project.folder, "tiny", commit)


def run(capsys: pytest.CaptureFixture[str], project: Releasing, *arguments: str) -> tuple[int, str]:
    code = main(["--project", str(project.folder), *arguments])
    said = capsys.readouterr()
    return code, said.out + said.err


def test_commands(project: Releasing, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, project, "show")[1].startswith("The project has no release here; `register` makes one")
    first, second = project.commit("1"), project.commit("2")
    expected = "tiny v1.0.0 is registered, here alone: with --push it is published\n"
    assert run(capsys, project, "register", "tiny", first) == (0, expected)
    assert held(project) == {}
    assert run(capsys, project, "register", "tiny", first, "--push") == (0, "tiny v1.0.0 is registered, on origin\n")
    run(capsys, project, "register", "tiny", second, "--push")
    run(capsys, project, "promote", "tiny", "v1.0.0", "--push")
    assert run(capsys, project, "promote", "tiny", "v2.0.0", "--push") == (0, "tiny v2.0.0 holds prod, on origin\n")
    other = project.clone(tmp_path / "other")
    code, shown = run(capsys, other, "show", "tiny", "--fetch")
    assert code == 0
    assert [line.split()[:4] for line in shown.splitlines()] == [
        ["model", "version", "stages", "commit"],
        ["tiny", "v2.0.0", "prod", second[:12]],
        ["tiny", "v1.0.0", "-", first[:12]],
    ]
    for _ in range(2):
        given = ["rollback", "tiny", "--from", "v2.0.0", "--push"]
        assert run(capsys, other, *given) == (0, "tiny v1.0.0 holds prod again, on origin\n")
    assert held(project) == {"v2.0.0": (), "v1.0.0": ("prod",)}
    code, told = run(capsys, project, "history", "tiny", "--fetch")
    assert "rolled back" in told.splitlines()[1] and len(told.splitlines()) == 6
    assert run(capsys, project, "promote", "tiny", "v7.0.0") == (
        2,
        "flows.registry: tiny: no version v7.0.0; there is v2.0.0, v1.0.0\n",
    )
    project.origin.rename(tmp_path / "gone")
    code, said = run(capsys, project, "promote", "tiny", "v2.0.0", "--push")
    assert code == 1 and said.startswith("flows.registry: origin: its tags could not be read: ")


def test_a_rollback_that_somebody_else_made_first_goes_no_further(
    project: Releasing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in "123":
        publish(project.folder, "tiny", project.commit(number), ["prod"])
    other = project.clone(tmp_path / "other")
    push, done = registry.push_tags, []

    def first(*given: object) -> object:
        if not done:
            done.append(True)
            rollback(other.folder, "tiny")
            push_tags(other.folder)
        return push(*given)

    monkeypatch.setattr(registry, "push_tags", first)
    assert run(capsys, project, "rollback", "tiny", "--push") == (0, "tiny v2.0.0 holds prod again, on origin\n")
    assert held(project)["v2.0.0"] == ("prod",)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of a local S3 with the bucket `models`."""
    pytest.importorskip("dvc_s3", reason="needs pip install 'ganlib[s3]'")
    server = pytest.importorskip("moto.server", reason="needs pip install 'moto[s3]' flask flask-cors")
    boto3 = pytest.importorskip("boto3", reason="needs pip install 'moto[s3]'")
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(variable, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    try:
        client = boto3.client("s3", endpoint_url="http://{}:{}".format(*running.get_host_and_port()))
        client.create_bucket(Bucket="models")
        yield client
    finally:
        running.stop()


def test_a_remote_in_s3(store: Any, tmp_path: Path) -> None:
    project = build_project(tmp_path, remote={"url": "s3://models/store", "endpointurl": store.meta.endpoint_url})
    commit = project.export("tiny", push=False)
    with pytest.raises(Failed, match=r"not whole in the DVC remote"):
        register(project.folder, "tiny", commit)
    project.dvc("push", "--quiet")
    project.git("push", "--quiet", "origin", "HEAD:main")
    assert publish(project.folder, "tiny", commit, ["prod"]) == "v1.0.0"
    folder = resolve("tiny@prod", project.address, tmp_path / "cache")
    assert open_package(folder).card == open_package(project.folder / place("tiny")).card
    md5 = project.md5("tiny")
    store.delete_object(Bucket="models", Key=f"store/files/md5/{md5[:2]}/{md5[2:]}")
    with pytest.raises(Failed, match=rf"{md5[2:]}.*; `dvc push` it again from where it was made"):
        resolve("tiny@prod", project.address, tmp_path / "another")
    assert not (tmp_path / "another" / "tiny" / "v1.0.0").exists()
