"""The queue: who is run with whom and when, and that nobody is lost, waits in vain or gets another's images."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ganlib.inference.package import open_package
from ganlib.inference.request import Request
from ganlib.inference.sample import Generator, Inputs
from ganlib.problems import Failed, Refused
from ganlib.serving.batcher import Batcher, Closing, Expired, Full
from tests.packages import CLASSES, build_package

PATIENCE = 20.0  # seconds; nothing here takes one


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, PATIENCE))


def picture(z: np.ndarray) -> np.ndarray:
    """An image of one value for each latent: the latent's first number."""
    return z[:, :1].astype(np.uint8).reshape(-1, 1, 1, 1)


def inputs(*values: float, classes: tuple[int, ...] | None = None) -> Inputs:
    z = np.array(values, np.float32).reshape(-1, 1)
    return Inputs(z, None if classes is None else np.array(classes, np.int64))


def values(images: np.ndarray) -> list[int]:
    return images.reshape(-1).tolist()


class Gate:
    """A render that begins when it is called, and ends when it is let."""

    def __init__(self) -> None:
        self.runs: list[list[float]] = []
        self.conditions: list[np.ndarray | None] = []
        self._began = threading.Semaphore(0)
        self._may_end = threading.Semaphore(0)

    def __call__(self, z: np.ndarray, condition: np.ndarray | None) -> np.ndarray:
        self.runs.append(z[:, 0].tolist())
        self.conditions.append(condition)
        self._began.release()
        assert self._may_end.acquire(timeout=PATIENCE)
        return picture(z)

    async def begun(self, runs: int = 1) -> None:
        for _ in range(runs):
            assert await asyncio.to_thread(self._began.acquire, timeout=PATIENCE)

    def let(self, runs: int = 100) -> None:
        self._may_end.release(runs)


async def submitted(
    batcher: Batcher, *requests: Inputs, timeout: float | None = None
) -> list[asyncio.Task[np.ndarray]]:
    """Hand requests in, in their order."""
    tasks = []
    for request in requests:
        tasks.append(asyncio.create_task(batcher.submit(request, timeout)))
        await asyncio.sleep(0)
    return tasks


def test_a_request_that_is_alone_is_run_at_once() -> None:
    async def test() -> None:
        batcher = Batcher(lambda z, condition: picture(z), delay=PATIENCE)
        for value in range(3):
            assert values(await batcher.submit(inputs(value))) == [value]
        await batcher.close()

    run(test())


def test_what_came_while_a_worker_was_busy_is_run_together_first_come_first_served() -> None:
    async def test() -> None:
        gate = Gate()
        batcher = Batcher(gate, largest=4)
        tasks = await submitted(batcher, inputs(1))
        await gate.begun()
        tasks += await submitted(batcher, inputs(2), inputs(3, 4), inputs(5, 6), inputs(7))
        assert batcher.queued == 6
        gate.let()
        assert [values(await task) for task in tasks] == [[1], [2], [3, 4], [5, 6], [7]]
        # 5 and 6 have no room beside 2, 3 and 4, and 7 does not overtake them.
        assert gate.runs == [[1], [2, 3, 4], [5, 6, 7]]
        assert batcher.queued == 0
        await batcher.close()

    run(test())


def test_conditions_are_rows_of_one_run() -> None:
    async def test() -> None:
        gate = Gate()
        batcher = Batcher(gate)
        tasks = await submitted(batcher, inputs(1, classes=(2,)))
        await gate.begun()
        tasks += await submitted(batcher, inputs(2, 3, classes=(0, 0)), inputs(4, classes=(1,)))
        gate.let()
        await asyncio.gather(*tasks)
        assert gate.runs == [[1], [2, 3, 4]]
        assert [condition.tolist() for condition in gate.conditions] == [[2], [0, 0, 1]]
        await batcher.close()

    run(test())


@pytest.mark.parametrize("workers", [1, 3])
def test_a_large_request_is_split_and_put_together_in_its_order(workers: int) -> None:
    async def test() -> None:
        lengths: list[int] = []

        def render(z: np.ndarray, condition: np.ndarray | None) -> np.ndarray:
            lengths.append(len(z))
            time.sleep(0.001 * (10 - float(z[0, 0])))  # later parts end first
            return picture(z)

        batcher = Batcher(render, largest=4, workers=workers)
        assert values(await batcher.submit(inputs(*range(10)))) == list(range(10))
        assert sorted(lengths) == [2, 4, 4]
        assert values(await batcher.submit(inputs(*range(5)))) == list(range(5))
        assert sorted(lengths) == [2, 2, 3, 4, 4]  # and not 4 and 1
        await batcher.close()

    run(test())


