"""Images from a package: the same package and request give the same bytes on one CPU machine, alone or in a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ganlib.card import ModelCard, Precision
from ganlib.inference.bucketed import BUCKETS, Bucketed
from ganlib.inference.images import Facts
from ganlib.inference.latents import interpolated, latents
from ganlib.inference.package import TEXT_ENCODER, Package
from ganlib.inference.request import Request, check
from ganlib.inference.session import LARGEST_BATCH, Choice, Device, Session, Signature, choose, open_session
from ganlib.problems import Failed, Refused
from ganlib.text.tokenizer import Tokenizer, split

BATCH = LARGEST_BATCH  # images in one run of the graph at most

ChosenPrecision = Literal["auto"] | Precision


@dataclass(frozen=True)
class Inputs:
    """What a generator's graph takes for some images.

    Attributes:
        z: `(N, latent.size)` float32.
        condition: `(N, d)` float32 of a text model, `(N,)` int64 of a class model, else None.
    """

    z: NDArray[np.float32]
    condition: NDArray[Any] | None

    def __len__(self) -> int:
        """The number of images."""
        return len(self.z)


@dataclass(frozen=True)
class Generated:
    """Some images of a request, in its order.

    Attributes:
        images: `(n, H, W, C)` uint8.
        facts: how each was made.
    """

    images: NDArray[np.uint8]
    facts: tuple[Facts, ...]


class Generator:
    """A package in the runtime. Its methods keep no state, so several threads may use one generator.

    Attributes:
        package: what it was made of.
        choice: where it runs and why there, in words for a person.
        device: where it runs.
        precision: the numbers that its graph computes in.
    """

    def __init__(
        self,
        package: Package,
        device: Device | Choice = "auto",
        threads: int = 0,
        precision: ChosenPrecision = "auto",
        *,
        buckets: Sequence[int] | None = None,
        shrink: bool = False,
    ) -> None:
        """
        Args:
            package: an opened package.
            device: see `ganlib.inference.session.choose`, whose result serves as well; the text encoder always runs on
                the CPU.
            threads: of the CPU for one run; 0 leaves it to the runtime. For many requests, one thread for each of
                several callers is best.
            precision: "auto" takes what the card prefers on the device.
            buckets: batch sizes that batches are padded to, see `ganlib.inference.bucketed`; empty to run each as it
                is. None takes `BUCKETS` on CUDA, as CUDA graphs, and none elsewhere: a CPU gains nothing from them.
            shrink: see `open_session`.

        Raises:
            Refused: where the device is not to be had, the package has no graph in the precision, or the graphs are not
                what the card describes.
        """
        self.package = package
        self._version = version("ganlib")  # reads a file: not for each request
        self.choice = device if isinstance(device, Choice) else choose(device)
        self.device = self.choice.place
        self.precision: Precision = (
            package.card.preferred.get(self.device, "float32") if precision == "auto" else precision
        )
        graph = package.graph(self.precision)
        if buckets is None:
            buckets = BUCKETS if self.device == "cuda" else ()
        session = open_session(
            graph, self.choice, threads, precision=self.precision, capture=bool(buckets), shrink=shrink
        )
        self._graph_sha256 = package.sha256(graph.name)
        _expect(graph, session, _generator_signature(package.card))
        self._session = Bucketed(session, buckets) if buckets else session
        self._encoder: Session | None = None
        self._tokenizer: Tokenizer | None = None
        if package.card.condition.kind == "text":
            self._tokenizer = Tokenizer.load(package.tokenizer)
            self._encoder = open_session(package.text_encoder, "cpu", threads, shrink=shrink)
            _expect(package.text_encoder, self._encoder, _encoder_signature(package.card))

    def generate(self, request: Request) -> Generated:
        """All images of a request.

        Raises:
            Refused: for a request that the model cannot answer.
        """
        parts = list(self.batches(request))
        return Generated(np.concatenate([part.images for part in parts]), sum((part.facts for part in parts), ()))

    def batches(self, request: Request) -> Iterator[Generated]:
        """The images of a request in order, at most `BATCH` at a time; the request is checked at the call.

        Raises:
            Refused: for a request that the model cannot answer.
        """
        check(request, self.package.card)
        condition, facts = self.condition(request), self.facts(request)
        return (
            self._part(request, condition, facts, range(first, min(first + BATCH, request.count)))
            for first in range(0, request.count, BATCH)
        )

    def inputs(self, request: Request) -> Inputs:
        """What the graph takes for all images of a request, for who runs several requests at once.

        Raises:
            Refused: for a request that the model cannot answer.
        """
        check(request, self.package.card)
        return self._inputs(request, self.condition(request), range(request.count))

    def condition(self, request: Request) -> NDArray[Any] | None:
        """What a checked request asks for, as the graph takes it for one image: an embedding `(1, d)` float32, a class
        number `(1,)` int64, or None."""
        kind = self.package.card.condition.kind
        if kind == "text":
            assert request.prompt is not None
            embedding, towards = self.embed(request.prompt), request.towards
            if towards is None or towards.prompt is None:
                return embedding
            there = self.embed(towards.prompt)  # on the straight line, where GAN-INT has trained it
            return ((1.0 - towards.position) * embedding + towards.position * there).astype(np.float32)
        if kind == "class":
            assert request.class_name is not None
            return np.array([self.package.card.classes.index(request.class_name)], dtype=np.int64)
        return None

    def embed(self, prompt: str) -> NDArray[np.float32]:
        """The embedding `(1, d)` float32 of a prompt. It is encoded alone, so its neighbours cannot change it.

        Raises:
            Refused: for a model that reads no text, or a prompt without a word.
            Failed: where the encoder gives anything but d finite numbers.
        """
        if self._tokenizer is None or self._encoder is None:
            raise Refused(f"prompt: found {prompt!r}; {self.package.card.name} reads no text")
        ids, lengths = self._tokenizer.encode([prompt])
        embedding = self._encoder.run(ids=ids, lengths=lengths).astype(np.float32, copy=False)
        if embedding.shape != (1, self.package.card.condition.size) or not np.isfinite(embedding).all():
            raise Failed(
                f"{self.package.text_encoder}: gave {embedding.shape} numbers, not all finite or not "
                f"{self.package.card.condition.size}, for the prompt {prompt!r}; export the model again"
            )
        return embedding

    def unknown_words(self, prompt: str) -> tuple[str, ...]:
        """The words of a prompt that a text model does not know, in their order."""
        return tuple(self._tokenizer.unknown_words(prompt)) if self._tokenizer else ()

    def remarks(self, request: Request) -> tuple[str, ...]:
        """What a person should know of a checked request before trusting its images, a line each; mostly nothing."""
        if self._tokenizer is None or request.prompt is None:
            return ()
        remarks = []
        if unknown := self.unknown_words(request.prompt):
            none = len(unknown) == len(set(split(request.prompt)))
            consequence = (
                "it knows no word of the prompt, so the images do not follow it"
                if none
                else "read as words without meaning"
            )
            remarks.append(f"unknown to {self.package.card.name}: {', '.join(unknown)}; {consequence}")
        if self._tokenizer.cut(request.prompt):
            remarks.append(f"only the first {self._tokenizer.max_words} words of the prompt are read")
        return tuple(remarks)

    def render(self, z: NDArray[np.float32], condition: NDArray[Any] | None) -> NDArray[np.uint8]:
        """Images of latents and conditions, which may come from different requests.

        Args:
            z: `(N, latent.size)` float32, finite.
            condition: `(N, d)` float32, finite; `(N,)` int64, each a class; or None, by the card's condition.

        Returns:
            `(N, H, W, C)` uint8.

        Raises:
            Refused: where the arguments are anything else; the runtime would not notice.
        """
        card = self.package.card
        if z.dtype != np.float32 or z.ndim != 2 or z.shape[1] != card.latent.size or not np.isfinite(z).all():
            raise Refused(f"z: found {z.dtype} {z.shape}; expected finite float32 (N, {card.latent.size})")
        inputs: dict[str, NDArray[Any]] = {"z": z}
        if card.condition.kind != "none":
            inputs[card.condition.kind] = self._checked(condition, len(z))
        elif condition is not None:
            raise Refused(f"condition: found {condition.shape}; {card.name} takes none")
        parts = [
            self._session.run(**{name: value[first : first + BATCH] for name, value in inputs.items()})
            for first in range(0, len(z), BATCH)
        ]
        return np.concatenate(parts) if parts else np.empty((0, card.size, card.size, card.channels), np.uint8)

    def _checked(self, condition: NDArray[Any] | None, count: int) -> NDArray[Any]:
        size, kind = self.package.card.condition.size, self.package.card.condition.kind
        found = "nothing" if condition is None else f"{condition.dtype} {condition.shape}"
        if kind == "class":
            if condition is None or condition.dtype != np.int64 or condition.shape != (count,):
                raise Refused(f"class: found {found}; expected int64 ({count},)")
            if count and not (condition.min() >= 0 and condition.max() < size):
                raise Refused(f"class: found {condition.min()} to {condition.max()}; expected 0 to {size - 1}")
        elif condition is None or condition.dtype != np.float32 or condition.shape != (count, size):
            raise Refused(f"text: found {found}; expected float32 ({count}, {size})")
        elif not np.isfinite(condition).all():
            raise Refused("text: found numbers that are not finite; expected a finite embedding")
        return condition

    def _inputs(self, request: Request, condition: NDArray[Any] | None, images: range) -> Inputs:
        seeds, latent, towards = _shifted(request.seed, images), self.package.card.latent, request.towards
        if towards is None or towards.seed is None:
            z = latents(seeds, latent, request.truncation)
        else:
            z = interpolated(seeds, _shifted(towards.seed, images), towards.position, latent, request.truncation)
        return Inputs(z, None if condition is None else np.repeat(condition, len(images), axis=0))

    def _part(self, request: Request, condition: NDArray[Any] | None, facts: Facts, images: range) -> Generated:
        inputs = self._inputs(request, condition, images)
        return Generated(self.render(inputs.z, inputs.condition), tuple(of_image(facts, image) for image in images))

    def facts(self, request: Request) -> Facts:
        """What the files of a request's images say of themselves: those of its first image, and how many there are."""
        text, towards = self.package.card.condition.kind == "text", request.towards
        return Facts(
            model=self.package.card.name,
            model_sha256=self._graph_sha256,
            precision=self.precision,
            text_encoder_sha256=self.package.sha256(TEXT_ENCODER) if text else None,
            prompt=request.prompt,
            unknown_words=self.unknown_words(request.prompt) if request.prompt is not None else (),
            class_name=request.class_name,
            seed=request.seed,
            count=request.count,
            truncation=float(request.truncation),
            to_seed=towards.seed if towards else None,
            to_prompt=towards.prompt if towards else None,
            position=float(towards.position) if towards else None,
            size=self.package.card.size,
            version=self._version,
        )


