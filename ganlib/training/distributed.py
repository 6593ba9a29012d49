"""Several processes that train one model together, started by torchrun: each takes its slice of every batch.

Every process holds the whole model and runs every phase; gradients are averaged once a phase, in one piece. Nothing
wraps the networks. Random numbers are drawn for the whole batch and sliced (`ganlib.data.store.Batch`), losses see the
logits of all, batch norm the statistics of all: what is learnt does not depend on how many processes share the work,
up to rounding.

The first process reads and writes the checkpoints and speaks; the others get its state. The one that has a problem
first says it, and all end.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from ganlib.problems import Failed, Refused


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together.

    Every method but `first` is called by all of them in the same order, and raises `Failed` where another has ended or
    cannot be reached.

    Attributes:
        rank: its number, from 0 on; 0 writes and speaks.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    @torch.no_grad()
    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors, gradients above all, by their means over all processes, in one exchange."""
        if self.count == 1 or not (parts := list(tensors)):
            return
        flat = torch.cat([part.flatten() for part in parts])
        with _together():
            dist.all_reduce(flat)
        flat /= self.count
        for part, mean in zip(parts, flat.split([part.numel() for part in parts]), strict=True):
            part.copy_(mean.view_as(part))

    @torch.no_grad()
    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by those of process 0."""
        if self.count == 1:
            return
        for tensor in tensors:
            copied = tensor.contiguous()
            with _together():
                dist.broadcast(copied, src=0)
            tensor.copy_(copied)

    def gather(self, values: Tensor) -> Tensor:
        """The values `(N, ...)` of all processes, one after another, with gradients.

        A loss of gathered values is the same in every process, and each adds the gradient of its own to every slice:
        the average of all is the gradient of the loss over the whole batch.
        """
        return values if self.count == 1 else _Gather.apply(values)  # type: ignore[no-untyped-call]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process. It goes from processor to processor: no device is waited for."""
        if self.count == 1:
            return flag
        flags = torch.tensor(float(flag))
        with _together():
            dist.all_reduce(flags)
        return bool(flags > 0)

    def share(self, value: Any) -> Any:
        """The value that process 0 has, in every process; tensors in it are on the CPU."""
        if self.count == 1:
            return value
        shared = [value if self.first else None]
        with _together():
            dist.broadcast_object_list(shared, src=0)
        return shared[0]

    def wait(self) -> None:
        """Wait for all."""
        if self.count > 1:
            with _together():
                dist.barrier()


@contextmanager
def ranks(device: torch.device) -> Iterator[Ranks]:
    """The processes that torchrun started, joined while the block runs; one alone where it started none.

    gloo connects processors, NCCL CUDA devices. A problem that ends the run is raised in the process that had it first;
    in the others it becomes an exit with the same code, so that it is said once.

    Raises:
        Refused: for more processes on a machine than it has CUDA devices.
        Failed: where a process ended or cannot be reached.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks()
        return
    with _together():
        store, rank, count = next(iter(rendezvous("env://")))
    try:
        if device.type == "cuda":
            _take_a_device_of_its_own()
        with _together():
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=store, rank=rank, world_size=count)
        yield Ranks(rank, count)
        dist.destroy_process_group()  # not after a problem: NCCL would wait for processes that are gone
    except (Refused, Failed) as problem:
        if not _is_first_problem(store):
            raise SystemExit(2 if isinstance(problem, Refused) else 1) from problem
        raise


def synchronise_batch_norm(network: nn.Module) -> None:
    """Let every batch norm of a network take its statistics over all processes while training.

    torch's own SyncBatchNorm needs CUDA and cannot be differentiated twice; this one can.
    """
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.forward = _Synchronised(module)  # type: ignore[method-assign, assignment]


def _take_a_device_of_its_own() -> None:
    started, devices = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if started > devices:
        raise Refused(
            f"torchrun --nproc-per-node: found {started} processes on a machine of {devices} CUDA devices; "
            f"start {devices}, or set train.*.device: cpu"
        )
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


def _is_first_problem(store: Any) -> bool:
    """Whether no other process that shares torch's key-value store has had a problem before this one."""
    try:
        return store.add("ganlib/problems", 1) == 1
    except RuntimeError:  # the store went with torchrun: nobody else can tell either
        return True


@contextmanager
def _together() -> Iterator[None]:
    """What torch raises where another process is gone, as `Failed`; gloo has no type of its own for it."""
    try:
        yield
    except RuntimeError as error:
        what = re.sub(r"^\[[^]]*\] ", "", str(error).splitlines()[0]).split(". ")[0]  # without torch's line and advice
        raise Failed(
            f"train: another process ended or cannot be reached ({what}); the same command goes on from the last "
            "checkpoint"
        ) from error


class _Sum(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of their gradients, and so on."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone(memory_format=torch.contiguous_format)
        with _together():
            dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.apply(gradient)  # type: ignore[no-untyped-call]


class _Gather(torch.autograd.Function):
    """The values of all processes, one after another."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values = values.contiguous()
        parts = [torch.empty_like(values) for _ in range(dist.get_world_size())]
        with _together():
            dist.all_gather(parts, values)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        summed: Tensor = _Sum.apply(gradient)  # type: ignore[no-untyped-call]
        return summed.chunk(dist.get_world_size())[dist.get_rank()]


class _Synchronised:
    """The forward of a batch norm over all processes, whose slices are equally long."""

    def __init__(self, module: nn.modules.batchnorm._BatchNorm) -> None:
        self.module = module

    def __call__(self, x: Tensor) -> Tensor:
        module = self.module
        if not module.training and module.running_mean is not None:
            return type(module).forward(module, x)
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        variance, mean = torch.var_mean(values, [0, *range(2, x.dim())], correction=0)
        parts: Tensor = _Gather.apply(torch.stack([mean, variance])[None])  # type: ignore[no-untyped-call]
        means, variances = parts.unbind(1)
        mean = means.mean(0)
        variance = variances.mean(0) + (means - mean).square().mean(0)  # within the slices, and between them
        if module.running_mean is not None and module.running_var is not None and module.training:
            with torch.no_grad():
                assert module.num_batches_tracked is not None
                module.num_batches_tracked += 1
                momentum = module.momentum if module.momentum is not None else 1 / float(module.num_batches_tracked)
                count = values.numel() // values.shape[1] * dist.get_world_size()
                module.running_mean.lerp_(mean.to(module.running_mean.dtype), momentum)
                module.running_var.lerp_((variance * (count / (count - 1))).to(module.running_var.dtype), momentum)
        shape = (1, -1, *[1] * (x.dim() - 2))
        normal = (values - mean.view(shape)) * (variance + module.eps).rsqrt().view(shape)
        if module.affine:
            normal = normal * module.weight.view(shape) + module.bias.view(shape)
        return normal.to(x.dtype)
