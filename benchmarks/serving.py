"""Requests a second of `ganlib serve`, beside the raw runtime: `python -m benchmarks.serving [PACKAGE]`.

One run measures both, in turn: onnxruntime alone on the graph that is served, by as many callers of one thread as there
are cores, image by image, which is the base, and in batches; then the server in a process of its own, asked for one
image a request over the Open Inference Protocol (latents in, levels out, binary) and over the OpenAI images API (a PNG
with its metadata, base64), by 1, 16 and 64 clients on the same machine. Without PACKAGE it takes DCGAN of the published
width at 64 pixels.

`--soak SECONDS` holds 16 clients that long instead, and prints the server's memory over the time.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import numpy as np

from benchmarks.load import LOCAL, Load, ask, request
from benchmarks.published import dcgan
from ganlib.inference.package import open_package
from ganlib.inference.request import Request
from ganlib.inference.sample import Generator, Inputs

BATCHES = (1, 4, 16, 64)
REQUESTS = 256  # different ones, so that nothing could answer from memory
STARTUP = 60.0  # seconds


def raw(generator: Generator, callers: int, seconds: float) -> dict[int, float]:
    """Images a second of the runtime alone, by batch size, from `callers` threads."""
    inputs = generator.inputs(_request(generator, 0, max(BATCHES)))
    return {batch: _rate(generator, inputs, batch, callers, seconds) for batch in BATCHES}


def _rate(generator: Generator, inputs: Inputs, batch: int, callers: int, seconds: float) -> float:
    z, condition = inputs.z[:batch], None if inputs.condition is None else inputs.condition[:batch]
    generator.render(z, condition)
    start = time.perf_counter()

    def runs() -> int:
        number = 0
        while time.perf_counter() - start < seconds:
            generator.render(z, condition)
            number += 1
        return number

    with ThreadPoolExecutor(callers) as pool:
        done = sum(future.result() for future in [pool.submit(runs) for _ in range(callers)])
    return done * batch / (time.perf_counter() - start)


def inference_requests(generator: Generator) -> list[bytes]:
    """One image a request over the Open Inference Protocol, all tensors binary."""
    inputs = generator.inputs(_request(generator, 0, REQUESTS))
    tensors = {"z": ("FP32", inputs.z)}
    if inputs.condition is not None:
        kind = generator.package.card.condition.kind
        tensors[kind] = ("INT64", inputs.condition[:, None]) if kind == "class" else ("FP32", inputs.condition)
    requests = []
    for image in range(REQUESTS):
        raws = {name: values[image : image + 1].tobytes() for name, (_, values) in tensors.items()}
        described = [
            {
                "name": name,
                "shape": [1, *values.shape[1:]],
                "datatype": datatype,
                "parameters": {"binary_data_size": len(raws[name])},
            }
            for name, (datatype, values) in tensors.items()
        ]
        header = json.dumps({"inputs": described, "parameters": {"binary_data_output": True}}).encode()
        headers = {
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": str(len(header)),
        }
        path = f"/v2/models/{generator.package.card.name}/infer"
        requests.append(request(path, header + b"".join(raws.values()), headers))
    return requests


def images_requests(generator: Generator) -> list[bytes]:
    """One PNG a request over the OpenAI images API."""
    asked = _request(generator, 0, 1)
    prompt = asked.prompt or asked.class_name or ""
    return [
        request(
            "/v1/images/generations",
            json.dumps({"model": generator.package.card.name, "prompt": prompt, "n": 1, "seed": seed}).encode(),
            {"Content-Type": "application/json"},
        )
        for seed in range(REQUESTS)
    ]


@contextmanager
def server(package: Path, *options: str) -> Iterator[tuple[int, int]]:
    """`ganlib serve` on a free port of this machine until the block ends; gives its port and process id."""
    with socket.socket() as free:
        free.bind((LOCAL, 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ganlib", "serve", str(package), "--port", str(port), *options]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        try:
            end = time.monotonic() + STARTUP
            while not _ready(port):
                if process.poll() is not None or time.monotonic() > end:
                    said.seek(0)
                    raise RuntimeError(f"the server did not start: {said.read().decode(errors='replace')}")
                time.sleep(0.05)
            yield port, process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=STARTUP)


def compare(package: Path, clients: list[int], seconds: float) -> None:
    """Print the table."""
    generator = Generator(open_package(package), "auto", threads=1)
    callers = os.cpu_count() or 1
    before = raw(generator, callers, seconds / len(BATCHES))
    loads: dict[str, dict[int, Load]] = {}
    with server(package, "--queue", "1024") as (port, _):
        for name, requests in (
            ("open inference, binary", inference_requests(generator)),
            ("openai images, PNG", images_requests(generator)),
        ):
            ask(port, requests, 4, 1.0)
            loads[name] = {number: ask(port, requests, number, seconds) for number in clients}
    after = raw(generator, callers, seconds / len(BATCHES))
    rates = {batch: (before[batch] + after[batch]) / 2 for batch in BATCHES}
    base = rates[1]
    card = generator.package.card
    print(f"{card.name}: {card.size} x {card.size} x {card.channels}, {generator.precision} on {generator.device}")
    for batch, rate in rates.items():
        print(f"onnxruntime alone, {callers} callers, batch {batch:<3} {rate:9.1f} images/s   {rate / base:5.2f}")
    for name, found in loads.items():
        for number, load in found.items():
            wrong = sum(count for status, count in load.statuses.items() if status != 200)
            print(
                f"{name:<24}{number:>3} clients    {load.rate:9.1f} requests/s {load.rate / base:5.2f}   "
                f"p50 {1e3 * load.percentile(50):7.1f} ms   p99 {1e3 * load.percentile(99):7.1f} ms"
                + (f"   {wrong} not answered with 200" if wrong else "")
            )


def soak(package: Path, seconds: float, clients: int = 16) -> None:
    """Print the server's memory under load: flat is what it should be."""
    generator = Generator(open_package(package), "auto", threads=1)
    requests = images_requests(generator) + inference_requests(generator)
    with server(package, "--queue", "1024") as (port, process):
        ask(port, requests, clients, min(5.0, seconds))
        memory: list[tuple[float, float]] = []
        done = False

        def watch() -> None:
            start = time.monotonic()
            while not done:
                memory.append((time.monotonic() - start, resident(process)))
                time.sleep(1.0)

        watcher = Thread(target=watch)
        watcher.start()
        load = ask(port, requests, clients, seconds)
        done = True
        watcher.join()
    times, sizes = np.array(memory).T
    thirds = [float(np.median(part)) for part in np.array_split(sizes, 3)]
    slope = float(np.polyfit(times, sizes, 1)[0]) * 60
    print(f"{len(load.latencies)} requests in {load.seconds:.0f} s by {clients} clients: {load.rate:.0f} a second")
    print(f"answers by status: {dict(load.statuses)}")
    print(f"resident memory, median of each third: {', '.join(f'{size:.1f}' for size in thirds)} MB")
    print(f"last third / first third: {thirds[-1] / thirds[0]:.3f}; slope {slope:+.2f} MB a minute")


def resident(process: int) -> float:
    """The resident memory of a process, in MB (Linux)."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _request(generator: Generator, seed: int, count: int) -> Request:
    card = generator.package.card
    name = card.classes[0] if card.condition.kind == "class" else None
    prompt = _known_words(generator) if card.condition.kind == "text" else None
    return Request(prompt, name, seed, count)


def _known_words(generator: Generator) -> str:
    from ganlib.text.tokenizer import Tokenizer

    return " ".join(Tokenizer.load(generator.package.tokenizer).vocabulary[2:8])


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{LOCAL}:{port}/v2/health/ready", timeout=5.0) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, nargs="?", help="a package; DCGAN of the published width where not given")
    parser.add_argument("--clients", default="1,16,64", help="at once, with commas")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each measurement")
    parser.add_argument("--soak", type=float, metavar="SECONDS", help="watch the memory under load that long")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        package = options.package or dcgan(Path(folder) / "dcgan", size=64)
        if options.soak:
            soak(package, options.soak)
        else:
            compare(package, [int(number) for number in options.clients.split(",")], options.seconds)


if __name__ == "__main__":
    main()
