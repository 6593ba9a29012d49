"""Whether a package does what it did when it was exported: on any machine, without torch, by the images of its own
reference.safetensors."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from ganlib.card import ModelCard, Precision
from ganlib.inference.latents import latents
from ganlib.inference.package import REFERENCE, TEXT_ENCODER, Package, open_package
from ganlib.inference.request import Request
from ganlib.inference.sample import BATCH, Generator
from ganlib.inference.session import Choice, Device, choose, open_session
from ganlib.problems import Failed, Refused
from ganlib.text.tokenizer import Tokenizer

BATCHES = (1, 7, BATCH)
LARGEST_SHARE = 0.01
"""Of float32's values that may be a level off, beside twice the share that export itself found. Arithmetic in another
order moves an image in [-1, 1] by about 1e-6 and a value to its neighbour where it is so near the middle of two; a
hundredth takes an error of 4e-5."""
ALLOWANCE = 6.0
"""dB that a variant may be below its recorded PSNR: half as near. Every GPU rounds float16 in its own order, CPUs round
int8 differently where sums are scaled back to 8 bits, and the images here are others than those that were recorded.
Other weights, or another graph, are tens of dB away."""
_LATENT_ERROR = 1e-5  # the inverse distribution function needs a logarithm, which C libraries round differently
_EMBEDDING_ERROR = 1e-3  # relative to the largest number of the embedding


@dataclass(frozen=True)
class Reference:
    """Inputs of a generator, and the images that torch made of them when the package was exported.

    Attributes:
        seeds: `(N,)` int64.
        truncation: `(N,)` float64.
        z: `(N, latent.size)` float32, the latents of these.
        condition: `(N, d)` float32 of a text model, `(N,)` int64 of a class model, else None.
        images: `(N, H, W, C)` uint8.
        prompt, embedding: of a text model, a prompt and its `(1, d)` float32; else None.
    """

    seeds: NDArray[np.int64]
    truncation: NDArray[np.float64]
    z: NDArray[np.float32]
    condition: NDArray[Any] | None
    images: NDArray[np.uint8]
    prompt: str | None
    embedding: NDArray[np.float32] | None

    @classmethod
    def of(cls, package: Package) -> Reference | None:
        """The reference of a package; None where it has none.

        Raises:
            Refused: where the file is not what the card's model takes and gives.
        """
        if REFERENCE not in package.card.files:
            return None
        path = package.folder / REFERENCE
        try:
            with safe_open(path, framework="np") as file:
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
                prompt = (file.metadata() or {}).get("prompt")
        except (SafetensorError, OSError) as error:
            raise Refused(f"{path}: {' '.join(str(error).split())}; export the model again") from error
        expected = _shapes(package.card, len(found.get("seeds", ())))
        shapes = {name: (str(value.dtype), *value.shape) for name, value in found.items()}
        if shapes != expected or not len(found["seeds"]) or (prompt is None) != ("embedding" not in expected):
            raise Refused(f"{path}: found {shapes}; the card describes {expected}; export the model again")
        return cls(
            found["seeds"], found["truncation"], found["z"], found.get("condition"), found["images"], prompt,
            found.get("embedding"),
        )  # fmt: skip


def verify(folder: Path, report: Callable[[str], None], device: Device = "auto") -> Package:
    """Check a package: its files, what they say of themselves, and every graph's images against the reference.

    Args:
        folder: the package.
        report: takes a line for each check that it passed.
        device: where float32 and float16 are run, see `ganlib.inference.session.choose`; int8 is the CPU's.

    Returns:
        the package.

    Raises:
        Refused: at the first file that is not what the card says.
        Failed: at the first graph that gives other images, or another embedding, than at export.
    """
    package, choice = open_package(folder), choose(device)
    card = package.card
    precisions: tuple[Precision, ...] = ("float32", *card.variants)
    report(f"{card.name}: {len(card.files)} files are those that the card lists, to the byte")
    report(f"{card.name}: {_check_structure(package, precisions)}")
    reference = Reference.of(package)
    report(f"{card.name}: {_check_metadata(package, precisions, strict=reference is not None)}")
    if reference is None:
        report(f"{card.name}: no {REFERENCE}, so its images are only looked at; `ganlib export` writes one")
    else:
        report(f"{card.name}: {_check_latents(card, reference)}")
    for precision in precisions:
        generator = Generator(package, Choice("cpu") if precision == "int8" else choice, precision=precision)
        if precision == "float32" and reference is not None and reference.prompt is not None:
            report(f"{card.name}: {_check_embedding(generator, reference)}")
        report(f"{card.name}: {precision} on {generator.device}: {_check_images(generator, reference)}")
    return package


def smoke(generator: Generator) -> None:
    """Check one loaded generator against its package's reference, before people get its images. Where there is none,
    images of two seeds have to be of the card's shape and to differ.

    Raises:
        Refused: where the reference is not what the card describes.
        Failed: where the images, or the embedding of a prompt, are others than at export.
    """
    reference = Reference.of(generator.package)
    if reference is not None and reference.prompt is not None:
        _check_embedding(generator, reference)
    _check_images(generator, reference)


def psnr(images: NDArray[np.uint8], expected: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB, 10 log10(255^2 / mean squared difference), of images of one shape. Where
    they are equal, one value counts as a level off, the least that so many could have shown."""
    squared = np.square(images.astype(np.float64) - expected).mean()
    return 10.0 * math.log10(255.0**2 / max(float(squared), 1.0 / expected.size))


