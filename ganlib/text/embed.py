"""Captions to vectors: the stage `embed`, and the caption encoders by name. Importing it needs no torch.

Files of the embedded captions:
    embeddings.npy     float32 `(captions, d)`, in the order of items.parquet: the captions of the first item, and so on
    text_encoder.onnx  the graph that made them (`ganlib.text.fitted.Fitted`)
    tokenizer.json     `ganlib.text.tokenizer.Tokenizer`
    encoder.json       `encoder` and `dimension` (0 for none), and where there is an encoder `vocabulary` (words and
                       special tokens), `unknown_words` (share of the words of the test captions, null without any),
                       `captions_without_words`, `loss`, `parameters` (the section of params.yaml), `files` (sha256)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ganlib.config import Embed
from ganlib.files import sha256_of, whole_folder
from ganlib.problems import Refused
from ganlib.text.fitted import Fitted
from ganlib.text.tokenizer import UNKNOWN, Tokenizer, split

Report = Callable[[str], None]
Fit = Callable[[Embed, Tokenizer, Sequence[Sequence[str]], Report], Fitted]

_CHUNK = 1024  # captions embedded at once


@dataclass(frozen=True)
class Encoder:
    """An entry of `ENCODERS`: what it is, and the function that trains it as "module:name" (None: there is none)."""

    description: str
    fit: str | None


ENCODERS: dict[str, Encoder] = {
    "none": Encoder("captions are not embedded; for data without captions", None),
    "skip-thought": Encoder("bidirectional skip-thought vectors (Kiros et al. 2015)", "ganlib.text.skip_thought:fit"),
}
"""Every caption encoder by name. A new one is one file beside this one, a line here and its name in `config.Embed`."""


def embed(config: Embed, prepared: Path, out: Path, report: Report) -> None:
    """Train a caption encoder on the captions of the train split and write the vectors of all captions.

    The vectors come from the ONNX graph, so that a generator is trained on what prompts will give. A caption without a
    word is embedded as one unknown word. The same data, settings and machine give the same bytes.

    Args:
        config: the section `embed` of params.yaml.
        prepared: folder of the prepared dataset.
        out: folder to write, whole or not at all; replaced where it exists.
        report: takes a line about the progress.

    Raises:
        Refused: where there is nothing to embed, or a setting does not suit the encoder.
        Failed: where training diverges.
    """
    fit = _fit(config.encoder)
    if fit is None:
        with whole_folder(out) as folder:
            _write_json(folder / "encoder.json", {"encoder": config.encoder, "dimension": 0})
        report("embed: no encoder, so no captions are embedded")
        return
    captions, is_train = _captions(prepared)
    train = [list(filter(split, texts)) for texts, is_one in zip(captions, is_train, strict=True) if is_one]
    if not any(train):
        raise Refused(
            f"embed.encoder: found {config.encoder!r}, and {prepared} has no captions in its train split; "
            "set embed.encoder to none, or ingest data with captions"
        )
    tokenizer = Tokenizer.build((text for texts in train for text in texts), config.vocabulary, config.max_words)
    report(f"embed: {sum(map(len, train)):,} captions to train {config.encoder} on, vocabulary of {len(tokenizer):,}")
    fitted = fit(config, tokenizer, train, report)
    with whole_folder(out) as folder:
        (folder / "text_encoder.onnx").write_bytes(fitted.graph.SerializeToString(deterministic=True))
        tokenizer.save(folder / "tokenizer.json")
        flat = [text for texts in captions for text in texts]
        vectors = _vectors(folder / "text_encoder.onnx", tokenizer, flat)
        np.save(folder / "embeddings.npy", vectors)
        test = [text for texts, is_one in zip(captions, is_train, strict=True) if not is_one for text in texts]
        unknown = _unknown_share(tokenizer, test)
        facts: dict[str, Any] = {
            "encoder": config.encoder,
            "dimension": vectors.shape[1],
            "vocabulary": len(tokenizer),
            "unknown_words": unknown,
            "captions_without_words": sum(not split(text) for text in flat),
            "loss": fitted.loss,
            "parameters": config.model_dump(mode="json"),
            "files": {file.name: sha256_of(file) for file in sorted(folder.iterdir())},
        }
        _write_json(folder / "encoder.json", facts)
    known = "no test captions" if unknown is None else f"{unknown:.2%} of the test captions' words unknown"
    wordless = facts["captions_without_words"]
    read_as_unknown = f", {wordless:,} without a word (read as unknown)" if wordless else ""
    report(f"embed: {len(flat):,} captions{read_as_unknown}, loss {fitted.loss:.3f}, {known}: {out}")


def _fit(name: str) -> Fit | None:
    """The training function of an encoder; None where the name means that there is none."""
    where = ENCODERS[name].fit
    if where is None:
        return None
    module, _, attribute = where.partition(":")
    found: Fit = getattr(import_module(module), attribute)
    return found


def _captions(prepared: Path) -> tuple[list[list[str]], np.ndarray]:
    """The captions of each item, and whether it is of the train split `(items,)` bool."""
    file = prepared / "items.parquet"
    if not file.is_file():
        raise Refused(f"{file}: no such file; run ganlib ingest first")
    items = pd.read_parquet(file, columns=["split", "captions"])
    return [list(texts) for texts in items["captions"]], (items["split"] == "train").to_numpy(dtype=bool)


def _vectors(graph: Path, tokenizer: Tokenizer, texts: Sequence[str]) -> np.ndarray:
    """The vectors `(texts, d)` float32 that the graph gives."""
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])

    def run(ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        vectors: np.ndarray = session.run(["embedding"], {"ids": ids, "lengths": lengths})[0]
        return vectors

    unknown = run(np.array([[UNKNOWN]]), np.array([1]))
    vectors = np.repeat(unknown, len(texts), axis=0)
    rows = np.flatnonzero([bool(split(text)) for text in texts])
    for start in range(0, len(rows), _CHUNK):
        some = rows[start : start + _CHUNK]
        vectors[some] = run(*tokenizer.encode([texts[row] for row in some]))
    return vectors


def _unknown_share(tokenizer: Tokenizer, texts: Sequence[str]) -> float | None:
    """Share of the words that are read and not in the vocabulary; None where there are no words."""
    ids, lengths = tokenizer.encode(list(filter(split, texts)))
    return float((ids == UNKNOWN).sum() / lengths.sum()) if len(lengths) else None


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
