"""Images a second of a package's graphs: `python -m benchmarks.inference models/NAME/package`.

    python -m benchmarks.inference models/flowers-text/package
    python -m benchmarks.inference models/flowers-text/package --devices cuda,tensorrt --precision float32,float16
    python -m benchmarks.inference models/flowers-text/package --against-torch flowers-text --params params.yaml

For each device that works here and each precision of the package, in turn in one run:
    run          the graph by the runtime's plain call
    bound        batches padded to the next of 1, 8, 32 and 64, inputs and outputs at fixed addresses
    captured     the same replayed as a CUDA graph; on CUDA only
    N callers    of one thread each, at once; on the CPU only, beside one caller with N threads
    eager        the model in torch, float32; with --against-torch

    ms           of a call, the median; with several callers, of one of them
    images/s     of all callers
    ratio        of the images/s to those of `run` in float32 with one thread on the same device at the same batch size
    levels       largest difference of the images from those of that row, of 0 to 255

A row of a device that does not work says why. Exit codes: 0 measured, 2 the request was wrong.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ganlib.card import ModelCard
from ganlib.inference.bucketed import BUCKETS, Bucketed
from ganlib.inference.latents import latents
from ganlib.inference.package import Package, open_package
from ganlib.inference.session import Session, choose, open_session
from ganlib.problems import Refused

Run = Callable[[], NDArray[np.uint8]]
DEVICES = ("cpu", "cuda")
ROUNDS = 5  # of each way in turn


@dataclass(frozen=True)
class Way:
    """One way of running a generator.

    Attributes:
        device, precision, name: where, in what and how.
        run: takes inputs by name and gives images.
        callers: that run at once.
    """

    device: str
    precision: str
    name: str
    run: Callable[..., NDArray[np.uint8]]
    callers: int = 1


@dataclass(frozen=True)
class Row:
    """What was measured of a way at a batch size.

    Attributes:
        way: what was run.
        batch: images a call.
        milliseconds: of a call, the median.
        images_per_second: of all callers, the median of the rounds.
        ratio: of that to the first way's.
        levels: largest difference of its images from the first way's.
    """

    way: Way
    batch: int
    milliseconds: float
    images_per_second: float
    ratio: float
    levels: int

    def cells(self) -> tuple[str, ...]:
        return (
            self.way.device, self.way.precision, self.way.name, str(self.batch), f"{self.milliseconds:.3f}",
            f"{self.images_per_second:.0f}", f"{self.ratio:.2f}", str(self.levels),
        )  # fmt: skip


def inputs_of(card: ModelCard, batch: int) -> dict[str, NDArray[Any]]:
    """Latents of the first seeds, and conditions in turn: classes, or random embeddings of length 1."""
    inputs: dict[str, NDArray[Any]] = {"z": latents(range(batch), card.latent)}
    if card.condition.kind == "class":
        inputs["class"] = np.arange(batch, dtype=np.int64) % card.condition.size
    elif card.condition.kind == "text":
        text = np.random.default_rng(0).standard_normal((batch, card.condition.size)).astype(np.float32)
        inputs["text"] = text / np.linalg.norm(text, axis=1, keepdims=True)
    return inputs


def ways_on(device: str, package: Package, precisions: Sequence[str], callers: int) -> Iterator[Way]:
    """The ways of one device, the one that the others are held against first.

    Raises:
        Refused: where the device is not to be had.
    """
    choice = choose(device)  # type: ignore[arg-type]

    def opened(precision: str, threads: int = 1, capture: bool = False) -> Session:
        graph = package.graph(precision)  # type: ignore[arg-type]
        return open_session(graph, choice, threads, precision=precision, capture=capture)  # type: ignore[arg-type]

    for precision in precisions:
        session = opened(precision)
        yield Way(device, precision, "run", session.run)
        yield Way(device, precision, "bound", Bucketed(session).run)
        if choice.place == "cuda":
            yield Way(device, precision, "captured", Bucketed(opened(precision, capture=True)).run)
        if choice.place == "cpu" and callers > 1:
            yield Way(device, precision, f"{callers} callers", session.run, callers)
            yield Way(device, precision, f"{callers} threads", opened(precision, callers).run)


def eager(name: str, params: Path, device: str) -> Way:
    """A project's model in torch, as it was trained, on the device of the other ways."""
    import torch

    from ganlib.data.store import to_uint8
    from ganlib.models import trained
    from ganlib.project import Project

    family, _ = trained(Project.open(params), name)
    place = torch.device("cuda" if device != "cpu" else "cpu")
    for key in family.averaged():
        family.networks[key].to(place).eval()
    torch.set_num_threads(1)

    def run(z: NDArray[Any], **condition: NDArray[Any]) -> NDArray[np.uint8]:
        given = next(iter(condition.values()), None)
        with torch.inference_mode():
            images = family.sample(
                torch.from_numpy(z).to(place), None if given is None else torch.from_numpy(given).to(place)
            )
            return to_uint8(images).contiguous().cpu().numpy()

    return Way(device, "float32", "eager", run)


