"""`ganlib generate`: images from a package to files."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ganlib.inference.images import add_png, grid, write_png
from ganlib.inference.package import open_package
from ganlib.inference.request import Request, check
from ganlib.inference.sample import Generator
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
    device: Device = "auto",
    threads: int = 0,
    with_grid: bool = False,
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
        device, threads: see `ganlib.inference.session.open_session`.
        with_grid: into a folder, write the grid of all images too.

    Returns:
        the files, in the order of the images; a grid last.

    Raises:
        Refused: for a broken package, a request that the model cannot answer, or an `out` that cannot be written so.
        Failed: where a file cannot be written.
    """
    one_file = _is_one_file(out)
    opened = open_package(package)
    request = Request(prompt, class_name, secrets.randbelow(RANDOM_SEEDS) if seed is None else seed, count, truncation)
    check(request, opened.card)
    whole = with_grid or (one_file and count > 1)
    if whole and count > LARGEST_GRID:
        raise Refused(f"count: found {count}; a grid holds at most {LARGEST_GRID} images, name a folder without one")
    generator = Generator(opened, device, threads)
    for remark in generator.remarks(request):
        report(remark)
    seeds = f"seeds {request.seed} to {request.seed + count - 1}" if count > 1 else f"seed {request.seed}"
    report(f"{opened.card.name} on {generator.device}: {seeds}")

    try:
        written = _write(generator, request, out, one_file, whole, report)
    except OSError as error:
        raise Failed(f"out: {error.filename or out}: {error.strerror or error}") from error
    report(f"wrote {written[0]}" if len(written) == 1 else f"wrote {len(written)} images to {out}")
    return written


def _write(
    generator: Generator, request: Request, out: Path, one_file: bool, whole: bool, report: Callable[[str], None]
) -> list[Path]:
    """Generate and write, batch by batch; images are kept in memory only where all are needed at once."""
    written: list[Path] = []
    kept: list[NDArray[np.uint8]] = []
    started = said = time.monotonic()
    with tqdm(total=request.count, unit="image", disable=not sys.stderr.isatty()) as bar:
        for part in generator.batches(request):
            if whole or one_file:
                kept.append(part.images)
            if not one_file:
                for image, facts in zip(part.images, part.facts, strict=True):
                    written.append(add_png(out, f"{facts.model}-{facts.seed}", image, facts))
            bar.update(len(part.images))
            done, now = part.facts[-1].seed - request.seed + 1, time.monotonic()
            if bar.disable and now - said > SECONDS_BETWEEN_LINES:
                rate, said = done / (now - started), now
                report(
                    f"{done} of {request.count} images, {rate:.0f} a second, {(request.count - done) / rate:.0f} s left"
                )
    if kept:
        facts, sheet = generator.facts(request), grid(np.concatenate(kept))
        name = f"{facts.model}-{facts.seed}-grid"
        written.append(write_png(out, sheet, facts) if one_file else add_png(out, name, sheet, facts))
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
