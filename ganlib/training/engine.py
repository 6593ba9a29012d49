"""The engine: trains any family by its phases, and resumes to the bit.

Everything random in step k is drawn after seeding with (seed, k), and batch k is a function of (seed, k), so the whole
state of a run is its tensors and the number k.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ganlib.config import Train
from ganlib.data.store import Batch, to_uint8
from ganlib.families.base import Family, Phase
from ganlib.problems import Failed, Refused
from ganlib.training import checkpoint
from ganlib.training.course import Course, by_what_they_train
from ganlib.training.distributed import Ranks, synchronise_batch_norm
from ganlib.training.ema import Average
from ganlib.training.grid import save_grid
from ganlib.training.hardware import choose_precision, deterministic
from ganlib.training.health import FEW, Health, real_spread, spread
from ganlib.training.log import History, Progress
from ganlib.training.optimisers import clip_weights, optimiser, rate, set_numbers
from ganlib.training.samples import Samples, sample


class Reals(Protocol):
    """Real data by batch number, on a device (see `ganlib.data.batches.Batches`)."""

    device: torch.device

    def __getitem__(self, number: int) -> Batch: ...


@dataclass
class Best:
    """The best weights so far by the watched metric.

    Attributes:
        value: the metric.
        step: when.
        worse: measurements since.
        weights: of the averaged networks, by network and name; empty before the first measurement.
    """

    value: float = math.inf
    step: int = 0
    worse: int = 0
    weights: dict[str, dict[str, Tensor]] = field(default_factory=dict)


ALONE = Ranks()


class Engine:
    """One training run of one family."""

    def __init__(
        self,
        name: str,
        family: Family,
        batches: Reals,
        config: Train,
        samples: Samples,
        run: Path,
        board: Path,
        report: Callable[[str], None],
        *,
        ranks: Ranks = ALONE,
        score: Callable[[Family], float] | None = None,
    ) -> None:
        """
        Args:
            name: the model's name, for what is said.
            family: built from `config.seed`; its networks are moved to the device of `batches`.
            batches: the real data; of each batch the slice of this process.
            config: the resolved `train` section.
            samples: the grid to draw.
            run: folder of checkpoints, history.jsonl and samples/; named by all that decides the weights.
            board: folder of TensorBoard's files.
            report: takes a line for the user.
            ranks: this process among those that train together.
            score: of the averaged family, lower is better; for `config.best`.

        Raises:
            Refused: where the processes and `accumulate` do not cut a batch into equal parts.
        """
        if config.batch % (ranks.count * config.accumulate):
            raise Refused(
                f"train.{name}.batch: found {config.batch}; {ranks.count} processes take it in {config.accumulate} "
                f"parts each: take a multiple of {ranks.count * config.accumulate}"
            )
        self.name, self.family, self.batches, self.config, self.samples = name, family, batches, config, samples
        self.run, self.board, self.report, self.ranks, self.score = run, board, report, ranks, score
        self.device = batches.device
        self.precision = ranks.share(choose_precision(config, self.device))
        for network in family.networks.values():
            network.train().to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            if ranks.count > 1:
                synchronise_batch_norm(network)
        family.state = {key: value.to(self.device) for key, value in family.state.items()}
        family.objective.state = {key: value.to(self.device) for key, value in family.objective.state.items()}
        self.state = {"family": family.state, "objective": family.objective.state}
        family.objective.gather = ranks.gather
        self.averages = {key: Average(family.networks[key]) for key in family.averaged()}
        if config.compile:
            self._compile()
        self.generator = torch.Generator(self.device)
        self.course = Course(family.curriculum(), config.steps)
        self.chapter = -1
        self.optimisers: dict[str, torch.optim.Optimizer] = {}
        self.best = Best()
        self.unsound: dict[str, Tensor] = {}
        self.step = 0
        self.stopping = False

    @property
    def hardware(self) -> str:
        """The device and the precision of the run, for people."""
        together = f" and {self.ranks.count - 1} more" if self.ranks.count > 1 else ""
        return f"{self.device}{together} in {str(self.precision).removeprefix('torch.')}"

    @property
    def images_seen(self) -> int:
        """Real images shown so far, counted once for each phase's batch of its own."""
        return self.course.batches_before(self.step) * self.config.batch

    def stop(self) -> None:
        """Ask the run to end after the step it is in, with a checkpoint. May be called from a signal's handler."""
        self.stopping = True

    def train(self) -> None:
        """Train up to `config.steps`, from the newest checkpoint of this run where there is one.

        Raises:
            Failed: where a loss or gradient is not finite (the last sound checkpoint is kept), or after `stop`.
        """
        with deterministic(self.config.deterministic):
            self._resume()
            if self.ranks.first:
                history = History(self.run / "history.jsonl", self.board, self.step)
                progress = Progress(self.name, self.step, self.config.steps, self.report)
                try:
                    self._train(history, progress)
                finally:
                    progress.close()
                    history.close()
            else:
                self._train(None, None)

    @contextmanager
    def averaged(self) -> Iterator[Family]:
        """The family with its averaged networks in the place of the trained ones."""
        trained = dict(self.family.networks)
        self.family.networks.update({key: average.network for key, average in self.averages.items()})
        try:
            yield self.family
        finally:
            self.family.networks.update(trained)

    def result(self) -> dict[str, Tensor]:
        """The weights that the run is for, by network and name: the best averages, or the last."""
        chosen = self.best.weights or {key: average.network.state_dict() for key, average in self.averages.items()}
        return {f"{key}.{name}": value for key, weights in chosen.items() for name, value in weights.items()}

    def networks(self) -> dict[str, Tensor]:
        """The weights of all networks as the last step left them, for another run to start from; averages too."""
        averages = {f"average.{key}": average.network for key, average in self.averages.items()}
        every = {**self.family.networks, **averages}
        return {
            f"{key}.{name}": value for key, network in every.items() for name, value in network.state_dict().items()
        }

    def start_from(self, weights: Mapping[str, Tensor], source: str) -> None:
        """Begin with the networks of another run (`networks`).

        Raises:
            Refused: where they do not fit, naming the first difference.
        """
        own = self.networks()
        for name, value in own.items():
            if name not in weights or weights[name].shape != value.shape:
                found = f"the shape {tuple(weights[name].shape)}" if name in weights else "nothing"
                raise Refused(
                    f"train.{self.name}.start_from: {source}: found {found} for {name}, expected {tuple(value.shape)}; "
                    "take a model of the same family and sizes"
                )
        for name, value in own.items():
            value.copy_(weights[name])

    def _train(self, history: History | None, progress: Progress | None) -> None:
        kind = self.family.condition.kind
        health, reals = Health(FEW[kind]), self.batches[0]
        labels = reals.labels.cpu().numpy() if kind == "class" and reals.labels is not None else None
        usual = real_spread(to_uint8(reals.images[:64]).cpu().numpy(), labels[:64] if labels is not None else None)
        logged: dict[str, float] = {}
        since, since_step = time.monotonic(), self.step
        while not self._is_over():
            values = self._train_step()
            self.step += 1
            self.family.after_step(values)
            self.family.objective.after_step(self.step, self.config.batch)
            row: dict[str, float] = {}
            if self.config.best is not None and self._due(self.config.best.every):
                row[self.config.best.metric] = self._measure()
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
                row |= logged
            if history is not None and self._due(self.config.sample_every):
                images_drawn, sheet = self._draw()
                history.picture(self.step, sheet)
                row["sample_spread"] = spread(images_drawn, self.samples.columns) / usual
            if history is not None and row:
                history.write(self.step, row)
                for warning in health.warnings(row):
                    self.report(f"{self.name}: warning after step {self.step}: {warning}")
            stopping = self.ranks.any(self.stopping)
            if self._due(self.config.checkpoint_every) or stopping:
                self._check_finite()
                if self.ranks.first:
                    checkpoint.save(self.run, self.step, self._state())
            if stopping:
                self.ranks.wait()  # a process that ends takes the others with it
            if progress is not None:
                progress.advance(self.step, logged)
            if stopping and not self._is_over():
                raise Failed(f"{self.name}: stopped after step {self.step}; the same command goes on from there")
        if self.config.best is not None and self.step < self.config.steps:
            self.report(
                f"{self.name}: ends early after step {self.step}: no better {self.config.best.metric} than "
                f"{self.best.value:.4g} after step {self.best.step}"
            )

    def _open(self, chapter: int) -> None:
        """Begin a chapter: optimisers anew, one for all phases that train the same networks."""
        self.chapter = chapter
        self.optimisers, self.lazy = {}, {}
        for trains, phases in by_what_they_train(self.course.chapters[chapter].phases).items():
            parameters = [p for key in trains.split("+") for p in self.family.networks[key].parameters()]
            self.optimisers[trains] = optimiser(getattr(self.config, phases[0].optimiser), parameters)
            self.lazy[trains] = math.prod(phase.every / (phase.every + 1) for phase in phases if phase.every > 1)

    def _train_step(self) -> dict[str, Tensor | float]:
        place = self.course.place(self.step)
        if place.chapter != self.chapter:
            self._open(place.chapter)
        phases = self.course.chapters[place.chapter].phases
        self.family.enter(place.chapter, place.step / place.steps)
        # Draws for the items of a batch are the same in every process; torch's own (dropout) differ.
        self.generator.manual_seed(self.config.seed * 1_000_003 + self.step)
        torch.manual_seed((self.config.seed * 1_000_003 + self.step) * 4099 + self.ranks.rank)
        numbers = self.config.numbers_at(self.step * self.config.batch)
        self._set_numbers(numbers)
        first = self.course.batches_before(self.step)
        fresh = first + max(phase.repeats.at(place.step) for phase in phases)
        values: dict[str, Tensor | float] = {}
        for phase in phases:
            if place.step % phase.every or not (phase.when is None or phase.when(values)):
                continue
            for repeat in range(phase.repeats.at(place.step)):
                values |= self._run_phase(phase, fresh if phase.fresh else first + repeat)
            fresh += phase.fresh
        self.ranks.average(self._following())
        images_here = (place.step + 1) * self.config.batch
        trained = {key for phase in phases for key in phase.trains}
        for key, average in self.averages.items():
            if key in trained:
                average.update(
                    self.family.networks[key],
                    self.config.batch,
                    images_here,
                    numbers["ema.half_life"] * 1000,
                    self.config.ema.ramp_up,
                )
        return values | {"lr": self.optimisers["+".join(phases[-1].trains)].param_groups[0]["lr"]}

    def _set_numbers(self, numbers: Mapping[str, float]) -> None:
        """Give each number of the step to whom it concerns."""
        factor = rate(self.config, self.step)
        for trains, phases in by_what_they_train(self.course.chapters[self.chapter].phases).items():
            set_numbers(self.optimisers[trains], phases[0].optimiser, numbers, factor, self.lazy[trains])
        objective = self.family.objective
        objective.values = {key: numbers[key] for key in objective.values}
        scheduled = {
            key.removeprefix("network."): numbers[key] for key in self.config.schedules if key.startswith("network.")
        }
        if scheduled:
            self.family.settings = self.family.settings.model_copy(update=scheduled)

    def _run_phase(self, phase: Phase, number: int) -> dict[str, Tensor | float]:
        trains, parts = "+".join(phase.trains), self.config.accumulate
        optimiser = self.optimisers[trains]
        for key, network in self.family.networks.items():
            network.requires_grad_(key in phase.trains)
        optimiser.zero_grad(set_to_none=True)
        batch = replace(self.batches[number], generator=self.generator)
        drawn = self.generator.get_state() if parts > 1 else None
        seen: list[dict[str, Tensor]] = []
        for index in range(parts):
            if drawn is not None:
                self.generator.set_state(drawn)  # each part takes its slice of the same numbers
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision is torch.bfloat16):
                loss, values = phase.loss(batch.part(index, parts) if parts > 1 else batch)
            (loss / parts).backward()
            seen.append({f"loss_{phase.name}": loss.detach(), **values})
        scalars = seen[0] if parts == 1 else {key: torch.stack([part[key] for part in seen]).mean() for key in seen[0]}
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        self.ranks.average([*gradients, *scalars.values()])
        norm = torch.nn.utils.get_total_norm(gradients)
        optimiser.step()
        if (bound := getattr(self.config, phase.optimiser).clip_weights) is not None:
            clip_weights(parameters, bound)
        unsound = ~(torch.isfinite(scalars[f"loss_{phase.name}"]) & torch.isfinite(norm))
        self.unsound[phase.name] = self.unsound.get(phase.name, torch.zeros_like(unsound)) | unsound
        return {**scalars, f"gradient_norm_{phase.name}": norm}

    def _following(self) -> list[Tensor]:
        """What follows the batches without being trained: buffers of the networks, state of family and objective."""
        buffers = [buffer for network in self.family.networks.values() for buffer in network.buffers()]
        state = [tensor for tensors in self.state.values() for tensor in tensors.values()]
        return [tensor for tensor in (*buffers, *state) if tensor.is_floating_point()]

    def _check_finite(self) -> None:
        broken = [name for name, flag in self.unsound.items() if self.ranks.any(bool(flag))]
        if broken:
            kept = sorted(self.run.glob("step-*"))
            raise Failed(
                f"{self.name}: the loss or gradient of {', '.join(broken)} is not finite by step {self.step}; "
                f"the last sound checkpoint is {kept[-1] if kept else 'none: it came too early'}; "
                "lower the learning rate or add a penalty"
            )

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self._is_over()

    def _draw(self) -> tuple[np.ndarray, np.ndarray]:
        with self.averaged() as family:
            images = sample(family, self.samples.latents, self.samples.condition)
        return images, save_grid(images, self.samples.columns, self.run / "samples" / f"step-{self.step:08d}.png")

    def _measure(self) -> float:
        """The metric of `config.best`, and the weights kept where it is the best so far."""
        assert self.config.best is not None and self.score is not None
        self._check_finite()
        value = None
        if self.ranks.first:
            with self.averaged() as family:
                value = self.score(family)
        value = float(self.ranks.share(value))
        if not self.best.weights or value < self.best.value:
            weights = {
                key: {name: tensor.clone() for name, tensor in average.network.state_dict().items()}
                for key, average in self.averages.items()
            }
            self.best = Best(value, self.step, 0, weights)
        else:
            self.best.worse += 1
        return value

    def _is_over(self) -> bool:
        """Whether all steps are done, or no better weights were found for as long as `config.best` waits."""
        watched = self.config.best
        patience = watched.patience if watched is not None else None
        return self.step >= self.config.steps or (patience is not None and self.best.worse >= patience)

    def _compile(self) -> None:
        """Compile the networks that no penalty is differentiated through: what torch.compile makes has no second
        derivative."""
        objective, averaged = self.family.objective, self.family.averaged()
        for key, network in self.family.networks.items():
            if not (objective.has_generator_penalty() if key in averaged else objective.has_penalty()):
                network.compile()

    def _state(self) -> dict[str, Any]:
        return {
            "networks": {key: network.state_dict() for key, network in self.family.networks.items()},
            "averages": {key: average.network.state_dict() for key, average in self.averages.items()},
            "optimisers": {key: value.state_dict() for key, value in self.optimisers.items()},
            "best": vars(self.best),
            **self.state,
        }

    def _resume(self) -> None:
        found = None
        if self.ranks.first:
            found = checkpoint.newest(self.run, torch.device("cpu"), self.config.steps, self.report)
        found = self.ranks.share(found)
        if found is None:
            self.ranks.copy_first(self.networks().values())
            return
        state, self.step = found[0], found[1]["step"]
        for key, network in self.family.networks.items():
            network.load_state_dict(state["networks"][key])
        for key, average in self.averages.items():
            average.network.load_state_dict(state["averages"][key])
        self._open(self.course.place(self.step - 1).chapter)
        for key, value in self.optimisers.items():
            value.load_state_dict(state["optimisers"][key])
        for part, tensors in self.state.items():
            for key, tensor in tensors.items():
                tensor.copy_(state[part][key])
        self.best = Best(**state["best"])
        self.report(f"{self.name}: resumes after step {self.step} of {self.config.steps}")
