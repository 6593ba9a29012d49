"""Folder, zip and tar alike: the same names and bytes, and nothing that leads outside."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from ganlib.data.archive import open_archive
from ganlib.data.source import Unusable
from ganlib.problems import Failed, Refused

FILES = {
    "b/2.bin": b"two" * 50,
    "a/1.bin": b"one",
    "c.bin": b"",
    ".hidden/x": b"x",
    "b/.DS_Store": b"x",
    "__MACOSX/b": b"x",
}
VISIBLE = ["a/1.bin", "b/2.bin", "c.bin"]


def test_names_and_bytes(container: Callable[[Mapping[str, bytes]], Path]) -> None:
    archive = open_archive(container(FILES))
    assert archive.names == VISIBLE
    assert not archive.refused
    assert dict(archive.read(VISIBLE, 1000)) == {name: FILES[name] for name in VISIBLE}
    assert dict(archive.read(["c.bin", "a/1.bin"], 1000)) == {"c.bin": b"", "a/1.bin": b"one"}


def test_a_long_file_is_not_read(container: Callable[[Mapping[str, bytes]], Path]) -> None:
    contents = dict(open_archive(container({"long": bytes(101), "short": bytes(100)})).read(["long", "short"], 100))
    assert isinstance(contents["long"], Unusable)
    assert contents["long"].reason == "oversized"
    assert contents["short"] == bytes(100)


@pytest.mark.parametrize("name", ["../up", "a/../../up", "/etc/absolute"])
def test_names_that_lead_outside_are_refused(name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr(name, b"x")
        archive.writestr("./fine", b"y")
    with tarfile.open(tmp_path / "tar", "w") as archive:
        for member in (tarfile.TarInfo(name), tarfile.TarInfo("./fine")):
            member.size = 1
            archive.addfile(member, io.BytesIO(b"y"))
    for kind in ("zip", "tar"):
        opened = open_archive(tmp_path / kind)
        assert opened.names == ["fine"]
        assert [(refusal.id, refusal.reason) for refusal in opened.refused] == [(name, "unsafe")]
        assert dict(opened.read(["fine"], 9)) == {"fine": b"y"}


def test_links_and_devices_in_archives_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "tar", "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            member = tarfile.TarInfo(f"special-{kind.decode()}")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        link = zipfile.ZipInfo("special")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    for kind, count in (("tar", 4), ("zip", 1)):
        opened = open_archive(tmp_path / kind)
        assert opened.names == []
        assert [refusal.reason for refusal in opened.refused] == ["unsafe"] * count


def test_in_a_folder_links_to_files_are_files_and_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (tmp_path / "elsewhere").write_bytes(b"linked")
    (source / "link").symlink_to(tmp_path / "elsewhere")
    (source / "broken").symlink_to(tmp_path / "nowhere")
    (source / "loop").symlink_to(source)
    os.mkfifo(source / "pipe")
    archive = open_archive(source)
    contents = dict(archive.read(["link", "broken", "pipe"], 100))
    assert contents.pop("link") == b"linked"
    assert {name: problem.reason for name, problem in contents.items()} == {"broken": "missing", "pipe": "unsafe"}
    assert not any(name.startswith("loop/") for name in archive.names)


def test_a_second_file_of_a_name_is_refused_and_the_first_is_read(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "tar", "w") as archive:
        for name, content in (("a", b"1"), ("./a", b"2"), ("b", b"3")):
            member = tarfile.TarInfo(name)
            member.size = 1
            archive.addfile(member, io.BytesIO(content))
    opened = open_archive(tmp_path / "tar")
    assert [(refusal.id, refusal.reason) for refusal in opened.refused] == [("./a", "duplicate_id")]
    assert dict(opened.read(["b", "a"], 9)) == {"a": b"1", "b": b"3"}


def test_a_damaged_member_of_a_zip_leaves_the_others(tmp_path: Path) -> None:
    path = tmp_path / "zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("bad", b"A" * 100)
        archive.writestr("good", b"B" * 100)
    path.write_bytes(path.read_bytes().replace(b"A" * 100, b"A" * 99 + b"?"))
    contents = dict(open_archive(path).read(["bad", "good"], 1000))
    assert contents["good"] == b"B" * 100
    assert isinstance(contents["bad"], Unusable)
    assert contents["bad"].reason == "undecodable"


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_a_truncated_tar_fails_and_names_itself(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "data.tar"
    with tarfile.open(path, mode) as archive:
        for number in range(30):
            member = tarfile.TarInfo(f"{number}")
            content = os.urandom(3000)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    path.write_bytes(path.read_bytes()[:50_000])
    with pytest.raises(Failed, match=r"data.tar: damaged or truncated"):
        open_archive(path)


@pytest.mark.parametrize(
    ("content", "words"), [(b"PK\3\4" + bytes(100), "truncated"), (b"hello" * 300, "neither"), (b"", "neither")]
)
def test_what_is_no_archive_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "file.zip"
    path.write_bytes(content)
    with pytest.raises(Refused, match=rf"file\.zip: .*{words}"):
        open_archive(path)


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"x")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(Refused, match="encrypted"):
        open_archive(path)
