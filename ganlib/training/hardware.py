"""Where a run computes, and in which precision."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ganlib.config import Train
from ganlib.problems import Refused


def choose_device(config: Train) -> torch.device:
    """The device that params.yaml asks for; auto takes CUDA where there is one.

    Raises:
        Refused: where CUDA is asked for and there is none.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise Refused("train.*.device: found cuda, and torch sees no CUDA device; take auto or cpu")
    return torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")


def choose_precision(config: Train, device: torch.device) -> torch.dtype:
    """The precision that params.yaml asks for; auto takes bfloat16 where the hardware computes in it: CUDA, and
    processors with AVX512-BF16 or AMX."""
    if config.precision != "auto":
        return torch.bfloat16 if config.precision == "bfloat16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16
    can = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}  # since torch 2.13
    return torch.bfloat16 if can.get("avx512_bf16") or can.get("amx_bf16") else torch.float32


@contextmanager
def deterministic(asked: bool) -> Iterator[None]:
    """torch's deterministic algorithms where they are asked for; as before when the block ends.

    What has none on CUDA (the warp of the adaptive augmentation) is refused by torch as soon as it runs.
    """
    before = torch.are_deterministic_algorithms_enabled()
    if asked:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS is not
    torch.use_deterministic_algorithms(asked or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
