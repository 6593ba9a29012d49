"""Seconds of a training step of the demo's text model: `python -m benchmarks.training_step`.

Prints each setting's median beside plain float32 with one thread, measured in turn in the same run, and the ratio.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ganlib.card import DatasetSpec
from ganlib.config import Optimiser, Train
from ganlib.data.batches import Batches
from ganlib.data.store import Split
from ganlib.families.gan_cls import GANCLS, Settings
from ganlib.models import objective
from ganlib.training.engine import Engine
from ganlib.training.hardware import choose_device
from ganlib.training.samples import Samples

SETTINGS: dict[str, tuple[str, int, int, bool]] = {  # precision, threads, interval of the penalty, compiled
    "float32, 1 thread, R1 every step": ("float32", 1, 1, False),
    "float32, 1 thread, R1 every 8": ("float32", 1, 8, False),
    "float32, 1 thread, R1 every 8, compiled": ("float32", 1, 8, True),
    "bfloat16, 1 thread, R1 every 8": ("bfloat16", 1, 8, False),
    "bfloat16, 1 thread, R1 every 8, compiled": ("bfloat16", 1, 8, True),
    "bfloat16, 2 threads, R1 every 8": ("bfloat16", 2, 8, False),
}


def data(count: int = 512, text: int = 128) -> Split:
    """Random images, labels and embeddings: their values do not change the time of a step."""
    random = np.random.default_rng(0)
    spec = DatasetSpec(
        name="folder", size=32, channels=3, counts={"train": count}, classes=("a", "b"), mean=(0.0,) * 3, std=(1.0,) * 3
    )
    return Split(
        spec=spec,
        items=pd.DataFrame({"captions": [["x"]] * count}),
        images=random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8),
        labels=np.arange(count) % 2,
        embeddings=random.normal(size=(count, text)).astype(np.float32),
        first_caption=np.arange(count + 1),
    )


def engine(precision: str, every: int, compiled: bool, folder: Path) -> Engine:
    """A run of the demo's text model with one setting changed; only its generator can be compiled."""
    network = Settings(width=32, discriminator_width=32, discriminator_norm=False)
    config = Train(
        family="gan-cls", network=network.model_dump(), loss="relativistic",
        penalties={"r1": 0.05}, penalty_every=every,
        generator=Optimiser(lr=1e-3, betas=(0.0, 0.99)), discriminator=Optimiser(lr=2e-3, betas=(0.0, 0.99)),
        batch=32, precision=precision, mismatch="near", compile=compiled,
    )  # fmt: skip
    split = data()
    family = GANCLS(split.spec, 128, network, objective(config))
    batches = Batches(split, config.batch, 0, choose_device(config), config.mismatch)
    samples = Samples(torch.zeros(1, network.z), torch.zeros(1, 128), 1)
    return Engine("benchmark", family, batches, config, samples, folder, folder, print)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6, help="rounds of 16 steps of each setting, in turn")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            name: engine(precision, every, compiled, Path(folder))
            for name, (precision, _, every, compiled) in SETTINGS.items()
        }
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(rounds + 1):
            for name, run in runs.items():
                torch.set_num_threads(SETTINGS[name][1])
                start = time.perf_counter()
                for _ in range(16):
                    run._train_step()
                    run.step += 1
                if turn:  # the first round warms up
                    seconds[name].append((time.perf_counter() - start) / 16)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    base = next(iter(medians.values()))
    for name, median in medians.items():
        print(f"{name:<42}{1000 * median:8.1f} ms a step   {base / median:5.2f} x the first")


if __name__ == "__main__":
    main()
