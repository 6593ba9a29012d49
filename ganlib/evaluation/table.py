"""The table of a report: each metric with how it was measured."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ganlib.evaluation.agreement import Proportion
from ganlib.evaluation.registry import is_registered
from ganlib.files import write_whole
from ganlib.problems import Failed


@dataclass
class Table:
    """Metrics by name, and the protocol of each.

    Attributes:
        common: what holds for all of them: extractor, its hash, the data's hash, split, resize filter, seed.
        metrics: flat numbers, what metrics.json holds.
        protocol: by the names of the metrics; one that could not be measured has an entry that says why.
    """

    common: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)
    protocol: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, name: str, value: float, **how: Any) -> None:
        """Enter a metric.

        Raises:
            Failed: for a value that is not finite.
        """
        if not is_registered(name):
            raise KeyError(f"{name} is not in METRICS")
        if not math.isfinite(value):
            raise Failed(f"{name}: the value is {value}; the generated images cannot be judged, look at the samples")
        self.metrics[name] = float(value)
        self.protocol[name] = self.common | how

    def add_share(self, name: str, found: Proportion, **how: Any) -> None:
        """Enter a proportion with its Wilson 95% interval."""
        low, high = found.interval
        self.add(name, found.share, count=found.count, interval=[low, high], interval_kind="Wilson 95%", **how)

    def leave_out(self, name: str, reason: str) -> None:
        """Say in the protocol why a metric has no number."""
        self.protocol[name] = self.common | {"not_measured": reason}

    def write(self, folder: Path) -> None:
        """Write metrics.json and protocol.json into `folder`."""
        for name, content in (("metrics", self.metrics), ("protocol", self.protocol)):
            text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
            write_whole(folder / f"{name}.json", (text + "\n").encode())
