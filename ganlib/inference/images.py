"""Images as PNG files that say how they were made, and the way back from a file to what was asked for.

Each file carries the text `parameters`, in the form that image browsers of the AUTOMATIC1111 family read, and the
international text `ganlib`, a JSON object with everything that makes the image again.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field

from ganlib.card import Precision
from ganlib.files import write_whole
from ganlib.problems import Refused, first_problem

FACTS = "ganlib"
PARAMETERS = "parameters"
_SIGNATURE, _MANIFEST = b"\x89PNG\r\n\x1a\n", b"caBX"
_COMPRESSION = 1  # three times as fast as the default, and small images gain little from more


class Facts(BaseModel):
    """How an image was made: with the same package, these make the same bytes again."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: str = Field(description="the model's name")
    model_sha256: str = Field(description="sha256 of the generator's graph, in the precision that was used")
    text_encoder_sha256: str | None = Field(None, description="sha256 of text_encoder.onnx, of a text model")
    prompt: str | None = Field(None, description="what a text model was asked for")
    unknown_words: tuple[str, ...] = Field((), description="words of the prompt that the model does not know")
    class_name: str | None = Field(None, description="what a class model was asked for")
    seed: int = Field(description="of the image; of a grid's first image")
    count: int = Field(1, description="images in the file; those of a grid have consecutive seeds, or see position")
    truncation: float = Field(description="share of the latent's mass that was drawn from")
    to_seed: int | None = Field(None, description="of an interpolation: the seed at its other end")
    to_prompt: str | None = Field(None, description="of an interpolation: the prompt at its other end")
    position: float | None = Field(
        None, description="of an interpolation: how far along it, 0 to 1; none in a grid of its frames from end to end"
    )
    precision: Precision = Field("float32", description="the numbers that the graph computes in")
    size: int = Field(description="height and width of an image, in pixels")
    version: str = Field(description="version of ganlib")

    def parameters(self) -> str:
        """The facts in AUTOMATIC1111's form: the prompt's line, then `Key: value` pairs."""
        pairs: dict[str, Any] = {"Steps": 1, "Sampler": "GAN", "Seed": self.seed, "Size": f"{self.size}x{self.size}"}
        pairs |= {"Model hash": self.model_sha256[:10], "Model": self.model, "Truncation": self.truncation}
        if self.class_name is not None:
            pairs["Class"] = self.class_name
        if self.count > 1:
            pairs["Batch size"] = self.count
        for key, value in (("To seed", self.to_seed), ("To prompt", self.to_prompt), ("Position", self.position)):
            if value is not None:
                pairs[key] = value
        if self.precision != "float32":
            pairs["Precision"] = self.precision
        pairs["Version"] = f"ganlib {self.version}"
        line = ", ".join(f"{key}: {_quoted(str(value))}" for key, value in pairs.items())
        return line if self.prompt is None else f"{' '.join(self.prompt.split())}\n{line}"


Sign = Callable[[bytes, Facts], bytes]
"""Gives a PNG file's content back with a signature inside, as `ganlib.inference.signing.Signer.sign` does."""


def png(pixels: NDArray[np.uint8], facts: Facts) -> bytes:
    """A PNG file's content; the same for the same arguments.

    Args:
        pixels: `(H, W, C)` uint8 with C 1 (grey) or 3 (RGB).
        facts: what the file says of itself.
    """
    text = PngImagePlugin.PngInfo()
    text.add_text(PARAMETERS, facts.parameters())  # tEXt, or iTXt where Latin-1 does not have the characters
    text.add_itxt(FACTS, facts.model_dump_json())
    content = io.BytesIO()
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.save(content, "PNG", pnginfo=text, compress_level=_COMPRESSION)
    return content.getvalue()


def write_png(path: Path, pixels: NDArray[np.uint8], facts: Facts, sign: Sign | None = None) -> Path:
    """Write a PNG file whole, over one of that name, and return its path."""
    content = png(pixels, facts)
    write_whole(path, sign(content, facts) if sign else content)
    return path


def add_png(folder: Path, name: str, pixels: NDArray[np.uint8], facts: Facts, sign: Sign | None = None) -> Path:
    """Write `name`.png into a folder and return its path. A file of that name with another image is kept, and the new
    one is called `name`-2, `name`-3 and so on; one with the same image is left as it is, but for a signature that is
    asked for and missing."""
    content = png(pixels, facts)
    path, number = folder / f"{name}.png", 1
    while path.exists():
        found = path.read_bytes() if path.is_file() else b""
        if found == content and sign:
            break
        if unsigned(found) == content:
            return path
        number += 1
        path = folder / f"{name}-{number}.png"
    write_whole(path, sign(content, facts) if sign else content)
    return path


def unsigned(content: bytes) -> bytes:
    """A PNG file's content without C2PA manifests (chunks `caBX`); what is no PNG file comes back as it is."""
    if not content.startswith(_SIGNATURE):
        return content
    kept, at = [_SIGNATURE], len(_SIGNATURE)
    while at < len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")  # length, type and checksum take 4 bytes each
        if content[at + 4 : at + 8] != _MANIFEST:
            kept.append(content[at:end])
        at = end
    return b"".join(kept)


def read_facts(path: Path) -> Facts:
    """What a PNG file says of itself.

    Raises:
        Refused: where the file is missing, no PNG, or not made by ganlib.
    """
    if not path.is_file():
        raise Refused(f"{path}: no such file")
    try:
        with Image.open(path, formats=("PNG",)) as image:
            image.load()  # text may follow the pixels
            text = dict(getattr(image, "text", {}))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise Refused(f"{path}: not a readable PNG file: {error}") from error
    if FACTS not in text:
        raise Refused(f"{path}: says nothing of ganlib; only images that ganlib made tell how")
    try:
        return Facts.model_validate_json(text[FACTS])
    except ValueError as error:
        raise Refused(f"{path}: {first_problem(error, Facts.model_fields)}") from error


def grid(images: NDArray[np.uint8], columns: int | None = None, gap: int = 2) -> NDArray[np.uint8]:
    """Images side by side on white, row by row.

    Args:
        images: `(N, H, W, C)` uint8, N at least 1.
        columns: images in a row; None for as many as rows, or one more.
        gap: white pixels between two images.

    Returns:
        `(rows (H + gap) - gap, columns (W + gap) - gap, C)` uint8.
    """
    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = np.full((rows * (height + gap), columns * (width + gap), channels), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet[: rows * (height + gap) - gap, : columns * (width + gap) - gap]


def _quoted(value: str) -> str:
    """A value as AUTOMATIC1111 writes it: quoted where it would end the pair."""
    return json.dumps(value, ensure_ascii=False) if any(mark in value for mark in ",:\n") else value
