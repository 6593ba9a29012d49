"""Which further precisions are shipped: float16 above its floor, int8 where it is faster and no metric much worse."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ganlib.card import Latency, ModelCard
from ganlib.config import Export
from ganlib.evaluation.generated import Sample
from ganlib.export import variants
from ganlib.export.inputs import Drawing
from ganlib.export.onnx import export_generator
from ganlib.export.variants import Maker
from ganlib.inference.latents import latents
from ganlib.inference.session import open_session

Values = dict[str, float]


class Chosen:
    """A measure that returns chosen values, and keeps what it was given."""

    def __init__(self, *values: Values) -> None:
        self.values: Iterator[Values] = iter(values)
        self.samples: list[Sample] = []

    def __call__(self, sample: Sample) -> Values:
        self.samples.append(sample)
        return next(self.values)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what the graphs take, in milliseconds at batches of 1 and 64."""

    def take(float32: tuple[float, float] = (2.0, 20.0), int8: tuple[float, float] = (1.0, 10.0)) -> None:
        figures = {"float32": float32, "float16": (3.0, 30.0), "int8": int8}

        def measured(graphs: dict[str, Path], drawing: Drawing) -> Latency:
            took = {f"{name}/{batch}": figures[name][i] for name in graphs for i, batch in enumerate((1, 64))}
            return Latency(machine="a machine", threads=1, milliseconds=took)

        monkeypatch.setattr(variants, "measure_latency", measured)

    take()
    return take


@pytest.fixture
def make(tiny: SimpleNamespace, exported: Callable[[str], Path], tmp_path: Path) -> Callable[..., Any]:
    """Makes the variants of the tiny family of a kind: the card, the lines, the files."""

    def run(measure: Any = None, kind: str = "class", **settings: Any) -> tuple[ModelCard, list[str], set[str]]:
        lines: list[str] = []
        if not (tmp_path / "generator.onnx").exists():
            shutil.copy(exported(kind), tmp_path / "generator.onnx")
        drawing = Drawing(tiny.Family(kind).card())
        card = Maker(tmp_path, drawing, Export(**settings), measure, lines.append).make()
        return card, lines, {path.name for path in tmp_path.iterdir()}

    return run


def test_int8_is_the_cpu_s_choice_where_it_is_as_good(make: Callable[..., Any], fast: Any, tmp_path: Path) -> None:
    measure = Chosen(
        {"frechet_distance": 10.0, "label_agreement": 0.8}, {"frechet_distance": 15.0, "label_agreement": 0.4}
    )
    card, lines, files = make(measure, bound=0.5)
    assert files == {"generator.onnx", "generator.float16.onnx", "generator.int8.onnx"}
    assert card.preferred == {"cpu": "int8"}
    int8 = card.variants["int8"]
    assert (int8.file, int8.metric, int8.value, int8.reference) == (
        "generator.int8.onnx", "frechet_distance", 15.0, 10.0
    )  # fmt: skip
    assert int8.bound == 15.0
    assert 15 < int8.psnr < 60
    assert {f"int8/{batch}" for batch in (1, 64)} <= set(card.latency.milliseconds)
    assert lines[-1] == (
        "tiny-class: int8: the CPU's choice; 1 against 2 ms at 1 and 10 against 20 ms at 64; "
        "frechet_distance 15 against 10, at most 15; label_agreement 0.4 against 0.8, at least 0.4"
    )
    condition, z = np.array([2, 0, 1]), latents(range(5, 8), card.latent)
    for sample, name in zip(measure.samples, ("generator.onnx", "generator.int8.onnx"), strict=True):
        expected = open_session(tmp_path / name, "cpu", 1).run(**{"z": z, "class": condition})
        np.testing.assert_array_equal(sample(condition, 3, 5), expected)


