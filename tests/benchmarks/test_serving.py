"""The benchmark of serving: its requests are answered by the real server, its figures are counted right."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import serving
from benchmarks.load import LOCAL, Load, ask, request
from ganlib.inference.package import open_package
from ganlib.inference.sample import Generator
from tests.packages import build_package


@pytest.fixture
def echo() -> Iterator[tuple[int, Counter[bytes]]]:
    """A server that answers the first body with 200 and any other with 429; its port, and what it was asked."""
    seen: Counter[bytes] = Counter()
    ready, done = threading.Event(), threading.Event()
    port = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readline():
            length = 0
            while (line := await reader.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            body = await reader.readexactly(length)
            seen[head.split()[1] + b" " + body] += 1
            status = b"200 OK" if body == b"first" else b"429 Too Many Requests"
            writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    async def main() -> None:
        nonlocal port
        async with await asyncio.start_server(answer, LOCAL, 0) as server:
            port = server.sockets[0].getsockname()[1]
            ready.set()
            await asyncio.to_thread(done.wait)

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    ready.wait()
    yield port, seen
    done.set()
    thread.join()


def test_each_client_asks_in_turn_and_all_answers_are_counted(echo: tuple[int, Counter[bytes]]) -> None:
    port, seen = echo
    load = ask(port, [request("/a", b"first", {}), request("/b", b"second", {"X-Own": "1"})], clients=3, seconds=0.3)
    assert set(seen) == {b"/a first", b"/b second"}
    assert load.statuses == {200: seen[b"/a first"], 429: seen[b"/b second"]}
    assert len(load.latencies) == sum(seen.values())
    assert load.rate == pytest.approx(seen[b"/a first"] / load.seconds)


def test_percentiles_and_rate_are_of_the_answers() -> None:
    load = Load(seconds=2.0, latencies=[0.1, 0.2, 0.3], statuses=Counter({200: 2, 503: 1}))
    assert load.rate == 1.0
    assert load.percentile(50) == pytest.approx(0.2)
    assert load.percentile(100) == pytest.approx(0.3)


@pytest.mark.parametrize("kind", ["none", "class", "text"])
def test_the_server_answers_both_protocols_with_images(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    package = build_package(tmp_path / "package", kind)
    serving.compare(package, clients=[2], seconds=0.4)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"tiny-{kind}: 8 x 8 x 3, float32 on cpu"
    assert len(lines) == 1 + len(serving.BATCHES) + 2
    assert not any("not answered" in line for line in lines)
    rates = [float(line.split("clients")[1].split()[0]) for line in lines[-2:]]
    assert min(rates) > 1
    assert lines[1].endswith(" 1.00")  # the runtime alone, image by image, is the base


def test_a_soak_tells_the_memory_by_thirds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    serving.soak(build_package(tmp_path / "package", "none"), seconds=3.0, clients=2)
    said = capsys.readouterr().out
    sizes = said.partition("median of each third: ")[2].partition(" MB")[0].split(", ")
    assert len(sizes) == 3
    assert all(20 < float(size) < 2_000 for size in sizes)
    assert "{200: " in said


def test_requests_differ_so_that_nothing_is_answered_from_memory(tmp_path: Path) -> None:
    generator = Generator(open_package(build_package(tmp_path / "package", "class")), "cpu", threads=1)
    assert len(set(serving.inference_requests(generator))) == serving.REQUESTS
    assert len(set(serving.images_requests(generator))) == serving.REQUESTS
