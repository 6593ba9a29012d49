"""The package of a published network has its weights, and makes images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks.published import dcgan
from ganlib.inference.package import open_package
from ganlib.inference.request import Request
from ganlib.inference.sample import Generator


def test_dcgan_has_the_weights_of_the_authors_code_and_makes_images(tmp_path: Path) -> None:
    """By hand: 16 of each of 100 x 512, 512 x 256, 256 x 128, 128 x 64 and 64 x 3."""
    folder = dcgan(tmp_path / "dcgan")
    weights = [numpy_helper.to_array(tensor) for tensor in onnx.load(folder / "generator.onnx").graph.initializer]
    expected = 16 * (100 * 512 + 512 * 256 + 256 * 128 + 128 * 64 + 64 * 3)
    assert sum(value.size for value in weights if value.ndim == 4) == expected

    images = Generator(open_package(folder), "cpu", threads=1).generate(Request(count=3)).images
    assert images.shape == (3, 64, 64, 3)
    assert len(np.unique(images.reshape(3, -1), axis=0)) == 3
