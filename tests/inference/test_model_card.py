"""Model cards: what they say of a package, to the letter, and what they leave out."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

from flows.registry import publish
from ganlib.card import Latency, ModelCard, Parent, Variant
from ganlib.inference.model_card import markdown
from ganlib.inference.package import open_package
from ganlib.problems import Refused
from tests.flows.releasing import bare_machine, build_project

DATA, EXTRACTOR, STATE = "d" * 64, "e" * 64, "5" * 64
COMMIT, FIRST = "a" * 40, "b" * 40
COMMON = {"data_sha256": DATA, "extractor_sha256": EXTRACTOR, "resize": "none", "seed": 0, "split": "test"}
EVERYTHING: dict[str, Any] = {
    "steps": 5000,
    "images_seen": 160_000,
    "best": {"sliced_wasserstein_distance": 0.012345, "step": 4500.0},
    "parameters": {"family": "tiny", "generator": {"lr": 0.001, "betas": [0.0, 0.99]}, "augment": None},
    "data": {"prepared/images.npy": DATA},
    "parent": Parent(folder="models/champion", sha256=STATE, name="first", commit=FIRST),
    "environment": {"python": "3.11.7", "platform": "Linux-x86_64", "hardware": "cpu in bfloat16"},
    "commit": f"{COMMIT}-dirty",
    "licence": "Apache-2.0",
    "metrics": {"frechet_distance": 12345.678, "frechet_distance_floor": 3.82907, "label_agreement": 1.0},
    "protocol": {
        "frechet_distance": {**COMMON, "floor": 3.82907, "generated": 2000, "real": 604},
        "frechet_distance_floor": {**COMMON, "real": 604, "real_train": 2000},
        "label_agreement": {
            **COMMON, "count": 1000, "interval": [0.99617, 1.0], "interval_kind": "Wilson 95%", "on_real": 0.985,
            "chance": None,
        },
        "diversity": {**COMMON, "not_measured": "too few images"},
    },
    "variants": {
        "int8": Variant(
            file="generator.int8.onnx", psnr=35.644, metric="frechet_distance", value=3.063, reference=3.124, bound=3.28
        )
    },
    "preferred": {"cpu": "int8"},
    "latency": Latency(
        machine="AMD EPYC, 2 cores", threads=1,
        milliseconds={"float32/1": 0.74444, "float32/64": 30.9231, "int8/1": 0.40029, "int8/64": 1234.5},
    ),
    "parity": {"error/1": 1.9073e-6, "error/64": 1e-6, "level_difference/1": 0.0, "level_difference/64@0.05": 1.0},
}  # fmt: skip


@pytest.fixture
def full(build: Callable[..., Path], reseal: Callable[[Path, ModelCard], None]) -> Path:
    """A released package whose card has everything."""
    folder = build("class")
    (folder / "generator.int8.onnx").write_bytes(b"8" * 1_234_567)
    reseal(folder, open_package(folder).card.model_copy(update=EVERYTHING))
    (folder / "release.json").write_text(json.dumps({"name": "flowers", "version": "v3.0.0", "commit": FIRST}))
    return folder


def ganlib(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ganlib", "card", *map(str, arguments)],
        cwd=folder, text=True, capture_output=True, check=False,
    )  # fmt: skip


def test_a_card_says_everything_that_is_known(full: Path) -> None:
    files = open_package(full).card.files
    small = files["generator.onnx"]
    assert 1000 < small.bytes < 999_000
    assert (
        markdown(full)
        == f"""\
# tiny-class

Makes RGB images of 8 x 8 pixels of 3 classes: daisy, poppy, rose.

- **Family:** `tiny`
- **Latent:** 6 values of N(0, 1)
- **Licence:** Apache-2.0

## Release

- **Version:** `v3.0.0`
- **Name:** `flowers`
- **Commit:** `{FIRST}`

## Lineage

