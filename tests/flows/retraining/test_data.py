"""What counts as new data, and what is half an upload."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from flows.retraining.data import Arrivals, bring_in
from flows.retraining.settings import open_settings
from flows.worktree import Worktree, worktree
from ganlib.problems import Failed, Refused
from tests.flows.releasing import bare_machine
from tests.flows.retraining.project import MODEL, Retraining, a_copy_of, write_delivery


@pytest.fixture
def project(untrained: Retraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Retraining:
    for name, value in bare_machine().items():
        monkeypatch.setenv(name, value)
    return a_copy_of(untrained, tmp_path / "base")


@pytest.fixture
def tree(project: Retraining) -> Iterator[Worktree]:
    with worktree(project.folder, MODEL) as tree:
        tree.refresh()
        yield tree


def arrivals(project: Retraining, tree: Worktree) -> Arrivals:
    return bring_in(tree, open_settings(project.folder), lambda line: None)


def test_a_whole_delivery_becomes_a_tracked_folder(project: Retraining, tree: Worktree) -> None:
    delivery = project.deliver("monday", distance=8.0)
    (delivery / "more").mkdir()
    (delivery / "more" / "a picture.png").write_bytes(b"png")
    write_sums(delivery)
    (project.watched / ".uploading").mkdir()
    found = arrivals(project, tree)
    assert (found.files, found.waiting) == (("data/raw/monday.dvc",), ())
    assert found.lines[0].startswith("data/raw/monday.dvc: delivered, 3 files, ")
    here = tree.project / "data/raw/monday"
    assert (here / "more" / "a picture.png").read_bytes() == b"png"
    tracked = yaml.safe_load((tree.project / "data/raw/monday.dvc").read_text())
    sums = (delivery / "SHA256SUMS").read_bytes()
    assert tracked["meta"] == {"manifest": hashlib.sha256(sums).hexdigest()}
    assert tracked["outs"][0]["path"] == "monday"

    # Once it is taken, it is not taken again, and what changes in it is named.
    assert arrivals(project, tree) == Arrivals()
    (delivery / "quality.json").write_text("{}")
    write_sums(delivery)
    assert arrivals(project, tree).waiting == (
        f"{delivery}: was changed after it was taken; what is new has to come under another name",
    )


def test_half_an_upload_waits_and_is_named(project: Retraining, tree: Worktree) -> None:
    def spoil(name: str, what: str, content: str | None) -> None:
        file = project.deliver(name, distance=8.0) / what
        if content is None:
            file.unlink()
        else:
            file.write_text(content)

    line = f"{'0' * 64}  quality.json"
    spoil("a-no-manifest", "SHA256SUMS", None)
    spoil("b-cut", "SHA256SUMS", line)
    spoil("c-no-sums", "SHA256SUMS", "hello\n")
    spoil("d-outside", "SHA256SUMS", f"{'0' * 64}  ../quality.json\n")
    spoil("e-missing", "SHA256SUMS", f"{line}\n{line}2\n{line}3\n")
    spoil("f-more", "SHA256SUMS", "".join(f"{'0' * 64}  {n}\n" for n in ()) + f"{'0' * 64}  SHA256SUMS\n")
    spoil("g-damaged", "quality.json", "{")
    project.deliver("h with blanks", distance=8.0)
    found = arrivals(project, tree)
    assert (found.files, found.lines) == ((), ())
    assert [waiting.removeprefix(f"{project.watched}/") for waiting in found.waiting] == [
        "a-no-manifest: it has no SHA256SUMS; `sha256sum` over its files writes one, to be uploaded last",
        "b-cut: its SHA256SUMS ends in the middle of a line",
        "c-no-sums: line 1 of its SHA256SUMS is no sum and path below the folder",
        "d-outside: line 1 of its SHA256SUMS is no sum and path below the folder",
        "e-missing: quality.json2 and 1 more of its SHA256SUMS is not there yet",
        "f-more: SHA256SUMS of its SHA256SUMS is not there yet",
        "g-damaged: quality.json has another sum than its SHA256SUMS says: half of it, or damaged",
        "h with blanks: its name has other characters than letters, digits, dot, - and _; rename it",
    ]
    assert tree.git("status", "--porcelain", "--", "data") == ""
    assert not (tree.project / "data/raw/g-damaged").exists()


def test_an_import_whose_source_has_changed(project: Retraining, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    write_delivery(source, {"distance": 9.0})
    project.releasing.dvc("import-url", "--quiet", str(source), "data/raw/set")
    project.releasing.commit("an import")
    with worktree(project.folder, MODEL) as tree:
        tree.refresh()
        assert arrivals(project, tree) == Arrivals()
        (source / "another").write_text("{}")
        found = arrivals(project, tree)
        assert (found.files, found.lines) == ((), ())
        assert found.waiting == (
            "data/raw/set.dvc: its source is not whole: another is there and not in its SHA256SUMS",
        )
        assert tree.git("status", "--porcelain", "--", "data") == ""
        assert not (tree.project / "data/raw/set/another").exists()
        write_sums(source)
        found = arrivals(project, tree)
        assert (found.files, found.waiting) == (("data/raw/set.dvc",), ())
        assert found.lines[0].startswith("data/raw/set.dvc: the source has changed: 2 files, ")
        assert (tree.project / "data/raw/set/another").exists()

        tree.refresh()
        (source / "SHA256SUMS").unlink()
        assert "it has no SHA256SUMS" in arrivals(project, tree).waiting[0]
        project.settle(manifest_needed=False)
        tree.refresh()
        assert arrivals(project, tree).files == ("data/raw/set.dvc",)
        for file in source.iterdir():
            file.unlink()
        source.rmdir()
        tree.refresh()
        with pytest.raises(Failed, match=r"data/raw/set.dvc: the source could not be read: .* run this again"):
            arrivals(project, tree)


def test_what_git_ignores_cannot_be_added(project: Retraining) -> None:
    (project.folder / ".gitignore").write_text("/data/*\n")
    project.releasing.commit("ignores data")
    project.deliver("monday", distance=8.0)
    with worktree(project.folder, MODEL) as tree:
        tree.refresh()
        with pytest.raises(Refused, match=r"\.gitignore: ignores data/raw/monday.dvc, .* write !/data/raw/\*.dvc into"):
            arrivals(project, tree)


def test_a_watched_folder_that_is_not_there(project: Retraining, tree: Worktree) -> None:
    project.settle(watch="/nonexistent")
    with pytest.raises(Failed, match="watch: /nonexistent is no folder; nothing was started: mount or make it"):
        arrivals(project, tree)
    project.settle(watch=None)
    assert arrivals(project, tree) == Arrivals()


def write_sums(folder: Path) -> None:
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != "SHA256SUMS")
    lines = (f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(folder)}\n" for file in files)
    (folder / "SHA256SUMS").write_text("".join(lines))