def test_workers_run_side_by_side() -> None:
    async def test() -> None:
        gate = Gate()
        batcher = Batcher(gate, workers=2)
        tasks = await submitted(batcher, inputs(1))
        await gate.begun()
        tasks += await submitted(batcher, inputs(2))
        await gate.begun()  # while the first one is still at it
        gate.let()
        assert [values(await task) for task in tasks] == [[1], [2]]
        await batcher.close()

    run(test())


def test_a_full_queue_says_when_to_come_back_and_has_room_again_afterwards() -> None:
    async def test() -> None:
        gate, accepted = Gate(), list[int]()
        batcher = Batcher(gate, queue=4, accepted=accepted.append)
        tasks = await submitted(batcher, inputs(1))
        await gate.begun()
        tasks += await submitted(batcher, inputs(2, 3, 4))
        with pytest.raises(Full, match="3 images wait and 4 may") as full:
            await batcher.submit(inputs(5, 6))
        assert full.value.retry_after == 1
        tasks += await submitted(batcher, inputs(7))
        with pytest.raises(Full):
            await batcher.submit(inputs(8))
        assert accepted == [1, 3, 1]
        gate.let()
        assert [values(await task) for task in tasks] == [[1], [2, 3, 4], [7]]
        assert values(await batcher.submit(inputs(9))) == [9]
        await batcher.close()

    run(test())


def test_the_wait_after_a_full_queue_is_what_the_queue_takes() -> None:
    async def test() -> None:
        may_end = threading.Event()

        def render(z: np.ndarray, condition: np.ndarray | None) -> np.ndarray:
            time.sleep(0.1)
            assert z[0, 0] == 0 or may_end.wait(PATIENCE)
            return picture(z)

        batcher = Batcher(render, queue=64, largest=1)
        await batcher.submit(inputs(0))  # 0.1 s an image, of which the running mean takes a fifth
        tasks = await submitted(batcher, inputs(*range(1, 65)))
        while batcher.queued != 63:  # one is running
            await asyncio.sleep(0.001)
        tasks += await submitted(batcher, inputs(65))
        with pytest.raises(Full) as full:
            await batcher.submit(inputs(66))
        assert 2 <= full.value.retry_after <= 4  # 64 x 0.02 s, or a little more
        for task in tasks:
            task.cancel()
        may_end.set()
        await batcher.close()

    run(test())


def test_a_request_that_can_never_be_taken_is_wrong_and_not_early() -> None:
    async def test() -> None:
        batcher = Batcher(lambda z, condition: picture(z), queue=4)
        for request in (inputs(), inputs(1, 2, 3, 4, 5)):
            with pytest.raises(Refused, match=rf"count: found {len(request)} images; one request may ask for 1 to 4"):
                await batcher.submit(request)
        await batcher.close()

    run(test())


def test_a_deadline_is_kept_while_the_worker_is_busy_and_the_work_is_not_done_afterwards() -> None:
    async def test() -> None:
        gate = Gate()
        batcher = Batcher(gate)
        tasks = await submitted(batcher, inputs(1))
        await gate.begun()
        with pytest.raises(Expired, match=r"not done within 0.01 s"):
            await batcher.submit(inputs(2), timeout=0.01)
        assert batcher.queued == 0
        gate.let()
        assert values(await tasks[0]) == [1]
        await batcher.close()
        assert gate.runs == [[1]]

    run(test())


def test_a_worker_drops_what_is_past_its_deadline_though_nobody_has_said_so_yet() -> None:
    async def test() -> None:
        gate = Gate()
        batcher = Batcher(gate)
        tasks = await submitted(batcher, inputs(1))
        await gate.begun()
        late = await submitted(batcher, inputs(2), timeout=0.01)
        tasks += await submitted(batcher, inputs(3))
        time.sleep(0.05)  # the loop is held up, and its timers with it
        gate.let()
        while batcher.queued:
            time.sleep(0.001)
        with pytest.raises(Expired):
            await late[0]
        assert [values(await task) for task in tasks] == [[1], [3]]
        assert gate.runs == [[1], [3]]
        await batcher.close()

    run(test())


