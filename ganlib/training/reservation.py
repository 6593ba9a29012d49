"""The CUDA devices of a training, taken for it alone before any of its processes begins."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch.distributed.rendezvous import rendezvous

from ganlib.devices import alone_on

_LONG = timedelta(days=365)  # a queue may take its time; one that ends is ended by torchrun


def own_devices(device: torch.device) -> list[str]:
    """The names of the CUDA devices that the processes of this training take on this machine; none elsewhere.

    A name is the device's own, whatever CUDA_VISIBLE_DEVICES makes its number.
    """
    if device.type != "cuda":
        return []
    count = min(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count())
    return [f"GPU-{torch.cuda.get_device_properties(number).uuid}" for number in range(count)]


@contextmanager
def reserved(devices: Sequence[str], what: str, report: Callable[[str], None]) -> Iterator[None]:
    """Nobody else trains on the devices while the block runs; see `ganlib.devices.alone_on`.

    Of processes that train together the first on each machine takes them for all, and every one waits until all
    machines have theirs. This comes before they connect, which has a limit of minutes.

    Args:
        devices: `own_devices`, all those of this machine; none reserves nothing.
        what: what is done there.
        report: takes a line where something is waited for.
    """
    if not devices:
        yield
        return
    count, here = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if count == 1:
        with alone_on(devices, what, report):
            yield
        return
    store, _, _ = next(iter(rendezvous("env://")))
    machines = [f"ganlib/reserved/{machine}" for machine in range(count // here)]
    if os.environ["LOCAL_RANK"] != "0":
        store.wait(machines, _LONG)
        yield
        return
    with alone_on(devices, what, report):
        store.set(machines[int(os.environ.get("GROUP_RANK", "0"))], "")
        store.wait(machines, _LONG)
        yield
