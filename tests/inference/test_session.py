"""The runtime: the device that was really got, and graphs that cannot be read."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ganlib.inference.session import cuda_devices, open_session
from ganlib.problems import Refused

without_gpu = pytest.mark.skipif(cuda_devices() > 0, reason="this machine has an NVIDIA GPU")


def test_says_what_the_graph_takes_and_gives(build: Callable[..., Path]) -> None:
    session = open_session(build("class") / "generator.onnx", "cpu", threads=1)
    assert session.device == "cpu"
    assert session.signature() == {
        "z": ("tensor(float)", None, 6),
        "class": ("tensor(int64)", None),
        "images": ("tensor(uint8)", None, 8, 8, 3),
    }
    images = session.run(z=np.zeros((2, 6), np.float32), **{"class": np.array([0, 1])})
    assert images.shape == (2, 8, 8, 3)


@without_gpu
def test_cuda_without_a_gpu_is_refused_and_auto_is_the_cpu(build: Callable[..., Path]) -> None:
    graph = build("none") / "generator.onnx"
    with pytest.raises(Refused, match="device: found cuda, but the driver shows no NVIDIA GPU"):
        open_session(graph, "cuda")
    assert open_session(graph, "auto").device == "cpu"


@pytest.mark.skipif(cuda_devices() == 0, reason="this machine has no NVIDIA GPU")
def test_cuda_runs_on_the_gpu_and_agrees_with_the_cpu(build: Callable[..., Path]) -> None:
    graph = build("none") / "generator.onnx"
    on_gpu, z = open_session(graph, "cuda"), np.random.default_rng(0).standard_normal((7, 6)).astype(np.float32)
    assert on_gpu.device == "cuda"
    difference = on_gpu.run(z=z).astype(int) - open_session(graph, "cpu").run(z=z)
    assert np.abs(difference).max() <= 1


def test_a_runtime_that_falls_back_to_the_cpu_is_noticed(
    build: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A GPU whose libraries are missing: onnxruntime logs it and goes on without; what it got is read back."""
    if cuda_devices():
        pytest.skip("this machine has an NVIDIA GPU")
    monkeypatch.setattr("ganlib.inference.session.cuda_devices", lambda: 1)
    with pytest.raises(Refused, match=r"could not load it here; .*onnxruntime-gpu\[cuda,cudnn\]"):
        open_session(build("none") / "generator.onnx", "cuda")
    capfd.readouterr()


def test_settings_that_are_none_are_refused(build: Callable[..., Path]) -> None:
    graph = build("none") / "generator.onnx"
    with pytest.raises(Refused, match="device: found 'tpu'; expected auto, cpu or cuda"):
        open_session(graph, "tpu")  # type: ignore[arg-type]
    with pytest.raises(Refused, match="threads: found -1"):
        open_session(graph, threads=-1)


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "generator.onnx").write_bytes(b"not a graph")
    with pytest.raises(Refused, match=r"generator.onnx: onnxruntime cannot read it: [^\n]*$"):
        open_session(tmp_path / "generator.onnx", "cpu")


@without_gpu
def test_a_machine_without_a_gpu_is_no_news(build: Callable[..., Path]) -> None:
    code = "import sys; from pathlib import Path; from ganlib.inference.session import open_session as o; "
    code += "print(o(Path(sys.argv[1])).device)"
    graph = str(build("none") / "generator.onnx")
    said = subprocess.run([sys.executable, "-c", code, graph], capture_output=True, text=True, check=True)
    assert (said.stdout, said.stderr) == ("cpu\n", "")
