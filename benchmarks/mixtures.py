"""Modes of Gaussian mixtures by the library's own engine: `python -m benchmarks.mixtures`.

The ring of 8 and the grid of 25, measured as in PacGAN (`ganlib.evaluation.modes`) on 2,500 samples. All settings have
the same networks, and the generator steps that take about as long on one thread of a CPU; the first two differ in the
objective alone. Prints a table with the means over the seeds and the divergence of each, and draws the first seed's
samples.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch

from benchmarks.points import GRID, RING, Mixture, PointGAN, Reals, Settings
from ganlib.config import Ema, Optimiser, Schedule, Train
from ganlib.evaluation.modes import Modes, find_modes
from ganlib.models import objective
from ganlib.training.engine import Engine
from ganlib.training.samples import Samples

BATCH = 256
SAMPLES = 2500
AVERAGED = 0.05  # share of the points seen that is the average's half-life


@dataclass(frozen=True)
class Setting:
    """One way to train.

    Attributes:
        name: for people.
        optimiser: of both networks.
        train: of the `train` section.
        gamma: weight of R1 and R2, from and to, exponentially over the first 6 tenths; without them None.
        cost: time of a step, in steps of the first setting.
        recent: whether the rate falls to 0 from a fifth of the steps on, and the generator is averaged.
    """

    name: str
    optimiser: Optimiser
    train: Mapping[str, Any]
    gamma: tuple[float, float] | None = None
    cost: float = 1.0
    recent: bool = True

    def section(self, steps: int, seed: int) -> Train:
        """The `train` section of a run."""
        kimg = steps * BATCH / 1000
        given: dict[str, Any] = dict(self.train)
        if self.gamma is not None:
            given["penalties"] = dict.fromkeys(("r1", "r2"), self.gamma[0])
            falling = Schedule(to=self.gamma[1], kimg=0.6 * kimg, shape="exponential")
            given["schedules"] = dict.fromkeys(("penalties.r1", "penalties.r2"), falling)
        return Train(
            family="points",
            generator=self.optimiser,
            discriminator=self.optimiser,
            decay_from=0.2 if self.recent else 1.0,
            ema=Ema(half_life=AVERAGED * kimg if self.recent else 0.0, ramp_up=AVERAGED),
            steps=steps,
            batch=BATCH,
            precision="float32",
            device="cpu",
            seed=seed,
            log_every=100,
            sample_every=steps,
            checkpoint_every=steps,
            **given,
        )


FAST = Optimiser(lr=2e-3, betas=(0.0, 0.99))
SETTINGS = (
    # R3GAN (Huang et al. 2024, arXiv 2501.05441): without momentum, and gamma falls
    Setting("relativistic + R1 + R2", FAST, {"loss": "relativistic"}, gamma=(0.05, 0.0003)),
    Setting("non-saturating", FAST, {"loss": "non-saturating"}, cost=0.6),
    # Adam of DCGAN (Radford et al. 2016, arXiv 1511.06434)
    Setting(
        "non-saturating, as in DCGAN",
        Optimiser(lr=2e-4, betas=(0.5, 0.999)),
        {"loss": "non-saturating"},
        cost=0.6,
        recent=False,
    ),
    # The authors' setting for mixtures (arXiv 1704.00028) has a tenth of this rate, for 100,000 steps
    Setting(
        "WGAN-GP",
        Optimiser(lr=1e-3, betas=(0.5, 0.9)),
        {"loss": "wasserstein", "penalties": {"gradient-penalty": 0.1}, "discriminator_steps": 5},
        cost=2.5,
    ),
)
BASE = SETTINGS[1].name
REAL = "real points"
MIXTURES = {mixture.name: mixture for mixture in (RING, GRID)}


@dataclass
class Row:
    """All seeds of one setting on one mixture.

    Attributes:
        mixture: its name.
        setting: its name.
        steps: generator steps.
        seconds: of the processor, for training, by seed.
        modes: what was found, by seed.
        points: samples of the first seed, `(2500, 2)`.
    """

    mixture: str
    setting: str
    steps: int
    points: np.ndarray
    seconds: list[float] = field(default_factory=list)
    modes: list[Modes] = field(default_factory=list)

    @property
    def reverse_kl(self) -> float | None:
        """Mean over the seeds; None where one has no sample of high quality."""
        values = [kl for modes in self.modes if (kl := modes.reverse_kl) is not None]
        return statistics.mean(values) if len(values) == len(self.modes) else None


def trained(mixture: Mixture, setting: Setting, steps: int, seed: int) -> tuple[np.ndarray, float]:
    """2,500 points `(2500, 2)` of the trained generator, and the seconds of the processor that training took."""
    config = setting.section(steps, seed)
    torch.manual_seed(seed)
    family = PointGAN(None, 0, Settings(), objective(config))
    noise = torch.Generator().manual_seed(seed)
    latents = torch.randn(SAMPLES, family.latent.size, generator=noise)
    name = f"{mixture.name}, {setting.name}, seed {seed}"
    with tempfile.TemporaryDirectory() as folder:
        run = Engine(
            name,
            family,
            Reals(mixture, BATCH, seed),
            config,
            Samples(latents[:8], None, 4),
            Path(folder),
            Path(folder) / "board",
            lambda line: print(line, file=sys.stderr),
        )
        start = time.process_time()
        run.train()
        seconds = time.process_time() - start
    with run.averaged() as averaged, torch.no_grad():
        return mixture.as_points(averaged.sample(latents, None)), seconds


def compare(mixture: Mixture, steps: int, seeds: int) -> list[Row]:
    """Every setting on a mixture, after real points.

    Args:
        mixture: the data.
        steps: of the first setting; the others have what takes as long.
        seeds: 0 to `seeds` - 1.
    """
    real = [mixture.draw(SAMPLES, np.random.default_rng(seed)) for seed in range(seeds)]
    rows = [Row(mixture.name, REAL, 0, real[0])]
    rows[0].modes = [find_modes(points, mixture.centres, mixture.deviation) for points in real]
    rows[0].seconds = [0.0] * seeds
    for setting in SETTINGS:
        own = max(1, round(steps / setting.cost))
        runs = [trained(mixture, setting, own, seed) for seed in range(seeds)]
        rows.append(Row(mixture.name, setting.name, own, runs[0][0]))
        rows[-1].seconds = [seconds for _, seconds in runs]
        rows[-1].modes = [find_modes(points, mixture.centres, mixture.deviation) for points, _ in runs]
        print(table(rows[-1:]).splitlines()[1], file=sys.stderr)
    return rows


def table(rows: Sequence[Row]) -> str:
    """Means over the seeds, the divergence of each seed, and its mean beside that of the non-saturating loss."""
    head = ("mixture", "setting", "steps", "seconds", "modes", "high quality", "reverse KL", "of each seed", "ratio")
    lines = [head]
    for row in rows:
        base = next((other.reverse_kl for other in rows if (other.mixture, other.setting) == (row.mixture, BASE)), None)
        modes, kl = row.modes, row.reverse_kl
        lines.append(
            (
                row.mixture,
                row.setting,
                str(row.steps),
                f"{statistics.mean(row.seconds):.0f}",
                f"{statistics.mean(one.found for one in modes):.1f}",
                f"{100 * statistics.mean(one.high_quality for one in modes):.1f}%",
                _number(kl),
                " ".join(_number(one.reverse_kl) for one in modes),
                "-" if kl is None or base is None else f"{kl / base:.2f}",
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    left = [name in ("mixture", "setting", "of each seed") for name in head]
    return "\n".join(
        "  ".join(
            value.ljust(width) if to_left else value.rjust(width)
            for value, width, to_left in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in lines
    )


def draw(rows: Sequence[Row], path: Path) -> None:
    """The first seed's samples as a PNG: a row for each mixture, a column for each setting, real centres marked."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn = list(dict.fromkeys(row.mixture for row in rows))
    columns = [REAL, *(setting.name for setting in SETTINGS)]
    figure, axes = pyplot.subplots(
        len(drawn), len(columns), figsize=(3 * len(columns), 3.7 * len(drawn)), squeeze=False, layout="constrained"
    )
    for row in rows:
        mixture = MIXTURES[row.mixture]
        ax = axes[drawn.index(row.mixture), columns.index(row.setting)]
        ax.scatter(*row.points.T, s=2, alpha=0.5, linewidths=0)
        ax.scatter(*mixture.centres.T, s=60, facecolors="none", edgecolors="red", linewidths=0.6)
        first, kl = row.modes[0], row.modes[0].reverse_kl
        measured = f"{first.found} modes, {100 * first.high_quality:.0f}%, KL {_number(kl)}"
        ax.set(title=row.setting, xlabel=measured, xticks=[], yticks=[], aspect="equal")
        ax.set(xlim=(-mixture.half_side, mixture.half_side), ylim=(-mixture.half_side, mixture.half_side))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4000, help="generator steps of the first setting")
    parser.add_argument("--only", choices=MIXTURES, help="one mixture alone")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each setting, with the seeds from 0 on")
    parser.add_argument("--out", type=Path, default=Path("build/mixtures"), help="folder for mixtures.png")
    given = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [MIXTURES[given.only]] if given.only else list(MIXTURES.values())
    rows = [row for mixture in chosen for row in compare(mixture, given.steps, given.seeds)]
    print(table(rows))
    draw(rows, given.out / "mixtures.png")
    print(f"samples of seed 0: {given.out / 'mixtures.png'}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    main()
