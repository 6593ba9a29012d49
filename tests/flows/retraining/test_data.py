"""What counts as new data, and what is half an upload."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from flows.command import CommandFailed, dvc
from flows.retraining import data
from flows.retraining.data import Arrivals, bring_in, whole_copies
from flows.retraining.raw import clear_raw
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


def test_one_odd_delivery_stops_no_other(project: Retraining, tree: Worktree, monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(name: str, file: str | bytes = "quality.json", content: str = "{}") -> None:
        place = project.deliver(name, distance=9.0) / os.fsdecode(file)
        place.parent.mkdir(exist_ok=True)
        place.write_text(content)
        write_sums(place.parents[len(Path(os.fsdecode(file)).parts) - 1])

    odd("a.dvc")
    odd("b", "more/dvc.yaml", "hello: [\n")
    odd("c", ".dvcignore")
    odd("d", "broken.dvc", "hello: [\n")
    odd("e", b"bl\xfcte.png")
    odd("f", "line\nbreak.png")
    odd("g")
    odd("h")
    odd("i", "back\\slash.png")
    escaped = (project.watched / "i" / "SHA256SUMS").read_text().replace("back\\slash", "back\\\\slash").splitlines()
    (project.watched / "i" / "SHA256SUMS").write_text("".join(f"\\{line}\n" for line in sorted(escaped)))
    (project.watched / "j.zip").write_text("")
    project.deliver("z-good", distance=8.0)
    copy, add = shutil.copyfile, data.dvc

    def vanishing(source: Path, target: Path) -> None:
        if "g/quality" in str(source):
            source.unlink()
        copy(source, target)

    def refusing(*arguments: str, folder: Path) -> None:
        if arguments[1].endswith("/h"):
            (tree.project / "data/raw/h.dvc").write_text("outs: []\n")
            raise CommandFailed(["dvc", "add"], 1, ["ERROR: it is odd."])
        add(*arguments, folder=folder)

    monkeypatch.setattr("shutil.copyfile", vanishing)
    monkeypatch.setattr(data, "dvc", refusing)
    found = arrivals(project, tree)
    assert found.files == ("data/raw/z-good.dvc",)
    kept = "is what DVC or git keep for themselves; take it out"
    assert [waiting.removeprefix(f"{project.watched}/") for waiting in found.waiting] == [
        "a.dvc: its name ends in .dvc, as DVC's own files do; rename it",
        f"b: more/dvc.yaml {kept}",
        f"c: .dvcignore {kept}",
        f"d: broken.dvc {kept}",
        r"e: bl\udcfcte.png has a name that is no UTF-8; rename it",
        "f: line 2 of its SHA256SUMS is no sum and path below the folder",
        f"g: could not be copied: {project.watched}/g/quality.json: No such file or directory",
        "h: DVC does not take it: it is odd",
        "i: line 1 of its SHA256SUMS: the name has a backslash or a line break; rename it",
        "j.zip: is no folder; a delivery is a folder with SHA256SUMS, `dvc add` takes single files",
    ]
    assert {place.name for place in (tree.project / "data/raw").iterdir()} == {"first.dvc", "z-good", "z-good.dvc"}


def test_a_full_disk_is_no_odd_delivery(project: Retraining, tree: Worktree, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object, **named: object) -> None:
        raise CommandFailed(["dvc", "add"], 1, ["ERROR: unexpected error - [Errno 28] No space left on device"])

    def too_large(*given: object) -> None:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    project.deliver("monday", distance=8.0)
    with monkeypatch.context() as patch:
        patch.setattr(data, "dvc", full)
        with pytest.raises(CommandFailed, match="No space left"):
            arrivals(project, tree)
    tree.refresh()
    shutil.rmtree(tree.project / "data/raw/monday")
    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfile", too_large)
        with pytest.raises(OSError, match="File too large"):
            arrivals(project, tree)
    assert arrivals(project, tree).files == ("data/raw/monday.dvc",)


def test_sums_of_sums_are_files_like_others(project: Retraining, tree: Worktree) -> None:
    delivery = project.deliver("nested", distance=8.0)
    write_delivery_below(delivery / "part")
    command = "find . -type f ! -path ./SHA256SUMS -print0 | xargs -0 sha256sum > SHA256SUMS"
    subprocess.run(["sh", "-c", command], cwd=delivery, check=True)
    found = arrivals(project, tree)
    assert (found.files, found.waiting) == (("data/raw/nested.dvc",), ())
    assert (tree.project / "data/raw/nested/part/SHA256SUMS").is_file()
    unnamed = project.deliver("unnamed", distance=8.0)
    write_delivery_below(unnamed / "part")
    assert arrivals(project, tree).waiting == (
        f"{unnamed}: part/SHA256SUMS and 1 more is there and not in its SHA256SUMS",
    )


def test_a_name_that_people_have_used(project: Retraining, tree: Worktree) -> None:
    (project.folder / "data/raw/text").mkdir()
    (project.folder / "data/raw/text/a.txt").write_text("in git itself")
    project.releasing.git("add", "--force", "data/raw/text")
    project.releasing.commit("texts")
    tree.refresh()
    first, text = project.deliver("first", distance=1.0), project.deliver("text", distance=1.0)
    assert arrivals(project, tree) == Arrivals(
        waiting=tuple(
            f"{place}: data/raw has another {place.name}, which did not come from here; rename the delivery"
            for place in (first, text)
        )
    )
    assert {place.name for place in (tree.project / "data/raw/text").iterdir()} == {"a.txt"}
    shutil.rmtree(text)
    shutil.rmtree(first)
    shutil.copytree(project.folder / "data/raw/first", first)  # what they have added has lain here
    dvc("pull", "data/raw/first", folder=tree.project)
    assert arrivals(project, tree) == Arrivals()


def test_what_was_copied_whole_is_not_copied_again(
    project: Retraining, tree: Worktree, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copied() -> list[str]:
        """The deliveries that a run copies."""
        tree.refresh()
        clear_raw(tree, whole_copies(tree, open_settings(project.folder)))
        names = list[str]()

        def copy(delivery: Path, place: Path) -> str:
            names.append(delivery.name)
            return real(delivery, place)

        with monkeypatch.context() as patch:
            patch.setattr(data, "_copy", copy)
            found = arrivals(project, tree)
        assert found.files == tuple(f"data/raw/{place.name}.dvc" for place in sorted(project.watched.iterdir()))
        return names

    real = data._copy
    monday, tuesday = project.deliver("monday", distance=8.0), project.deliver("tuesday", distance=7.0)
    assert copied() == ["monday", "tuesday"]
    assert copied() == []
    (monday / "quality.json").write_text("{}")
    write_sums(monday)
    assert copied() == ["monday"]
    assert (tree.project / "data/raw/monday/quality.json").read_text() == "{}"
    shutil.rmtree(tuesday)
    assert copied() == []
    assert not (tree.project / "data/raw/tuesday").exists()
    project.deliver("tuesday", distance=7.0)
    assert copied() == ["tuesday"]


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


def write_delivery_below(folder: Path) -> None:
    folder.mkdir()
    write_delivery(folder, {"part": 1})


def write_sums(folder: Path) -> None:
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != "SHA256SUMS")
    lines = (f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(folder)}\n" for file in files)
    (folder / "SHA256SUMS").write_bytes(os.fsencode("".join(lines)))
