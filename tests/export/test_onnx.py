"""The exported graph: its signature, its words on itself, and what it must not contain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch

from ganlib.data.store import to_uint8
from ganlib.export.onnx import evaluating, export_generator, weights_sha256
from ganlib.inference.session import open_session
from ganlib.problems import Failed


@pytest.mark.parametrize(
    ("kind", "condition"),
    [("none", {}), ("class", {"class": ("tensor(int64)", None)}), ("text", {"text": ("tensor(float)", None, 5)})],
)
def test_signature_and_dynamic_batch(exported: Callable[[str], Path], kind: str, condition: dict) -> None:
    path = exported(kind)
    assert list(path.parent.iterdir()) == [path]  # one file, no external data
    session = open_session(path, "cpu", threads=1)
    images = {"images": ("tensor(uint8)", None, 8, 8, 3)}
    assert session.signature() == {"z": ("tensor(float)", None, 6)} | condition | images
    for batch in (1, 2, 3, 65, 300):
        inputs = {"z": np.ones((batch, 6), np.float32)}
        if kind == "class":
            inputs["class"] = np.zeros(batch, np.int64)
        elif kind == "text":
            inputs["text"] = np.ones((batch, 5), np.float32)
        assert session.run(**inputs).shape == (batch, 8, 8, 3)


def test_levels_are_those_of_to_uint8(tiny: SimpleNamespace, tmp_path: Path) -> None:
    """Every way of rounding: a network whose image is its latent."""
    family = tiny.Family("none", channels=1)
    family.networks["generator"] = torch.nn.Identity()
    card = family.card().model_copy(update={"size": 2})
    halves = np.array([-2.0, -1.0, -1 + 1 / 255, 0.0, 1 / 255, 1.0, 2.0, 0.999], np.float32)  # 1/255 is half a level
    z = np.resize(halves, (4, 6))
    family.sample = lambda z, condition: family.networks["generator"](z)[:, :4].reshape(-1, 1, 2, 2)
    export_generator(family, card, tmp_path / "generator.onnx", 20)
    expected = to_uint8(torch.from_numpy(z)[:, :4].reshape(-1, 1, 2, 2)).numpy()
    np.testing.assert_array_equal(open_session(tmp_path / "generator.onnx", "cpu").run(z=z), expected)
    assert {0, 128, 255} <= set(expected.ravel())


def test_the_file_says_what_it_is_and_not_where_it_was_made(
    tiny: SimpleNamespace, exported: Callable[[str], Path]
) -> None:
    family, path = tiny.Family("class"), exported("class")
    content = path.read_bytes()
    for trace in (str(Path(__file__).parent), "site-packages", "stack_trace", ".py"):
        assert trace.encode() not in content
    metadata = open_session(path, "cpu").metadata
    assert metadata["name"] == "tiny-class"
    assert metadata["family"] == "tiny"
    assert metadata["weights_sha256"] == weights_sha256(family)
    assert metadata["classes"] == '["daisy", "poppy", "rose"]'
    assert {entry.version for entry in onnx.load(path).opset_import if not entry.domain} == {20}


def test_weights_are_told_apart(tiny: SimpleNamespace) -> None:
    first, second = tiny.Family("none"), tiny.Family("none")
    assert weights_sha256(first) == weights_sha256(second)
    with torch.no_grad():
        second.networks["generator"].layers[1].running_mean[3] += 1e-6  # a buffer is part of what is exported
    assert weights_sha256(first) != weights_sha256(second)


def test_export_evaluates_says_nothing_and_leaves_the_family_as_it_was(
    tiny: SimpleNamespace, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    family = tiny.Family("none")
    family.networks["generator"].train()
    family.networks["discriminator"].eval()
    before = weights_sha256(family)
    export_generator(family, family.card(), tmp_path / "generator.onnx", 20)
    assert capfd.readouterr() == ("", "")
    assert family.networks["generator"].training
    assert not family.networks["discriminator"].training
    assert weights_sha256(family) == before
    z = np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32)
    session = open_session(tmp_path / "generator.onnx", "cpu", threads=1)
    np.testing.assert_array_equal(session.run(z=z)[1:], session.run(z=z[1:]))  # no statistics of the batch
    with pytest.raises(ZeroDivisionError), evaluating(family):
        assert not family.networks["generator"].training
        _ = 1 / 0
    assert family.networks["generator"].training


def test_random_numbers_inside_are_refused(tiny: SimpleNamespace, tmp_path: Path) -> None:
    family = tiny.Family("none")
    plain = family.sample
    family.sample = lambda z, condition: plain(z, condition) + torch.randn(z.shape[0], 1, 1, 1)
    with pytest.raises(Failed, match="tiny-none: family tiny draws random numbers in sample"):
        export_generator(family, family.card(), tmp_path / "generator.onnx", 20)
    assert not list(tmp_path.iterdir())


def test_what_torch_cannot_export_is_one_line(tiny: SimpleNamespace, tmp_path: Path) -> None:
    family = tiny.Family("none")
    plain = family.sample
    family.sample = lambda z, condition: plain(z if z.sum().item() > 0 else -z, condition)  # a branch on the values
    with pytest.raises(Failed, match=r"^tiny-none: torch cannot export family tiny: [^\n]+$"):
        export_generator(family, family.card(), tmp_path / "generator.onnx", 20)
    assert not list(tmp_path.iterdir())
