"""Releases of a registry served: promoted, rolled back under load, out of reach, broken, withdrawn."""

from __future__ import annotations

import base64
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows import registry
from ganlib.files import sha256_of
from ganlib.inference.images import png
from ganlib.inference.package import open_package
from ganlib.inference.references import address_of, cache_of, package_of
from ganlib.inference.request import Request
from ganlib.inference.sample import Generator, of_image
from ganlib.problems import Failed, Refused
from ganlib.serving.models import Entry, NotReady, Unknown
from ganlib.serving.registry_source import RECORD, Registry
from ganlib.serving.sources import Offer, Source
from tests.flows.releasing import Releasing, bare_machine, build_project, environment
from tests.packages import build_package
from tests.serving.conftest import ServeProcess
from tests.serving.test_lifecycle import Crowd
from tests.serving.test_models import break_bytes, expected, images, looking, run, until, versions


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in bare_machine().items():
        monkeypatch.setenv(name, value)
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "name")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "email")


@pytest.fixture
def project(tmp_path: Path) -> Releasing:
    """A project whose commits have no packages, tagged commit-1 to commit-3."""
    project = build_project(tmp_path / "project")
    for number in (1, 2, 3):
        project.git("tag", f"commit-{number}", project.commit(f"commit {number}", push=False))
    project.git("push", "--quiet", "origin", "HEAD:main")
    return project


def tag(project: Releasing, *tags: str, commit: int) -> None:
    """Make tags of the registry by hand and publish them: nobody looks for a package."""
    for name in tags:
        project.git("tag", "--annotate", "--message", "by hand", name, f"commit-{commit}")
    project.git("push", "--quiet", "origin", "--tags")


class Downloads:
    """In place of `resolve`: version vN of `tiny` is a package with seed N.

    Attributes:
        made: references that were asked for and not there yet.
        away: whether none can be had.
    """

    def __init__(self) -> None:
        self.made: list[str] = []
        self.away = False

    def __call__(self, reference: str, repository: str, cache: Path) -> Path:
        if self.away:
            raise Failed("the remote is away")
        version = reference.partition("@")[2]
        folder = cache / "tiny" / version
        if not folder.exists():
            self.made.append(reference)
            build_package(folder, "none", name="tiny", seed=int(version[1]))
        return folder


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> Downloads:
    downloads = Downloads()
    monkeypatch.setattr("ganlib.serving.registry_source.resolve", downloads)
    return downloads


def shown(source: Source) -> list[tuple[str, str, bool]]:
    return [(offer.name, offer.version, offer.current) for offer in source.offers()]


def test_stages_become_versions_in_whole_numbers_and_packages_are_fetched_once(
    project: Releasing, tmp_path: Path, downloads: Downloads
) -> None:
    lines: list[str] = []
    source = Registry(["tiny@prod"], project.address, tmp_path / "cache", report=lines.append)
    assert shown(source) == []
    tag(project, "tiny@v1.0.0", "tiny#prod#1", commit=1)
    (offer,) = source.offers()
    assert offer == Offer("tiny", "1", tmp_path / "cache" / "tiny" / "v1.0.0", offer.stamp, current=True)
    downloads.away = True
    assert source.offers() == [offer]
    assert downloads.made == ["tiny@v1.0.0"]
    assert lines == ["tiny@prod: v1.0.0"]


def test_the_first_reference_of_a_model_is_what_its_name_means(
    project: Releasing, tmp_path: Path, downloads: Downloads
) -> None:
    tag(project, "tiny@v1.0.0", "tiny#prod#1", commit=1)
    tag(project, "tiny@v2.0.0", "tiny#challenger#2", commit=2)
    cache = tmp_path / "cache"
    both = Registry(["tiny@prod", "tiny@challenger"], project.address, cache)
    assert shown(both) == [("tiny", "1", True), ("tiny", "2", False)]
    assert shown(Registry(["tiny@v2.0.0"], project.address, cache)) == [("tiny", "2", True)]
    tag(project, "tiny#prod#3", commit=2)
    assert shown(both) == [("tiny", "2", True), ("tiny", "1", False)]  # the one before it is offered on
    # without its first reference there is nothing, rather than a challenger under the name of the champion
    assert shown(Registry(["tiny@staging", "tiny@challenger"], project.address, cache)) == []


