"""The ONNX graph against torch, and its promise: nothing depends on padding or on the other captions of a batch."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from ganlib.text.gru_graph import gru_graph
from ganlib.text.tokenizer import PADDING

VOCABULARY, WORD, HIDDEN, COUNT, LONGEST = 50, 24, 32, 64, 20

both_directions = pytest.mark.parametrize("both", [True, False], ids=["both-ways", "one-way"])


class Encoder:
    """A random GRU, its graph, and random captions of every length."""

    def __init__(self, both: bool) -> None:
        torch.manual_seed(0)
        self.words = nn.Embedding(VOCABULARY, WORD)
        self.gru = nn.GRU(WORD, HIDDEN, batch_first=True, bidirectional=both)
        random = np.random.default_rng(0)
        size = HIDDEN * (1 + both)
        self.centre = random.normal(0, 0.1, size).astype(np.float32)
        self.matrix = random.normal(0, 1, (size, size)).astype(np.float32)
        parameters = {name: value.numpy(force=True) for name, value in self.gru.named_parameters()}
        self.model = gru_graph(self.words.weight.numpy(force=True), parameters, self.centre, self.matrix)
        self.lengths = random.integers(1, LONGEST + 1, COUNT)
        self.lengths[:2] = 1, LONGEST
        self.ids = random.integers(2, VOCABULARY, (COUNT, LONGEST))
        self.ids[np.arange(LONGEST) >= self.lengths[:, None]] = PADDING

    def session(self, threads: int = 1) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        return onnxruntime.InferenceSession(self.model.SerializeToString(), options, ["CPUExecutionProvider"])

    def run(self, rows: slice, pad: int = 0, threads: int = 1) -> np.ndarray:
        lengths = self.lengths[rows]
        ids = np.pad(self.ids[rows, : lengths.max()], ((0, 0), (0, pad)), constant_values=PADDING)
        return self.session(threads).run(["embedding"], {"ids": ids, "lengths": lengths})[0]


@both_directions
@pytest.mark.parametrize("batch", [1, 7, 64])
def test_it_agrees_with_torch(both: bool, batch: int) -> None:
    encoder = Encoder(both)
    with torch.no_grad():
        vectors = encoder.words(torch.from_numpy(encoder.ids[:batch]))
        packed = pack_padded_sequence(
            vectors, torch.from_numpy(encoder.lengths[:batch]), batch_first=True, enforce_sorted=False
        )
        states = encoder.gru(packed)[1].transpose(0, 1).flatten(1).numpy()
    expected = (states / np.linalg.norm(states, axis=1, keepdims=True) - encoder.centre) @ encoder.matrix
    found = encoder.run(slice(batch))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@both_directions
def test_a_caption_gives_the_same_bits_alone_and_in_any_batch(both: bool) -> None:
    encoder = Encoder(both)
    together = encoder.run(slice(None))
    for size in (1, 7):
        apart = [encoder.run(slice(start, start + size)) for start in range(0, COUNT, size)]
        assert np.array_equal(np.concatenate(apart), together)
    assert np.array_equal(encoder.run(slice(None), threads=2), together)


@both_directions
def test_padding_changes_no_bit(both: bool) -> None:
    encoder = Encoder(both)
    assert np.array_equal(encoder.run(slice(9), pad=11), encoder.run(slice(9)))


def test_what_lies_in_the_padding_is_not_read() -> None:
    encoder = Encoder(both=True)
    before = encoder.run(slice(None))
    encoder.ids[encoder.ids == PADDING] = 7
    assert np.array_equal(encoder.run(slice(None)), before)


def test_both_ends_of_a_caption_are_read() -> None:
    encoder = Encoder(both=True)
    before = encoder.run(slice(2))
    encoder.ids[1, 0] = (encoder.ids[1, 0] - 1) % 40 + 2
    after = encoder.run(slice(2))
    assert np.abs(after[1, HIDDEN:] - before[1, HIDDEN:]).max() > 0.1
    encoder.ids[1, -1] = (encoder.ids[1, -1] - 1) % 40 + 2
    assert np.abs(encoder.run(slice(2))[1, :HIDDEN] - after[1, :HIDDEN]).max() > 0.1


def test_the_graph_is_of_the_standard_and_says_its_shapes() -> None:
    model = Encoder(both=True).model
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]

    def shape(value: onnx.ValueInfoProto) -> list[str | int]:
        return [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]

    assert {value.name: shape(value) for value in (*model.graph.input, *model.graph.output)} == {
        "ids": ["captions", "words"],
        "lengths": ["captions"],
        "embedding": ["captions", 2 * HIDDEN],
    }


def test_a_state_of_zeros_is_no_division_by_zero() -> None:
    parameters = {name: np.zeros_like(value.numpy(force=True)) for name, value in nn.GRU(3, 4).named_parameters()}
    model = gru_graph(np.zeros((5, 3), np.float32), parameters, np.zeros(4, np.float32), np.eye(4, dtype=np.float32))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"ids": np.array([[2]]), "lengths": np.array([1])})[0].tolist() == [[0.0] * 4]
