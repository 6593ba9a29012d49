"""Checkpoints that appear whole, are checked before they are used, and hold nothing but tensors and numbers.

A run's folder is named by what decides its weights (parameters, inputs, code), so a checkpoint is never continued on
other data or by other code. A checkpoint is a folder `step-00001000/` with `state.pt` and `manifest.json`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ganlib.files import sha256_of, whole_folder

KEPT = 2


def run_key(parts: Mapping[str, Any]) -> str:
    """The name of a run's folder: 16 hexadecimal digits of the sha256 of `parts` as canonical JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def code_hash(package: Path, *parts: str) -> str:
    """The sha256 over Python files of a package, by name and content: files, and all below folders."""
    digest = hashlib.sha256()
    for part in parts:
        place = package / part
        for file in [place] if place.is_file() else sorted(place.rglob("*.py")):
            digest.update(f"{file.relative_to(package)}\n".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def save(run: Path, step: int, state: dict[str, Any]) -> None:
    """Write the checkpoint after `step` steps and drop all but the newest two.

    Args:
        run: the run's folder.
        step: training steps done.
        state: nested dictionaries and lists of tensors and plain numbers.
    """
    with whole_folder(run / f"step-{step:08d}") as folder:
        torch.save(state, folder / "state.pt")
        manifest = {"step": step, "sha256": sha256_of(folder / "state.pt")}
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=2))
    for old in sorted(run.glob("step-*"))[:-KEPT]:
        shutil.rmtree(old)


def newest(
    run: Path, device: torch.device, up_to: int, report: Callable[[str], None]
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The state and the manifest of the newest sound checkpoint of at most `up_to` steps, or None.

    A checkpoint whose bytes are not those of its manifest (a broken disk) is reported and the one before it is taken.
    """
    for folder in sorted(run.glob("step-*"), reverse=True):
        manifest = json.loads((folder / "manifest.json").read_text())
        if manifest["step"] > up_to:
            continue
        if sha256_of(folder / "state.pt") != manifest["sha256"]:
            report(f"{folder}: state.pt is not what its manifest says; an older checkpoint is taken")
            continue
        return torch.load(folder / "state.pt", map_location=device, weights_only=True), manifest
    return None
