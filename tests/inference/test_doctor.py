"""`ganlib doctor`: what it finds here, and what it says of machines that are not well."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import onnxruntime
import pytest
import torch
from typer.testing import CliRunner

from ganlib.__main__ import app
from ganlib.inference import doctor, gpu
from ganlib.inference.doctor import Findings, examine


def test_this_machine_runs_the_product(tmp_path: Path) -> None:
    found = examine(tmp_path)
    assert found.problems == ()
    assert found.devices["cpu"] == ""
    assert found.listed == tuple(onnxruntime.get_available_providers())
    assert list(found.runtimes.values()) == [onnxruntime.__version__]
    assert found.torch is not None and found.torch.startswith(torch.__version__)
    assert found.gpus == gpu.gpu_names()
    if not found.gpus:
        assert found.devices["cuda"] == found.devices["tensorrt"] == "no NVIDIA GPU found"
    assert found.cores >= 1 and found.disk > 0
    lines = found.lines()
    assert lines[-1] == "all that is needed works"
    assert any(line.endswith("cpu: works") for line in lines)
    assert all("\n" not in line for line in lines)
    assert Findings.model_validate_json(found.model_dump_json()) == found


def test_the_command_prints_lines_or_json_and_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = CliRunner().invoke(app, ["doctor"])
    assert shown.exit_code == 0, shown.output
    assert shown.output.startswith("ganlib      ")
    as_json = CliRunner().invoke(app, ["doctor", "--json"])
    assert json.loads(as_json.output)["devices"]["cpu"] == ""
    monkeypatch.setattr(gpu, "problem_with", lambda place: f"no {place}")
    broken = CliRunner().invoke(app, ["doctor"])
    assert broken.exit_code == 1
    assert broken.output.splitlines()[-1] == "broken      onnxruntime does not run on the CPU: no cpu"
    assert CliRunner().invoke(app, ["doctor", "--json"]).exit_code == 1


def test_two_runtimes_break_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", {"onnxruntime": "1.31.0", "onnxruntime-gpu": "1.31.1"}.get)
    found = examine()
    assert found.runtimes == {"onnxruntime": "1.31.0", "onnxruntime-gpu": "1.31.1"}
    (problem,) = found.problems
    assert problem.startswith("onnxruntime and onnxruntime-gpu are both installed and break each other; `pip uninstall")
    assert "onnxruntime 1.31.0 and onnxruntime-gpu 1.31.1" in "\n".join(found.lines())


def test_a_runtime_that_does_not_load_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # what `import` takes for a missing module
    found = examine()
    (problem,) = found.problems
    assert problem.startswith("onnxruntime does not load (")
    assert found.devices == {"cpu": "onnxruntime does not load"}
    assert found.lines()[-1].startswith("broken")


def test_a_gpu_that_is_not_used_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "gpu_names", lambda: ("NVIDIA H200",))
    monkeypatch.setattr(gpu, "problem_with", lambda place: "" if place == "cpu" else "no libraries; install them")
    found = examine()
    assert found.problems == ()
    assert found.warnings[0] == "NVIDIA H200 is not used: no libraries; install them"
    monkeypatch.setattr(gpu, "problem_with", lambda place: "no libraries" if place == "tensorrt" else "")
    assert not any("H200" in warning for warning in examine().warnings)
    assert examine().devices == {"cpu": "", "cuda": "", "tensorrt": "no libraries"}


def test_what_is_missing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "EXTRAS", {"sign": (("c2pa_missing",), "C2PA signatures"), "x": (("json",), "nothing")})
    assert examine().extras == {"sign": "no c2pa_missing; `pip install 'ganlib[sign]'`", "x": ""}
    lines = "\n".join(examine().lines())
    assert "sign (C2PA signatures): no c2pa_missing; `pip install 'ganlib[sign]'`" in lines
    assert "x (nothing): installed" in lines


def test_a_small_machine_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_memory", lambda: 1.5)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=2**29))
    found = examine()
    assert [warning.split(";")[0] for warning in found.warnings[-2:]] == ["1.5 GiB of memory", "0.5 GiB free on disk"]
    monkeypatch.setattr(doctor, "_memory", lambda: None)
    assert "unknown of memory" in "\n".join(examine().lines())


def test_without_torch_it_does_not_ask_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    found = examine()
    assert found.torch is None
    assert any("not installed; training needs it, generating does not" in line for line in found.lines())
