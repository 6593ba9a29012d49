"""Requests of many clients, run together: a worker that is idle takes what waits, and waits for nobody."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ganlib.inference.sample import BATCH, Inputs
from ganlib.problems import Refused

Render = Callable[[NDArray[np.float32], NDArray[Any] | None], NDArray[np.uint8]]
Images = NDArray[np.uint8]
Answer = tuple["_Work", Images | Exception]

_SMOOTHING = 0.2  # share of the newest run in the running mean of seconds an image


class Full(Exception):
    """The queue has no room for the request.

    Attributes:
        retry_after: seconds until what waits now should be done, at least 1.
    """

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Expired(Exception):
    """The request's deadline passed before its images were made."""


class Closing(Exception):
    """The batcher finishes what it has accepted and takes nothing new."""


@dataclass(eq=False)
class _Work:
    """A request on its way."""

    inputs: Inputs
    future: asyncio.Future[Images]
    loop: asyncio.AbstractEventLoop
    deadline: float
    waiting: int = 0
    """parts that no worker has taken"""
    done: dict[int, Images] = field(default_factory=dict)
    """what was made, by the first image's number"""
    left: int = 0
    """images that are not made yet"""


@dataclass(frozen=True, eq=False)
class _Part:
    """Images of a request that one run makes."""

    work: _Work
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first