- **Trained upon commit:** `{COMMIT}`, with changes that were committed later
- **Began:** with the networks of `models/champion`, of `first`, trained by commit `{FIRST}`, sha256 `{STATE}`
- **Trained for:** 5,000 steps, 160,000 images seen
- **Weights with the best:** `sliced_wasserstein_distance` 0.01235 after step 4,500
- **Environment:** python 3.11.7, platform Linux-x86_64, hardware cpu in bfloat16

| Data | sha256 |
| --- | --- |
| `prepared/images.npy` | `{DATA}` |

## Parameters

```yaml
train:
  tiny-class:
    family: tiny
    generator:
      lr: 0.001
      betas: [0.0, 0.99]
    augment: null
```

## Metrics

| Metric | Value | Interval | Real images get | Measured with |
| --- | --- | --- | --- | --- |
| `frechet_distance` | 12,346 |  | 3.829 | generated 2000, real 604 |
| `frechet_distance_floor` | 3.829 |  |  | real 604, real train 2000 |
| `label_agreement` | 1 | 0.9962 to 1 (Wilson 95%) | 0.985 | count 1000 |

- **Data sha256:** `{DATA}`
- **Extractor sha256:** `{EXTRACTOR}`
- **Resize:** none
- **Seed:** 0
- **Split:** test
- **`diversity` was not measured:** too few images

## Files

| File | Size | sha256 |
| --- | --- | --- |
| `generator.int8.onnx` | 1.23 MB | `{files["generator.int8.onnx"].sha256}` |
| `generator.onnx` | {small.bytes / 1000:.3g} kB | `{small.sha256}` |

| Precision | File | `auto` takes it on | PSNR to float32 | Held to | ms for 1 | ms for 64 |
| --- | --- | --- | --- | --- | --- | --- |
| float32 | `generator.onnx` | cuda, tensorrt |  |  | 0.744 | 30.9 |
| int8 | `generator.int8.onnx` | cpu | 35.6 dB | `frechet_distance` 3.063, float32 3.124, at most 3.28 | 0.4 | 1,234 |

- **Milliseconds:** the median run on AMD EPYC, 2 cores, 1 thread
- **Parity, ONNX against torch:** largest error of images in [-1, 1] = 1.907e-06, \
largest difference in levels of 255 = 1; batches of 1, 64, truncation 1, 0.05"""
    )


def test_what_a_card_does_not_have_is_left_out(build: Callable[..., Path]) -> None:
    folder = build("none", channels=1)
    file = open_package(folder).card.files["generator.onnx"]
    assert (
        markdown(folder)
        == f"""\
# tiny-none

Makes grey images of 8 x 8 pixels.

- **Family:** `tiny`
- **Latent:** 6 values of N(0, 1)

## Lineage

- **Began:** anew
- **Trained for:** 1 step, 1 image seen

## Files

