"""How far a long loop is: a bar on a terminal, plain lines every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def watched(
    items: Iterable[T], total: int, what: str, report: Callable[[str], None], every: float = 5.0
) -> Iterator[T]:
    """Pass `items` on, and say how many of `total` are done, the rate and the time left.

    Args:
        items: anything to go through.
        total: how many there are.
        what: what is counted, in the plural.
        report: takes a line; not called where stderr is a terminal, which gets a bar.
        every: seconds between lines.
    """
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, unit=f" {what}", leave=False)
        return
    began = said = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - said >= every and done < total:
            said = now
            rate = done / (now - began)
            report(f"{done:,} of {total:,} {what}, {rate:,.0f} a second, {(total - done) / rate:,.0f} s left")