class Batcher:
    """A queue in front of a generator, and the threads that empty it.

    First come, first served. An idle worker takes the requests that wait, at once and up to `largest` images, whatever
    their conditions: those are rows beside the latents. A request of more images is split. One request's fate does not
    depend on its neighbours: where a run of several fails, each is run alone, and gets its own images or its own error.

    Attributes:
        largest: images of one run at most.
        capacity: images that may wait.
    """

    def __init__(
        self,
        render: Render,
        *,
        largest: int = BATCH,
        queue: int = 256,
        workers: int = 1,
        delay: float = 0.0,
        observe: Callable[[int, float], None] = lambda images, seconds: None,
        accepted: Callable[[int], None] = lambda images: None,
        name: str = "render",
    ) -> None:
        """
        Args:
            render: makes `(N, H, W, C)` uint8 of latents `(N, L)` and conditions; called by several threads at once.
            largest: images of one run at most.
            queue: images that may wait; a request that finds no room is answered by `Full`.
            workers: threads, each with a run of its own.
            delay: seconds that a worker waits for as many requests as its last run had; 0 never waits. A client that is
                alone is not made to wait, since the last run had but its own request.
            observe: called after each run, by its thread, with the number of images and the seconds.
            accepted: called in the task of each request that finds room, with its number of images.
            name: of the threads.
        """
        self.largest = largest
        self.capacity = queue
        self._render = render
        self._delay = delay
        self._observe = observe
        self._accepted = accepted
        self._change = threading.Condition()
        self._parts: deque[_Part] = deque()
        self._queued = 0
        self._closing = False
        self._seconds = 0.0  # an image's, as the runs of late had it
        self._threads = [
            threading.Thread(target=self._serve, name=f"{name}-{number}", daemon=True) for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def queued(self) -> int:
        """Images that wait for a worker."""
        return self._queued

    async def submit(self, inputs: Inputs, timeout: float | None = None) -> Images:
        """The images of a request. Cancelling the task that awaits them takes the request out of the queue.

        Args:
            inputs: at least one image's; more than `largest` are split.
            timeout: seconds until the answer is of no use any more; None for no deadline.

        Returns:
            `(N, H, W, C)` uint8, in the order of the inputs.

        Raises:
            Refused: for no image, or more than the queue holds at all.
            Full: where the queue has no room.
            Expired: where the deadline passed; what had not begun by then is not run.
            Closing: after `close`.
            Exception: what the render raised for this request.
        """
        loop = asyncio.get_running_loop()
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        work = _Work(inputs, loop.create_future(), loop, deadline, left=len(inputs))
        self._accept(work)
        self._accepted(len(inputs))
        timer = None if timeout is None else loop.call_later(timeout, _expire, work.future, timeout)
        try:
            return await work.future
        finally:
            if timer is not None:
                timer.cancel()
            if work.waiting:
                self._withdraw(work)

    async def close(self) -> None:
        """Finish what was accepted and end the threads; nothing new is taken from the call on."""
        with self._change:
            self._closing = True
            self._change.notify_all()
        await asyncio.to_thread(self._join)

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _accept(self, work: _Work) -> None:
        count = len(work.inputs)
        if not 1 <= count <= self.capacity:
            raise Refused(f"count: found {count} images; one request may ask for 1 to {self.capacity}")
        starts = range(0, count, -(-count // -(-count // self.largest)))  # as few parts as can be, of one size
        with self._change:
            if self._closing:
                raise Closing("the model is being unloaded; try again")
            if self._queued + count > self.capacity:
                seconds = max(1, math.ceil(self._queued * self._seconds / len(self._threads)))
                raise Full(
                    f"{self._queued} images wait and {self.capacity} may; try again in {seconds} s", retry_after=seconds
                )
            self._parts.extend(_Part(work, first, min(first + starts.step, count)) for first in starts)
            self._queued += count
            work.waiting = len(starts)
            self._change.notify(len(starts))

    def _withdraw(self, work: _Work) -> None:
        """Take the parts of a request out of the queue that no worker has taken."""
        with self._change:
            if work.waiting:
                kept = [part for part in self._parts if part.work is not work]
                self._queued -= sum(len(part) for part in self._parts if part.work is work)
                self._parts = deque(kept)
                work.waiting = 0

    def _serve(self) -> None:
        """What a thread does: runs, until the queue is empty and closing."""
        requests = 1
        while parts := self._take(requests):
            requests = len(parts)
            self._run(parts)

    def _take(self, expected: int) -> list[_Part]:
        """The next run's parts; empty for no more. With a delay, up to that long is waited for `expected` of them."""
        with self._change:
            while True:
                self._change.wait_for(lambda: self._parts or self._closing)
                if self._delay:
                    self._change.wait_for(
                        lambda: len(self._parts) >= expected or self._queued >= self.largest or self._closing,
                        self._delay,
                    )
                if (taken := self._pop()) or (self._closing and not self._parts):
                    if self._parts:
                        self._change.notify()  # another worker may have been woken for this one's parts
                    return taken

    def _pop(self) -> list[_Part]:
        """The first parts of the queue that one run holds; those past their deadline are dropped."""
        taken: list[_Part] = []
        images, now = 0, time.monotonic()
        while self._parts and images + len(self._parts[0]) <= self.largest:
            part = self._parts.popleft()
            self._queued -= len(part)
            part.work.waiting -= 1
            if part.work.deadline > now:  # else its timer answers
                taken.append(part)
                images += len(part)
        return taken

    def _run(self, parts: Sequence[_Part]) -> None:
        started = time.monotonic()
        outcome = self._outcome(parts)
        if not isinstance(outcome, Exception):
            seconds, count = time.monotonic() - started, sum(len(part) for part in parts)
            self._seconds += _SMOOTHING * (seconds / count - self._seconds)
            self._answer(parts, outcome)
            self._observe(count, seconds)
        elif len(parts) > 1:
            for part in parts:
                self._run([part])
        else:
            self._answer(parts, outcome)

    def _outcome(self, parts: Sequence[_Part]) -> Images | Exception:
        try:
            z = [part.work.inputs.z[part.first : part.last] for part in parts]
            conditions = [
                part.work.inputs.condition[part.first : part.last]
                for part in parts
                if part.work.inputs.condition is not None
            ]
            if len(parts) == 1:
                return self._render(z[0], conditions[0] if conditions else None)
            return self._render(np.concatenate(z), np.concatenate(conditions) if conditions else None)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
            return error

    def _answer(self, parts: Sequence[_Part], outcome: Images | Exception) -> None:
        """Give each part its images, or the error, and each request that is complete its answer."""
        answers: dict[asyncio.AbstractEventLoop, list[Answer]] = {}
        at = 0
        with self._change:
            for part in parts:
                work = part.work
                if isinstance(outcome, Exception):
                    answers.setdefault(work.loop, []).append((work, outcome))
                    continue
                work.done[part.first] = outcome[at : at + len(part)]
                work.left -= len(part)
                at += len(part)
                if not work.left:
                    images = [work.done[first] for first in sorted(work.done)]
                    answers.setdefault(work.loop, []).append(
                        (work, images[0] if len(images) == 1 else np.concatenate(images))
                    )
        for loop, those in answers.items():
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_deliver, those)


def _deliver(answers: list[Answer]) -> None:
    for work, outcome in answers:
        if work.future.done():
            continue
        if isinstance(outcome, Exception):
            work.future.set_exception(outcome)
        else:
            work.future.set_result(outcome)


def _expire(future: asyncio.Future[Images], timeout: float) -> None:
    if not future.done():
        future.set_exception(Expired(f"not done within {timeout:g} s; ask for fewer images or try again later"))