@pytest.mark.parametrize(
    ("references", "keep", "line"),
    [
        (["tiny"], 2, r"package: found 'tiny'; from a registry expected NAME@STAGE or NAME@VERSION: flowers@prod"),
        (["@prod"], 2, r"package: found '@prod'; .*"),
        (["tiny@"], 2, r"package: found 'tiny@'; .*"),
        (["a b@prod"], 2, r"package: found 'a b@prod'; .*"),
        (["a:tiny@prod", "b:tiny@prod"], 2, r"a:tiny and b:tiny: both are tiny for clients; serve one of them here"),
        (["tiny@prod", "tiny@next"], 1, r"keep: found 1, and 2 versions of tiny are named; raise it"),
    ],
)
def test_references_that_cannot_be_are_one_line(references: list[str], keep: int, line: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=f"^{line}$"):
        Registry(references, "nowhere", tmp_path, keep=keep)


def test_a_version_that_is_no_whole_number_is_refused_and_named(
    project: Releasing, tmp_path: Path, downloads: Downloads, caplog: pytest.LogCaptureFixture
) -> None:
    tag(project, "tiny@v0.1.0", "tiny#prod#1", commit=1)
    with caplog.at_level(logging.INFO, "ganlib.serving"):
        assert shown(Registry(["tiny@prod"], project.address, tmp_path / "cache")) == []
    assert caplog.messages == [
        "tiny@prod: v0.1.0 could not be had: tiny: found version v0.1.0; expected v1.0.0, v2.0.0, ... to serve"
    ]


def test_a_registry_that_is_away_changes_nothing_not_at_a_start_either(
    project: Releasing, tmp_path: Path, downloads: Downloads, caplog: pytest.LogCaptureFixture
) -> None:
    tag(project, "tiny@v1.0.0", "tiny#prod#1", commit=1)
    cache = tmp_path / "cache"
    source = Registry(["tiny@prod"], project.address, cache)
    offers = source.offers()
    project.origin.rename(tmp_path / "away")
    with caplog.at_level(logging.INFO, "ganlib.serving"):
        assert source.offers() == source.offers() == offers
        assert len(caplog.messages) == 1
        assert caplog.messages[0].startswith("registry: what it said last is served on: ")
        assert Registry(["tiny@prod"], project.address, cache).offers() == offers  # a server that is started meanwhile
        with pytest.raises(OSError, match="the registry could not be read"):
            Registry(["tiny@next"], project.address, cache).offers()
        (cache / RECORD).write_text("[")
        with pytest.raises(OSError, match="the registry could not be read"):
            Registry(["tiny@prod"], project.address, cache).offers()
        caplog.clear()
        (tmp_path / "away").rename(project.origin)
        assert source.offers() == source.offers() == offers
        assert caplog.messages == ["registry: in order again"]


def test_a_release_that_cannot_be_fetched_leaves_the_one_before(
    project: Releasing, tmp_path: Path, downloads: Downloads, caplog: pytest.LogCaptureFixture
) -> None:
    tag(project, "tiny@v1.0.0", "tiny#prod#1", commit=1)
    source = Registry(["tiny@prod"], project.address, tmp_path / "cache")
    offers = source.offers()
    tag(project, "tiny@v2.0.0", "tiny#prod#2", commit=2)
    downloads.away = True
    with caplog.at_level(logging.INFO, "ganlib.serving"):
        assert source.offers() == source.offers() == offers
        line = "tiny@prod: v2.0.0 could not be had, v1.0.0 is served on: the remote is away"
        assert caplog.messages == [line]
        downloads.away = False
        assert shown(source) == [("tiny", "2", True), ("tiny", "1", False)]
        assert caplog.messages[1:] == ["tiny@prod: in order again"]


def test_what_is_taken_back_is_offered_no_more(
    project: Releasing, tmp_path: Path, downloads: Downloads, caplog: pytest.LogCaptureFixture
) -> None:
    tag(project, "tiny@v1.0.0", "tiny#prod#1", commit=1)
    source = Registry(["tiny@prod"], project.address, tmp_path / "cache", keep=3)
    assert shown(source) == [("tiny", "1", True)]
    tag(project, "tiny@v2.0.0", "tiny#prod#2", commit=2)
    assert shown(source) == [("tiny", "2", True), ("tiny", "1", False)]
    tag(project, "tiny#prod#3", commit=1)
    assert shown(source) == [("tiny", "1", True), ("tiny", "2", False)]
    tag(project, "tiny@v2.0.0!#4", commit=2)
    assert shown(source) == [("tiny", "1", True)]
    tag(project, "tiny#prod!#5", commit=1)
    with caplog.at_level(logging.INFO, "ganlib.serving"):
        assert shown(source) == shown(source) == []
    assert caplog.messages == ["tiny@prod: no version holds it; it is served as soon as one does"]


class Said:
    """A source that says what it is told to."""

    demanded = False

    def __init__(self, *offers: Offer) -> None:
        self.said = list(offers)

    def offers(self) -> list[Offer]:
        return self.said


