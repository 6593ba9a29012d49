"""params.yaml: what is refused is refused in one line that names the key, what was found and what would do."""

from __future__ import annotations

from pathlib import Path

import pytest

from ganlib.config import Choices, load, merge, resume_key
from ganlib.families.objective import penalty_names
from ganlib.families.registry import settings
from ganlib.losses.adversarial import LOSSES
from ganlib.problems import Refused
from ganlib.training.augment import AUGMENTATIONS

CHOICES = Choices(
    settings, {name: loss.smoothed is not None for name, loss in LOSSES.items()}, penalty_names(), AUGMENTATIONS
)
GOOD = "models: [a]\ntrain:\n  a: {family: gan-cls}\n"


def params(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    return path


def test_preset_lies_under_what_is_given(tmp_path: Path) -> None:
    text = "models: [a]\ntrain:\n  a: {family: gan-cls, network: {width: 16}, generator: {lr: 0.001}}\n"
    train = load(params(tmp_path, text), CHOICES).train["a"]
    assert train.captions == 4  # the paper's, from the preset
    assert train.network["width"] == 16
    assert train.network["discriminator_width"] == 64  # the default of the family's own settings
    assert (train.generator.lr, train.generator.betas) == (1e-3, (0.5, 0.999))
    assert train.discriminator.lr == 2e-4


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (GOOD + "ingest: {siez: 32}\n", r"ingest\.siez: unknown key; did you mean size\?"),
        (GOOD + "ingest: {size: big}\n", r"ingest\.size: found 'big'; input should be a valid integer"),
        (GOOD + "ingest: {size: 0}\n", r"ingest\.size: found 0; input should be greater than or equal to 1"),
        (GOOD + "ingest: {size: 48}\n", r"ingest: size: flowers are drawn at 32 or 64 pixels"),
        (GOOD + "ingest: {source: mnist}\n", r"ingest: path: missing; source mnist reads files"),
        (GOOD + "export: {opset: '20'}\n", r"export\.opset: found '20'; input should be a valid integer"),
        (GOOD + "tarin: {}\n", r"tarin: unknown key; did you mean train\?"),
        ("models: [b]\ntrain:\n  a: {family: dcgan}\n", r"models: found 'b', which `train` does not describe \(a\)"),
        ("models: [a, a]\ntrain:\n  a: {family: dcgan}\n", r"models: found \['a', 'a'\]; each name once"),
        ("models: []\ntrain:\n  A b: {family: dcgan}\n", r"train\.A b: a model's name is made of a-z, 0-9 and -"),
        ("models: []\ntrain:\n  extractor: {family: dcgan}\n", r"train\.extractor: .* is taken"),
        ("models: [a]\ntrain:\n  a: {family: dcgam}\n", r"family: found 'dcgam'; expected one of gan, dcgan"),
        ("models: [a]\ntrain:\n  a: {steps: 3}\n", r"train\.a\.family: missing"),
        ("models: [a]\ntrain:\n  a: {family: dcgan, network: {wdith: 3}}\n", r"train\.a\.network\.wdith: unknown key"),
        ("models: [a]\ntrain:\n  a: {family: dcgan, generator: {lr: -1.0}}\n", r"train\.a\.generator\.lr: found -1\.0"),
        ("models: [a]\ntrain:\n  a: {family: dcgan, loss: hing}\n", r"train\.a\.loss: found 'hing'; expected one of"),
        ("models: [a]\ntrain:\n  a: {family: dcgan, penalties: {r3: 1.0}}\n", r"train\.a\.penalties: found 'r3'"),
        (
            "models: [a]\ntrain:\n  a: {family: dcgan, penalty_every: 4}\n",
            r"penalty_every: found 4, and there are no pen",
        ),
        (
            "models: [a]\nembed: {encoder: none}\ntrain:\n  a: {family: gan-cls}\n",
            r"gan-cls reads captions, and embed\.enc",
        ),
        (
            "models: [a]\ningest: {classes: [x]}\ntrain:\n  a: {family: cgan}\n",
            r"found \['x'\]; train\.a tells two classes",
        ),
        (GOOD + "evaluate: {seed: -1}\n", r"evaluate\.seed: found -1; input should be greater than or equal to 0"),
        ("models: [a\n", r"not YAML"),
        ("- a\n", r"found list; expected sections"),
    ],
)
def test_refusals(tmp_path: Path, text: str, line: str) -> None:
    path = params(tmp_path, text)
    with pytest.raises(Refused, match=line) as caught:
        load(path, CHOICES)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no such file; run in a project's folder"):
        load(tmp_path / "params.yaml", CHOICES)


def test_sections_are_frozen(tmp_path: Path) -> None:
    loaded = load(params(tmp_path, GOOD), CHOICES)
    with pytest.raises(ValueError, match="frozen"):
        loaded.ingest.size = 64


def test_merge_replaces_penalties_whole() -> None:
    under = {"penalties": {"r1": 1.0}, "generator": {"lr": 1.0, "name": "adam"}}
    assert merge(under, {"penalties": {"r2": 2.0}, "generator": {"lr": 3.0}}) == {
        "penalties": {"r2": 2.0},
        "generator": {"lr": 3.0, "name": "adam"},
    }


def test_more_steps_go_on_from_the_same_checkpoints_unless_the_rate_decays(tmp_path: Path) -> None:
    def key(extra: str) -> dict[str, object]:
        text = f"models: [a]\ntrain:\n  a: {{family: dcgan{extra}}}\n"
        return resume_key(load(params(tmp_path, text), CHOICES).train["a"], False)

    assert key(", steps: 10") == key(", steps: 20, log_every: 3")
    assert key(", steps: 10, decay_from: 0.5") != key(", steps: 20, decay_from: 0.5")
    assert key("") != key(", seed: 1")
