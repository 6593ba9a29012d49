"""The benchmark of Stacked MNIST: how images are stacked and read, how modes are counted, and the whole command."""

from __future__ import annotations

import os
from math import log
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from benchmarks.stacked_mnist import PUBLISHED, count_modes, digits_of, main, read_digits, stack, table, write_prepared
from ganlib.data.idx import read_idx
from ganlib.data.store import load_split
from ganlib.evaluation.features import load_extractor
from ganlib.evaluation.modes import Modes
from ganlib.families.registry import family
from ganlib.problems import Refused
from tests.conftest import make_split
from tests.data.test_idx import idx

REAL = Path(os.environ.get("GANLIB_REAL_DATA", ""))
FLOOR = 999 / 52_000  # mean divergence of 26,000 images of uniform modes


def numbered(count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Digits of 4 x 4 pixels: number n is filled with n + 1 and shows the digit n % 10."""
    number = np.arange(count, dtype=np.uint8)
    return np.broadcast_to(number[:, None, None] + np.uint8(1), (count, 4, 4)), number.astype(np.int64) % 10


def test_each_channel_of_an_image_is_the_digit_that_it_says() -> None:
    images, labels = numbered()

    stacked, digits = stack(images, labels, 500, seed=3, size=8)

    assert stacked.shape == (500, 8, 8, 3)
    inner = stacked[:, 2:6, 2:6]
    assert np.array_equal(inner, np.broadcast_to(inner[:, :1, :1], inner.shape))  # a whole digit, unchanged
    assert np.array_equal(labels[inner[:, 0, 0].astype(np.int64) - 1], digits)
    assert stacked.astype(np.int64).sum() == 16 * inner[:, 0, 0].astype(np.int64).sum()  # nothing but zeros around it
    assert len(np.unique(inner[:, 0, 0])) == 200  # all are drawn from
    assert np.abs(np.corrcoef(inner[:, 0, 0].T) - np.eye(3)).max() < 4 / 500**0.5  # and the channels apart


def test_an_image_is_a_function_of_seed_and_index() -> None:
    images, labels = numbered()
    few, many, other = (stack(images, labels, count, seed, size=4)[0] for count, seed in ((10, 1), (99, 1), (10, 2)))

    assert np.array_equal(few, many[:10])
    assert not np.array_equal(few, other)
    assert len(np.unique(many[:, 0, 0], axis=0)) == 99


@pytest.mark.parametrize("size", [3, 7])
def test_a_size_without_an_even_border_is_refused(size: int) -> None:
    with pytest.raises(Refused, match=f"--size: found {size}; take 4, or an even number of pixels more"):
        stack(*numbered(), 1, seed=0, size=size)


def test_modes_and_divergence_by_hand() -> None:
    modes = count_modes(np.array([[0, 0, 0], [0, 2, 1], [9, 9, 9], [9, 9, 9]]))

    assert np.flatnonzero(modes.counts).tolist() == [0, 21, 999]
    assert (modes.found, modes.samples, modes.high_quality, len(modes.counts)) == (3, 4, 1.0, 1000)
    # p = (1/4, 1/4, 1/2) against 1/1000 each
    assert modes.reverse_kl == pytest.approx(log(250) / 2 + log(500) / 2, rel=1e-12)
    every = np.stack(np.unravel_index(np.arange(1000), (10, 10, 10)), axis=1)
    assert count_modes(every).reverse_kl == pytest.approx(0, abs=1e-12)


def test_digits_that_are_all_as_frequent_have_the_divergence_of_their_number() -> None:
    _, digits = stack(*numbered(), 26_000, seed=0, size=4)

    modes = count_modes(digits)

    # 2 n KL is nearly chi-squared with 999 degrees of freedom: its deviation is sqrt(2 * 999)
    assert modes.found == 1000
    assert modes.reverse_kl == pytest.approx(FLOOR, abs=4 * (2 * 999) ** 0.5 / 52_000)


def test_what_is_written_is_a_prepared_dataset_without_classes(tmp_path: Path) -> None:
    stacked, digits = stack(*numbered(), 30, seed=5, size=8)

    write_prepared(stacked, digits, 5, tmp_path / "prepared")

    split = load_split(tmp_path / "prepared", None, "train")
    assert np.array_equal(split.images, stacked)
    assert split.spec.classes == ()
    assert split.items["source"].tolist() == [f"{a}{b}{c}" for a, b, c in digits]
    assert split.spec.mean == pytest.approx(stacked.reshape(-1, 3).mean(axis=0), rel=1e-12)
    assert split.spec.std == pytest.approx(stacked.reshape(-1, 3).std(axis=0), rel=1e-12)


def test_classes_that_are_not_the_digits_are_refused() -> None:
    with pytest.raises(Refused, match="found the classes class 0, class 1; expected the digits"):
        digits_of(make_split(classes=2, channels=1))


def test_the_table_has_the_published_figures_beside() -> None:
    generated, real = np.zeros(1000, dtype=np.int64), np.full(1000, 26)
    generated[:2] = 13_000

    head, *lines = table("r3gan", Modes(generated, 26_000), Modes(real, 26_000)).splitlines()

    assert head.split() == ["images", "modes", "KL"]
    assert [line.rsplit(maxsplit=2) for line in lines[:2]] == [
        ["r3gan, generated, 26,000 images", "2", "6.2146"],  # log 500
        ["real, of the test split, 26,000 images", "1000", "0.0000"],
    ]
    assert lines[2].split() == ["uniform", "modes,", "26,000", "images,", "about", "0.0192"]
    assert [tuple(line.rsplit(maxsplit=2)) for line in lines[4:]] == list(PUBLISHED)


@pytest.fixture(scope="module")
def mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """IDX files of ten easy shapes: the digit d is a light square in the d-th of ten places, on dark noise."""
    folder, random = tmp_path_factory.mktemp("mnist"), np.random.default_rng(0)
    for prefix, count in (("train", 300), ("t10k", 50)):
        labels = np.arange(count, dtype=np.uint8) % 10
        images = random.integers(0, 40, (count, 28, 28), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            top, left = 2 + 13 * (label // 5), 1 + 5 * (label % 5)
            image[top : top + 11, left : left + 5] += 200
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(labels))
    return folder


def test_the_command_measures_generated_and_real_images(
    mnist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    section = yaml.safe_dump({**family("dcgan").tiny, "steps": 3, "log_every": 1})
    given = ["--family", "dcgan", "--train", section, "--count", "40", "--samples", "64", "--classifier-steps", "40"]

    code = main([str(mnist), "--out", str(tmp_path), "--device", "cpu", "--precision", "float32", *given])

    printed = capsys.readouterr().out
    about, classifier, _, _, generated, real, *_ = printed.splitlines()
    assert code == 0
    assert (tmp_path / "table.txt").read_text() == printed
    assert about == "40 images of 32 x 32 x 3; dcgan on cpu in float32 for 20 min: 3 steps of 8, 0.0 kimg"
    assert classifier == "the classifier reads 100.00% of the test digits, and so about 100.0% of triples"
    assert generated.startswith("dcgan, generated, 64 images ")
    assert 1 <= int(generated.split()[-2]) <= 64
    digits = digits_of(load_split(tmp_path / "digits" / "data" / "prepared", None, "test"))
    stacked, shown = stack(*digits, 64, seed=0, size=32)
    expected = count_modes(shown)
    assert real.split()[-2:] == [str(expected.found), f"{expected.reverse_kl:.4f}"]
    judge = load_extractor(tmp_path / "digits" / "models" / "extractor")
    assert np.array_equal(read_digits(judge, stacked), shown)  # each channel in its place
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"digits", "project", "table.txt", "history.jsonl", "generated.png", "real.png"}
    for name in ("generated", "real"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.size == (800, 800)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--family", "biggan"], "family: biggan needs two classes or more, and this dataset has 0"),
        (["--family", "nothing"], "train.stacked.family: found 'nothing'; expected one of"),
        (["--size", "31"], "--size: found 31; take 28, or an even number of pixels more"),
        (["--count", "100"], "found 128; the train split has 100 images"),
    ],
)
def test_a_wrong_request_is_one_line(
    given: list[str], words: str, mnist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = yaml.safe_dump({"network": family("dcgan").tiny["network"]}) if "biggan" not in given else "{}"
    common = ["--family", "dcgan", "--train", network, "--count", "200", "--classifier-steps", "1", "--device", "cpu"]

    code = main([str(mnist), "--out", str(tmp_path), *common, *given])

    assert code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("benchmarks.stacked_mnist: ")
    assert words in last


@pytest.mark.skipif("GANLIB_REAL_DATA" not in os.environ, reason="GANLIB_REAL_DATA names no folder")
def test_real_digits_are_a_little_above_the_floor() -> None:
    files = (REAL / "mnist" / f"t10k-{name}-ubyte.gz" for name in ("images-idx3", "labels-idx1"))
    images, labels = (read_idx(file) for file in files)
    share = np.bincount(labels) / len(labels)

    modes = count_modes(stack(images, labels.astype(np.int64), 26_000, seed=0, size=32)[1])

    own = 3 * float(np.sum(share * np.log(10 * share)))  # of three independent digits: the divergences add up
    assert own == pytest.approx(0.00521, abs=5e-6)
    assert modes.found == 1000
    assert modes.reverse_kl == pytest.approx(FLOOR + own, abs=4 * (2 * 999) ** 0.5 / 52_000)
