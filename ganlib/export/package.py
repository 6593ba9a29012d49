"""A trained generator as a package: all that a batch job or a server needs, proved before it is there."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ganlib.card import FileRecord, ModelCard
from ganlib.config import Export
from ganlib.export.inputs import BATCHES, TRUNCATIONS, Drawing
from ganlib.export.latency import described
from ganlib.export.onnx import export_generator
from ganlib.export.parity import Difference, check_parity, recorded
from ganlib.export.reference import write_reference
from ganlib.export.variants import Maker, Measure
from ganlib.families.base import Family
from ganlib.files import sha256_of, whole_folder
from ganlib.inference.images import grid, write_png
from ganlib.inference.latents import latents
from ganlib.inference.package import CARD, GENERATOR, PREVIEW, REFERENCE, TEXT_ENCODER, TOKENIZER, open_package
from ganlib.inference.request import Request
from ganlib.inference.sample import Generator
from ganlib.inference.verify import verify
from ganlib.problems import Refused
from ganlib.text.tokenizer import Tokenizer

PREVIEW_ROWS = 8
PREVIEW_COLUMNS = 8


def write_package(
    family: Family,
    card: ModelCard,
    embedded: Path | None,
    report_folder: Path | None,
    config: Export,
    out: Path,
    report: Callable[[str], None],
    *,
    measure: Measure | None = None,
) -> ModelCard:
    """Write a package, or nothing: a folder that stood there stays until the new one has passed every check.

    Args:
        family: with its trained weights, on the CPU.
        card: of the trained model.
        embedded: folder of the embedded captions, which holds the text encoder; of a text model.
        report_folder: of the model's evaluation, with metrics.json and protocol.json; None to go without.
        config: the section `export` of params.yaml.
        out: the package's folder.
        report: takes a line for the user.
        measure: the metrics that int8 is held to; None leaves it out.

    Returns:
        the package's card.

    Raises:
        Refused: where the text encoder or the report cannot be used.
        Failed: where the graph does not give what torch gives.
    """
    embeddings = _embeddings(card, embedded)
    metrics, protocol = _measured(card, report_folder, report)
    card = card.model_copy(
        update={"licence": config.licence or card.licence, "metrics": metrics, "protocol": protocol, "files": {}}
    )
    with whole_folder(out) as folder:
        export_generator(family, card, folder / GENERATOR, config.opset)
        differences: list[Difference] = []
        for truncation in TRUNCATIONS:
            found = check_parity(family, card, folder / GENERATOR, config.tolerance, embeddings, truncation)
            differences += found
            report(
                f"{card.name}: truncation {truncation:g}: ONNX differs from torch by {_worst(found, 'error')} at most, "
                f"by a level on {_worst(found, 'differing')} of the values; batches of {', '.join(map(str, BATCHES))}"
            )
        if embedded is not None and card.condition.kind == "text":
            for name in (TEXT_ENCODER, TOKENIZER):
                shutil.copyfile(embedded / name, folder / name)
        card = card.model_copy(update={"parity": recorded(differences)})
        drawing = Drawing(card, embeddings)
        card = Maker(folder, drawing, config, measure, report).make()
        if card.latency is not None:
            report(f"{card.name}: {described(card.latency)}")
        text = card.condition.kind == "text"
        write_reference(family, drawing, folder / TOKENIZER if text else None, folder / REFERENCE)
        card = _sealed(folder, card)
        _write_preview(folder, embeddings)
        card = _sealed(folder, card)
        verify(folder, lambda line: None, "cpu")
    report(f"{card.name}: {out} with {', '.join(card.files)} ({_kilobytes(card)} kB)")
    return card


def _embeddings(card: ModelCard, embedded: Path | None) -> NDArray[np.float32] | None:
    """The captions' vectors of a text model, memory-mapped; None of another."""
    if card.condition.kind != "text":
        return None
    if embedded is None:
        raise Refused(f"{card.name}: reads text, and no embedded captions were given; run `ganlib embed`")
    for name in (TEXT_ENCODER, TOKENIZER, "embeddings.npy"):
        if not (embedded / name).is_file():
            raise Refused(f"{embedded / name}: no such file; run `ganlib embed`")
    embeddings: NDArray[np.float32] = np.load(embedded / "embeddings.npy", mmap_mode="r")
    if embeddings.ndim != 2 or embeddings.shape[1] != card.condition.size or not len(embeddings):
        raise Refused(
            f"{embedded / 'embeddings.npy'}: found {embeddings.shape}; {card.name} was trained on vectors of "
            f"{card.condition.size}, train it again"
        )
    return embeddings


