"""The engine: trains any family by its phases, and resumes to the bit.

Everything random in step k is drawn after seeding with (seed, k), and batch k is a function of (seed, k), so the whole
state of a run is its tensors and the number k.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganlib.config import Train
from ganlib.data.batches import Batches
from ganlib.data.store import to_uint8
from ganlib.families.base import Family, Phase
from ganlib.problems import Failed, Refused
from ganlib.training import checkpoint
from ganlib.training.ema import Average
from ganlib.training.grid import save_grid
from ganlib.training.log import History, Progress
from ganlib.training.optimisers import optimiser, rate


@dataclass(frozen=True)
class Samples:
    """The grid that is drawn again and again while training: fixed latents `(N, z)` and conditions, in rows."""

    latents: Tensor
    condition: Tensor | None
    columns: int


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


class Engine:
    """One training run of one family."""

    def __init__(
        self,
        name: str,
        family: Family,
        batches: Batches,
        config: Train,
        samples: Samples,
        run: Path,
        board: Path,
        report: Callable[[str], None],
    ) -> None:
        """
        Args:
            name: the model's name, for what is said.
            family: built from `config.seed`; its networks are moved to the device of `batches`.
            batches: the real data.
            config: the resolved `train` section.
            samples: the grid to draw.
            run: folder of checkpoints, history.jsonl and samples/; named by all that decides the weights.
            board: folder of TensorBoard's files.
            report: takes a line for the user.
        """
        self.name, self.family, self.batches, self.config, self.samples = name, family, batches, config, samples
        self.run, self.board, self.report = run, board, report
        self.device = batches.device
        self.precision = choose_precision(config, self.device)
        for network in family.networks.values():
            network.train().to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averages = {key: Average(family.networks[key], config.ema) for key in family.averaged()}
        self.phases = family.phases()
        self.optimisers = {
            trains: optimiser(
                getattr(config, of[0].optimiser),
                [p for key in trains.split("+") for p in family.networks[key].parameters()],
                lazy=math.prod(phase.every / (phase.every + 1) for phase in of if phase.every > 1),
            )
            for trains, of in self._by_what_they_train().items()
        }
        self.base_rates = {key: [group["lr"] for group in opt.param_groups] for key, opt in self.optimisers.items()}
        self.unsound: dict[str, Tensor] = {}
        self.step = 0
        self.stopping = False

    @property
    def hardware(self) -> str:
        """The device and the precision of the run, for people."""
        return f"{self.device} in {str(self.precision).removeprefix('torch.')}"

    def stop(self) -> None:
        """Ask the run to end after the step it is in, with a checkpoint. May be called from a signal's handler."""
        self.stopping = True

    def train(self) -> None:
        """Train up to `config.steps`, from the newest checkpoint of this run where there is one.

        Raises:
            Failed: where a loss or gradient is not finite (the last sound checkpoint is kept), or after `stop`.
        """
        self._resume()
        history = History(self.run / "history.jsonl", self.board, self.step)
        progress = Progress(self.name, self.step, self.config.steps, self.report)
        logged: dict[str, float] = {}
        since, since_step = time.monotonic(), self.step
        try:
            while self.step < self.config.steps:
                values = self._train_step()
                self.step += 1
                if self._due(self.config.log_every):
                    self._check_finite()
                    now = time.monotonic()
                    images = (self.step - since_step) * self.config.batch
                    logged = {key: float(value) for key, value in values.items()}
                    logged |= {
                        "images": float(self.step * self.config.batch),
                        "images_per_second": images / (now - since),
                    }
                    since, since_step = now, self.step
                    history.write(self.step, logged)
                self.family.after_step(values)
                if self._due(self.config.sample_every):
                    history.picture(self.step, self._draw())
                if self._due(self.config.checkpoint_every) or self.stopping:
                    self._check_finite()
                    checkpoint.save(self.run, self.step, self._state())
                progress.advance(self.step, logged)
                if self.stopping and self.step < self.config.steps:
                    raise Failed(f"{self.name}: stopped after step {self.step}; the same command goes on from there")
        finally:
            progress.close()
            history.close()

    @contextmanager
    def averaged(self) -> Iterator[Family]:
        """The family with its averaged networks in the place of the trained ones."""
        trained = dict(self.family.networks)
        self.family.networks.update({key: average.network for key, average in self.averages.items()})
        try:
            yield self.family
        finally:
            self.family.networks.update(trained)

    def _by_what_they_train(self) -> dict[str, list[Phase]]:
        """Phases that train the same networks share an optimiser; its name joins theirs."""
        shared: dict[str, list[Phase]] = {}
        for phase in self.phases:
            shared.setdefault("+".join(phase.trains), []).append(phase)
        return shared

    def _train_step(self) -> Mapping[str, Tensor | float]:
        torch.manual_seed(self.config.seed * 1_000_003 + self.step)
        factor = rate(self.config, self.step)
        repeats = max(phase.repeats for phase in self.phases)
        values: dict[str, Tensor | float] = {}
        for phase in self.phases:
            if self.step % phase.every:
                continue
            for group, base in zip(
                self.optimisers["+".join(phase.trains)].param_groups,
                self.base_rates["+".join(phase.trains)],
                strict=True,
            ):
                group["lr"] = base * factor
            for repeat in range(phase.repeats):
                values |= self._run_phase(phase, self.step * repeats + repeat)
        images_seen = (self.step + 1) * self.config.batch
        for key, average in self.averages.items():
            average.update(self.family.networks[key], self.config.batch, images_seen)
        return values | {"lr": self.base_rates["+".join(self.phases[-1].trains)][0] * factor}

    def _run_phase(self, phase: Phase, batch_number: int) -> dict[str, Tensor | float]:
        optimiser = self.optimisers["+".join(phase.trains)]
        for key, network in self.family.networks.items():
            network.requires_grad_(key in phase.trains)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision is torch.bfloat16):
            loss, values = phase.loss(self.batches[batch_number])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        gradients = [p.grad for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        optimiser.step()
        unsound = ~(torch.isfinite(loss.detach()) & torch.isfinite(norm))
        self.unsound[phase.name] = self.unsound.get(phase.name, torch.zeros_like(unsound)) | unsound
        return {f"loss_{phase.name}": loss.detach(), **values, f"gradient_norm_{phase.name}": norm}

    def _check_finite(self) -> None:
        broken = [name for name, flag in self.unsound.items() if bool(flag)]
        if broken:
            kept = sorted(self.run.glob("step-*"))
            raise Failed(
                f"{self.name}: the loss or gradient of {', '.join(broken)} is not finite by step {self.step}; "
                f"the last sound checkpoint is {kept[-1] if kept else 'none: it came too early'}; "
                "lower the learning rate or add a penalty"
            )

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.config.steps

    def _draw(self) -> np.ndarray:
        with self.averaged() as family:
            images = sample(family, self.samples.latents, self.samples.condition)
        return save_grid(images, self.samples.columns, self.run / "samples" / f"step-{self.step:08d}.png")

    def _state(self) -> dict[str, Any]:
        return {
            "networks": {key: network.state_dict() for key, network in self.family.networks.items()},
            "averages": {key: average.network.state_dict() for key, average in self.averages.items()},
            "optimisers": {key: value.state_dict() for key, value in self.optimisers.items()},
        }

    def _resume(self) -> None:
        found = checkpoint.newest(self.run, self.device, self.config.steps, self.report)
        if found is None:
            return
        state, manifest = found
        for key, network in self.family.networks.items():
            network.load_state_dict(state["networks"][key])
        for key, average in self.averages.items():
            average.network.load_state_dict(state["averages"][key])
        for key, value in self.optimisers.items():
            value.load_state_dict(state["optimisers"][key])
        self.step = manifest["step"]
        self.report(f"{self.name}: resumes after step {self.step} of {self.config.steps}")


@torch.no_grad()
def sample(family: Family, latents: Tensor, condition: Tensor | None, batch: int = 64) -> np.ndarray:
    """Images `(N, H, W, C)` uint8 of a family's networks in evaluation mode, on their device.

    Args:
        family: its `networks` are what is sampled from; they stay in the mode they were in.
        latents: `(N, z)` float32.
        condition: embeddings `(N, d)`, labels `(N,)` or None.
        batch: images at once.
    """
    networks = [family.networks[key] for key in family.averaged()]
    modes = [network.training for network in networks]
    device = next(networks[0].parameters()).device
    for network in networks:
        network.eval()
    images = []
    for first in range(0, len(latents), batch):
        part = None if condition is None else condition[first : first + batch].to(device)
        images.append(to_uint8(family.sample(latents[first : first + batch].to(device), part)).cpu().numpy())
    for network, mode in zip(networks, modes, strict=True):
        network.train(mode)
    return np.concatenate(images)
