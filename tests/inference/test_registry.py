"""Releases as tags tell them, compared with GTO itself, and packages that a reference brings, whole or not at all."""

from __future__ import annotations

import logging
import random
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import gto.api
import gto.tag
import pytest
from gto.exceptions import GTOException, TagExists
from gto.versions import SemVer

import ganlib.inference.registry as registry
from flows.registry import publish
from ganlib.inference.package import open_package
from ganlib.inference.registry import Release, place, releases, resolve
from ganlib.inference.tags import Tag, in_order, parse_tag, precedence, stand
from ganlib.problems import Failed, Refused
from tests.flows.releasing import Releasing, bare_machine, build_project, environment

A, B, C = (letter * 40 for letter in "abc")


@pytest.fixture(autouse=True)
def _bare_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in bare_machine().items():
        monkeypatch.setenv(variable, value)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Releasing]:
    """Two versions of `tiny`: v1.0.0 is prod, v2.0.0 challenger. No test changes them."""
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in bare_machine().items():
            patch.setenv(variable, value)
        made = build_project(tmp_path_factory.mktemp("released"))
        publish(made.folder, "tiny", made.export("tiny", seed=1), ["challenger", "prod"])
        publish(made.folder, "tiny", made.export("tiny", seed=2), ["challenger"])
        yield made


