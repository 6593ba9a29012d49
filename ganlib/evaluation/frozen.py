"""The frozen set: real images of one day with the networks that judge, which no retraining changes.

Scores can be compared where what they are held against is the same to the byte. Files of the folder:
    frozen.json   `FrozenCard`: the protocol, and the sha256 of every other file; its own sha256 names the set
    prepared/     the test split of a prepared dataset, without the rest
    extractor/    the networks that judge
Captions are kept as text: a package scored on them brings its own encoder.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ganlib import config
from ganlib.data.store import Split, load_split
from ganlib.evaluation.features import Extractor, load_extractor
from ganlib.evaluation.frechet import frechet_distance
from ganlib.files import sha256_of, whole_folder, write_whole
from ganlib.problems import Refused, first_problem

CARD = "frozen.json"


class FrozenCard(BaseModel):
    """frozen.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    evaluate: config.Evaluate = Field(description="how much is generated and how; each score has seeds of its own")
    floor: float = Field(description="the Frechet distance that as many real training images have: what chance gives")
    data: dict[str, str] = Field(description="sha256 of the prepared dataset's files that it was taken from")
    files: dict[str, str] = Field(description="sha256 of every other file, by its path below the folder")


@dataclass(frozen=True)
class Frozen:
    """A frozen set whose files are those of its card.

    Attributes:
        sha256: of frozen.json.
        card: its content.
        test: the real images and what is known of them.
        extractor: the judge.
        real: features `(n, d)` float64 of the real images.
    """

    sha256: str
    card: FrozenCard
    test: Split
    extractor: Extractor
    real: np.ndarray


def freeze(
    prepared: Path, extractor_folder: Path, settings: config.Evaluate, out: Path, report: Callable[[str], None]
) -> str:
    """Write a frozen set of today's test split and extractor.

    Args:
        prepared: folder of the prepared dataset.
        extractor_folder: the networks that judge, `models/extractor`.
        settings: the `evaluate` section of params.yaml; its seed plays no part.
        out: folder to write; it appears whole.
        report: takes a line for the user.

    Returns:
        the sha256 of its frozen.json.

    Raises:
        Refused: where `out` is there already, or the data and the extractor cannot be used together.
    """
    if out.exists():
        raise Refused(f"{out}: is there already, and a frozen set is never changed; name another folder")
    train, test = (load_split(prepared, None, split) for split in ("train", "test"))
    extractor = load_extractor(extractor_folder, test.spec)
    chosen = np.random.default_rng(0).permutation(len(train.images))[: settings.samples]
    floor = frechet_distance(extractor.features(train.images[np.sort(chosen)]), extractor.features(test.images))
    with whole_folder(out) as folder:
        (folder / "prepared").mkdir()
        np.save(folder / "prepared" / "images.npy", test.images)
        test.items.to_parquet(folder / "prepared" / "items.parquet", index=False)
        counts = {"train": 0, "test": len(test.images)}
        test.spec.model_copy(update={"counts": counts}).save(folder / "prepared" / "dataset.json")
        (folder / "extractor").mkdir()
        for name in (*extractor.card.files, "extractor.json"):
            shutil.copyfile(extractor_folder / name, folder / "extractor" / name)
        card = FrozenCard(
            evaluate=settings.model_copy(update={"seed": 0}),
            floor=floor,
            data={file.name: sha256_of(file) for file in sorted(prepared.iterdir()) if file.is_file()},
            files={
                file.relative_to(folder).as_posix(): sha256_of(file)
                for file in sorted(folder.rglob("*"))
                if file.is_file()
            },
        )
        write_whole(folder / CARD, (card.model_dump_json(indent=2) + "\n").encode())
    report(f"{out}: {len(test.images)} real images; training images have a Frechet distance of {floor:.4g} to them")
    return sha256_of(out / CARD)


def open_frozen(folder: Path) -> Frozen:
    """Check a frozen set and open it. Every byte of every listed file is read.

    Raises:
        Refused: naming the file, where the folder is no frozen set, or a file is missing or was changed.
    """
    path = folder / CARD
    if not path.is_file():
        raise Refused(f"{folder}: no frozen set, it has no {CARD}; `ganlib freeze --out {folder}` makes one")
    try:
        card = FrozenCard.model_validate_json(path.read_bytes())
    except ValueError as error:
        raise Refused(f"{path}: {first_problem(error, FrozenCard.model_fields)}") from error
    for name, expected in card.files.items():
        file = folder / name
        if not file.resolve().is_relative_to(folder.resolve()):
            raise Refused(f"{path}: files: found {name!r}; expected a path below the folder")
        if not file.is_file():
            raise Refused(f"{file}: no such file, and {CARD} lists it; fetch the frozen set again")
        if (found := sha256_of(file)) != expected:
            raise Refused(
                f"{file}: found sha256 {found[:12]}..., {CARD} says {expected[:12]}...; it was changed, fetch the "
                "frozen set again, or make one of another name"
            )
    test = load_split(folder / "prepared", None, "test")
    extractor = load_extractor(folder / "extractor", test.spec)
    return Frozen(sha256_of(path), card, test, extractor, extractor.features(test.images))
