"""On a CUDA device; skipped where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ganlib import models
from ganlib.data.batches import Batches
from ganlib.families.registry import FAMILIES, family
from ganlib.problems import Failed
from ganlib.training.engine import Engine
from ganlib.training.samples import Samples
from tests.conftest import make_split
from tests.training.test_engine import config, same, state

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")


def engine(name: str, run: Path, **given: Any) -> Engine:
    chosen = config(name, **given)
    device, split, kind = torch.device("cuda"), make_split(), family(name)
    torch.manual_seed(0)
    built = kind(split.spec, 6, kind.Network.model_validate(chosen.network), models.objective(chosen))
    batches = Batches(split, chosen.batch, chosen.seed, device, chosen.mismatch, chosen.captions)
    asked = {"none": None, "class": torch.tensor([0, 1]), "text": torch.zeros(2, 6)}[built.condition.kind]
    samples = Samples(torch.zeros(2, built.latent.size), asked, 2)
    return Engine("tiny", built, batches, chosen, samples, run, run / "board", lambda line: None)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_deterministic_run_resumes_to_the_bit(name: str, precision: str, tmp_path: Path) -> None:
    given = {"deterministic": True, "precision": precision, "augment": None, "schedules": {}}
    whole = engine(name, tmp_path / "whole", **given)
    whole.train()
    cut = engine(name, tmp_path / "cut", **given)
    cut.family.after_step = lambda values: cut.stop() if cut.step == 7 else None  # type: ignore[method-assign]
    with pytest.raises(Failed, match="stopped after step 7"):
        cut.train()
    again = engine(name, tmp_path / "cut", **given)
    again.train()
    assert same(state(again), state(whole))
    assert whole.batches.resident is not None and whole.batches.resident.is_cuda  # type: ignore[attr-defined]
