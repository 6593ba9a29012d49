"""Work beside the event loop: in a thread, where it would hold up other requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from anyio import to_thread

BYTES_AT_ONCE = 2**16  # what is read, written or compressed within a millisecond
Result = TypeVar("Result")


async def run(aside: bool, work: Callable[..., Result], *arguments: Any) -> Result:
    """Call `work`, in a thread or here: the way to a thread and back takes longer than small work does.

    Args:
        aside: whether in a thread.
        work, arguments: what to call.
    """
    return await to_thread.run_sync(work, *arguments) if aside else work(*arguments)
