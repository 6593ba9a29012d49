"""reference.safetensors: some inputs and what torch makes of them, by which a package is checked anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from ganlib.data.store import to_uint8
from ganlib.export.inputs import TRUNCATIONS, Drawing
from ganlib.export.parity import torch_images
from ganlib.families.base import Family
from ganlib.files import write_whole
from ganlib.inference.package import TEXT_ENCODER
from ganlib.inference.session import open_session
from ganlib.text.tokenizer import SPECIAL, Tokenizer

_IMAGES = 8  # at each truncation
_WORDS = 3  # of the prompt
_SEED = 3_000_000


def write_reference(family: Family, drawing: Drawing, tokenizer: Path | None, path: Path) -> None:
    """Write what `ganlib.inference.verify.Reference` reads.

    Args:
        family: with the weights that were exported.
        drawing: of the conditions.
        tokenizer: of a text model, with its encoder beside it; None of another.
        path: the file.
    """
    count, kind = _IMAGES * len(TRUNCATIONS), drawing.card.condition.kind
    seeds = [range(_SEED + first, _SEED + first + _IMAGES) for first in range(0, count, _IMAGES)]
    drawn = [drawing.inputs(own, truncation) for own, truncation in zip(seeds, TRUNCATIONS, strict=True)]
    inputs = {name: np.concatenate([each[name] for each in drawn]) for name in drawn[0]}
    tensors: dict[str, NDArray[Any]] = {
        "seeds": np.concatenate([np.asarray(own, dtype=np.int64) for own in seeds]),
        "truncation": np.repeat(np.array(TRUNCATIONS), _IMAGES),
        "z": inputs["z"],
        "images": to_uint8(torch_images(family, inputs)).numpy(),
    }
    if kind != "none":
        tensors["condition"] = inputs[kind]
    metadata: dict[str, str] | None = None
    if tokenizer is not None:
        words = Tokenizer.load(tokenizer)
        metadata = {"prompt": " ".join(words.vocabulary[len(SPECIAL) :][-_WORDS:])}
        ids, lengths = words.encode([metadata["prompt"]])
        encoder = open_session(tokenizer.with_name(TEXT_ENCODER), "cpu", 1)
        tensors["embedding"] = encoder.run(ids=ids, lengths=lengths).astype(np.float32)
    write_whole(path, save({name: np.ascontiguousarray(value) for name, value in tensors.items()}, metadata))
