"""A job: what lies in its folder, and all that its bytes depend on.

    job.json       settings and numbers of images and shards; a rerun with other settings is refused
    job.rows       the rows that are done (Parquet), in order, each with the number of its first image
    rejects.jsonl  the rows that are not, where there are any
    00000.tar, 00000.parquet, 00000_stats.json    a shard (see `ganlib.inference.batch.shard`)

Image i of a job is that of the row with first <= i < end, and lies in shard i // shard_size. So a shard is a function
of this folder and the package alone, whoever writes it and in whatever order.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Literal, Self

import onnxruntime
from pydantic import BaseModel, ConfigDict, Field

from ganlib.card import Place, Precision
from ganlib.files import sha256_of
from ganlib.inference.latents import LAST_SEED
from ganlib.inference.package import CARD
from ganlib.inference.sample import Generator
from ganlib.problems import Refused, first_problem

JOB, ROWS, REJECTS = "job.json", "job.rows", "rejects.jsonl"
SHARD_SIZE = 1_000
LARGEST_SHARD = 1_000_000
OWN = "own:"  # before the names of the user's columns in job.rows


class Settings(BaseModel):
    """All that the bytes of a job depend on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests_sha256: str = Field(description="sha256 of the table of requests")
    model: str = Field(description="the model's name")
    card_sha256: str = Field(description="sha256 of the package's card, which has those of all its files")
    precision: Precision = Field(description="the numbers that the graph computes in")
    device: Place = Field(description="where it runs")
    shard_size: int = Field(description="images in a shard; the last may have fewer")
    seed: int = Field(description="of the job's first image; image i has seed + i, where its row says none")
    truncation: float = Field(description="where a row says none")
    versions: dict[str, str] = Field(description="of the packages that make the bytes")


class Job(BaseModel):
    """job.json: the plan of a job."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    settings: Settings
    requests: str = Field(description="name of the table of requests")
    rows: int = Field(description="rows that are done")
    rejected: int = Field(description="rows that are not, see rejects.jsonl")
    images: int = Field(description="of all rows")
    shards: int = Field(description="they are numbered from 0")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the plan of a job's folder; `Refused` where it is not one."""
        path = folder / JOB
        if not path.is_file():
            raise Refused(f"{path}: no such file; `ganlib batch` writes it")
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValueError as error:
            raise Refused(f"{path}: {first_problem(error, cls.model_fields)}; name another folder") from error

    def images_of(self, shard: int) -> range:
        """The numbers of a shard's images."""
        first = shard * self.settings.shard_size
        return range(first, min(first + self.settings.shard_size, self.images))

    def name_of(self, shard: int) -> str:
        """What a shard's files and keys begin with: its number, five digits at least."""
        return f"{shard:0{max(5, len(str(self.shards - 1)))}d}"


def settings_of(
    generator: Generator, requests: Path, shard_size: int = SHARD_SIZE, seed: int = 0, truncation: float = 1.0
) -> Settings:
    """What a job is to be done with.

    Raises:
        Refused: for a missing table, or a value out of its range.
    """
    if not requests.is_file():
        raise Refused(f"{requests}: no such file")
    if not 1 <= shard_size <= LARGEST_SHARD:
        raise Refused(f"shard-size: found {shard_size}; expected 1 to {LARGEST_SHARD} images")
    if not 0 <= seed <= LAST_SEED:
        raise Refused(f"seed: found {seed}; expected a whole number from 0 to {LAST_SEED}")
    if not 0 < truncation <= 1:
        raise Refused(f"truncation: found {truncation}; expected a number above 0 and up to 1")
    package = generator.package
    return Settings(
        requests_sha256=sha256_of(requests),
        model=package.card.name,
        card_sha256=sha256_of(package.folder / CARD),
        precision=generator.precision,
        device=generator.device,
        shard_size=shard_size,
        seed=seed,
        truncation=truncation,
        versions={
            "ganlib": version("ganlib"),
            **{name: version(name) for name in ("numpy", "pillow", "pyarrow")},
            "onnxruntime": str(onnxruntime.__version__),  # one of two packages that give it
        },
    )