| File | Size | sha256 |
| --- | --- | --- |
| `generator.onnx` | {file.bytes / 1000:.3g} kB | `{file.sha256}` |"""
    )
    assert "Makes RGB images of 8 x 8 pixels from a prompt.\n" in markdown(build("text"))


@pytest.mark.parametrize("name", sorted(EVERYTHING))
def test_no_part_needs_another_one(full: Path, reseal: Callable[[Path, ModelCard], None], name: str) -> None:
    card = open_package(full).card
    fields = ModelCard.model_fields
    empty = {"steps": 0, "images_seen": 0} | {
        key: field.get_default() for key, field in fields.items() if not field.is_required()
    }
    reseal(full, card.model_copy(update={name: empty.get(name, {})}))
    said = markdown(full)
    assert "None" not in said and "{}" not in said and ":** \n" not in said


@pytest.mark.parametrize(
    ("parent", "parameters", "line"),
    [
        (None, {"start_from": None}, "anew"),
        (None, {"start_from": "models/old"}, "with the networks of `models/old`"),
        (Parent(folder="models/x", sha256=STATE), {}, f"with the networks of `models/x`, sha256 `{STATE}`"),
    ],
)
def test_the_parent_is_told_as_far_as_it_is_known(
    full: Path, reseal: Callable[[Path, ModelCard], None], parent: Parent | None, parameters: dict[str, Any], line: str
) -> None:
    changes = {"parent": parent, "parameters": parameters}
    reseal(full, open_package(full).card.model_copy(update=changes))
    assert f"\n- **Began:** {line}\n" in markdown(full)


def test_a_card_of_before_parents_is_read(full: Path) -> None:
    content = json.loads((full / "card.json").read_text())
    del content["parent"]
    (full / "card.json").write_text(json.dumps(content))
    assert open_package(full).card.parent is None


def test_names_are_shown_as_they_are(full: Path, reseal: Callable[[Path, ModelCard], None]) -> None:
    """Read back by another project's Markdown parser."""
    classes = ("a|b", "*x* [y](z) <b> &amp; ~~w~~", "_c_ d_e `f` \\| g\\")
    metric = "share/`a|b``"
    changes = {
        "name": "*tiny*\nclass",
        "classes": classes,
        "metrics": {metric: 0.5},
        "protocol": {metric: {"split": "te|st", "on_real": True}},
        "parameters": {"note": "````", "classes": list(classes)},
    }
    reseal(full, open_package(full).card.model_copy(update=changes))
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown(full))
    shown = [
        "".join(child.content for child in token.children or () if child.type in ("text", "code_inline"))
        for token in tokens
        if token.type == "inline"
    ]
    assert shown[0] == "*tiny* class"
    assert shown[1] == f"Makes RGB images of 8 x 8 pixels of 3 classes: {', '.join(classes)}."
    at = shown.index(metric)
    assert shown[at : at + 3] == [metric, "0.5", "yes"]
    assert "Split: te|st" in shown
    assert not [child for token in tokens for child in token.children or () if child.type in ("em_open", "link_open")]
    (block,) = (token for token in tokens if token.type == "fence")
    assert yaml.safe_load(block.content) == {"train": {"*tiny*\nclass": changes["parameters"]}}


def test_an_unreadable_package_is_one_line(full: Path, tmp_path: Path) -> None:
    (full / "release.json").write_text('{"name": "flowers", "version": "v3.0.0"}')
    with pytest.raises(Refused, match=r"release\.json: commit: missing, .*; fetch the release again$"):
        markdown(full)
    (full / "release.json").write_text("[")
    with pytest.raises(Refused, match=r"release\.json: "):
        markdown(full)
    (full / "generator.onnx").write_bytes(b"other")
    for arguments, line in (
        ((full,), f"{full / 'generator.onnx'}: found 5 bytes, the card says "),
        ((full, "--json"), f"{full / 'generator.onnx'}: found 5 bytes, the card says "),
        (("nowhere",), "nowhere: no such folder; "),
        (("tiny@prod",), "tiny@prod: no such folder; for a release say whose with --registry REPOSITORY"),
    ):
        refused = ganlib(*arguments, folder=tmp_path)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr.startswith(f"ganlib: {line}") and refused.stderr.count("\n") == 1


def test_the_command_prints_the_card_or_its_file(full: Path, tmp_path: Path) -> None:
    shown = ganlib(full, folder=tmp_path)
    assert (shown.returncode, shown.stderr, shown.stdout) == (0, "", markdown(full) + "\n")
    assert ganlib(full, "--json", folder=tmp_path).stdout == (full / "card.json").read_text()


def test_a_release_is_named_by_its_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in bare_machine().items():
        monkeypatch.setenv(variable, value)
    project = build_project(tmp_path / "project")
    commit = project.export("tiny")
    publish(project.folder, "tiny", commit, ["prod"])
    shown = ganlib("tiny@prod", "--registry", project.address, "--cache", "cache", folder=tmp_path)
    assert shown.returncode == 0, shown.stderr
    release = re.search(r"\n## Release\n\n(.*?)\n\n## Lineage\n", shown.stdout, re.DOTALL)
    assert release is not None
    assert release[1] == f"- **Version:** `v1.0.0`\n- **Name:** `tiny`\n- **Commit:** `{commit}`"
    assert shown.stdout == markdown(tmp_path / "cache" / "tiny" / "v1.0.0") + "\n"
