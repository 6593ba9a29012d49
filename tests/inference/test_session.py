"""The runtime: the device that was really got, and graphs that cannot be read."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from ganlib.inference import session as module
from ganlib.inference.gpu import gpu_names
from ganlib.inference.session import Choice, assigned, choose, open_session, profile
from ganlib.problems import Failed, Refused

without_gpu = pytest.mark.skipif(bool(gpu_names()), reason="this machine has an NVIDIA GPU")
Z = np.random.default_rng(0).standard_normal((7, 6)).astype(np.float32)


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
@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_gpu_without_a_gpu_is_refused_and_auto_is_the_cpu_and_says_why(
    build: Callable[..., Path], device: Any
) -> None:
    graph = build("none") / "generator.onnx"
    with pytest.raises(Refused, match=f"device: found {device}, but the driver shows no NVIDIA GPU"):
        open_session(graph, device)
    assert open_session(graph, "auto").device == "cpu"
    assert str(choose("auto")) == "cpu (no NVIDIA GPU found)"
    assert str(choose("cpu")) == "cpu"


@pytest.mark.skipif(not gpu_names(), reason="this machine has no NVIDIA GPU")
def test_cuda_runs_on_the_gpu_and_agrees_with_the_cpu(build: Callable[..., Path]) -> None:
    for kind in ("none", "class", "text"):
        graph = build(kind) / "generator.onnx"
        condition = {
            "none": {},
            "class": {"class": np.arange(7) % 3},
            "text": {"text": np.random.default_rng(1).standard_normal((7, 5)).astype(np.float32)},
        }[kind]
        on_gpu = open_session(graph, "cuda")
        assert on_gpu.device == "cuda"
        difference = on_gpu.run(z=Z, **condition).astype(int) - open_session(graph, "cpu").run(z=Z, **condition)
        assert np.abs(difference).max() <= 1
    assert choose("auto") == Choice("cuda", gpu_names()[0])


@without_gpu
def test_a_gpu_whose_libraries_are_missing_is_noticed(
    build: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """onnxruntime logs it and goes on without; what it got is read back."""
    monkeypatch.setattr(module, "gpu_names", lambda: ("NVIDIA H200",))
    with pytest.raises(
        Refused, match=r"device: found cuda, but .*onnxruntime-gpu\[cuda,cudnn\]'`; or take cpu or auto$"
    ):
        open_session(build("none") / "generator.onnx", "cuda")
    choice = choose("auto")
    assert choice.place == "cpu"
    assert choice.because.startswith("NVIDIA H200 not used: onnxruntime could not load cuda here")
    graph = build("class") / "generator.onnx"
    with pytest.raises(Refused, match=r"onnxruntime did not take cuda, it got CPUExecutionProvider; take cpu$"):
        open_session(graph, Choice("cuda", "believed"))
    capfd.readouterr()


def placed(*nodes: tuple[str, str]) -> Any:
    """A session whose operators lie with providers, as onnxruntime tells it: a part for each."""
    parts = [
        SimpleNamespace(ep_name=provider, get_nodes=lambda kind=kind: [SimpleNamespace(op_type=kind)])
        for provider, kind in nodes
    ]
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    return SimpleNamespace(get_providers=lambda: providers, get_provider_graph_assignment_info=lambda: parts)


def test_no_part_of_a_graph_runs_on_the_cpu_unsaid() -> None:
    gpu, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    expect = module._expect_on_gpu
    expect("g", "cuda", placed((gpu, "Conv"), (gpu, "Tanh")))
    expect("g", "cuda", placed((gpu, "Conv"), (cpu, "Shape"), (cpu, "Gather"), (cpu, "Concat")))  # counting is no work
    with pytest.raises(Refused, match=r"^g: cuda has no kernel for GRU, Round, which would run on the CPU; take cpu$"):
        expect("g", "cuda", placed((gpu, "Conv"), (cpu, "Round"), (cpu, "GRU"), (cpu, "Shape")))
    with pytest.raises(Refused, match=r"^g: onnxruntime did not take tensorrt, it got CUDAExec.*; take cpu$"):
        expect("g", "tensorrt", placed((gpu, "Conv")))
    with pytest.raises(Refused, match=r"^g: cuda has taken no part of the graph; take cuda or cpu$"):
        expect("g", "cuda", placed((cpu, "Shape")))


def test_onnxruntime_tells_where_each_operator_runs(build: Callable[..., Path]) -> None:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    graph = str(build("none") / "generator.onnx")
    runtime = onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"])
    nodes = assigned(runtime)
    assert list(nodes) == ["CPUExecutionProvider"]
    assert {"Gemm", "ConvTranspose", "Tanh", "Cast", "Transpose"} <= nodes["CPUExecutionProvider"]


def test_tensorrt_gets_every_batch_at_once_and_a_folder_a_graph(
    build: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    graph = build("class") / "generator.onnx"
    options = module._tensorrt_options(graph, "float16")
    assert options["trt_profile_min_shapes"] == "z:1x6,class:1"
    assert options["trt_profile_max_shapes"] == options["trt_profile_opt_shapes"] == "z:64x6,class:64"
    assert (options["trt_fp16_enable"], options["trt_int8_enable"]) == ("1", "0")
    assert options["trt_engine_cache_enable"] == "1"
    assert Path(options["trt_engine_cache_path"]).is_dir()
    other = module._tensorrt_options(build("none") / "generator.onnx", "float32")
    assert other["trt_fp16_enable"] == "0"
    assert other["trt_engine_cache_path"] != options["trt_engine_cache_path"]
    assert (
        module._tensorrt_options(graph.read_bytes(), "float32")["trt_engine_cache_path"]
        == (options["trt_engine_cache_path"])
    )
    assert profile(open_session(graph, "cpu").runtime, 8) == "z:8x6,class:8"


def test_memory_can_be_given_back_after_each_run(build: Callable[..., Path]) -> None:
    graph = build("none") / "generator.onnx"
    keeps, shrinks = open_session(graph, "cpu", 1), open_session(graph, "cpu", 1, shrink=True)
    assert shrinks.options.get_run_config_entry("memory.enable_memory_arena_shrinkage") == "cpu:0"
    np.testing.assert_array_equal(shrinks.run(z=Z), keeps.run(z=Z))


def test_a_run_that_fails_is_one_line(build: Callable[..., Path]) -> None:
    session = open_session(build("none") / "generator.onnx", "cpu", 1)
    with pytest.raises(Failed, match=r"^the graph could not be run on cpu: [^\n]*$"):
        session.run(z=np.zeros((2, 5), np.float32))


def test_settings_that_are_none_are_refused(build: Callable[..., Path]) -> None:
    graph = build("none") / "generator.onnx"
    with pytest.raises(Refused, match="device: found 'tpu'; expected auto, cpu, cuda or tensorrt"):
        open_session(graph, "tpu")  # type: ignore[arg-type]
    with pytest.raises(Refused, match="threads: found -1"):
        open_session(graph, threads=-1)


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "generator.onnx").write_bytes(b"not a graph")
    with pytest.raises(Refused, match=r"generator.onnx: onnxruntime cannot read it: [^\n]*$"):
        open_session(tmp_path / "generator.onnx", "cpu")
    assert capfd.readouterr() == ("", "")


@without_gpu
def test_a_machine_without_a_gpu_is_no_news(build: Callable[..., Path]) -> None:
    code = "import sys; from pathlib import Path; from ganlib.inference.session import open_session as o; "
    code += "print(o(Path(sys.argv[1])).device)"
    graph = str(build("none") / "generator.onnx")
    said = subprocess.run([sys.executable, "-c", code, graph], capture_output=True, text=True, check=True)
    assert (said.stdout, said.stderr) == ("cpu\n", "")
