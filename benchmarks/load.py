"""Load for a server on this machine: closed loops of clients with one kept connection each.

The clients share the processor with the server that they measure, so they do little: a request is made of bytes once,
and of an answer its status and its length alone are read. httpx takes several times as long for both.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

LOCAL = "127.0.0.1"  # the only address that load goes to


@dataclass(frozen=True)
class Load:
    """What some clients saw.

    Attributes:
        seconds: how long they asked.
        latencies: of each answered request, in seconds.
        statuses: how often each HTTP status came.
    """

    seconds: float
    latencies: Sequence[float]
    statuses: Counter[int] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        """Answers with status 200 a second."""
        return self.statuses[200] / self.seconds

    def percentile(self, percent: float) -> float:
        """A percentile of the latencies, in seconds."""
        return float(np.percentile(self.latencies, percent))


def request(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """A POST request as it goes over the wire."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {LOCAL}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def ask(port: int, requests: Sequence[bytes], clients: int, seconds: float) -> Load:
    """Let clients ask for some seconds, each its next request when it has its answer.

    Args:
        port: of the server on this machine.
        requests: what they ask, each client beginning at another one.
        clients: how many at once.
        seconds: after these no new request is sent.
    """
    return asyncio.run(_ask(port, requests, clients, seconds))


async def _ask(port: int, requests: Sequence[bytes], clients: int, seconds: float) -> Load:
    start = time.perf_counter()
    latencies: list[float] = []
    statuses: Counter[int] = Counter()

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection(LOCAL, port, limit=2**24)
        turn = number
        while (sent := time.perf_counter()) - start < seconds:
            writer.write(requests[turn % len(requests)])
            statuses[await _status(reader)] += 1
            latencies.append(time.perf_counter() - sent)
            turn += 1
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return Load(time.perf_counter() - start, latencies, statuses)


async def _status(reader: asyncio.StreamReader) -> int:
    """The status of the next answer; its body is read and dropped."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"\r\ncontent-length:")[2].split(b"\r\n", 1)[0])
    await reader.readexactly(length)
    return int(head.split(b" ", 2)[1])
