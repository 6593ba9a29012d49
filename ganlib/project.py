"""A project: a folder with a params.yaml, and where everything lies below it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ganlib.config import Choices, Params, Train, load
from ganlib.problems import Refused

Report = Callable[[str], None]
"""Takes a line for the user."""


@dataclass(frozen=True)
class Project:
    """A folder with a params.yaml: where a stage reads and writes."""

    folder: Path
    params: Params

    @classmethod
    def open(cls, params: Path) -> Project:
        """The project of a params.yaml.

        Raises:
            Refused: where it cannot be used, in one line.
        """
        from ganlib.families.objective import penalty_names
        from ganlib.families.registry import settings
        from ganlib.losses.adversarial import LOSSES
        from ganlib.training.augment import AUGMENTATIONS

        with_labels = {name: loss.smoothed is not None for name, loss in LOSSES.items()}
        choices = Choices(settings, with_labels, penalty_names(), AUGMENTATIONS)
        return cls(folder=params.resolve().parent, params=load(params, choices))

    @property
    def prepared(self) -> Path:
        return self.folder / "data" / "prepared"

    @property
    def embedded(self) -> Path:
        return self.folder / "data" / "embedded"

    @property
    def extractor(self) -> Path:
        return self.folder / "models" / "extractor"

    def model(self, name: str) -> Path:
        return self.folder / "models" / name

    def report(self, name: str) -> Path:
        return self.folder / "reports" / name

    def training(self, name: str) -> Train:
        """The resolved `train` section of a model.

        Raises:
            Refused: for a name that params.yaml does not describe.
        """
        if name not in self.params.train:
            raise Refused(f"params.yaml: train: no model {name!r}; it describes {', '.join(self.params.train)}")
        return self.params.train[name]