def test_cancelled_work_leaves_the_queue_before_it_is_run() -> None:
    async def test() -> None:
        gate = Gate()
        batcher = Batcher(gate, queue=6, largest=2)
        tasks = await submitted(batcher, inputs(1), inputs(2, 3, 4, 5, 6))
        await gate.begun()
        tasks += await submitted(batcher, inputs(7))
        tasks[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[1]
        assert batcher.queued == 1
        gate.let()
        assert [values(await task) for task in (tasks[0], tasks[2])] == [[1], [7]]
        assert gate.runs == [[1], [7]]
        await batcher.close()

    run(test())


def test_cancelling_what_runs_leaves_its_neighbours_alone() -> None:
    async def test() -> None:
        gate = Gate()
        batcher = Batcher(gate)
        tasks = await submitted(batcher, inputs(1))
        await gate.begun()
        tasks += await submitted(batcher, inputs(2), inputs(3))
        gate.let(1)
        await gate.begun()  # 2 and 3
        tasks[1].cancel()
        gate.let()
        assert values(await tasks[2]) == [3]
        with pytest.raises(asyncio.CancelledError):
            await tasks[1]
        await batcher.close()

    run(test())


def test_an_error_reaches_the_request_that_caused_it_and_no_other() -> None:
    async def test() -> None:
        gate = Gate()
        runs: list[tuple[int, float]] = []

        def render(z: np.ndarray, condition: np.ndarray | None) -> np.ndarray:
            images = gate(z, condition)
            if (z < 0).any():
                raise Refused(f"z: found {z.min()}")
            return images

        batcher = Batcher(render, observe=lambda images, seconds: runs.append((images, seconds)))
        tasks = await submitted(batcher, inputs(1))
        await gate.begun()
        tasks += await submitted(batcher, inputs(2), inputs(-3), inputs(4, 5))
        gate.let()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [values(results[i]) for i in (0, 1, 3)] == [[1], [2], [4, 5]]
        assert isinstance(results[2], Refused)
        assert str(results[2]) == "z: found -3.0"
        assert gate.runs == [[1], [2, -3, 4, 5], [2], [-3], [4, 5]]
        assert values(await batcher.submit(inputs(6))) == [6]  # the worker has survived
        await batcher.close()
        assert [images for images, _ in runs] == [1, 1, 2, 1]  # runs that gave images
        assert all(0 <= seconds < PATIENCE for _, seconds in runs)

    run(test())


def test_where_every_run_fails_every_request_gets_an_error_and_a_split_one_gets_it_once() -> None:
    async def test() -> None:
        runs: list[int] = []

        def render(z: np.ndarray, condition: np.ndarray | None) -> np.ndarray:
            runs.append(len(z))
            raise Failed("no memory left")

        batcher = Batcher(render, largest=2)
        tasks = await submitted(batcher, inputs(1), inputs(2, 3, 4, 5, 6, 7, 8, 9), inputs(10))
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [Failed] * 3
        assert batcher.queued == 0
        await batcher.close()

    run(test())


def test_closing_finishes_what_was_accepted_and_takes_nothing_new() -> None:
    async def test() -> None:
        gate = Gate()
        batcher = Batcher(gate, largest=2, workers=2)
        threads = [thread for thread in threading.enumerate() if thread.name.startswith("render-")]
        assert len(threads) == 2
        tasks = await submitted(batcher, inputs(1), inputs(2, 3, 4, 5, 6))
        await gate.begun(2)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(Closing):
            await batcher.submit(inputs(7))
        assert not closing.done()
        gate.let()
        assert [values(await task) for task in tasks] == [[1], [2, 3, 4, 5, 6]]
        await closing
        await batcher.close()  # once more does no harm
        assert not any(thread.is_alive() for thread in threads)
        with pytest.raises(Closing):
            await batcher.submit(inputs(8))

    run(test())


def test_with_a_delay_a_worker_waits_for_those_of_its_last_run_and_not_for_ever() -> None:
    async def test(delay: float) -> list[list[float]]:
        gate = Gate()
        batcher = Batcher(gate, delay=delay)
        tasks = await submitted(batcher, inputs(1))
        await gate.begun()
        tasks += await submitted(batcher, inputs(2), inputs(3))
        gate.let()
        await asyncio.gather(*tasks)
        tasks = await submitted(batcher, inputs(4))
        await asyncio.sleep(0.05)
        tasks += await submitted(batcher, inputs(5))
        await asyncio.gather(*tasks)
        await batcher.close()
        return gate.runs

    assert asyncio.run(test(PATIENCE)) == [[1], [2, 3], [4, 5]]
    assert asyncio.run(test(0.001)) == [[1], [2, 3], [4], [5]]


def test_closing_does_not_sit_out_a_delay() -> None:
    async def test() -> None:
        gate = Gate()
        batcher = Batcher(gate, delay=PATIENCE)
        tasks = await submitted(batcher, inputs(1))
        await gate.begun()
        tasks += await submitted(batcher, inputs(2), inputs(3))
        gate.let()
        await asyncio.gather(*tasks)
        tasks = await submitted(batcher, inputs(4))
        await batcher.close()
        assert values(await tasks[0]) == [4]

    run(test())


def test_idle_workers_use_no_processor() -> None:
    async def test() -> None:
        batcher = Batcher(lambda z, condition: picture(z), workers=4)
        await batcher.submit(inputs(1))
        before = time.process_time()
        await asyncio.sleep(0.3)
        assert time.process_time() - before < 0.1
        await batcher.close()

    run(test())


def test_a_loop_that_has_ended_does_not_stop_the_workers() -> None:
    """A client's loop may end, and close, while its work is running."""
    gate = Gate()
    batcher = Batcher(gate)

    async def leave() -> None:
        await submitted(batcher, inputs(1))
        await gate.begun()

    asyncio.run(leave())
    gate.let()

    async def test() -> None:
        assert values(await batcher.submit(inputs(2))) == [2]
        await batcher.close()

    run(test())


@pytest.mark.parametrize(("workers", "delay"), [(1, 0.0), (4, 0.0), (3, 0.001)])
def test_in_a_crowd_everybody_gets_his_own_and_nobody_is_forgotten(workers: int, delay: float) -> None:
    """Clients with requests of all lengths, some of which give up: a wake-up that got lost would leave one waiting."""

    async def test() -> None:
        batcher = Batcher(lambda z, condition: picture(z), largest=5, workers=workers, queue=10_000, delay=delay)
        counts = {"answered": 0, "gone": 0}

        async def client(number: int) -> None:
            chance = random.Random(number)
            for _ in range(10):
                wanted = [chance.randrange(256) for _ in range(chance.randint(1, 12))]
                task = asyncio.create_task(batcher.submit(inputs(*wanted)))
                if chance.random() < 0.2:
                    await asyncio.sleep(chance.random() / 500)
                    task.cancel()
                try:
                    assert values(await task) == wanted
                    counts["answered"] += 1
                except asyncio.CancelledError:
                    counts["gone"] += 1

        await asyncio.gather(*(client(number) for number in range(50)))
        assert sum(counts.values()) == 500
        assert counts["answered"] > 350
        assert batcher.queued == 0
        await batcher.close()

    run(test())


@pytest.mark.parametrize("kind", ["none", "class", "text"])
def test_the_same_request_has_the_same_bytes_alone_and_in_a_crowd(kind: str, tmp_path: Path) -> None:
    generator = Generator(open_package(build_package(tmp_path / kind, kind)), "cpu", 1)
    prompts = ("a red rose", "a blue poppy", "petals")
    requests = [
        Request(
            prompt=prompts[i % 3] if kind == "text" else None,
            class_name=CLASSES[i % 3] if kind == "class" else None,
            seed=i,
            count=1 + i % 4,
            truncation=1.0 - i / 50,
        )
        for i in range(40)
    ]
    alone = [generator.generate(request).images for request in requests]

    async def test() -> None:
        runs: list[int] = []
        batcher = Batcher(generator.render, largest=16, workers=2, observe=lambda images, seconds: runs.append(images))
        together = await asyncio.gather(*(batcher.submit(generator.inputs(request)) for request in requests))
        await batcher.close()
        for one, other in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one, other)
        assert sum(runs) == sum(request.count for request in requests)
        assert len(runs) < len(requests)

    run(test())
