"""`ganlib generate`: images from a package to files."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ganlib.inference.images import Facts, Sign, add_png, grid, write_png
from ganlib.inference.package import open_package
from ganlib.inference.request import Request, Towards, check
from ganlib.inference.sample import BATCH, ChosenPrecision, Generated, Generator
from ganlib.inference.session import Device
from ganlib.problems import Failed, Refused

SECONDS_BETWEEN_LINES = 5.0
RANDOM_SEEDS = 2**32  # a drawn seed stays short enough to be typed again
LARGEST_GRID = 10_000
_OTHER_IMAGES = (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")


def generate(
    package: Path,
    prompt: str | None,
    class_name: str | None,
    count: int,
    seed: int | None,
    truncation: float,
    out: Path,
    report: Callable[[str], None],
    *,
    to_seed: int | None = None,
    to_prompt: str | None = None,
    position: float | None = None,
    device: Device = "auto",
    threads: int = 0,
    precision: ChosenPrecision = "auto",
    with_grid: bool = False,
    sign: Sign | None = None,
) -> list[Path]:
    """Generate images and write them as PNG files with what made them inside.

    Args:
        package: the package's folder.
        prompt, class_name: what is asked for, as the model's condition demands.
        count: how many images.
        seed: of the first image, image i has `seed + i`; None draws one and says which.
        truncation: in (0, 1], lower is more typical and less varied.
        out: ends in `.png`: one file, a grid where count is above 1. Anything else: a folder with a file an image,
            named by model and seed; other images that lie there are kept.
        report: takes a line for the user.
        to_seed, to_prompt: the other end of an interpolation. The images are then `count` frames of one way, from the
            first end to the other, both included; files in a folder are numbered from 1 on.
        position: instead of frames, all images at this place of the way, 0 to 1: image i between `seed + i` and
            `to_seed + i`.
        device, threads, precision: see `ganlib.inference.sample.Generator`.
        with_grid: into a folder, write the grid of all images too.
        sign: signs every file.

    Returns:
        the files, in the order of the images; a grid last.

    Raises:
        Refused: for a broken package, a request that the model cannot answer, or an `out` that cannot be written so.
        Failed: where a file cannot be written.
    """
    one_file = _is_one_file(out)
    opened = open_package(package)
    request = Request(prompt, class_name, secrets.randbelow(RANDOM_SEEDS) if seed is None else seed, count, truncation)
    frames = _interpolating(request, to_seed, to_prompt, position)
    if to_seed is not None or to_prompt is not None:
        request = replace(request, towards=Towards(to_seed, to_prompt, 0.0 if position is None else position))
    check(replace(request, count=1) if frames else request, opened.card)
    whole = with_grid or (one_file and count > 1)
    if whole and count > LARGEST_GRID:
        raise Refused(f"count: found {count}; a grid holds at most {LARGEST_GRID} images, name a folder without one")
    generator = Generator(opened, device, threads, precision)
    for remark in generator.remarks(request):
        report(remark)
    if to_prompt is not None:
        for remark in generator.remarks(replace(request, prompt=to_prompt)):
            report(remark)
    report(f"{opened.card.name} on {generator.choice}: {_said(request, frames)}")

    work = _frames(generator, request) if frames else _images(generator, request)
    try:
        written = _write(work, out, one_file, whole, report, sign)
    except OSError as error:
        raise Failed(f"out: {error.filename or out}: {error.strerror or error}") from error
    report(f"wrote {written[0]}" if len(written) == 1 else f"wrote {len(written)} images to {out}")
    return written


@dataclass(frozen=True)
class _Work:
    """Images to be written.

    Attributes:
        parts: batch by batch.
        names: of the files, without their suffix.
        whole: facts of all of them in one picture.
    """

    parts: Iterator[Generated]
    names: Sequence[str]
    whole: Facts


def _images(generator: Generator, request: Request) -> _Work:
    """Images of consecutive seeds."""
    facts = generator.facts(request)
    names = [f"{facts.model}-{seed}" for seed in range(request.seed, request.seed + request.count)]
    return _Work(generator.batches(request), names, facts)


def _frames(generator: Generator, request: Request) -> _Work:
    """Frames of one interpolation, from end to end."""
    count, towards = request.count, request.towards
    assert towards is not None
    frames = [
        replace(request, count=1, towards=replace(towards, position=i / (count - 1))) for i in range(count)
    ]  # the ends are 0 and 1 exactly
    facts = [generator.facts(frame) for frame in frames]
    parts = (
        Generated(_rendered(generator, frames[first : first + BATCH]), tuple(facts[first : first + BATCH]))
        for first in range(0, count, BATCH)
    )
    names = [f"{facts[0].model}-{request.seed}-frame-{i:0{len(str(count))}d}" for i in range(1, count + 1)]
    return _Work(parts, names, facts[0].model_copy(update={"count": count, "position": None}))


def _rendered(generator: Generator, requests: Sequence[Request]) -> NDArray[np.uint8]:
    """The images of several requests of one model, in their order."""
    inputs = [generator.inputs(request) for request in requests]
    conditions = [each.condition for each in inputs if each.condition is not None]
    return generator.render(
        np.concatenate([each.z for each in inputs]), np.concatenate(conditions) if conditions else None
    )


def _interpolating(request: Request, to_seed: int | None, to_prompt: str | None, position: float | None) -> bool:
    """Whether frames of an interpolation are asked for; `Refused` where half of one is."""
    if to_seed is None and to_prompt is None:
        if position is not None:
            raise Refused(f"position: found {position}; name to-seed or to-prompt, where it leads")
        return False
    if position is None and request.count < 2:
        raise Refused(f"count: found {request.count}; an interpolation has 2 frames or more, or name a position")
    return position is None


def _said(request: Request, frames: bool) -> str:
    """What is made, in words."""
    first, last, towards = request.seed, request.seed + request.count - 1, request.towards
    seeds = f"seeds {first} to {last}" if request.count > 1 and not frames else f"seed {first}"
    if towards is None:
        return seeds
    ends = [f"seed {towards.seed}"] if towards.seed is not None else []
    ends += [repr(towards.prompt)] if towards.prompt is not None else []
    end = " and ".join(ends)
    return f"{request.count} frames from {seeds} to {end}" if frames else f"{seeds}, {towards.position} towards {end}"


def _write(
    work: _Work, out: Path, one_file: bool, whole: bool, report: Callable[[str], None], sign: Sign | None
) -> list[Path]:
    """Generate and write, batch by batch; images are kept in memory only where all are needed at once."""
    written: list[Path] = []
    kept: list[NDArray[np.uint8]] = []
    done, count = 0, len(work.names)
    started = said = time.monotonic()
    with tqdm(total=count, unit="image", disable=not sys.stderr.isatty()) as bar:
        for part in work.parts:
            if whole or one_file:
                kept.append(part.images)
            if not one_file:
                names = work.names[done : done + len(part.images)]
                for name, image, facts in zip(names, part.images, part.facts, strict=True):
                    written.append(add_png(out, name, image, facts, sign))
            bar.update(len(part.images))
            done, now = done + len(part.images), time.monotonic()
            if bar.disable and now - said > SECONDS_BETWEEN_LINES:
                rate, said = done / (now - started), now
                report(f"{done} of {count} images, {rate:.0f} a second, {(count - done) / rate:.0f} s left")
    if kept:
        facts, sheet = work.whole, grid(np.concatenate(kept))
        name = f"{facts.model}-{facts.seed}-grid"
        written.append(write_png(out, sheet, facts, sign) if one_file else add_png(out, name, sheet, facts, sign))
    return written


def _is_one_file(out: Path) -> bool:
    """Whether `out` names a file; `Refused` where it cannot be written as what it names."""
    suffix = out.suffix.lower()
    if out.is_dir():
        return False
    if suffix in _OTHER_IMAGES:
        raise Refused(f"out: found {out}; images are written as PNG, name a .png file or a folder")
    if suffix != ".png" and out.exists():
        raise Refused(f"out: {out} is a file and not a folder; name a .png file or another folder")
    return suffix == ".png"
