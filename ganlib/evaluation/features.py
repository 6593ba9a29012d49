"""The trained extractor as it is read: features of images, logits of its heads, vectors of captions.

Files of `models/extractor/` (written by `ganlib.evaluation.extractor`):
    weights.safetensors  the networks of `ganlib.evaluation.judge`
    vocabulary.json      the caption matcher's terms, where the data has captions
    extractor.json       `ExtractorCard`: what it was trained on, how well it judges real images, sha256 of the others
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load as load_tensors

from ganlib.card import DatasetSpec
from ganlib.evaluation.judge import Judge, Matcher, as_input
from ganlib.evaluation.vocabulary import Vocabulary
from ganlib.files import sha256_of
from ganlib.problems import Refused, first_problem

_BATCH = 256  # images judged at once


class ExtractorCard(BaseModel):
    """extractor.json: what the extractor judges, and how well it does on real images that it has not seen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    size: int = Field(description="height and width of an image, in pixels")
    channels: Literal[1, 3]
    classes: tuple[str, ...] = Field(description="what the label head tells apart")
    attributes: dict[str, tuple[str, ...]] = Field(description="what the attribute heads tell apart")
    objective: tuple[str, ...] = Field(description="what it was trained by: label, attributes, captions or instances")
    test: dict[str, float] = Field(
        description="on the real test split: accuracy of each head, the matcher's r_precision"
    )
    counts: dict[str, int] = Field(description="real images it was trained and tested on")
    terms: int = Field(description="size of the matcher's vocabulary; 0 where there is no matcher")
    files: dict[str, str] = Field(description="sha256 of the weights and the vocabulary")
    data: dict[str, str] = Field(description="sha256 of the prepared dataset's files")
    parameters: dict[str, Any] = Field(description="the `extractor` section of params.yaml")
    environment: dict[str, str] = Field(description="versions of Python and torch, and the number of threads")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read `path`; `Refused` where it is missing or is not an extractor's card."""
        if not path.is_file():
            raise Refused(f"{path}: no such file; train the extractor first (`ganlib extractor`)")
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValueError as error:
            raise Refused(f"{path}: {first_problem(error, cls.model_fields)}") from error


@dataclass(frozen=True)
class Extractor:
    """Networks trained on the real data that judge images. Everything is a pure function of the weights."""

    card: ExtractorCard
    vocabulary: Vocabulary | None
    judge: Judge

    @property
    def hash(self) -> str:
        """The sha256 of the weights, in hexadecimal."""
        return self.card.files["weights.safetensors"]

    @torch.inference_mode()
    def features(self, images: np.ndarray) -> np.ndarray:
        """Features `(N, d)` float64 of images `(N, H, W, C)` uint8.

        Raises:
            Refused: for images of another shape or type.
        """
        expected = (self.card.size, self.card.size, self.card.channels)
        if images.shape[1:] != expected or images.dtype != np.uint8:
            raise Refused(f"images: found {images.dtype} {images.shape[1:]}; the extractor judges uint8 {expected}")
        parts = [self.judge(as_input(images[i : i + _BATCH])) for i in range(0, len(images), _BATCH)]
        return torch.cat(parts).double().numpy() if parts else np.empty((0, self.card.parameters["features"]))

    @torch.inference_mode()
    def label_logits(self, features: np.ndarray) -> np.ndarray:
        """Logits `(N, classes)` of the label head for `features` `(N, d)`.

        Raises:
            Refused: where the data had no classes.
        """
        if not self.card.classes:
            raise Refused("extractor: it has no label head; its data had no classes")
        return _numpy(self.judge.logits(_tensor(features))[0])

    @torch.inference_mode()
    def attribute_logits(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """Logits `(N, values)` of each attribute's head for `features` `(N, d)`; empty where none is known."""
        logits = self.judge.logits(_tensor(features))[1 if self.card.classes else 0 :]
        return {name: _numpy(own) for name, own in zip(self.card.attributes, logits, strict=True)}

    @torch.inference_mode()
    def image_vectors(self, features: np.ndarray) -> np.ndarray:
        """The matcher's vectors `(N, d)` of length 1 for image `features` `(N, d)`."""
        return _numpy(self._matcher()[0].image_vectors(_tensor(features)))

    @torch.inference_mode()
    def text_features(self, captions: Sequence[str]) -> np.ndarray:
        """The matcher's vectors `(N, d)` of length 1 for captions.

        Raises:
            Refused: where the data had no captions.
        """
        matcher, vocabulary = self._matcher()
        return _numpy(matcher.caption_vectors(vocabulary.bags(captions)))

    def _matcher(self) -> tuple[Matcher, Vocabulary]:
        if self.judge.matcher is None or self.vocabulary is None:
            raise Refused("extractor: it has no caption matcher; its data had no captions")
        return self.judge.matcher, self.vocabulary


def load_extractor(folder: Path, spec: DatasetSpec | None = None) -> Extractor:
    """Read a trained extractor.

    Args:
        folder: `models/extractor`.
        spec: the data it is to judge; None to leave that open.

    Raises:
        Refused: where a file is missing or is not what the card says, or the card does not fit the data.
    """
    card = ExtractorCard.load(folder / "extractor.json")
    for name, expected in card.files.items():
        if not (folder / name).is_file():
            raise Refused(f"{folder / name}: no such file, but extractor.json lists it; train the extractor again")
        if (found := sha256_of(folder / name)) != expected:
            raise Refused(
                f"{folder / name}: sha256 is {found[:12]}..., extractor.json says {expected[:12]}...; it was changed"
            )
    if spec is not None:
        check_fit(card, spec, folder)
    vocabulary = Vocabulary.load(folder / "vocabulary.json") if card.terms else None
    judge = build_judge(card)
    judge.load_state_dict(load_tensors((folder / "weights.safetensors").read_bytes()))
    return Extractor(card, vocabulary, judge.eval().requires_grad_(False))


def build_judge(card: ExtractorCard) -> Judge:
    """The networks that a card describes, not yet trained: heads in the order label, attributes."""
    values = [len(names) for names in (card.classes, *card.attributes.values()) if names]
    return Judge(card.size, card.channels, card.parameters["width"], card.parameters["features"], values, card.terms)


def check_fit(card: ExtractorCard, spec: DatasetSpec, folder: Path) -> None:
    """Refuse an extractor whose images, classes or attributes are not those of `spec`."""
    for key in ("size", "channels", "classes", "attributes"):
        if getattr(card, key) != getattr(spec, key):
            raise Refused(
                f"{folder}: {key}: the extractor has {getattr(card, key)!r}, the data {getattr(spec, key)!r}; "
                "train the extractor on this data"
            )


def _tensor(features: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(features, dtype=np.float32))


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.double().numpy()
