"""Versions that come, change, break and go while others are served."""

from __future__ import annotations

import asyncio
import logging
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ganlib.inference.package import open_package
from ganlib.inference.request import Request
from ganlib.inference.sample import Generator
from ganlib.problems import Failed, Refused
from ganlib.serving.batcher import Closing
from ganlib.serving.models import Entry, Models, NotReady, Served, Unknown
from ganlib.serving.runtime import Runtime
from ganlib.serving.sources import Offer, Packages, Repository, Source
from tests.packages import build_package

PATIENCE = 20.0
ON_CPU = Runtime("cpu", workers=1)
ONE = Request(seed=3, count=2)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, PATIENCE))


async def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


@asynccontextmanager
async def looking(source: Source, **options: Any) -> AsyncIterator[Models]:
    """Models that are followed, quickly."""
    models = Models([source], ON_CPU, **{"interval": 0.01, "settle": 0.05, "linger": 0.0} | options)
    task = asyncio.create_task(models.start())
    try:
        yield models
    finally:
        await models.close()
        await asyncio.wait([task])
        task.result()


async def images(served: Served, request: Request = ONE) -> np.ndarray:
    return await served.batcher.submit(served.generator.inputs(request))


def expected(folder: Path, request: Request = ONE) -> np.ndarray:
    return Generator(open_package(folder), "cpu", 1).generate(request).images


def versions(models: Models) -> list[str]:
    return [f"{served.name}@{served.version}" for served in models.served()]


def threads_of(title: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(f"{title}-")]