def of_image(facts: Facts, image: int) -> Facts:
    """The facts of one image of a request, counted from 0, from those of all."""
    to_seed = None if facts.to_seed is None else facts.to_seed + image
    return facts.model_copy(update={"seed": facts.seed + image, "to_seed": to_seed, "count": 1})


def _shifted(seed: int, images: range) -> range:
    return range(seed + images.start, seed + images.stop)


def _generator_signature(card: ModelCard) -> Signature:
    condition: Signature = {"class": ("tensor(int64)", None), "text": ("tensor(float)", None, card.condition.size)}
    return {
        "z": ("tensor(float)", None, card.latent.size),
        "images": ("tensor(uint8)", None, card.size, card.size, card.channels),
    } | {name: sides for name, sides in condition.items() if name == card.condition.kind}


def _encoder_signature(card: ModelCard) -> Signature:
    return {
        "ids": ("tensor(int64)", None, None),
        "lengths": ("tensor(int64)", None),
        "embedding": ("tensor(float)", None, card.condition.size),
    }


def _expect(path: Path, session: Session, expected: Signature) -> None:
    """Refuse a graph that takes or gives anything else than `expected`."""
    if (found := session.signature()) != expected:
        raise Refused(f"{path}: takes and gives {found}; the card describes {expected}; export the model again")