@pytest.fixture(scope="module")
def cache(project: Releasing, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where both versions are; no test changes it."""
    folder = tmp_path_factory.mktemp("cache")
    for stage in ("prod", "challenger"):
        resolve(f"tiny@{stage}", project.address, folder)
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository with eight commits and nothing else."""
    run(tmp_path, "init", "--quiet")
    for number in range(8):
        run(tmp_path, "commit", "--quiet", "--allow-empty", "--message", str(number))
    return tmp_path


def run(repository: Path, *arguments: str, when: int = 1_700_000_000) -> str:
    variables = environment() | {"GIT_COMMITTER_DATE": f"{when} +0000"}
    command = ["git", *arguments]
    return subprocess.run(command, cwd=repository, check=True, env=variables, capture_output=True, text=True).stdout


@contextmanager
def aside(path: Path) -> Iterator[None]:
    """The path is gone while the block runs."""
    elsewhere = path.with_name(f"{path.name}.aside")
    path.rename(elsewhere)
    try:
        yield
    finally:
        elsewhere.rename(path)


def events(*tags: tuple[str, str]) -> list[Tag]:
    return [tag for name, commit in tags if (tag := parse_tag(name, commit))]


def test_tags_are_events() -> None:
    assert parse_tag("tiny@v1.0.0", A) == Tag("tiny@v1.0.0", "tiny", "v1.0.0", None, False, 0, A)
    assert parse_tag("a=b/c@v1.0.0-rc.1!#4", A) == Tag("a=b/c@v1.0.0-rc.1!#4", "a:b/c", "v1.0.0-rc.1", None, True, 4, A)
    assert parse_tag("tiny#prod#12", A) == Tag("tiny#prod#12", "tiny", None, "prod", False, 12, A)
    assert parse_tag("tiny#prod!#3", A) == Tag("tiny#prod!#3", "tiny", None, "prod", True, 3, A)
    assert parse_tag("tiny@deprecated", A) == Tag("tiny@deprecated", "tiny", None, None, False, 0, A)


@pytest.mark.parametrize("tag", ["v1.0.0", "tiny@1.0.0", "tiny@v1.0", "tiny@v01.0.0", "tiny#prod#x", "-tiny@v1.0.0"])
def test_other_tags_are_none(tag: str) -> None:
    assert parse_tag(tag, A) is None


def test_a_stage_belongs_to_the_version_that_got_it_last() -> None:
    standing = stand(
        events(
            ("m@v1.0.0", A),
            ("m@v2.0.0", B),
            ("m@v10.0.0", C),
            ("m#prod#1", A),
            ("m#prod#9", C),
            ("m#prod#10", B),
            ("m#next#11", B),
            ("m#old#2", A),
        )
    )
    assert [(r.version, r.commit, r.stages) for r in standing.releases] == [
        ("v10.0.0", C, ()),
        ("v2.0.0", B, ("next", "prod")),
        ("v1.0.0", A, ("old",)),
    ]


def test_a_stage_that_is_taken_back_falls_to_who_has_it_still() -> None:
    tags = events(("m@v1.0.0", A), ("m@v2.0.0", B), ("m#prod#1", A), ("m#prod#2", B))
    assert [r.stages for r in stand([*tags, *events(("m#prod!#3", B))]).releases] == [(), ("prod",)]
    gone = stand([*tags, *events(("m@v2.0.0!#3", B))])
    assert gone.releases == (Release("m", "v1.0.0", A, ("prod",)),)


def test_versions_are_sorted_as_gto_sorts_them() -> None:
    versions = (
        "v1.0.0-alpha v1.0.0-alpha.1 v1.0.0-alpha.beta v1.0.0-beta v1.0.0-beta.2 v1.0.0-beta.11 v1.0.0-rc.1 v1.0.0"
    )
    ordered = [*versions.split(), "v1.0.1", "v1.2.0", "v1.10.0", "v2.0.0", "v10.0.0"]
    mixed = random.Random(0).sample(ordered, len(ordered))
    assert sorted(mixed, key=precedence) == ordered == [version.version for version in sorted(map(SemVer, mixed))]


def test_a_lightweight_tag_and_other_tags_say_nothing(repository: Path) -> None:
    for command in (["tag", "tiny@v1.0.0"], ["tag", "-a", "-m", "a", "v3"], ["tag", "-a", "-m", "a", "tiny@v2.0.0"]):
        run(repository, *command)
    assert releases(str(repository)) == [Release("tiny", "v2.0.0", run(repository, "rev-parse", "HEAD").strip())]


def told_by_gto(repository: Path) -> dict[str, list[tuple[str, str, set[str]]]]:
    names = gto.api.show(repository)  # without the deprecated ones
    return {
        name: [
            (version["version"], version["commit_hexsha"], {stage["stage"] for stage in version["stages"]})
            for version in gto.api.show(repository, name)
            if version["registrations"]
        ]
        for name in names
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("forms", ["default", "every"])
def test_a_long_history_reads_as_gto_reads_it(repository: Path, forms: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What GTO makes of a long row of its own operations is what the tags' names tell, and where their forms do not
    tell the order, what their times tell."""
    clock = count(1_700_000_000)

    def create(scm: Any, name: str, rev: str, message: str, **who: str) -> None:  # a second after the one before
        if scm.get_tag(name):
            raise TagExists(name=name)
        run(repository, "tag", "-a", "-m", message, name, rev, when=next(clock))

    monkeypatch.setattr(gto.tag, "create_tag", create)
    for variable, value in environment().items():
        monkeypatch.setenv(variable, value)
    rng = random.Random(forms)
    commits = run(repository, "rev-list", "HEAD").split()
    names, stages = ["tiny", "tiny-2", "examples/mnist:tiny"], ["prod", "challenger"]
    if forms == "default":
        kinds, simple = ["register", "assign", "assign", "assign", "unassign"], [None]
    else:
        kinds, simple = ["register", "assign", "assign", "unassign", "deregister", "deprecate"], [None, True, False]
    done: dict[str, int] = {}
    for number in range(48):
        name, kind, form = rng.choice(names), rng.choice(kinds), rng.choice(simple)
        versions = [release.version for release in releases(str(repository), name)] or ["v0.0.1"]
        how = {"repo": repository, "name": name, "simple": form, "force": rng.random() < 0.3}
        try:
            if kind == "register":
                gto.api.register(**how, ref=rng.choice(commits))
            elif kind == "deprecate":
                if rng.random() < 0.5:
                    gto.api.deprecate(**(how | {"force": False}))
            else:
                stage = {} if kind == "deregister" else {"stage": rng.choice(stages)}
                getattr(gto.api, kind)(**how, version=rng.choice(versions), **stage)
        except GTOException:  # it is in that stage already, there is no such version, the tag exists
            continue
        done[kind] = done.get(kind, 0) + 1
        if number % 8:
            continue
        read: dict[str, list] = {}
        for release in releases(str(repository)):
            read.setdefault(release.name, []).append((release.version, release.commit, set(release.stages)))
        expected = told_by_gto(repository)
        assert read == {model: found for model, found in expected.items() if found}
    assert all(done.get(kind, 0) >= 2 for kind in kinds), done


def test_times_decide_where_names_do_not_tell_the_order() -> None:
    first, second = events(("m@v1.0.0", A), ("m@v1.0.0!", A))
    again = parse_tag("m@v1.0.0#1", A)
    assert again is not None
    timed = [Tag(**{**vars(tag), "when": when}) for tag, when in ((again, 30), (second, 20), (first, 10))]
    assert [tag.tag for tag in in_order(timed)] == ["m@v1.0.0", "m@v1.0.0!", "m@v1.0.0#1"]
    assert len(stand(timed).releases) == 1
    assert stand(timed[1:]).releases == ()


def test_a_reference_is_a_package(project: Releasing, cache: Path) -> None:
    champion = resolve("tiny@prod", project.address, cache)
    challenger = resolve("tiny@challenger", project.address, cache)
    assert champion == resolve("tiny@v1.0.0", project.address, cache) == cache / "tiny" / "v1.0.0"
    assert challenger == cache / "tiny" / "v2.0.0"
    assert open_package(champion).card.name == "tiny"
    made = open_package(project.folder / place("tiny"))  # of the newest export
    assert open_package(challenger).sha256("generator.onnx") == made.sha256("generator.onnx")
    assert open_package(champion).sha256("generator.onnx") != made.sha256("generator.onnx")
    found = releases(project.address)
    assert [(r.version, r.stages) for r in found] == [("v2.0.0", ("challenger",)), ("v1.0.0", ("prod",))]
    assert found == releases(str(project.tree)) == releases(project.address, "tiny")
    assert releases(project.address, "tin") == []


def test_what_is_there_is_not_downloaded_again(
    project: Releasing, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_called(*arguments: object) -> None:
        raise AssertionError("downloaded")

    monkeypatch.setattr(registry, "_get", not_called)
    assert resolve("tiny@prod", project.address, cache) == cache / "tiny" / "v1.0.0"


def change_a_bit(folder: Path) -> None:
    file = folder / "generator.onnx"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def lose_a_file(folder: Path) -> None:
    (folder / "generator.onnx").unlink()


def be_of_another_commit(folder: Path) -> None:
    record = folder / "release.json"
    record.write_text(record.read_text().replace('"commit": "', '"commit": "0'))


@pytest.mark.parametrize("damage", [change_a_bit, lose_a_file, be_of_another_commit])
def test_what_is_damaged_in_the_cache_is_downloaded_again(
    damage: Callable[[Path], None],
    project: Releasing,
    cache: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = Path(shutil.copytree(cache / "tiny" / "v1.0.0", tmp_path / "tiny" / "v1.0.0"))
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    damage(folder)
    taken: list[Release] = []

    def get(release: Release, repository: str, out: Path) -> None:
        taken.append(release)
        out.mkdir()
        for name, content in before.items():
            (out / name).write_bytes(content)

    monkeypatch.setattr(registry, "_get", get)
    with caplog.at_level(logging.WARNING):
        assert resolve("tiny@prod", project.address, tmp_path) == folder
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert "downloaded again: " in caplog.text and "\n" not in caplog.text.strip()
    assert [release.version for release in taken] == ["v1.0.0"]


def test_several_at_once_download_once(project: Releasing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, get = [], registry._get
    monkeypatch.setattr(registry, "_get", lambda *arguments: (calls.append(1), get(*arguments)))
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(resolve("tiny@prod", project.address, tmp_path))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [tmp_path / "tiny" / "v1.0.0"] * 4
    assert len(calls) == 1


@pytest.mark.parametrize("lost", [".dir", "generator.onnx"])
def test_an_object_that_vanished_from_the_remote_is_named(lost: str, project: Releasing, tmp_path: Path) -> None:
    object_ = project.objects("tiny")[lost]
    with aside(object_), pytest.raises(Failed) as caught:
        resolve("tiny@challenger", project.address, tmp_path)
    said = str(caught.value)
    assert (object_.name if lost == ".dir" else lost) in said
    assert said.startswith("tiny@v2.0.0 (") and said.endswith("from where it was made, or promote another version")
    assert "\n" not in said
    assert not (tmp_path / "tiny" / "v2.0.0").exists()


def test_an_object_that_changed_in_the_remote_is_no_package(project: Releasing, tmp_path: Path) -> None:
    object_ = project.objects("tiny")["generator.onnx"]
    with aside(object_):
        object_.write_bytes(b"something else")
        try:
            with pytest.raises(Failed, match=r"holds something else: generator.onnx: found 14 bytes, the card says"):
                resolve("tiny@challenger", project.address, tmp_path)
        finally:
            object_.unlink()
    assert [file.name for file in (tmp_path / "tiny").iterdir()] == [".v2.0.0.lock"]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("tiny", "reference: found 'tiny'; expected NAME@STAGE or NAME@VERSION, such as flowers@prod"),
        ("tiny@", "reference: found 'tiny@'; expected"),
        ("a=tiny@prod", "reference: found 'a=tiny@prod'; expected"),
        ("tinny@prod", "tinny: no release of it in file://.*; did you mean tiny?"),
        ("other@prod", "other: no release of it in file://.*; it has tiny"),
        ("tiny@pord", "tiny: no version holds pord in .*; did you mean prod\\? challenger is v2.0.0, prod is v1.0.0"),
        (
            "tiny@stage",
            "tiny: no version holds stage in .*; challenger is v2.0.0, prod is v1.0.0; the newest is v2.0.0",
        ),
        ("tiny@v2", "tiny: no version v2 in .*; did you mean v2.0.0?"),
        ("tiny@v3.7.7", "tiny: no version v3.7.7 in .*; it has v2.0.0, v1.0.0"),
    ],
)
def test_a_reference_that_names_nothing_is_refused(
    reference: str, message: str, project: Releasing, tmp_path: Path
) -> None:
    with pytest.raises(Refused, match=message) as caught:
        resolve(reference, project.address, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_repository_without_releases_says_how_to_make_one(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(
        Refused, match=r"tiny: no release of it in .*; it has no release yet; `python -m flows.registry"
    ):
        resolve("tiny@prod", str(repository), tmp_path)


@pytest.mark.parametrize("address", ["file:///nowhere/at/all.git", "http://me:secret@127.0.0.1:1/project.git"])
def test_an_unreachable_repository_is_one_line_without_secrets(address: str, tmp_path: Path) -> None:
    with pytest.raises(Failed, match=r"the registry could not be read: .*; check the address") as caught:
        resolve("tiny@prod", address, tmp_path)
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value)


def test_a_deprecated_model_is_not_served(repository: Path, tmp_path: Path) -> None:
    for tag, when in (("tiny@v1.0.0", 1), ("tiny#prod#1", 2), ("tiny@deprecated", 3)):
        run(repository, "tag", "-a", "-m", "a", tag, when=1_700_000_000 + when)
    with pytest.raises(Refused, match=r"tiny: is deprecated in .*; name another model, or delete its tag"):
        resolve("tiny@prod", str(repository), tmp_path)
    assert releases(str(repository)) == []


def test_a_hook_of_git_does_not_lead_elsewhere(project: Releasing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert len(releases(str(project.tree))) == 2
