"""The benchmark of a package's graphs: its ways, its table, and what it refuses."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import inference
from benchmarks.inference import Way, eager, inputs_of, main, measure, timed, ways_on
from ganlib.card import ModelCard, Variant
from ganlib.inference.gpu import gpu_names
from ganlib.inference.package import open_package
from ganlib.problems import Refused
from tests.packages import build_package, save_generator, seal


@pytest.fixture(autouse=True)
def _few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "ROUNDS", 2)


def with_half(folder: Path) -> Path:
    """A package with other weights in the place of float16."""
    package = build_package(folder, "class")
    save_generator("class", 3, package / "generator.float16.onnx", seed=2)
    card = ModelCard.load(package / "card.json")
    half = Variant(file="generator.float16.onnx", psnr=60.0)
    seal(package, card.model_copy(update={"variants": {"float16": half}}))
    return package


def test_every_way_gets_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = with_half(tmp_path / "package")
    assert main([str(package), "--devices", "cpu", "--batches", "1,9", "--seconds", "0.02"]) == 0
    title, head, *rows = capsys.readouterr().out.rstrip().splitlines()
    assert title == "tiny-class on cpu"
    assert head.split() == ["device", "precision", "how", "batch", "ms", "images/s", "ratio", "levels"]
    ways = ["run", "bound", "2 callers", "2 threads"]
    expected = [(precision, way, batch) for batch in "19" for precision in ("float32", "float16") for way in ways]
    cells = [row.replace("2 callers", "2_callers").replace("2 threads", "2_threads").split() for row in rows]
    assert [(precision, way.replace("_", " "), batch) for _, precision, way, batch, *_ in cells] == expected
    for _, precision, way, _, milliseconds, rate, ratio, levels in cells:
        assert float(milliseconds) > 0 and float(rate) > 0 and float(ratio) > 0
        assert (int(levels) == 0) == (precision == "float32")  # of the same weights, the very images
        if (precision, way) == ("float32", "run"):
            assert float(ratio) == 1


@pytest.mark.skipif(bool(gpu_names()), reason="this machine has an NVIDIA GPU")
def test_a_device_that_is_not_there_says_so_and_the_others_are_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = build_package(tmp_path / "package", "none")
    given = ["--devices", "cuda,cpu", "--batches", "2", "--seconds", "0.01", "--callers", "1"]
    assert main([str(package), *given]) == 0
    first, second = capsys.readouterr().out.rstrip().split("\n\n")
    assert first == "device: found cuda, but the driver shows no NVIDIA GPU on this machine; take cpu or auto"
    assert second.startswith("tiny-none on cpu\n")
    assert len(second.splitlines()) == 4  # title, head, run and bound


@pytest.mark.skipif(not gpu_names(), reason="this machine has no NVIDIA GPU")
def test_a_gpu_is_measured_with_captured_graphs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = build_package(tmp_path / "package", "text")
    assert main([str(package), "--devices", "cuda", "--batches", "1,64", "--seconds", "0.05"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.rstrip().splitlines()[2:]]
    assert [(row[2], row[3]) for row in rows] == [(way, n) for n in ("1", "64") for way in ("run", "bound", "captured")]
    assert all(int(row[-1]) <= 1 for row in rows)


def test_a_wrong_request_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = build_package(tmp_path / "package", "none")
    assert main([str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.startswith(f"benchmarks.inference: {tmp_path / 'nowhere'}: no such folder")
    with pytest.raises(Refused, match=r"^precision: found int8; .* has float32$"):
        list(ways_on("cpu", open_package(package), ["float32", "int8"], 1))
    for batches in ("0", "1,x", "-3"):
        with pytest.raises(SystemExit):
            main([str(package), f"--batches={batches}"])
        assert "expected whole numbers above 0" in capsys.readouterr().err


def test_rates_and_ratios_are_those_of_the_clock() -> None:
    def way(name: str, seconds: float, callers: int = 1, level: int = 0) -> Way:
        def run(z: np.ndarray) -> np.ndarray:
            time.sleep(seconds)
            return np.full((len(z), 2, 2, 1), level, np.uint8)

        return Way("cpu", "float32", name, run, callers)

    ways = [way("run", 0.02), way("slow", 0.06, level=7), way("two", 0.02, callers=2)]
    rows = measure(ways, {"z": np.zeros((4, 3), np.float32)}, 0.25)
    assert [row.levels for row in rows] == [0, 7, 0]
    assert [row.batch for row in rows] == [4, 4, 4]
    for row, milliseconds, ratio in zip(rows, (20, 60, 20), (1, 1 / 3, 2), strict=True):
        assert milliseconds <= row.milliseconds < 2 * milliseconds
        assert ratio / 1.7 < row.ratio < 1.7 * ratio
        assert 0.5 < row.images_per_second / (ratio * 4 / 0.020) <= 1.05
    milliseconds, calls = timed(lambda: np.zeros(1, np.uint8), 1, 0.01)
    assert calls > 100 and 0 <= milliseconds < 10


def test_inputs_are_what_the_graphs_take(tmp_path: Path) -> None:
    for kind, name in (("none", None), ("class", "class"), ("text", "text")):
        card = open_package(build_package(tmp_path / kind, kind)).card
        inputs = inputs_of(card, 7)
        assert list(inputs) == ["z", *([name] if name else [])]
        assert inputs["z"].shape == (7, 6)
        if kind == "class":
            assert inputs["class"].tolist() == [0, 1, 2, 0, 1, 2, 0]
        if kind == "text":
            np.testing.assert_allclose(np.linalg.norm(inputs["text"], axis=1), 1, rtol=1e-6)


def test_torch_is_measured_on_the_same_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = torch.nn.Linear(4, 2, bias=False)
    torch.nn.init.constant_(network.weight, 0.125)

    def sample(z: torch.Tensor, condition: torch.Tensor | None) -> torch.Tensor:
        assert condition is not None and condition.dtype == torch.int64
        return (network(z) + condition[:, None]).reshape(-1, 1, 1, 2)

    family = SimpleNamespace(averaged=lambda: ["generator"], networks={"generator": network}, sample=sample)
    asked = []
    monkeypatch.setattr("ganlib.project.Project.open", lambda params: params)
    monkeypatch.setattr(
        "ganlib.models.trained", lambda project, name: (asked.append((project, name)), (family, None))[1]
    )
    way = eager("flowers", tmp_path / "params.yaml", "cpu")
    assert asked == [(tmp_path / "params.yaml", "flowers")]
    assert (way.device, way.precision, way.name) == ("cpu", "float32", "eager")
    images = way.run(z=np.ones((3, 4), np.float32), **{"class": np.array([0, -1, 0])})
    # (0.5 + 1) 127.5 = 191.25 and (0.5 - 1 + 1) 127.5 = 63.75
    np.testing.assert_array_equal(images[..., 0].ravel().astype(int), np.repeat([191, 64, 191], 2))