def _measured(
    card: ModelCard, folder: Path | None, report: Callable[[str], None]
) -> tuple[dict[str, float], dict[str, Any]]:
    """metrics.json and protocol.json of a report; both empty, and said so, where the model was not evaluated."""
    if folder is None or not (folder / "metrics.json").is_file():
        report(f"{card.name}: not evaluated, so the card has no metrics; `ganlib evaluate {card.name}` measures them")
        return {}, {}
    found: list[Any] = []
    for name in ("metrics.json", "protocol.json"):
        try:
            found.append(json.loads((folder / name).read_text()))
        except (OSError, ValueError) as error:
            raise Refused(f"{folder / name}: {error}; run `ganlib evaluate {card.name}` again") from error
        if not isinstance(found[-1], dict):
            raise Refused(f"{folder / name}: found {type(found[-1]).__name__}; expected an object")
    metrics, protocol = found
    for key, value in metrics.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise Refused(f"{folder / 'metrics.json'}: {key}: found {value!r}; expected a finite number")
    return {key: float(value) for key, value in metrics.items()}, protocol


def _sealed(folder: Path, card: ModelCard) -> ModelCard:
    """The card with every file of the folder, written beside them."""
    card = card.model_copy(update={"files": _files(folder)})
    card.save(folder / CARD)
    return card


def _worst(differences: Iterable[Difference], name: str) -> str:
    return f"{max(getattr(difference, name) for difference in differences):.1e}"


def _files(folder: Path) -> dict[str, FileRecord]:
    """Every file of the folder but the card."""
    return {
        path.name: FileRecord(sha256=sha256_of(path), bytes=path.stat().st_size)
        for path in sorted(folder.iterdir())
        if path.name != CARD
    }


def _write_preview(folder: Path, embeddings: NDArray[np.float32] | None) -> None:
    """preview.png by the package's own runtime, small images enlarged: a row for each of some classes or captions, a
    column for each seed. That the whole way from a prompt works is proved on the way."""
    package = open_package(folder)
    card = package.card
    generator = Generator(package, "cpu", threads=1)
    rows: NDArray[Any] | None = None
    columns, height = PREVIEW_COLUMNS, PREVIEW_ROWS
    if card.condition.kind == "class":
        rows = np.unique(np.linspace(0, card.condition.size - 1, PREVIEW_ROWS).round().astype(np.int64))
    elif embeddings is not None:
        chosen = np.unique(np.linspace(0, len(embeddings) - 1, PREVIEW_ROWS).round().astype(np.int64))
        rows = np.asarray(embeddings[chosen], dtype=np.float32)
        generator.generate(Request(prompt=Tokenizer.load(package.tokenizer).vocabulary[-1]))
    if rows is None:
        z, condition = latents(range(columns * height), card.latent), None
    else:
        z, condition = np.tile(latents(range(columns), card.latent), (len(rows), 1)), np.repeat(rows, columns, axis=0)
    images = generator.render(z, condition)
    scale = max(1, 96 // card.size)
    sheet = grid(images.repeat(scale, axis=1).repeat(scale, axis=2), columns)
    write_png(folder / PREVIEW, sheet, generator.facts(Request(count=len(images))))


def _kilobytes(card: ModelCard) -> str:
    return f"{sum(record.bytes for record in card.files.values()) / 1e3:,.0f}"