def _shapes(card: ModelCard, count: int) -> dict[str, tuple[str | int, ...]]:
    """Type and shape of each tensor of a reference of so many images."""
    conditions: dict[str, tuple[str | int, ...]] = {"class": ("int64", count)}
    conditions["text"] = ("float32", count, card.condition.size)
    shapes: dict[str, tuple[str | int, ...]] = {
        "seeds": ("int64", count),
        "truncation": ("float64", count),
        "z": ("float32", count, card.latent.size),
        "images": ("uint8", count, card.size, card.size, card.channels),
    }
    if card.condition.kind != "none":
        shapes["condition"] = conditions[card.condition.kind]
    if card.condition.kind == "text":
        shapes["embedding"] = ("float32", 1, card.condition.size)
    return shapes


def _check_structure(package: Package, precisions: tuple[Precision, ...]) -> str:
    if importlib.util.find_spec("onnx") is None:
        return "onnx is not installed, so the graphs' structure is checked by the runtime alone"
    import onnx

    encoder = [package.text_encoder] if TEXT_ENCODER in package.card.files else []
    paths = [*(package.graph(precision) for precision in precisions), *encoder]
    for path in paths:
        try:
            onnx.checker.check_model(str(path), full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            first = next(iter(str(error).splitlines()), "")
            raise Refused(f"{path}: onnx.checker says: {first}; export the model again") from error
    return f"onnx.checker finds {', '.join(path.name for path in paths)} sound"


def _check_metadata(package: Package, precisions: tuple[Precision, ...], strict: bool) -> str:
    """What each graph says of itself is what the card says, and their weights are the same.

    Args:
        package, precisions: what is checked.
        strict: whether a graph must say all of it; those of older packages, and of hand-built ones, do not.
    """
    card = package.card
    expected: dict[str, Any] = {
        "name": card.name,
        "latent": card.latent.model_dump(),
        "condition": card.condition.model_dump(),
        "classes": list(card.classes),
    }
    weights: str | None = None
    silent = 0
    for precision in precisions:
        path = package.graph(precision)
        said = open_session(path, "cpu", threads=1).metadata
        silent += not said
        for key, value in (expected | {"precision": precision, "weights_sha256": weights}).items():
            if key not in said:
                if strict:
                    raise Refused(f"{path}: says no {key} of itself; export the model again")
            elif key == "weights_sha256" and weights is None:
                weights = said[key]
            elif (found := _read(said[key], plain=isinstance(value, str))) != value:
                by = "generator.onnx" if key == "weights_sha256" else "the card"
                raise Refused(f"{path}: says {key} {found!r} of itself, {by} says {value!r}; export the model again")
    return (
        f"{silent} of {len(precisions)} graphs say nothing of themselves"
        if silent
        else "each graph says of itself what the card says, and all are of the same weights"
    )


def _read(text: str, plain: bool) -> Any:
    """A value of a graph's metadata; text that is no JSON stays as it is, and will not be what was expected."""
    if plain:
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _check_latents(card: ModelCard, reference: Reference) -> str:
    given = zip(reference.seeds, reference.truncation, strict=True)
    made = np.concatenate([latents([int(seed)], card.latent, float(truncation)) for seed, truncation in given])
    error = float(np.abs(made - reference.z).max())
    if not error <= _LATENT_ERROR:
        raise Failed(f"{card.name}: seeds give other latents than at export, by {error:.3g}; is numpy's Philox new?")
    return f"seeds give the latents that they gave at export, within {error:.1g}"


def _check_embedding(generator: Generator, reference: Reference) -> str:
    assert reference.prompt is not None and reference.embedding is not None  # checked when it was read
    error = np.abs(generator.embed(reference.prompt) - reference.embedding).max() / np.abs(reference.embedding).max()
    if not error <= _EMBEDDING_ERROR:
        raise Failed(
            f"{generator.package.card.name}: the prompt {reference.prompt!r} is encoded otherwise than at export, by "
            f"{error:.3g} of its largest number; are {TEXT_ENCODER} and tokenizer.json of this model?"
        )
    return f"the prompt {reference.prompt!r} is encoded as at export, within {error:.1g} of its largest number"


def _check_images(generator: Generator, reference: Reference | None) -> str:
    """Compare a generator's images with torch's, at several batch sizes.

    Returns:
        what was found, for a person.
    """
    card, precision = generator.package.card, generator.precision
    if reference is None:
        return _look_at(generator)
    levels, share, lowest = 0, 0.0, math.inf
    for batch in BATCHES:
        rows = np.arange(max(len(reference.z), batch)) % len(reference.z)
        images = np.concatenate(
            [_render(generator, reference, rows[first : first + batch]) for first in range(0, len(rows), batch)]
        )
        difference = np.abs(images.astype(np.int16) - reference.images[rows])
        levels, share = max(levels, int(difference.max())), max(share, float(np.mean(difference > 0)))
        lowest = min(lowest, psnr(images, reference.images[rows]))
    batches = f"in batches of {', '.join(str(batch) for batch in BATCHES)}"
    if precision == "float32":
        allowed = LARGEST_SHARE + 2 * max((v for k, v in card.parity.items() if k.startswith("differing/")), default=0)
        if levels > 1 or share > allowed:
            raise Failed(
                f"{card.name}: float32 on {generator.device}: images differ from torch's by up to {levels} levels of "
                f"255, {share:.2%} of the values; at most 1 level on {allowed:.2%} is rounding"
            )
        return f"images differ from torch's by {levels} of 255 levels at most, on {share:.2%} of the values, {batches}"
    least = card.variants[precision].psnr - ALLOWANCE
    if not lowest >= least:
        raise Failed(
            f"{card.name}: {precision} on {generator.device}: images are at {lowest:.1f} dB of torch's; export found "
            f"{least + ALLOWANCE:.1f}, and from {least:.1f} on it is rounding"
        )
    return f"images are at {lowest:.1f} dB of torch's, {least + ALLOWANCE:.1f} at export, {batches}"


def _render(generator: Generator, reference: Reference, rows: NDArray[np.intp]) -> NDArray[np.uint8]:
    return generator.render(reference.z[rows], None if reference.condition is None else reference.condition[rows])


def _look_at(generator: Generator) -> str:
    card, prompt = generator.package.card, None
    if card.condition.kind == "text":
        prompt = Tokenizer.load(generator.package.tokenizer).vocabulary[-1]
    asked = Request(prompt, card.classes[0] if card.condition.kind == "class" else None, count=2)
    images = generator.generate(asked).images
    if images.shape != (2, card.size, card.size, card.channels) or images.dtype != np.uint8:
        raise Failed(f"{card.name}: {generator.precision}: images are {images.dtype} {images.shape}; not the card's")
    if np.array_equal(images[0], images[1]):
        raise Failed(f"{card.name}: {generator.precision}: two seeds give the same image; the latent is not read")
    return "images are of the card's shape, and two seeds differ"
