"""`ganlib doctor`: what this machine can do, in lines that a person reads; what is broken, and what would repair it."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
EXTRAS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "serve": (("fastapi", "uvicorn", "prometheus_client"), "ganlib serve"),
    "pipeline": (("prefect", "dvc"), "the flows and the graph of stages"),
    "dask": (("prefect_dask",), "batch jobs on a Dask cluster"),
    "sign": (("c2pa",), "C2PA signatures"),
}
LITTLE_MEMORY, LITTLE_DISK = 2.0, 2.0  # GiB
_WIDTH = 12


class Findings(BaseModel):
    """What was found."""

    model_config = ConfigDict(frozen=True)

    ganlib: str = Field(description="version")
    python: str = Field(description="version, and where it lies")
    platform: str = Field(description="operating system and processor")
    runtimes: dict[str, str] = Field(description="installed distributions of onnxruntime and their versions")
    listed: tuple[str, ...] = Field(description="providers that onnxruntime says it has")
    gpus: tuple[str, ...] = Field(description="NVIDIA GPUs that the driver shows")
    devices: dict[Literal["cpu", "cuda", "tensorrt"], str] = Field(
        description="by device: empty where a graph has run there, else why not"
    )
    torch: str | None = Field(description="version, and whether it can use CUDA; None where it is not installed")
    extras: dict[str, str] = Field(description="by extra: empty where all of it is installed, else how to get it")
    cores: int = Field(description="that this process may use")
    memory: float | None = Field(description="of the machine, GiB; None where the system does not say")
    disk: float = Field(description="free where the command runs, GiB")
    problems: tuple[str, ...] = Field(description="what is broken, and what would repair it")
    warnings: tuple[str, ...] = Field(description="what may hurt")

    def lines(self) -> list[str]:
        """For a person."""
        usable = [f"{device}: {problem or 'works'}" for device, problem in self.devices.items()]
        extras = [f"{extra} ({EXTRAS[extra][1]}): {missing or 'installed'}" for extra, missing in self.extras.items()]
        memory = "unknown" if self.memory is None else f"{self.memory:.1f} GiB"
        sections: list[tuple[str, list[str]]] = [
            ("ganlib", [self.ganlib]),
            ("python", [self.python]),
            ("platform", [self.platform]),
            (
                "onnxruntime",
                [" and ".join(f"{name} {version}" for name, version in self.runtimes.items()) or "missing"],
            ),
            ("lists", [", ".join(self.listed) or "nothing"]),
            ("GPUs", list(self.gpus) or ["none"]),
            ("devices", usable),
            ("torch", [self.torch or "not installed; training needs it, generating does not"]),
            ("extras", extras),
            ("machine", [f"{self.cores} cores, {memory} of memory, {self.disk:.1f} GiB free here"]),
        ]
        lines = [
            f"{title if i == 0 else '':<{_WIDTH}}{text}" for title, texts in sections for i, text in enumerate(texts)
        ]
        lines += [f"{'warning':<{_WIDTH}}{warning}" for warning in self.warnings]
        lines += [f"{'broken':<{_WIDTH}}{problem}" for problem in self.problems]
        return lines if self.problems else [*lines, "all that is needed works"]


def examine(folder: Path = Path()) -> Findings:
    """Look at this machine: it runs a small graph on every device that may be there.

    Args:
        folder: whose free disk space is asked for.
    """
    problems: list[str] = []
    runtimes = {name: found for name in RUNTIMES if (found := _version(name)) is not None}
    if len(runtimes) > 1:
        problems.append(
            "onnxruntime and onnxruntime-gpu are both installed and break each other; "
            "`pip uninstall onnxruntime onnxruntime-gpu`, then `pip install` the one of them that ganlib names"
        )
    listed, gpus, devices = _devices(problems)
    memory, disk = _memory(), shutil.disk_usage(folder.resolve()).free / 2**30
    warnings = []
    if gpus and devices.get("cuda"):
        warnings.append(f"{gpus[0]} is not used: {devices['cuda']}")
    if memory is not None and memory < LITTLE_MEMORY:
        warnings.append(f"{memory:.1f} GiB of memory; training and batch jobs want {LITTLE_MEMORY:.0f} or more")
    if disk < LITTLE_DISK:
        warnings.append(f"{disk:.1f} GiB free on disk; a project wants {LITTLE_DISK:.0f} or more")
    return Findings(
        ganlib=importlib.metadata.version("ganlib"),
        python=f"{platform.python_version()} ({sys.executable})",
        platform=f"{platform.platform()} {platform.machine()}",
        runtimes=runtimes,
        listed=listed,
        gpus=gpus,
        devices=devices,
        torch=_torch(),
        extras={extra: _extra(extra, modules) for extra, (modules, _) in EXTRAS.items()},
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory=memory,
        disk=disk,
        problems=tuple(problems),
        warnings=tuple(warnings),
    )


def _devices(problems: list[str]) -> tuple[tuple[str, ...], tuple[str, ...], dict[Any, str]]:
    """Providers that are listed, GPUs, and why each device cannot be used; what is broken joins `problems`."""
    try:
        import onnxruntime

        from ganlib.inference import gpu
    except (ImportError, AttributeError, OSError) as error:  # half an installation has names without content
        problems.append(
            f"onnxruntime does not load ({error}); `pip install --force-reinstall` the one that is installed"
        )
        return (), (), {"cpu": "onnxruntime does not load"}
    names = gpu.gpu_names()
    devices = {"cpu": gpu.problem_with("cpu")}
    if devices["cpu"]:
        problems.append(f"onnxruntime does not run on the CPU: {devices['cpu']}")
    devices |= {place: gpu.problem_with(place) if names else "no NVIDIA GPU found" for place in gpu.ON_GPU}
    return tuple(onnxruntime.get_available_providers()), names, devices


def _torch() -> str | None:
    """torch's version and its CUDA; imported only to be asked."""
    if importlib.util.find_spec("torch") is None:
        return None
    try:
        torch = importlib.import_module("torch")
    except (ImportError, OSError) as error:
        return f"installed, but it does not load: {error}"
    if not torch.cuda.is_available():
        return f"{torch.__version__}, without CUDA"
    return f"{torch.__version__}, CUDA {torch.version.cuda} on {torch.cuda.get_device_name(0)}"


def _extra(name: str, modules: tuple[str, ...]) -> str:
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    return f"no {', '.join(missing)}; `pip install 'ganlib[{name}]'`" if missing else ""


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory() -> float | None:
    """Memory of the machine in GiB."""
    names = getattr(os, "sysconf_names", {})
    if "SC_PAGE_SIZE" not in names or "SC_PHYS_PAGES" not in names:
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