def break_bytes(path: Path) -> None:
    """Change a byte, and not the size."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_packages_are_version_1_of_the_name_in_their_card(packages: dict[str, Path]) -> None:
    async def test() -> None:
        lines: list[str] = []
        async with looking(Packages([packages["text"], packages["none"]]), report=lines.append) as models:
            await until(lambda: models.ready)
            assert versions(models) == ["tiny-none@1", "tiny-text@1"]
            assert models.index() == [Entry("tiny-none", "1", "READY", ""), Entry("tiny-text", "1", "READY", "")]
            found = models.find("tiny-none")
            assert (
                found is models.find("tiny-none@1") is models.find("tiny-none", "1") is models.find("tiny-none@1", "1")
            )
            assert found.card.name == "tiny-none"
            np.testing.assert_array_equal(await images(found), expected(packages["none"]))
            for name, version, line in (
                ("rose", None, "model: found 'rose'; this server has tiny-none, tiny-text"),
                ("", None, "model: found ''; this server has tiny-none, tiny-text"),
                ("tiny-none@2", None, "model: found version '2' of tiny-none; this server has 1"),
                ("tiny-none", "", "model: found version '' of tiny-none; this server has 1"),
            ):
                with pytest.raises(Unknown) as unknown:
                    models.find(name, version)
                assert str(unknown.value) == line
            with pytest.raises(Refused, match="model: missing; this server has tiny-none, tiny-text"):
                models.find(None)
            with pytest.raises(Refused, match="found version '1' in the name and '2' beside it"):
                models.find("tiny-none@1", "2")
        assert lines[0] == "running on cpu"
        assert [line.partition(", after")[0] for line in lines[1:]] == [
            "tiny-none@1: ready, float32",
            "tiny-text@1: ready, float32",
        ]
        assert not threads_of("tiny-none@1")

    run(test())


def test_the_only_model_needs_no_name(packages: dict[str, Path]) -> None:
    async def test() -> None:
        async with looking(Packages([packages["class"]])) as models:
            await until(lambda: models.ready)
            assert models.find(None).name == "tiny-class"
            assert models.find(None, "1").version == "1"

    run(test())


def test_packages_are_looked_at_before_anything_starts(packages: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(Refused, match="nowhere: no such folder"):
        Packages([tmp_path / "nowhere"])
    with pytest.raises(Refused, match=r"tiny-none is the name of .* too; take a --repository for both"):
        Packages([packages["none"], build_package(tmp_path / "twin", "none", seed=2)])
    with pytest.raises(Refused, match=r"name: found 'a b'; expected letters, digits"):
        Packages([build_package(tmp_path / "blank", "none", name="a b")])
    cut = build_package(tmp_path / "cut", "none")
    (cut / "generator.onnx").write_bytes(b"short")
    with pytest.raises(Refused, match=r"generator.onnx: found 5 bytes, the card says"):
        Packages([cut])
    with pytest.raises(Refused, match=r"which is no folder; expected one of NAME/VERSION/"):
        Repository(tmp_path / "nowhere")


def test_a_named_package_that_cannot_be_loaded_is_an_error(tmp_path: Path) -> None:
    folder = build_package(tmp_path / "package", "none")
    break_bytes(folder / "generator.onnx")
    models = Models([Packages([folder])], ON_CPU)

    async def test() -> None:
        with pytest.raises(Refused, match=r"generator.onnx: found sha256"):
            await models.start()
        await models.close()

    run(test())


def test_a_device_that_is_not_to_be_had_is_an_error(packages: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(device: str) -> None:
        raise Refused(f"device: found {device}")

    monkeypatch.setattr("ganlib.serving.runtime.choose", refuse)
    models = Models([Repository(packages["none"].parent)], Runtime("cuda"))

    async def test() -> None:
        with pytest.raises(Refused, match="device: found cuda"):
            await models.start()
        await models.close()

    run(test())


class SlowSource:
    """A source that answers when it is let."""

    demanded = False

    def __init__(self, offers: list[Offer]) -> None:
        self._offers = offers
        self.may_answer = threading.Event()

    def offers(self) -> list[Offer]:
        assert self.may_answer.wait(PATIENCE)
        return self._offers


def test_while_models_are_loaded_the_loop_goes_on_and_says_so(packages: dict[str, Path]) -> None:
    async def test() -> None:
        source = SlowSource([Offer("tiny", "1", packages["none"], ())])
        async with looking(source) as models:
            await until(lambda: models.busy)
            assert not models.ready
            assert models.index() == []
            for name in ("tiny", None):
                with pytest.raises(NotReady, match="the models are being loaded; try again"):
                    models.find(name)
            source.may_answer.set()
            await until(lambda: models.ready)
            assert models.find(None).name == "tiny"

    run(test())


def test_a_source_with_a_defect_does_not_end_what_is_served(
    packages: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    class Defective:
        demanded = False
        looks = 0

        def offers(self) -> list[Offer]:
            self.looks += 1
            if 1 < self.looks < 4:
                raise ZeroDivisionError("a defect")
            return [Offer("tiny", "1", packages["none"], ())]

    async def test() -> None:
        source = Defective()
        async with looking(source) as models:
            await until(lambda: source.looks > 4)
            assert len(await images(models.find("tiny"))) == 2

    with caplog.at_level(logging.ERROR, "ganlib.serving"):
        run(test())
    line = "looking for versions failed, what is loaded is served on"
    assert [record.getMessage() for record in caplog.records] == [line, line]
    assert all(record.exc_info for record in caplog.records)


def test_versions_are_numbers_and_the_newest_are_kept(tmp_path: Path) -> None:
    async def test() -> None:
        for version in ("1", "2", "9", "10"):
            build_package(tmp_path / "flowers" / version, "none", seed=int(version))
        build_package(tmp_path / "other" / "3", "none")
        for name in (".1234.11", "latest", "01", "0", "-1"):
            (tmp_path / "flowers" / name).mkdir()
        (tmp_path / "flowers" / "12").write_text("a file")
        (tmp_path / "empty").mkdir()
        (tmp_path / ".hidden").mkdir()
        async with looking(Repository(tmp_path)) as models:
            await until(lambda: models.ready)
            assert versions(models) == ["flowers@10", "flowers@9", "other@3"]
            assert models.find("flowers").version == "10"
            np.testing.assert_array_equal(await images(models.find("flowers@9")), expected(tmp_path / "flowers" / "9"))
            older = "older than the newest 2"
            assert [(entry.version, entry.state, entry.reason) for entry in models.index()] == [
                ("10", "READY", ""),
                ("9", "READY", ""),
                ("2", "UNAVAILABLE", older),
                ("1", "UNAVAILABLE", older),
                ("3", "READY", ""),
            ]
            with pytest.raises(NotReady, match=f"model: flowers@2 is unavailable: {older}"):
                models.find("flowers", "2")
            with pytest.raises(Unknown, match="this server has flowers, other"):
                models.find("empty")

    run(test())


def test_an_empty_repository_waits_for_its_first_version(tmp_path: Path) -> None:
    async def test() -> None:
        async with looking(Repository(tmp_path)) as models:
            await until(lambda: models.ready)
            with pytest.raises(Unknown, match="model: this server has none yet"):
                models.find(None)
            with pytest.raises(Unknown, match="model: found 'flowers'; this server has none yet"):
                models.find("flowers")
            build_package(tmp_path / "new", "none")
            (tmp_path / "flowers").mkdir()
            (tmp_path / "new").rename(tmp_path / "flowers" / "1")
            await until(lambda: versions(models) == ["flowers@1"])

    run(test())


def test_a_new_version_is_swapped_in_and_the_old_one_finishes_what_it_has(tmp_path: Path) -> None:
    async def test() -> None:
        lines: list[str] = []
        first = build_package(tmp_path / "flowers" / "1", "none", seed=1)
        async with looking(Repository(tmp_path), keep=1, linger=0.3, report=lines.append) as models:
            await until(lambda: models.ready)
            old = models.find("flowers")
            build_package(tmp_path / "new", "none", seed=2).rename(tmp_path / "flowers" / "2")
            await until(lambda: versions(models) == ["flowers@2"])
            assert models.find("flowers").version == "2"
            # Who looked the old one up before is served by it.
            np.testing.assert_array_equal(await images(old), expected(first))
            await until(lambda: "flowers@1: drained and dropped" in lines)
            assert not threads_of("flowers@1")
            with pytest.raises(Closing):
                await images(old)
            np.testing.assert_array_equal(await images(models.find("flowers")), expected(tmp_path / "flowers" / "2"))

    run(test())


def test_a_version_that_is_being_copied_is_not_broken(tmp_path: Path) -> None:
    async def test() -> None:
        lines: list[str] = []
        whole = build_package(tmp_path / "whole", "text", seed=2)
        build_package(tmp_path / "served" / "flowers" / "1", "text")
        async with looking(Repository(tmp_path / "served"), settle=0.5, report=lines.append) as models:
            await until(lambda: models.ready)
            copy = tmp_path / "served" / "flowers" / "2"
            copy.mkdir()

            def state() -> Entry:
                return models.index()[0]

            await until(lambda: state().version == "2")
            for name in sorted(path.name for path in whole.iterdir()):  # the card comes first
                content = (whole / name).read_bytes()
                for length in (len(content) // 2, len(content)):
                    assert state().state == "LOADING", state()
                    with pytest.raises(NotReady, match=r"model: flowers@2 is loading: \S"):
                        models.find("flowers@2")
                    assert models.find("flowers").version == "1"
                    (copy / name).write_bytes(content[:length])
                    await asyncio.sleep(0.03)
            await until(lambda: models.find("flowers").version == "2")
            assert state() == Entry("flowers", "2", "READY", "")
        assert not any("not loaded" in line for line in lines)

    run(test())


def test_a_broken_version_says_why_once_and_the_old_one_serves_on(tmp_path: Path) -> None:
    async def test() -> None:
        lines: list[str] = []
        build_package(tmp_path / "flowers" / "1", "none")
        build_package(tmp_path / "flowers" / "2", "none", seed=2)
        async with looking(Repository(tmp_path), report=lines.append) as models:
            await until(lambda: models.ready)
            broken = build_package(tmp_path / "new", "none", seed=3)
            break_bytes(broken / "generator.onnx")
            broken = broken.rename(tmp_path / "flowers" / "3")
            await until(lambda: models.index()[0].state == "UNAVAILABLE")
            reason = models.index()[0].reason
            assert "generator.onnx: found sha256" in reason
            await asyncio.sleep(0.1)
            assert [line for line in lines if "not loaded" in line] == [f"flowers@3: not loaded: {reason}"]
            assert versions(models) == ["flowers@2", "flowers@1"]
            assert models.ready
            break_bytes(broken / "generator.onnx")  # the same bit again: it is whole
            await until(lambda: versions(models) == ["flowers@3", "flowers@2"])

    run(test())


def test_a_version_that_has_just_come_is_loading_and_those_before_it_are_past(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        opened, go_on = Runtime.open, threading.Event()
        for version in ("1", "2", "3"):
            build_package(tmp_path / "flowers" / version, "none", seed=int(version))
        async with looking(Repository(tmp_path)) as models:
            await until(lambda: models.ready)
            monkeypatch.setattr(Runtime, "open", lambda *given: go_on.wait(PATIENCE) and opened(*given))
            build_package(tmp_path / "new", "none", seed=4).rename(tmp_path / "flowers" / "4")
            await until(lambda: models.index()[0].version == "4")
            states = [(entry.version, entry.state) for entry in models.index()]
            assert states == [("4", "LOADING"), ("3", "READY"), ("2", "READY"), ("1", "UNAVAILABLE")]
            go_on.set()
            await until(lambda: versions(models) == ["flowers@4", "flowers@3"])

    run(test())


def test_a_start_with_a_broken_version_serves_what_is_whole(tmp_path: Path) -> None:
    async def test() -> None:
        build_package(tmp_path / "whole" / "1", "none")
        break_bytes(build_package(tmp_path / "broken" / "1", "none") / "generator.onnx")
        async with looking(Repository(tmp_path), settle=0.3) as models:
            await until(lambda: models.served())
            assert not models.ready  # the other one might still be written
            await until(lambda: models.ready)
            assert [(entry.name, entry.state) for entry in models.index()] == [
                ("broken", "UNAVAILABLE"),
                ("whole", "READY"),
            ]

    run(test())


def test_a_server_that_could_load_nothing_is_not_ready(tmp_path: Path) -> None:
    async def test() -> None:
        break_bytes(build_package(tmp_path / "broken" / "1", "none") / "generator.onnx")
        async with looking(Repository(tmp_path)) as models:
            await until(lambda: [entry.state for entry in models.index()] == ["UNAVAILABLE"])
            await asyncio.sleep(0.05)
            assert not models.ready

    run(test())


def test_a_version_is_tried_out_before_anyone_gets_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def smoke(generator: Generator) -> None:
        if generator.package.folder.name == "2":
            raise Failed("the images are others than at export")

    monkeypatch.setattr("ganlib.serving.runtime.smoke", smoke)

    async def test() -> None:
        build_package(tmp_path / "flowers" / "1", "none")
        async with looking(Repository(tmp_path)) as models:
            await until(lambda: models.ready)
            build_package(tmp_path / "new", "none", seed=2).rename(tmp_path / "flowers" / "2")
            await until(lambda: models.index()[0].state == "UNAVAILABLE")
            assert models.index()[0].reason == "the images are others than at export"
            assert versions(models) == ["flowers@1"]

    run(test())


def test_a_defect_while_loading_is_logged_and_looking_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def smoke(generator: Generator) -> None:
        if generator.package.folder.name == "2":
            raise ZeroDivisionError("a defect")

    monkeypatch.setattr("ganlib.serving.runtime.smoke", smoke)

    async def test() -> None:
        build_package(tmp_path / "flowers" / "1", "none")
        build_package(tmp_path / "flowers" / "2", "none")
        async with looking(Repository(tmp_path)) as models:
            await until(lambda: models.ready)
            build_package(tmp_path / "new", "none").rename(tmp_path / "flowers" / "3")
            await until(lambda: versions(models) == ["flowers@3", "flowers@1"])

    with caplog.at_level(logging.ERROR, "ganlib.serving"):
        run(test())
    assert caplog.records[0].getMessage() == "flowers@2: could not be loaded"
    assert caplog.records[0].exc_info is not None


def test_a_version_that_goes_is_dropped_and_a_repository_that_goes_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        repository = tmp_path / "repository"
        for name, version in (("flowers", "1"), ("flowers", "2"), ("birds", "1")):
            build_package(repository / name / version, "none")
        async with looking(Repository(repository)) as models:
            await until(lambda: models.ready)
            shutil.rmtree(repository / "flowers" / "2")
            await until(lambda: versions(models) == ["birds@1", "flowers@1"])
            shutil.rmtree(repository / "birds")
            await until(lambda: versions(models) == ["flowers@1"])
            assert models.index() == [Entry("flowers", "1", "READY", "")]
            repository.rename(tmp_path / "away")
            await until(lambda: caplog.records)
            assert versions(models) == ["flowers@1"]
            assert len(await images(models.find(None))) == 2

    with caplog.at_level(logging.ERROR, "ganlib.serving"):
        run(test())
    assert "cannot look for versions, what is loaded is served on" in caplog.records[0].getMessage()


def test_a_version_that_is_written_over_is_loaded_again(tmp_path: Path) -> None:
    async def test() -> None:
        folder = build_package(tmp_path / "flowers" / "1", "none")
        async with looking(Repository(tmp_path)) as models:
            await until(lambda: models.ready)
            before = models.find(None)
            break_bytes(folder / "generator.onnx")
            await until(lambda: models.index()[0].state == "READY" and models.find(None) is before)
            await asyncio.sleep(0.1)
            assert models.find(None) is before
            folder.rename(tmp_path / ".old")
            build_package(tmp_path / "new", "none", seed=2).rename(folder)
            await until(lambda: models.index() and models.served() and models.find(None) is not before)
            np.testing.assert_array_equal(await images(models.find(None)), expected(folder))

    run(test())


def test_what_is_unloaded_stays_away_until_it_is_loaded(tmp_path: Path) -> None:
    async def test() -> None:
        build_package(tmp_path / "flowers" / "1", "none")
        build_package(tmp_path / "birds" / "1", "none")
        async with looking(Repository(tmp_path)) as models:
            await until(lambda: models.ready)
            await models.unload("flowers")
            assert versions(models) == ["birds@1"]
            await asyncio.sleep(0.05)
            assert models.index()[1] == Entry("flowers", "1", "UNAVAILABLE", "unloaded")
            with pytest.raises(NotReady, match="model: flowers@1 is unavailable: unloaded"):
                models.find("flowers")
            await until(lambda: not threads_of("flowers@1"))
            await models.load("flowers")
            assert versions(models) == ["birds@1", "flowers@1"]
            assert len(await images(models.find("flowers"))) == 2
            await models.load("flowers")  # is there already
            for work in (models.load, models.unload):
                with pytest.raises(Unknown, match="model: found 'rose'; this server has birds, flowers"):
                    await work("rose")

    run(test())


def test_loading_looks_at_once_and_says_why_it_cannot(tmp_path: Path) -> None:
    async def test() -> None:
        async with looking(Repository(tmp_path), interval=PATIENCE, settle=PATIENCE) as models:
            await until(lambda: models.ready)
            folder = build_package(tmp_path / "flowers" / "1", "none")
            await models.load("flowers")
            assert versions(models) == ["flowers@1"]
            break_bytes(build_package(tmp_path / "birds" / "1", "none") / "generator.onnx")
            with pytest.raises(Refused, match=r"generator.onnx: found sha256"):
                await models.load("birds")
            assert folder.exists()
        with pytest.raises(NotReady, match="the server is about to end"):
            await models.load("flowers")

    run(test())


def test_reloads_under_load_lose_no_request(tmp_path: Path) -> None:
    """Clients that never stop, while each version displaces the one before."""

    async def test() -> None:
        build_package(tmp_path / "flowers" / "1", "none", seed=1)
        async with looking(Repository(tmp_path), keep=1, linger=0.05) as models:
            await until(lambda: models.ready)
            answers: dict[str, list[np.ndarray]] = {}
            over = False

            async def client() -> None:
                while not over:
                    served = models.find("flowers")
                    answers.setdefault(served.version, []).append(await images(served))

            clients = [asyncio.create_task(client()) for _ in range(8)]
            for version in range(2, 6):
                build_package(tmp_path / "new", "none", seed=version).rename(tmp_path / "flowers" / str(version))
                await until(lambda version=version: len(answers.get(str(version), ())) > 20)
            over = True
            await asyncio.gather(*clients)
        assert sorted(answers) == ["1", "2", "3", "4", "5"]
        for version, got in answers.items():
            correct = expected(tmp_path / "flowers" / version)
            assert all(np.array_equal(one, correct) for one in got)

    run(test())
