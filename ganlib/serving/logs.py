"""One line of JSON for each request, and what is known of a request while it runs."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import threading
import time
from contextvars import ContextVar
from queue import SimpleQueue
from typing import Any, TextIO

LOGGER = logging.getLogger("ganlib.serving")
_PAUSE = 0.02  # seconds between writes: a thread that woke for each line would hold up the others
_notes: ContextVar[dict[str, Any] | None] = ContextVar("notes", default=None)


def begin_notes(**facts: Any) -> dict[str, Any]:
    """Begin the notes of a request, and return them: they fill as it runs, wherever its task or a child of it notes."""
    notes = dict(facts)
    _notes.set(notes)
    return notes


def note(**facts: Any) -> None:
    """Note facts of the request that runs; nothing where none does."""
    if (notes := _notes.get()) is not None:
        notes.update(facts)


class JsonLines(logging.Formatter):
    """A record as one line of JSON: time (UTC), level, message, the record's `facts`, and the traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {"time": f"{seconds}.{int(record.msecs):03d}Z", "level": record.levelname.lower()}
        line["message"] = record.getMessage()
        line |= getattr(record, "facts", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class Aside(logging.Handler):
    """Writes from a thread of its own. A write gives up Python's lock, and an event loop that writes has to wait until
    the threads that render give it back: that costs more than all the rest of a request."""

    def __init__(self, stream: TextIO, most: int = 10_000) -> None:
        """
        Args:
            stream: where the lines go.
            most: records that may wait for a stream that takes none; further ones are dropped, and counted in the log.
        """
        super().__init__()
        self._stream = stream
        self._most = most
        self._dropped = 0
        self._records: SimpleQueue[logging.LogRecord | threading.Event] = SimpleQueue()
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a record to the thread."""
        if self._records.qsize() < self._most:
            self._records.put(record)
        else:
            self._dropped += 1

    def flush(self) -> None:
        """Wait until what was logged so far is written; not for ever, as the stream may take nothing."""
        written = threading.Event()
        self._records.put(written)
        written.wait(1.0)

    def _write(self) -> None:
        while True:
            taken = [self._records.get()]
            time.sleep(_PAUSE)
            while not self._records.empty():
                taken.append(self._records.get())
            dropped, self._dropped = self._dropped, 0
            lines = [self.format(record) for record in taken if isinstance(record, logging.LogRecord)]
            if dropped:
                lines.append(json.dumps({"level": "warning", "message": f"{dropped} lines of the log were dropped"}))
            with contextlib.suppress(OSError, ValueError):  # nobody reads any more, or the stream is closed
                self._stream.write("".join(f"{line}\n" for line in lines))
                self._stream.flush()
            for each in taken:
                if isinstance(each, threading.Event):
                    each.set()


def log_to_stderr() -> logging.Handler:
    """Send the server's log and uvicorn's warnings to standard error as lines of JSON; returns what writes them, to be
    flushed before the end."""
    handler = Aside(sys.stderr)
    handler.setFormatter(JsonLines())
    for name, level in (("ganlib.serving", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False
    return handler