def timed(run: Run, callers: int, seconds: float) -> tuple[float, float]:
    """Milliseconds of a call, the median, and calls a second of all callers, over at least so many seconds."""
    taken: list[float] = []
    began = time.perf_counter()

    def call() -> None:
        while True:
            start = time.perf_counter()
            run()
            end = time.perf_counter()
            taken.append(end - start)
            if end - began >= seconds:
                return

    threads = [threading.Thread(target=call) for _ in range(callers - 1)]
    for thread in threads:
        thread.start()
    call()
    for thread in threads:
        thread.join()
    return 1e3 * statistics.median(taken), len(taken) / (time.perf_counter() - began)


def measure(ways: Sequence[Way], inputs: Mapping[str, NDArray[Any]], seconds: float) -> list[Row]:
    """A row for each way at one batch size; the first is what the others are held against. They take turns, so what
    else the machine does meanwhile slows all of them alike."""
    batch = len(inputs["z"])
    images = [way.run(**inputs) for way in ways]  # the first run allocates, and captures
    for way in ways:
        way.run(**inputs)
    rounds: list[list[tuple[float, float]]] = [[] for _ in ways]
    for _ in range(ROUNDS):
        for way, found in zip(ways, rounds, strict=True):
            found.append(timed(lambda way=way: way.run(**inputs), way.callers, seconds / ROUNDS))  # type: ignore[misc]
    return [
        Row(
            way,
            batch,
            statistics.median(milliseconds for milliseconds, _ in found),
            batch * statistics.median(rate for _, rate in found),
            statistics.median(rate / first for (_, rate), (_, first) in zip(found, rounds[0], strict=True)),
            int(np.abs(of_way.astype(int) - images[0]).max()),
        )
        for way, found, of_way in zip(ways, rounds, images, strict=True)
    ]


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns under their heads, words to the left and numbers to the right."""
    lines = [("device", "precision", "how", "batch", "ms", "images/s", "ratio", "levels"), *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" if i < 3 else f"{cell:>{width}}" for i, (cell, width) in enumerate(sized)).rstrip()
        for sized in (list(zip(line, widths, strict=True)) for line in lines)
    )


def numbers(text: str) -> list[int]:
    """Batch sizes from an option."""
    found = text.split(",")
    if not all(number.isdecimal() and int(number) > 0 for number in found):
        raise argparse.ArgumentTypeError(f"found {text}; expected whole numbers above 0 with commas")
    return [int(number) for number in found]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="models/NAME/package")
    parser.add_argument("--devices", default=",".join(DEVICES), help="of cpu, cuda, tensorrt (minutes for an engine)")
    parser.add_argument("--precision", help="default: all that the package has")
    parser.add_argument("--batches", type=numbers, default=list(BUCKETS), help="images a call")
    parser.add_argument("--callers", type=int, default=2, help="at once on the CPU; 1 leaves that out")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each way at each batch size")
    parser.add_argument("--against-torch", metavar="NAME", help="a trained model of --params, measured in torch too")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    given = parser.parse_args(arguments)
    try:
        package = open_package(given.package)
        precisions = given.precision.split(",") if given.precision else ["float32", *package.card.variants]
        if precisions[0] != "float32":
            precisions = ["float32", *precisions]  # what the others are held against
        for device in given.devices.split(","):
            try:
                ways = list(ways_on(device, package, list(dict.fromkeys(precisions)), given.callers))
            except Refused as refused:
                print(f"{refused}\n", flush=True)
                continue
            if given.against_torch:
                ways.append(eager(given.against_torch, given.params, device))
            rows = [
                row.cells()
                for batch in given.batches
                for row in measure(ways, inputs_of(package.card, batch), given.seconds)
            ]
            print(f"{package.card.name} on {choose(device)}\n{table(rows)}\n", flush=True)
    except Refused as refused:
        print(f"benchmarks.inference: {refused}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
