"""The stage `embed` on a prepared dataset of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnxruntime
import pandas as pd
import pytest

from ganlib.card import DatasetSpec
from ganlib.config import Embed
from ganlib.data.store import load_split
from ganlib.files import sha256_of
from ganlib.problems import Failed, Refused
from ganlib.text import skip_thought
from ganlib.text.embed import ENCODERS, embed
from ganlib.text.tokenizer import SPECIAL, UNKNOWN, Tokenizer, split

SHORT = Embed(dimension=8, word_dimension=6, steps=4, batch=4, vocabulary=30, max_words=6)
FILES = ["embeddings.npy", "encoder.json", "text_encoder.onnx", "tokenizer.json"]
CAPTIONS: list[tuple[str, list[str]]] = [
    ("train", ["a red rose", "one rose in red", "the rose"]),
    ("test", ["a red peony, red and puce", "a rose"]),
    ("train", []),
    ("train", ["a blue iris"]),
    ("test", []),
    ("train", ["a blue iris in a tall vase of glass", "an iris"]),
]


def prepare(folder: Path, items: list[tuple[str, list[str]]]) -> Path:
    """Write a prepared dataset of grey images whose value is their place."""
    folder.mkdir()
    count = len(items)
    np.save(folder / "images.npy", np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(4, 1).repeat(4, 2))
    pd.DataFrame(
        {
            "id": [str(i) for i in range(count)],
            "split": [name for name, _ in items],
            "label": np.full(count, -1, dtype=np.int64),
            "captions": [captions for _, captions in items],
            "source": "made up",
        }
    ).to_parquet(folder / "items.parquet", index=False)
    counts = {name: sum(of == name for of, _ in items) for name in ("train", "test")}
    DatasetSpec(name="folder", size=4, channels=1, counts=counts, mean=(0.0,), std=(1.0,)).save(folder / "dataset.json")
    return folder


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    return prepare(tmp_path / "prepared", CAPTIONS)


def facts(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "encoder.json").read_text())


def test_what_is_written_fits_the_prepared_data(prepared: Path, tmp_path: Path) -> None:
    out, lines = tmp_path / "embedded", []
    embed(SHORT, prepared, out, lines.append)
    assert sorted(file.name for file in out.iterdir()) == FILES
    embeddings = np.load(out / "embeddings.npy")
    assert embeddings.dtype == np.float32
    flat = [caption for _, captions in CAPTIONS for caption in captions]
    session = onnxruntime.InferenceSession(out / "text_encoder.onnx", providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.load(out / "tokenizer.json")
    for caption, row in zip(flat, embeddings, strict=True):  # one prompt at a time gives the very rows of the file
        ids, lengths = tokenizer.encode([caption])
        assert np.array_equal(session.run(None, {"ids": ids, "lengths": lengths})[0][0], row)
    assert len(np.unique(embeddings, axis=0)) == len(flat)

    test = load_split(prepared, out, "test")
    assert test.embeddings is not None
    assert test.first_caption.tolist() == [0, 2, 2]
    assert np.array_equal(test.embeddings, embeddings[3:5])
    assert "embed: 8 captions" in lines[-1]


def test_encoder_json_says_what_was_done(prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / "embedded"
    embed(SHORT, prepared, out, lambda line: None)
    found = facts(out)
    assert found["encoder"] == "skip-thought"
    assert found["dimension"] == 8
    assert found["vocabulary"] == len(Tokenizer.load(out / "tokenizer.json"))
    assert found["unknown_words"] == pytest.approx(3 / 8)  # peony, and, puce of a red peony red and puce, a rose
    assert found["captions_without_words"] == 0
    assert 1 < found["loss"] < 4
    assert Embed.model_validate(found["parameters"]) == SHORT
    assert found["files"] == {name: sha256_of(out / name) for name in FILES if name != "encoder.json"}


def test_vocabulary_and_training_are_of_the_train_split_alone(prepared: Path, tmp_path: Path) -> None:
    embed(SHORT, prepared, tmp_path / "first", lambda line: None)
    words = set(Tokenizer.load(tmp_path / "first" / "tokenizer.json").vocabulary)
    assert words == {*SPECIAL, *split("a red rose, one in the blue iris, tall vase of glass, an")}
    changed = [(of, ["something else"] * len(texts) if of == "test" else texts) for of, texts in CAPTIONS]
    embed(SHORT, prepare(tmp_path / "changed", changed), tmp_path / "second", lambda line: None)
    for name in ("tokenizer.json", "text_encoder.onnx"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    assert facts(tmp_path / "second")["unknown_words"] == 1.0


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(prepared: Path, tmp_path: Path) -> None:
    for name, config in (("a", SHORT), ("b", SHORT), ("c", SHORT.model_copy(update={"seed": 1}))):
        embed(config, prepared, tmp_path / name, lambda line: None)
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert (tmp_path / "a" / "embeddings.npy").read_bytes() != (tmp_path / "c" / "embeddings.npy").read_bytes()


def test_without_captions_an_encoder_is_refused_and_none_is_not(tmp_path: Path) -> None:
    prepared, out = prepare(tmp_path / "prepared", [("train", []), ("test", ["a rose"])]), tmp_path / "embedded"
    with pytest.raises(Refused, match=r"embed\.encoder: found 'skip-thought'.*set embed\.encoder to none"):
        embed(SHORT, prepared, out, lambda line: None)
    assert not out.exists()
    embed(Embed(encoder="none"), prepared, out, lambda line: None)
    assert [file.name for file in out.iterdir()] == ["encoder.json"]
    assert facts(out) == {"encoder": "none", "dimension": 0}
    assert load_split(prepared, out, "train").embeddings is None


def test_none_leaves_nothing_of_an_earlier_encoder(prepared: Path, tmp_path: Path) -> None:
    embed(SHORT, prepared, tmp_path / "embedded", lambda line: None)
    embed(Embed(encoder="none"), prepared, tmp_path / "embedded", lambda line: None)
    assert [file.name for file in (tmp_path / "embedded").iterdir()] == ["encoder.json"]


def test_a_split_without_test_captions_has_no_unknown_rate(tmp_path: Path) -> None:
    embed(SHORT, prepare(tmp_path / "prepared", [("train", ["a rose"])]), tmp_path / "out", lambda line: None)
    assert facts(tmp_path / "out")["unknown_words"] is None


def test_a_caption_without_words_is_read_as_unknown_and_counted(tmp_path: Path) -> None:
    prepared = prepare(
        tmp_path / "prepared", [("train", ["...", "a rose"]), ("train", ["!"]), ("test", ["?", "zinnia"])]
    )
    lines: list[str] = []
    embed(SHORT, prepared, tmp_path / "out", lines.append)
    vectors = np.load(tmp_path / "out" / "embeddings.npy")
    session = onnxruntime.InferenceSession(tmp_path / "out" / "text_encoder.onnx", providers=["CPUExecutionProvider"])
    unknown = session.run(None, {"ids": np.array([[UNKNOWN]]), "lengths": np.array([1])})[0][0]
    assert [bool(np.array_equal(row, unknown)) for row in vectors] == [True, False, True, True, True]
    assert facts(tmp_path / "out")["captions_without_words"] == 3
    assert "3 without a word" in lines[-1]


def test_data_that_is_not_prepared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"items\.parquet: no such file; run ganlib ingest first"):
        embed(SHORT, tmp_path, tmp_path / "embedded", lambda line: None)


def test_what_was_there_stays_when_training_fails(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "embedded"
    embed(SHORT, prepared, out, lambda line: None)
    before = {file.name: file.read_bytes() for file in out.iterdir()}

    def fail(*arguments: object) -> None:
        raise Failed("diverged")

    monkeypatch.setattr(skip_thought, "fit", fail)
    with pytest.raises(Failed):
        embed(SHORT.model_copy(update={"seed": 9}), prepared, out, lambda line: None)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_params_yaml_and_the_registry_have_the_same_encoders() -> None:
    assert tuple(ENCODERS) == get_args(Embed.model_fields["encoder"].annotation)
    assert all(encoder.description for encoder in ENCODERS.values())
