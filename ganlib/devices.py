"""One training at a time on a GPU: a lock for each device, which the kernel takes back when its holder dies.

Trainings that know nothing of each other (by hand, by dvc, its queue, or flows) would share a device's memory and run
out of it. The lock is taken inside the stage, so all of them obey it, and where it is held they wait.

The locks lie in a folder of the user's own below the system's temporary one, the same for a terminal, a timer and a
service. The environment variable `GANLIB_DEVICE_LOCKS` names another, for example one that several users may write to;
`off` locks nothing, for a device that has room for several.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from ganlib.files import write_whole
from ganlib.problems import Refused

VARIABLE = "GANLIB_DEVICE_LOCKS"
OFF = "off"

Report = Callable[[str], None]


@dataclass(frozen=True)
class Holder:
    """Who has a device.

    Attributes:
        process: its id.
        what: what it does there, in words.
        since: when it got the device, ISO 8601.
    """

    process: int
    what: str
    since: str


@contextmanager
def alone_on(devices: Iterable[str], what: str, report: Report, every: float = 1.0) -> Iterator[None]:
    """Nobody else is on the devices while the block runs; before it, wait for those who are.

    All that take several take them in one order, so that no two wait for each other.

    Args:
        devices: names, the same for every process that means the same device; none locks nothing.
        what: what this process does there, for those who wait for it.
        report: takes a line for each holder that is waited for.
        every: seconds between looks at who that is.

    Raises:
        Refused: where the folder of the locks cannot be used.
    """
    names = sorted(set(devices))
    folder = lock_folder() if names else None
    with ExitStack() as held:
        for name in names if folder is not None else ():
            assert folder is not None
            held.enter_context(_held(folder, name, what, report, every))
        yield


def lock_folder() -> Path | None:
    """Where the locks lie; None where they are switched off.

    Raises:
        Refused: where the folder cannot be made, or is another user's.
    """
    named = os.environ.get(VARIABLE)
    if named == OFF:
        return None
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    folder = Path(named) if named else Path(tempfile.gettempdir()) / f"ganlib-{user}"
    try:
        folder.mkdir(mode=0o777 if named else 0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(f"{folder}: no folder for the devices' locks: {error.strerror}; name one by {VARIABLE}") from None
    if not named and hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
        raise Refused(f"{folder}: found another user's folder; name one for the devices' locks by {VARIABLE}")
    return folder


@contextmanager
def _held(folder: Path, name: str, what: str, report: Report, every: float) -> Iterator[None]:
    from filelock import FileLock, Timeout

    place = folder / re.sub(r"[^A-Za-z0-9.-]", "_", name)
    # a shared folder has to let others open the file
    lock = FileLock(place.with_name(f"{place.name}.lock"), mode=0o666 if VARIABLE in os.environ else 0o600)
    record = place.with_name(f"{place.name}.json")
    said: object = lock  # nothing yet
    while not lock.is_locked:
        try:
            lock.acquire(timeout=every, poll_interval=min(0.2, every))
        except Timeout:
            if (holder := _holder(record)) != said:
                said = holder
                report(f"{what}: waits for {name}, which {_described(holder)}")
        except OSError as error:
            raise Refused(f"{lock.lock_file}: no lock: {error.strerror}; name another folder by {VARIABLE}") from None
    try:
        mine = Holder(os.getpid(), what, datetime.now().astimezone().isoformat(timespec="seconds"))
        write_whole(record, json.dumps(asdict(mine)).encode())
        yield
    finally:
        record.unlink(missing_ok=True)
        lock.release()


def _holder(record: Path) -> Holder | None:
    """Who says to hold a lock; None in the moment before it says so."""
    try:
        return Holder(**json.loads(record.read_text()))
    except (FileNotFoundError, PermissionError):
        return None


def _described(holder: Holder | None) -> str:
    if holder is None:
        return "another process has"
    return f"process {holder.process} has had since {holder.since} ({holder.what})"
