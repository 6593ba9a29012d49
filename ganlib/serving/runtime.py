"""From a package's folder to something that answers requests: loaded, tried out, warm, with a queue in front."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ganlib.inference.package import open_package
from ganlib.inference.sample import BATCH, ChosenPrecision, Generator
from ganlib.inference.session import Choice, Device, choose
from ganlib.inference.verify import smoke
from ganlib.serving.batcher import Batcher
from ganlib.serving.logs import note

_WARM = (1, 8, 32, BATCH)  # images in a run: what a GPU's runtime prepares for a size is prepared before anyone waits
_CPU_BATCH = 8  # 96 % of the rate of 64 on one core, and 1.3 times that of 1: DCGAN at 64 pixels
_GPU_DELAY = 0.002  # seconds; a larger batch costs a GPU next to nothing, and a CPU its whole price


@dataclass(frozen=True)
class Runtime:
    """How versions are run.

    Attributes:
        device, precision: see `Generator`.
        threads: of one run; 0 leaves it to the runtime.
        workers: runs at a time of one version; None takes one for each core on a CPU, and one on a GPU, where runs take
            turns anyway.
        queue: images that may wait for each version.
        largest: images of one run at most; None takes 8 on a CPU, where larger runs gain nothing and keep the images of
            one worker waiting that another could make, and 64 on a GPU.
        delay: seconds that a worker waits for more; None takes 0 on a CPU, 2 ms on a GPU.
    """

    device: Device = "auto"
    precision: ChosenPrecision = "auto"
    threads: int = 1
    workers: int | None = None
    queue: int = 256
    largest: int | None = None
    delay: float | None = None

    @cached_property
    def choice(self) -> Choice:
        """Where versions run, found out once.

        Raises:
            Refused: where the device is not to be had.
        """
        return choose(self.device)

    def open(self, folder: Path, name: str, observe: Callable[[int, float], None]) -> tuple[Generator, Batcher]:
        """A package, loaded, tried out and warm.

        Args:
            folder: the package.
            name: of the threads that run it.
            observe: see `Batcher`.

        Raises:
            Refused, Failed: where it is broken, or the device is not to be had.
        """
        generator = Generator(open_package(folder), self.choice, self.threads, self.precision)
        smoke(generator)
        on_cpu = generator.device == "cpu"
        _warm(generator, (1,) if on_cpu else _WARM)
        delay = 0.0 if on_cpu else _GPU_DELAY
        return generator, Batcher(
            generator.render,
            largest=self.largest or (_CPU_BATCH if on_cpu else BATCH),
            queue=self.queue,
            workers=self.workers or (cores() if on_cpu else 1),
            delay=delay if self.delay is None else self.delay,
            observe=observe,
            accepted=lambda images: note(images=images),
            name=name,
        )


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _warm(generator: Generator, sizes: Sequence[int]) -> None:
    """Run batches of some sizes."""
    card = generator.package.card
    for size in sizes:
        condition = {
            "none": None,
            "class": np.zeros(size, np.int64),
            "text": np.zeros((size, card.condition.size), np.float32),
        }[card.condition.kind]
        generator.render(np.zeros((size, card.latent.size), np.float32), condition)