@pytest.mark.parametrize(
    "worse",
    [
        {"frechet_distance": 15.01, "label_agreement": 0.8},
        {"frechet_distance": 9.0, "label_agreement": 0.3999},
        {"frechet_distance": float("nan"), "label_agreement": 0.8},
    ],
)
def test_int8_whose_images_are_worse_is_left_out(make: Callable[..., Any], fast: Any, worse: Values) -> None:
    card, lines, files = make(Chosen({"frechet_distance": 10.0, "label_agreement": 0.8}, worse), bound=0.5)
    assert files == {"generator.onnx", "generator.float16.onnx"}
    assert (set(card.variants), card.preferred) == ({"float16"}, {})
    assert not [key for key in card.latency.milliseconds if key.startswith("int8")]
    assert "tiny-class: int8 left out: its images are worse than export.bound lets pass: frechet_dist" in lines[-1]


@pytest.mark.parametrize(("int8", "line"), [((2.5, 10.0), "2.5 against 2 ms at 1"), ((1.0, 20.0), "at 64")])
def test_int8_that_is_not_faster_is_left_out_and_not_measured(
    make: Callable[..., Any], fast: Any, int8: tuple[float, float], line: str
) -> None:
    fast(int8=int8)
    measure = Chosen()
    card, lines, files = make(measure)
    assert "int8" not in card.variants
    assert "generator.int8.onnx" not in files
    assert lines[-1].startswith("tiny-class: int8 left out: it is not faster than float32: ")
    assert line in lines[-1]
    assert measure.samples == []


def test_what_cannot_be_measured_is_not_quantised(make: Callable[..., Any], fast: Any) -> None:
    card, lines, _ = make(None)
    assert set(card.variants) == {"float16"}
    assert "tiny-class: int8 left out: nothing here can measure what it loses" in lines[-1]


def test_precisions_are_made_as_asked_for(make: Callable[..., Any], fast: Any) -> None:
    card, lines, files = make(Chosen(), precisions=["float32"])
    assert (card.variants, card.preferred, lines, files) == ({}, {}, [], {"generator.onnx"})
    assert set(card.latency.milliseconds) == {"float32/1", "float32/64"}


@pytest.mark.parametrize("precisions", [["float16"], ["float32", "int8", "int8"], []])
def test_float32_is_always_made_and_nothing_twice(precisions: list[Any]) -> None:
    with pytest.raises(ValidationError, match=r"precisions: found .*; expected float32, and each at most once"):
        Export(precisions=precisions)


def test_float16_is_shipped_above_its_floor_alone(make: Callable[..., Any], fast: Any) -> None:
    card, lines, _ = make(None, precisions=["float32", "float16"])
    psnr = card.variants["float16"].psnr
    assert 45 < psnr < 72
    assert lines == [f"tiny-class: float16: at {psnr:.1f} dB of float32's images or nearer"]
    card, lines, files = make(None, precisions=["float32", "float16"], psnr=psnr + 0.1)
    assert card.variants == {}
    assert files == {"generator.onnx"}
    assert lines == [
        f"tiny-class: float16 left out: its images are at {psnr:.1f} dB of float32's, "
        f"and export.psnr asks for {psnr + 0.1:g}"
    ]


def test_a_network_beyond_float16_is_left_out(
    make: Callable[..., Any], fast: Any, tiny: SimpleNamespace, tmp_path: Path
) -> None:
    """Between its layers are numbers above 65504; onnxruntime on a CPU would not notice."""
    family = tiny.Family("class")
    first, last = family.networks["generator"].layers[0], family.networks["generator"].layers[3]
    with torch.no_grad():
        family.networks["generator"].layers[1].weight *= 1e5
        family.networks["generator"].layers[1].bias *= 1e5
        last.weight /= 1e5
    assert first.weight.abs().max() < 10
    export_generator(family, family.card(), tmp_path / "generator.onnx", 20)
    card, lines, _ = make(None, precisions=["float32", "float16"])
    assert card.variants == {}
    assert "float16 left out: its images are at" in lines[0]