def test_a_name_means_the_version_that_is_current_and_not_the_newest(tmp_path: Path) -> None:
    folders = {version: build_package(tmp_path / version, "none", seed=int(version)) for version in "123"}

    def offer(version: str, current: bool = False) -> Offer:
        return Offer("tiny", version, folders[version], (), current)

    async def test() -> None:
        source = Said(offer("1"), offer("2", True), offer("3"))
        async with looking(source) as models:
            await until(lambda: models.ready)
            assert versions(models) == ["tiny@2", "tiny@3"]
            assert models.find("tiny").version == models.find(None).version == "2"
            assert [entry.version for entry in models.index()] == ["3", "2", "1"]
            third = models.find("tiny@3")
            source.said = [offer("1"), offer("2"), offer("3", True)]  # both are loaded: nothing is loaded anew
            await until(lambda: models.find("tiny") is third)
            source.said = [offer("1", True), offer("3")]
            await until(lambda: versions(models) == ["tiny@1", "tiny@3"])
            assert models.find("tiny@3") is third
            assert (await images(models.find("tiny")) == expected(folders["1"])).all()

    run(test())


def test_a_current_version_that_is_broken_displaces_nothing(tmp_path: Path) -> None:
    folders = {version: build_package(tmp_path / version, "none", seed=int(version)) for version in "123"}
    break_bytes(folders["2"] / "generator.onnx")

    async def test() -> None:
        source = Said(Offer("tiny", "1", folders["1"], (), True))
        async with looking(source) as models:
            await until(lambda: models.ready)
            first = models.find("tiny")
            source.said = [Offer("tiny", "2", folders["2"], (), True), Offer("tiny", "3", folders["3"], ())]
            await until(lambda: {entry.version: entry.state for entry in models.index()}.get("2") == "UNAVAILABLE")
            assert models.find("tiny") is first  # though its source offers it no more, and 3 is whole
            source.said = [Offer("tiny", "3", folders["3"], (), True)]
            await until(lambda: versions(models) == ["tiny@3"])
        source.said = [Offer("tiny", "2", folders["2"], (), True), Offer("tiny", "3", folders["3"], ())]
        async with looking(source) as models:
            await until(lambda: [entry.state for entry in models.index()] == ["UNAVAILABLE"] * 2)
            assert not models.ready
            assert models.index()[0].reason.startswith("is not loaded before the current version: ")
            for name in ("tiny", "tiny@3"):
                with pytest.raises(NotReady):
                    models.find(name)

    run(test())


def test_a_source_that_is_away_from_the_start_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    class Away(Said):
        looks = 0

        def offers(self) -> list[Offer]:
            self.looks += 1
            if self.looks < 5:
                raise OSError("no route")
            return []

    async def test() -> None:
        source = Away()
        async with looking(source) as models:
            with pytest.raises(NotReady, match="the models are being loaded"):
                models.find("tiny")
            await until(lambda: models.ready)
            assert source.looks >= 5
            with pytest.raises(Unknown):
                models.find("tiny")

    with caplog.at_level(logging.ERROR, "ganlib.serving"):
        run(test())
    assert caplog.messages == ["cannot look for versions, what is loaded is served on: no route"]


