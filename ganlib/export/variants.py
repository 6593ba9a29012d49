"""The generator's graph in float16 and int8, each shipped only where it is good for something."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from ganlib.card import Latency, ModelCard, Precision, Variant
from ganlib.config import Export
from ganlib.evaluation.generated import Sample
from ganlib.export.graph import finish, unfinished, write_graph
from ganlib.export.half import in_float16, rounded_as_float16
from ganlib.export.inputs import BATCHES, TRUNCATIONS, Drawing
from ganlib.export.latency import measure_latency
from ganlib.export.quantise import in_int8
from ganlib.inference.latents import latents
from ganlib.inference.package import GENERATOR
from ganlib.inference.session import Session, open_session
from ganlib.inference.verify import psnr
from ganlib.problems import Failed, Refused

Measure = Callable[[Sample], dict[str, float]]
"""The project's metrics of a generator, by the names of `ganlib.evaluation.registry`: `METRIC`, where lower is better,
and shares, where higher is."""
METRIC = "frechet_distance"
_UNSOUND = (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, Failed, Refused)
_FASTER_AT = (BATCHES[0], BATCHES[-1])


@dataclass(frozen=True)
class Maker:
    """What further precisions of generator.onnx are made with.

    Attributes:
        folder: with generator.onnx; the others are written beside it.
        drawing: of latents and conditions.
        config: the section `export` of params.yaml.
        measure: see `Measure`; None where nothing can be measured.
        report: takes a line for the user.
    """

    folder: Path
    drawing: Drawing
    config: Export
    measure: Measure | None
    report: Callable[[str], None]

    def make(self) -> ModelCard:
        """Write the graphs that the section asks for and that are good enough.

        Returns:
            the card with `variants`, `preferred` and `latency`.
        """
        card, graph = self.drawing.card, open_session(self.folder / GENERATOR, "cpu", 1)
        expected = self._images(graph)
        variants: dict[Precision, Variant] = {}
        if "float16" in self.config.precisions and (made := self._float16(graph.metadata, expected)):
            variants["float16"] = made
        if "int8" in self.config.precisions and (made := self._int8(graph.metadata, expected)):
            variants["int8"] = made
        graphs = {name: self.folder / file_of(name) for name in ("float32", *variants)}
        latency = measure_latency(graphs, self.drawing)
        if "int8" in variants and (held := self._held(variants["int8"], latency)):
            variants["int8"] = held
        elif variants.pop("int8", None):
            (self.folder / file_of("int8")).unlink()
            left = {key: value for key, value in latency.milliseconds.items() if not key.startswith("int8/")}
            latency = latency.model_copy(update={"milliseconds": left})
        preferred = {"cpu": "int8"} if "int8" in variants else {}
        return card.model_copy(update={"variants": variants, "preferred": preferred, "latency": latency})

    def _float16(self, metadata: Mapping[str, str], expected: list[NDArray[np.uint8]]) -> Variant | None:
        path, card = self.folder / file_of("float16"), self.drawing.card
        model = unfinished(self.folder / GENERATOR)
        try:
            half, rounded = in_float16(model), rounded_as_float16(model)
            for one in (half, rounded):
                finish(one, card)
            write_graph(half, {**metadata, "precision": "float16"}, path)
            found = min(
                self._quality(open_session(path, "cpu", 1), expected),
                self._quality(open_session(rounded.SerializeToString(), "cpu", 1), expected),
            )
        except _UNSOUND as error:
            self._left_out("float16", str(error).splitlines()[0], path)
            return None
        if not found >= self.config.psnr:
            floor = f"its images are at {found:.1f} dB of float32's, and export.psnr asks for {self.config.psnr:g}"
            self._left_out("float16", floor, path)
            return None
        self.report(f"{card.name}: float16: at {found:.1f} dB of float32's images or nearer")
        return Variant(file=path.name, psnr=found)

    def _int8(self, metadata: Mapping[str, str], expected: list[NDArray[np.uint8]]) -> Variant | None:
        path, card = self.folder / file_of("int8"), self.drawing.card
        if self.measure is None:
            self._left_out("int8", "nothing here can measure what it loses; `ganlib extractor` trains a judge")
            return None
        try:
            model = in_int8(unfinished(self.folder / GENERATOR), self.drawing)
            if model is None:
                self._left_out("int8", "the graph has no convolution or dense layer to quantise")
                return None
            finish(model, card)
            write_graph(model, {**metadata, "precision": "int8"}, path)
            found = self._quality(open_session(path, "cpu", 1), expected)
        except _UNSOUND as error:
            self._left_out("int8", str(error).splitlines()[0], path)
            return None
        return Variant(file=path.name, psnr=found)

    def _held(self, variant: Variant, latency: Latency) -> Variant | None:
        """The int8 variant with what was measured, if it is faster than float32 and no metric is much worse."""
        assert self.measure is not None  # no int8 graph was made without
        took = latency.milliseconds
        pairs = {batch: (took[f"int8/{batch}"], took[f"float32/{batch}"]) for batch in _FASTER_AT}
        speed = " and ".join(f"{int8:.3g} against {float32:.3g} ms at {b}" for b, (int8, float32) in pairs.items())
        if not all(int8 < float32 for int8, float32 in pairs.values()):
            self._left_out("int8", f"it is not faster than float32: {speed}")
            return None
        reference = self.measure(self._sample(GENERATOR))
        values = self.measure(self._sample(variant.file))
        bound, said, good = self.config.bound, [], True
        limits = {name: value * (1 + bound if name == METRIC else 1 - bound) for name, value in reference.items()}
        for name, limit in limits.items():
            good &= values[name] <= limit if name == METRIC else values[name] >= limit
            side = "at most" if name == METRIC else "at least"
            said.append(f"{name} {values[name]:.4g} against {reference[name]:.4g}, {side} {limit:.4g}")
        if not good:
            self._left_out("int8", f"its images are worse than export.bound lets pass: {'; '.join(said)}")
            return None
        self.report(f"{self.drawing.card.name}: int8: the CPU's choice; {speed}; {'; '.join(said)}")
        measured = {"value": values[METRIC], "reference": reference[METRIC], "bound": limits[METRIC]}
        return variant.model_copy(update={"metric": METRIC, **measured})

    def _left_out(self, precision: Precision, why: str, path: Path | None = None) -> None:
        if path is not None:
            path.unlink(missing_ok=True)
        self.report(f"{self.drawing.card.name}: {precision} left out: {why}")

    def _images(self, graph: Session) -> list[NDArray[np.uint8]]:
        inputs = [self.drawing.of_parity(batch, truncation) for truncation in TRUNCATIONS for batch in BATCHES]
        return [graph.run(**each) for each in inputs]

    def _quality(self, graph: Session, expected: list[NDArray[np.uint8]]) -> float:
        """The lowest PSNR over the batches and truncations, in dB."""
        return min(psnr(got, wanted) for got, wanted in zip(self._images(graph), expected, strict=True))

    def _sample(self, file: str) -> Sample:
        card, graph = self.drawing.card, open_session(self.folder / file, "cpu", 1)

        def sample(condition: np.ndarray | None, count: int, seed: int) -> np.ndarray:
            inputs = {"z": latents(range(seed, seed + count), card.latent)}
            return graph.run(**inputs if condition is None else inputs | {card.condition.kind: condition})

        return sample


def file_of(precision: Precision) -> str:
    """The name of a precision's graph in a package."""
    return GENERATOR if precision == "float32" else f"generator.{precision}.onnx"
