"""What a run says while it works: history.jsonl, TensorBoard, and a progress bar or plain lines."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ganlib.files import write_whole

SECONDS_BETWEEN_LINES = 10.0


class History:
    """The scalars of a run, one JSON object a line, and the same in TensorBoard.

    A resumed run drops what was written after the checkpoint it resumes from.
    """

    def __init__(self, path: Path, board: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
        kept = (line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step)
        write_whole(path, "".join(kept).encode())
        self.path = path
        self.board = SummaryWriter(str(board), purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add the scalars of one step."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def picture(self, step: int, image: np.ndarray) -> None:
        """Show a grid `(H, W, C)` uint8 in TensorBoard."""
        self.board.add_image("samples", image, step, dataformats="HWC")

    def close(self) -> None:
        self.board.close()


class Progress:
    """A bar with rate and time left on a terminal; elsewhere a line every few seconds."""

    def __init__(self, name: str, step: int, steps: int, report: Callable[[str], None]) -> None:
        self.name, self.first, self.steps, self.report = name, step, steps, report
        self.bar = (
            tqdm(total=steps, initial=step, desc=name, unit="step", dynamic_ncols=True) if sys.stderr.isatty() else None
        )
        self.started = self.said = time.monotonic()

    def advance(self, step: int, values: Mapping[str, float]) -> None:
        """Step `step` is done; `values` are the newest scalars."""
        if self.bar is not None:
            self.bar.update(1)
            self.bar.set_postfix(
                {key: f"{values[key]:.3f}" for key in values if key.startswith(("loss", "p_"))}, refresh=False
            )
            return
        now = time.monotonic()
        if now - self.said >= SECONDS_BETWEEN_LINES or step == self.steps:
            self.said = now
            rate = (step - self.first) / (now - self.started)
            scalars = " ".join(f"{key} {value:.3f}" for key, value in values.items() if key.startswith(("loss", "p_")))
            left = (self.steps - step) / rate
            self.report(f"{self.name}: step {step}/{self.steps}, {rate:.1f} steps/s, {left:.0f} s left; {scalars}")

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
