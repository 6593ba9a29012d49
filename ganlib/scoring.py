"""Packages on a frozen set: where what runs packages and what measures meet. `ganlib freeze` and `ganlib score`."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ganlib.card import DatasetSpec
from ganlib.data.progress import watched
from ganlib.evaluation.frozen import Frozen, open_frozen
from ganlib.evaluation.frozen import freeze as freeze_data
from ganlib.evaluation.generated import Sample
from ganlib.evaluation.prompts import every_caption
from ganlib.evaluation.score import measure_over_seeds
from ganlib.export.latency import machine
from ganlib.files import sha256_of
from ganlib.inference.latents import latents
from ganlib.inference.package import CARD, open_package
from ganlib.inference.sample import Generator
from ganlib.inference.session import Device
from ganlib.problems import Refused
from ganlib.project import Project, Report
from ganlib.score import Score

_BATCHES = (1, 16)  # images of a run whose time is taken
_RUNS, _SECONDS = 25, 1.0  # a run's time is the least of so many, and of all within so long


def freeze(project: Project, out: Path, report: Report) -> str:
    """The project's test split and extractor of today, under the protocol of its `evaluate` section, as a frozen set.

    Returns:
        the sha256 of its frozen.json.

    Raises:
        Refused: where `out` is there already, or an input is missing.
    """
    return freeze_data(project.prepared, project.extractor, project.params.evaluate, out, report)


def score(
    package: Path, frozen: Path, seeds: int, out: Path, report: Report, *, device: Device = "cpu", threads: int = 1
) -> Score:
    """Measure a package on a frozen set, once under each of the seeds 0 to `seeds - 1`, and write the score.

    The same package, frozen set and seeds give the same file on one CPU machine with the same number of torch's
    threads, but for the latency.

    Args:
        package: the package's folder.
        frozen: what `freeze` wrote.
        seeds: how many; at least 2 to compare by.
        out: the file to write, JSON.
        report: takes a line for the user.
        device, threads: of the generator, see `ganlib.inference.session.open_session`.

    Raises:
        Refused: where either folder is not whole, or the package's images or classes are not those of the frozen set.
        Failed: where the package gives something else than images, or a metric is not finite.
    """
    if seeds < 1:
        raise Refused(f"seeds: found {seeds}; expected 1 or more, and 2 or more to compare by")
    opened = open_package(package)
    card, held_against = opened.card, open_frozen(frozen)
    _check_images(opened.folder, (card.size, card.channels), held_against.test.spec)
    generator = Generator(opened, device, threads)
    metrics, left_out = measure_over_seeds(
        held_against,
        _sampler(generator, held_against.test.spec),
        card.condition.kind,
        _embeddings(generator, held_against, report),
        range(seeds),
        report,
    )
    found = Score(
        name=card.name,
        package=sha256_of(opened.folder / CARD),
        frozen=held_against.sha256,
        version=version("ganlib"),
        precision=generator.precision,
        seeds=tuple(range(seeds)),
        metrics=metrics,
        left_out=left_out,
        machine=f"{machine()}, {generator.device}, threads {threads or 'all'}",
        latency_ms=_latency(generator, held_against),
    )
    found.save(out)
    report(f"{card.name}: {', '.join(f'{name} {_summary(values)}' for name, values in _of_the_whole(metrics).items())}")
    report(f"wrote {out}")
    return found


def _sampler(generator: Generator, spec: DatasetSpec) -> Sample:
    """A package as a generator of images. Labels are those of the frozen set, whose classes the package may number
    otherwise and may have more of."""
    card = generator.package.card
    numbers: NDArray[np.int64] | None = None
    if card.condition.kind == "class":
        if lacking := [name for name in spec.classes if name not in card.classes]:
            raise Refused(
                f"{generator.package.folder}: classes: found no {lacking[0]!r}, and the frozen set asks for it; "
                "freeze data with the package's classes"
            )
        numbers = np.array([card.classes.index(name) for name in spec.classes], dtype=np.int64)

    def draw(condition: NDArray[Any] | None, count: int, seed: int) -> NDArray[np.uint8]:
        z = latents(range(seed, seed + count), card.latent)
        return generator.render(z, condition if numbers is None or condition is None else numbers[condition])

    return draw


def _embeddings(generator: Generator, frozen: Frozen, report: Report) -> NDArray[np.float32] | None:
    """Every caption of the frozen set by the package's own encoder `(captions, d)`, None where it reads no text."""
    if generator.package.card.condition.kind != "text":
        return None
    texts = every_caption(frozen.test).texts
    distinct = list(dict.fromkeys(texts))
    vectors = [generator.embed(text) for text in watched(distinct, len(distinct), "captions encoded", report)]
    place = {text: number for number, text in enumerate(distinct)}
    return np.concatenate(vectors)[[place[text] for text in texts]] if texts else None


def _latency(generator: Generator, frozen: Frozen) -> dict[str, float]:
    """Milliseconds of a run by its number of images, and of encoding a caption where the package reads text."""
    card = generator.package.card
    captions = every_caption(frozen.test).texts
    found: dict[str, float] = {}
    for count in _BATCHES:
        condition: NDArray[Any] | None = None
        if card.condition.kind == "class":
            condition = np.zeros(count, dtype=np.int64)
        elif card.condition.kind == "text":
            condition = np.repeat(generator.embed(captions[0]), count, axis=0)
        found[str(count)] = _fastest_ms(partial(generator.render, latents(range(count), card.latent), condition))
    if card.condition.kind == "text":
        found["prompt"] = _fastest_ms(partial(generator.embed, captions[0]))
    return found


def _fastest_ms(run: Callable[[], object]) -> float:
    """Of the fastest run: what else the machine does meanwhile can only add to it."""
    run()  # the first plans memory
    taken: list[float] = []
    end = time.perf_counter() + _SECONDS
    while len(taken) < _RUNS or time.perf_counter() < end:
        began = time.perf_counter()
        run()
        taken.append(1e3 * (time.perf_counter() - began))
    return min(taken)


def _check_images(folder: Path, found: tuple[int, int], spec: DatasetSpec) -> None:
    if found != (spec.size, spec.channels):
        raise Refused(
            f"{folder}: its images have {found[0]} pixels and {found[1]} channels, those of the frozen set {spec.size} "
            f"and {spec.channels}; freeze data of that size"
        )


def _of_the_whole(metrics: dict[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
    return {name: values for name, values in metrics.items() if "/" not in name or name.endswith("/all")}


def _summary(values: tuple[float, ...]) -> str:
    """Mean and, of several, the standard deviation over the seeds."""
    spread = f" +- {np.std(values, ddof=1):.2g}" if len(values) > 1 else ""
    return f"{np.mean(values):.4g}{spread}"
