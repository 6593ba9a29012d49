"""What a package scored on a frozen set, seed by seed: a description that needs no torch, for who compares two."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from ganlib.files import write_whole
from ganlib.problems import Refused, first_problem


class Score(BaseModel):
    """The file of `ganlib score`. Two scores are equal where all is but the time that was taken, and where."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    format: Literal[1] = 1
    name: str = Field(description="the model's name, of its card")
    package: str = Field(description="sha256 of the package's card.json, which holds that of every other file")
    frozen: str = Field(description="sha256 of the frozen set's frozen.json, which holds that of every other file")
    version: str = Field(description="version of ganlib that measured")
    precision: str = Field(description="the numbers that the generator's graph computes in")
    seeds: tuple[int, ...] = Field(description="what each metric was measured under, in the order of its values")
    metrics: dict[str, tuple[float, ...]] = Field(
        description="a value for each seed, by the names of `ganlib list metrics`; of one class or value of an "
        "attribute under the metric's name, a slash and its own: label_agreement/rose, attribute_accuracy/size/small"
    )
    left_out: dict[str, str] = Field(default={}, description="metrics that could not be measured, and why")
    machine: str = Field(default="", description="where the latency was measured: processor, cores, device, threads")
    latency_ms: dict[str, float] = Field(
        default={}, description="milliseconds of the fastest run, by its number of images, and of encoding a `prompt`"
    )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read `path`; `Refused` where it is missing or is no score."""
        if not path.is_file():
            raise Refused(f"{path}: no such file; `ganlib score` writes it")
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValueError as error:
            raise Refused(f"{path}: {first_problem(error, cls.model_fields)}") from error

    def save(self, path: Path) -> None:
        """Write `path` whole or not at all."""
        write_whole(path, (self.model_dump_json(indent=2) + "\n").encode())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Score) and self._measured() == other._measured()

    def __hash__(self) -> int:
        return hash((self.package, self.frozen, self.seeds))

    def _measured(self) -> str:
        return self.model_dump_json(exclude={"machine", "latency_ms"})
