"""Modes of Stacked MNIST: `python -m benchmarks.stacked_mnist MNIST_FOLDER`.

Every image has a random MNIST digit in each of its three channels, so that there are 1,000 modes (Metz et al. 2017,
Unrolled GAN, arXiv 1611.02163). A family trains on such images without labels for some minutes. Then the digits of
26,000 generated images are read, channel by channel, by a classifier that the extractor stage trains on MNIST; a mode
is found where one image shows it, and the divergence is KL(generated || uniform) in nats (Lin et al. 2018, PacGAN,
arXiv 1712.04086).

Images have 32 pixels, MNIST's 28 with a border of two zeros, or 28 by --size; the classifier reads the inner 28. Image
i is a function of (seed, i). Random digits are not quite uniform, as MNIST has more ones than fives: three of them have
a divergence of 0.005 by this alone. Beside the generated images stand as many real ones of the test split, read alike,
and what uniform modes have in the mean for so many images, if these are many more than the modes.

--out gets table.txt, the grids generated.png and real.png, and the training's history.jsonl; digits/ and project/ are
ordinary projects' folders. Exit codes: 0 it is measured, 1 the work failed, 2 the request was wrong.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.accelerator import (
    GRID_COLUMNS,
    GRID_ROWS,
    LIMITED,
    aligned,
    mapping,
    open_project,
    positive,
    train_for,
    whole,
)
from ganlib import stages
from ganlib.card import DatasetSpec
from ganlib.data.store import Split, load_split
from ganlib.evaluation.features import Extractor, load_extractor
from ganlib.evaluation.modes import Modes
from ganlib.files import whole_folder, write_whole
from ganlib.models import sampler
from ganlib.problems import Failed, Refused
from ganlib.project import Project, Report
from ganlib.training.grid import save_grid

MODES = 1000
NAME = "stacked"
PUBLISHED = (  # of 26,000 images, by their authors' networks, most of them as Huang et al. 2025 list them
    ("DCGAN", "99", "3.40"),
    ("Unrolled GAN", "48.7", "4.32"),
    ("VEEGAN", "150", "2.95"),
    ("WGAN-GP", "959", "0.73"),
    ("PacGAN", "992", "0.28"),
    ("StyleGAN2", "940", "0.42"),
    ("PresGAN", "1000", "0.12"),
    ("DDGAN", "1000", "0.071"),
    ("MEG", "1000", "0.031"),
    ("R3GAN (arXiv 2501.05441)", "1000", "0.029"),
    ("its small networks: relativistic + R1 + R2", "1000", "0.078"),
    ("its small networks: non-saturating + R1 + R2", "693", "0.927"),
)


def stack(images: np.ndarray, labels: np.ndarray, count: int, seed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of three random digits each; image i is a function of (seed, i), however many there are.

    Args:
        images: digits `(N, S, S)` uint8.
        labels: `(N,)`, which digit each is.
        count: images to make.
        seed: of the choice.
        size: pixels of a side, S and an even number of zeros.

    Returns:
        images `(count, size, size, 3)` uint8, and the digits of their channels `(count, 3)`.

    Raises:
        Refused: for a size that has no such border.
    """
    border = size - images.shape[1]
    if border < 0 or border % 2:
        raise Refused(f"--size: found {size}; take {images.shape[1]}, or an even number of pixels more")
    uniform = np.random.Generator(np.random.Philox(key=seed)).random((count, 3))  # of each number one draw of 64 bits
    chosen = (uniform * len(images)).astype(np.int64)
    stacked = np.zeros((count, size, size, 3), dtype=np.uint8)
    inner = slice(border // 2, size - border // 2)
    for channel in range(3):
        stacked[:, inner, inner, channel] = images[chosen[:, channel]]
    return stacked, labels[chosen]


def digits_of(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Digits `(N, S, S)` uint8 of a split of MNIST, and which they are, `(N,)` int64.

    Raises:
        Refused: where its classes are not the ten digits.
    """
    if split.spec.classes != tuple("0123456789"):
        raise Refused(f"MNIST_FOLDER: found the classes {', '.join(split.spec.classes)}; expected the digits 0 to 9")
    return np.asarray(split.images)[..., 0], split.labels  # class k is the digit k


def write_prepared(images: np.ndarray, digits: np.ndarray, seed: int, out: Path) -> None:
    """Write stacked images as a prepared dataset, all of it for training, with no classes.

    Args:
        images: `(N, H, W, 3)` uint8.
        digits: of the channels, `(N, 3)`.
        seed: that they were made from.
        out: the folder, replaced whole.
    """
    count, size = len(images), images.shape[1]
    items = {
        "id": [f"{number:06d}" for number in range(count)],
        "split": "train",
        "label": np.full(count, -1, dtype=np.int64),
        "captions": [[] for _ in range(count)],
        "source": ["".join(map(str, row)) for row in digits.tolist()],
    }
    spec = DatasetSpec(
        name="stacked-mnist",
        size=size,
        channels=3,
        counts={"train": count, "test": 0},
        mean=tuple(images[..., channel].mean(dtype=np.float64).item() for channel in range(3)),
        std=tuple(images[..., channel].std(dtype=np.float64).item() for channel in range(3)),
        parameters={"count": count, "seed": seed},
    )
    with whole_folder(out) as folder:
        np.save(folder / "images.npy", images)
        pd.DataFrame(items).to_parquet(folder / "items.parquet", index=False)
        spec.save(folder / "dataset.json")


def read_digits(extractor: Extractor, images: np.ndarray) -> np.ndarray:
    """The digit that the classifier sees in each channel of images `(N, H, W, 3)` uint8, `(N, 3)` int64."""
    border = (images.shape[1] - extractor.card.size) // 2
    inner = slice(border, border + extractor.card.size)
    channels = [images[:, inner, inner, channel, None] for channel in range(3)]
    return np.stack([extractor.label_logits(extractor.features(part)).argmax(axis=1) for part in channels], axis=1)


def count_modes(digits: np.ndarray) -> Modes:
    """The images of each of the 1,000 modes, from digits `(N, 3)`: mode 100 a + 10 b + c has the digits a, b, c."""
    return Modes(np.bincount(digits @ np.array([100, 10, 1]), minlength=MODES), len(digits))


def table(family: str, generated: Modes, real: Modes) -> str:
    """What was found beside what real images, uniform modes and published models have."""

    def row(name: str, modes: Modes) -> tuple[str, str, str]:
        return f"{name}, {modes.samples:,} images", str(modes.found), f"{modes.reverse_kl:.4f}"

    uniform = f"uniform modes, {real.samples:,} images, about", "", f"{(MODES - 1) / (2 * real.samples):.4f}"
    found = [row(f"{family}, generated", generated), row("real, of the test split", real), uniform]
    return aligned([("images", "modes", "KL"), *found, ("published, 26,000 images", "", ""), *PUBLISHED], left=1)


def digits_project(mnist: Path, folder: Path, steps: int) -> Project:
    """A project of grey MNIST with 28 pixels, whose extractor is a classifier of digits."""
    ingest = {"source": "mnist", "path": str(mnist.absolute()), "size": 28, "channels": 1}
    content = {"models": [], "ingest": ingest, "embed": {"encoder": "none"}, "train": {}, "extractor": {"steps": steps}}
    return open_project(folder, content)


def run(given: argparse.Namespace, report: Report) -> None:
    """Train the classifier and the family, measure and write what is found.

    Raises:
        Refused: where the request is wrong or the family does not suit such data.
        Failed: where training diverged.
    """
    batch = {} if given.batch is None else {"batch": given.batch}
    decided = {"family": given.family, "device": given.device, "precision": given.precision, "seed": given.seed}
    content = {
        "models": [NAME],
        "embed": {"encoder": "none"},
        "train": {NAME: {**LIMITED, **given.train, **batch, **decided}},
    }
    project = open_project(given.out / "project", content)  # a mistake in it is refused before work begins
    digits = digits_project(given.mnist, given.out / "digits", given.classifier_steps)
    stages.ingest(digits, report)
    train, test = (digits_of(load_split(digits.prepared, None, split)) for split in ("train", "test"))
    images, shown = stack(*train, given.count, given.seed, given.size)
    write_prepared(images, shown, given.seed, project.prepared)
    stages.extractor(digits, report)
    judge = load_extractor(digits.extractor)
    with tempfile.TemporaryDirectory(dir=given.out) as folder:
        engine = train_for(project, NAME, given.minutes, Path(folder), report)
        shutil.copy(Path(folder) / "history.jsonl", given.out)
    with engine.averaged() as family:
        made = sampler(family)(None, given.samples, given.seed)
    real, _ = stack(*test, given.samples, given.seed, given.size)
    for name, pictures in (("generated", made), ("real", real)):
        columns = min(len(pictures), GRID_COLUMNS)
        shown_rows = min(len(pictures) // columns, GRID_ROWS)
        save_grid(pictures[: shown_rows * columns], columns, given.out / f"{name}.png")
    share, steps = judge.card.test["label"], engine.step
    found = [count_modes(read_digits(judge, pictures)) for pictures in (made, real)]
    text = (
        f"{len(images):,} images of {given.size} x {given.size} x 3; {given.family} on {engine.hardware} for "
        f"{given.minutes:g} min: {steps:,} steps of {engine.config.batch}, "
        f"{steps * engine.config.batch / 1000:,.1f} kimg\n"
        f"the classifier reads {100 * share:.2f}% of the test digits, and so about {100 * share**3:.1f}% of triples\n\n"
        f"{table(given.family, *found)}"
    )
    write_whole(given.out / "table.txt", f"{text}\n".encode())
    print(text)
    report(f"table, grids and log: {given.out}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mnist", type=Path, metavar="MNIST_FOLDER", help="folder of the IDX files")
    parser.add_argument("--family", default="r3gan", help="a name of `ganlib list families` that needs no classes")
    parser.add_argument("--minutes", type=positive, default=20.0, help="of training")
    parser.add_argument("--samples", type=whole, default=26_000, help="images to read; published figures have 26,000")
    parser.add_argument("--count", type=whole, default=60_000, help="images to train on")
    parser.add_argument("--size", type=whole, default=32, help="pixels of a side: 28, or more with a border of zeros")
    parser.add_argument("--batch", type=whole, help="images a step, in the place of the family's own")
    parser.add_argument("--train", type=mapping, default={}, help="of the `train` section, as {network: {width: 64}}")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto", help="of training")
    parser.add_argument("--classifier-steps", type=whole, default=600, help="training steps of the classifier")
    parser.add_argument("--seed", type=int, default=0, help="of the images, the training and the samples")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: CUDA if there is one")
    parser.add_argument("--out", type=Path, default=Path("build/stacked"), help="folder for what is found")
    try:
        run(parser.parse_args(arguments), lambda line: print(line, file=sys.stderr, flush=True))
    except (Refused, Failed) as error:
        print(f"benchmarks.stacked_mnist: {error}", file=sys.stderr)
        return 2 if isinstance(error, Refused) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
