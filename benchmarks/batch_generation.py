"""Rate of a batch job beside the bare runtime and PNG encoding: `python -m benchmarks.batch_generation [PACKAGE]`.

The same images in the same process, in turn: the runtime and then PNG files in one thread, the same with the PNG files
in other threads meanwhile, and a whole job from the table of requests to its files. A ratio is the median of the
rounds. Without a package it takes DCGAN of the published width at 64 pixels.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.published import dcgan
from ganlib.card import ModelCard
from ganlib.inference.batch.command import batch
from ganlib.inference.batch.shard import ENCODERS
from ganlib.inference.images import png
from ganlib.inference.package import open_package
from ganlib.inference.request import Request
from ganlib.inference.sample import BATCH, Generator, of_image
from ganlib.inference.session import open_session

WORDS = ("red", "orange", "yellow", "pink", "purple", "blue", "turquoise", "white")


@dataclass(frozen=True)
class Measured:
    """One way of making the images.

    Attributes:
        name: what is done.
        rate: images a second, median of the rounds.
        processor: milliseconds of processor time an image, of all threads, median.
        ratio: of the rate to that of the first way in the same round, median.
    """

    name: str
    rate: float
    processor: float
    ratio: float


def requests_for(card: ModelCard, images: int) -> list[dict[str, str]]:
    """A row an image: prompts of 64 kinds, or the classes in turn."""
    if card.condition.kind == "text":
        words = [(one, other) for one in WORDS for other in WORDS]
        prompts = [f"a small {one} flower with pointed petals and a {other} centre" for one, other in words]
        return [{"prompt": prompts[i % len(prompts)]} for i in range(images)]
    if card.condition.kind == "class":
        return [{"class": card.classes[i % len(card.classes)]} for i in range(images)]
    return [{"note": str(i)} for i in range(images)]


def compare(package: Path, images: int, rounds: int, threads: int, shard_size: int) -> list[Measured]:
    """Measure each way once a round, in turn, after a short one that warms up.

    Args:
        package: the package's folder.
        images: of a round.
        rounds: how many.
        threads: of the runtime.
        shard_size: of the job.
    """
    generator = Generator(open_package(package), "cpu", threads)
    card = generator.package.card
    rows = requests_for(card, images)
    asked = [Request(row.get("prompt"), row.get("class"), seed) for seed, row in enumerate(rows)]
    facts = [of_image(generator.facts(one), 0) for one in asked]
    inputs = [generator.inputs(one) for one in asked]
    feeds = [{"z": np.concatenate([one.z for one in inputs[i : i + BATCH]])} for i in range(0, images, BATCH)]
    if card.condition.kind != "none":
        for i, feed in enumerate(feeds):
            conditions = [one.condition for one in inputs[i * BATCH : (i + 1) * BATCH] if one.condition is not None]
            feed[card.condition.kind] = np.concatenate(conditions)
    session = open_session(generator.package.graph(generator.precision), "cpu", threads)

    def encode(i: int, pixels: np.ndarray) -> int:
        return sum(len(png(*one)) for one in zip(pixels, facts[i * BATCH : (i + 1) * BATCH], strict=True))

    def in_turn(count: int) -> None:
        for i, feed in enumerate(feeds[:count]):
            encode(i, session.run(**feed))

    def meanwhile(count: int) -> None:
        waiting: deque[Future[int]] = deque()
        with ThreadPoolExecutor(ENCODERS) as pool:
            for i, feed in enumerate(feeds[:count]):
                waiting.append(pool.submit(encode, i, session.run(**feed)))
                if len(waiting) > ENCODERS:
                    waiting.popleft().result()

    def job(count: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            table = Path(folder) / "requests.csv"
            with table.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows[: count * BATCH])
            batch(package, table, Path(folder) / "out", lambda line: None,
                  shard_size=shard_size, device="cpu", threads=threads)  # fmt: skip

    ways: dict[str, Callable[[int], None]] = {
        "runtime, then PNG": in_turn,
        f"runtime, PNG in {ENCODERS} threads meanwhile": meanwhile,
        "batch job": job,
    }
    for way in ways.values():
        way(2)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start, processor = time.perf_counter(), time.process_time()
            way(len(feeds))
            seconds[name].append((time.perf_counter() - start, time.process_time() - processor))
    return summary(images, seconds)


def summary(images: int, seconds: dict[str, list[tuple[float, float]]]) -> list[Measured]:
    """Medians of what was timed, and ratios to the first way.

    Args:
        images: of a round.
        seconds: of each way, for each round, by the clock and of the processor.
    """
    first = [wall for wall, _ in next(iter(seconds.values()))]
    return [
        Measured(
            name,
            rate=images / statistics.median(wall for wall, _ in times),
            processor=1000 * statistics.median(processor for _, processor in times) / images,
            ratio=statistics.median(base / wall for base, (wall, _) in zip(first, times, strict=True)),
        )
        for name, times in seconds.items()
    ]


def table(measured: list[Measured]) -> str:
    """A line for each way."""
    lines = [f"{'':<40}{'images/s':>9}{'processor':>15}{'ratio':>7}"]
    for one in measured:
        lines.append(f"{one.name:<40}{one.rate:>9.0f}{one.processor:>9.2f} ms/im{one.ratio:>7.2f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path, nargs="?", help="where not given: DCGAN of the published width")
    parser.add_argument("--images", type=int, default=4000, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of the runtime")
    parser.add_argument("--shard-size", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        package = options.package or dcgan(Path(folder) / "dcgan")
        card = open_package(package).card
        what = f"{card.name}, {card.size} x {card.size}, {options.threads} threads of the runtime"
        print(f"{what}: {options.rounds} rounds of {options.images} images", flush=True)
        print(table(compare(package, options.images, options.rounds, options.threads, options.shard_size)))


if __name__ == "__main__":
    main()