def test_a_registry_is_served_as_its_stages_change(project: Releasing, tmp_path: Path, downloads: Downloads) -> None:
    async def test() -> None:
        lines: list[str] = []
        source = Registry(["tiny@prod"], project.address, tmp_path / "cache", report=lines.append)
        async with looking(source, report=lines.append) as models:
            await until(lambda: models.ready)
            assert models.index() == []
            tag(project, "tiny@v1.0.0", "tiny#prod#1", commit=1)
            await until(lambda: versions(models) == ["tiny@1"])
            tag(project, "tiny@v2.0.0", "tiny#prod#2", commit=2)
            await until(lambda: versions(models) == ["tiny@2", "tiny@1"])
            loaded = models.find("tiny@1")
            tag(project, "tiny#prod#3", commit=1)
            await until(lambda: models.find("tiny") is loaded)  # it was never dropped
            assert models.index() == [Entry("tiny", "2", "READY", ""), Entry("tiny", "1", "READY", "")]
        assert [line.partition(",")[0] for line in lines] == [
            "running on cpu", "tiny@prod: v1.0.0", "tiny@1: ready", "tiny@prod: v2.0.0", "tiny@2: ready",
            "tiny@prod: v1.0.0",
        ]  # fmt: skip

    run(test())


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Releasing:
    """A project that has released `tiny` with seed 1 and then 2, through dvc; each costs seconds."""
    project = build_project(tmp_path_factory.mktemp("packaged"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment().items():
            patch.setenv(name, value)
        for seed in (1, 2):
            registry.publish(project.folder, "tiny", project.export("tiny", seed=seed), ["prod"])
    return project


def test_a_promotion_and_a_rollback_under_load_lose_no_request(
    serve: Callable[..., ServeProcess], packaged: Releasing, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    where = ["--registry", packaged.address, "--cache", cache]
    server = serve("tiny@prod", *where, "--keep", 1, "--interval", 0.2).wait_until_ready()
    crowd = Crowd(server.address, 4, {"prompt": "poppy", "model": "tiny", "n": 2})

    def answered(version: int, since: int) -> int:
        return sum(body.get("model") == f"tiny@{version}" for _, body, _ in list(crowd.answers)[since:])

    def go_back() -> None:
        assert registry.rollback(packaged.folder, "tiny") == "v1.0.0"
        packaged.git("push", "--quiet", "origin", "--tags")

    def go_forth() -> None:
        registry.assign(packaged.folder, "tiny", "v2.0.0", "prod")
        packaged.git("push", "--quiet", "origin", "--tags")

    for version, act in ((2, None), (1, go_back), (2, go_forth)):
        if act is not None:
            act()
        since = len(crowd.answers)
        crowd.until(lambda version=version, since=since: answered(version, since) > 20)
        assert crowd.answers[-1][1]["model"] == f"tiny@{version}"
    crowd.end()
    assert crowd.lost == []
    assert crowd.count(200) == len(crowd.answers)
    for version in (1, 2):
        bodies = [body for _, body, _ in crowd.answers if body["model"] == f"tiny@{version}"]
        check_images(cache / "tiny" / f"v{version}.0.0", bodies[:5] + bodies[-5:])
    entries = httpx.get(f"{server.address}/v1/models").json()["data"]
    assert [(entry["id"], entry["current"]) for entry in entries] == [("tiny", True), ("tiny@2", True)]


def check_images(folder: Path, bodies: list[dict[str, Any]]) -> None:
    """Each answer has the bytes of `ganlib generate` for a poppy."""
    generator = Generator(open_package(folder), "cpu", 1)
    for body in bodies:
        request = Request(class_name="poppy", seed=body["seed"], count=len(body["data"]))
        drawn, facts = generator.generate(request).images, generator.facts(request)
        for i, image in enumerate(body["data"]):
            assert base64.b64decode(image["b64_json"]) == png(drawn[i], of_image(facts, i))


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    start = [sys.executable, "-m", "ganlib", *map(str, arguments)]
    return subprocess.run(start, capture_output=True, text=True, timeout=60, check=False)


def test_batch_and_generate_take_releases_by_their_names(packaged: Releasing, tmp_path: Path) -> None:
    where = ["--registry", packaged.address, "--cache", tmp_path / "cache"]
    out = tmp_path / "image.png"
    ended = command("generate", "tiny@v2.0.0", "--class", "poppy", "--seed", 5, "--out", out, "--device", "cpu", *where)
    assert ended.returncode == 0, ended.stderr
    same = build_package(tmp_path / "same", "class", name="tiny", seed=2)
    ended = command("generate", same, "--class", "poppy", "--seed", 5, "--out", tmp_path / "b.png", "--device", "cpu")
    assert ended.returncode == 0, ended.stderr
    assert sha256_of(out) == sha256_of(tmp_path / "b.png")
    (tmp_path / "requests.jsonl").write_text(json.dumps({"class": "rose", "count": 3}) + "\n")
    job = tmp_path / "job"
    ended = command("batch", "tiny@v1.0.0", tmp_path / "requests.jsonl", "--out", job, "--device", "cpu", *where)
    assert ended.returncode == 0, ended.stderr
    assert (job / "00000.tar").exists()
    ended = command("batch", "tiny@v3.0.0", tmp_path / "requests.jsonl", "--out", job, "--device", "cpu", *where)
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1)
    assert "tiny: no version v3.0.0" in ended.stderr
    ended = command("generate", "tiny@prod", "--class", "poppy", "--out", out)
    line = "ganlib: tiny@prod: no such folder; for a release say whose with --registry REPOSITORY\n"
    assert (ended.returncode, ended.stderr) == (2, line)


def test_releases_are_kept_in_a_folder_for_each_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert cache_of("https://host/one") != cache_of("https://host/two")
    assert cache_of("https://host/one").parent == tmp_path / "ganlib" / "packages"
    assert cache_of(".") == cache_of(str(tmp_path))
    assert address_of(".") == str(tmp_path)
    assert address_of("https://host/one") == "https://host/one"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_of("https://host/one").parent == tmp_path / "home" / ".cache" / "ganlib" / "packages"
    (tmp_path / "odd@name").mkdir()
    assert package_of(Path("odd@name"), None, None) == Path("odd@name")
