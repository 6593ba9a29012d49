"""The skip-thought encoder: its equations, its neighbours, and that its vectors hold what captions say."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from ganlib.config import Embed
from ganlib.data.flower_captions import captions
from ganlib.data.flowers import ATTRIBUTES, attributes_of
from ganlib.problems import Failed, Refused
from ganlib.text import skip_thought
from ganlib.text.discriminant import discriminant_map
from ganlib.text.skip_thought import SkipThought, fit, neighbours
from ganlib.text.tokenizer import PADDING, Tokenizer

TINY = Embed(dimension=8, word_dimension=6, steps=3, batch=4)
SHORT = Embed(dimension=48, word_dimension=32, steps=250, batch=32, lr=1e-2)


def quiet(line: str) -> None:
    """A report that nobody reads."""


def embed(graph: onnx.ModelProto, tokenizer: Tokenizer, texts: Sequence[str]) -> np.ndarray:
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    ids, lengths = tokenizer.encode(texts)
    return session.run(["embedding"], {"ids": ids, "lengths": lengths})[0]


def flowers(first: int, last: int) -> tuple[list[list[str]], list[dict[str, int]]]:
    """The captions of drawn flowers, image by image, and what each caption states."""
    values = attributes_of(np.arange(first, last), seed=0)
    texts, stated = [], []
    for i in range(last - first):
        image, mentions = captions(first + i, 0, {name: ATTRIBUTES[name][values[name][i]] for name in ATTRIBUTES})
        texts.append(list(image))
        stated += [{name: int(values[name][i]) for name in names} for names in mentions]
    return texts, stated


def flat(texts: Sequence[Sequence[str]]) -> list[str]:
    return [text for image in texts for text in image]


# ---------------------------------------------------------------------------------------------------------- equations


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def log_likelihood(model: SkipThought, decoder: skip_thought.Decoder, vector: np.ndarray, sentence: list[int]) -> float:
    """Equations 5 to 9 of the paper for one sentence, word by word, with W, U and C apart."""
    state = {name: value.numpy(force=True).astype(np.float64) for name, value in model.state_dict().items()}
    gru = {name: value.numpy(force=True).astype(np.float64) for name, value in decoder.gru.named_parameters()}
    word_dimension = state["words.weight"].shape[1]
    W_r, W_z, W = np.split(gru["weight_ih_l0"][:, :word_dimension], 3)
    C_r, C_z, C = np.split(gru["weight_ih_l0"][:, word_dimension:], 3)
    U_r, U_z, U = np.split(gru["weight_hh_l0"], 3)
    b_r, b_z, b = np.split(gru["bias_ih_l0"], 3)
    c_r, c_z, c = np.split(gru["bias_hh_l0"], 3)
    h, x, total = np.zeros(len(U)), np.zeros(word_dimension), 0.0
    for word in [*sentence, PADDING]:
        r = sigmoid(W_r @ x + U_r @ h + C_r @ vector + b_r + c_r)
        z = sigmoid(W_z @ x + U_z @ h + C_z @ vector + b_z + c_z)
        proposed = np.tanh(W @ x + r * (U @ h + c) + C @ vector + b)
        h = (1 - z) * proposed + z * h  # the paper's z is 1 - z here
        logits = state["output.weight"] @ h + state["output.bias"]
        total += logits[word] - np.log(np.exp(logits).sum())
        x = state["words.weight"][word]
    return float(total)


def test_the_loss_is_the_papers_objective() -> None:
    torch.manual_seed(0)
    model = SkipThought(vocabulary=11, word_dimension=5, dimension=6)
    previous, following = [[3, 4, 5], [6]], [[7, 8], [9, 10]]
    vectors = torch.randn(2, 6)
    padded = (torch.tensor([[3, 4, 5, 0], [6, 0, 0, 0]]), torch.tensor(following))
    expected = 0.0
    for i in range(2):
        expected -= log_likelihood(model, model.previous, vectors[i].numpy(), previous[i])
        expected -= log_likelihood(model, model.next, vectors[i].numpy(), following[i])
    words = (3 + 1) + (1 + 1) + (2 + 1) + (2 + 1)
    assert model.loss(vectors, *padded).item() == pytest.approx(expected / words, rel=1e-5)


def test_padding_changes_neither_vectors_nor_loss() -> None:
    torch.manual_seed(0)
    model = SkipThought(vocabulary=11, word_dimension=5, dimension=6)
    ids, lengths = torch.tensor([[3, 4, 5], [6, 7, 0]]), torch.tensor([3, 2])
    wide = torch.nn.functional.pad(ids, (0, 4))
    vectors = model.encode(ids, lengths)
    torch.testing.assert_close(model.encode(wide, lengths), vectors)
    torch.testing.assert_close(model.loss(vectors, wide, wide), model.loss(vectors, ids, ids))


def test_the_gradient_of_each_decoder_reaches_the_encoder() -> None:
    torch.manual_seed(0)
    ids, lengths = torch.tensor([[3, 4, 5], [6, 7, 0]]), torch.tensor([3, 2])
    for cut_off in ("previous", "next"):
        model = SkipThought(vocabulary=11, word_dimension=5, dimension=6)
        with torch.no_grad():
            getattr(model, cut_off).gru.weight_ih_l0[:, 5:] = 0.0  # C = 0: this decoder does not read the vector
        model.loss(model.encode(ids, lengths), ids, ids).backward()
        assert all(parameter.grad.abs().max() > 1e-6 for parameter in model.encoder.parameters())
        model.previous.gru.weight_ih_l0.data[:, 5:] = 0.0
        model.next.gru.weight_ih_l0.data[:, 5:] = 0.0
        model.zero_grad()
        model.loss(model.encode(ids, lengths), ids, ids).backward()
        assert all(parameter.grad.abs().max() == 0.0 for parameter in model.encoder.parameters())


# --------------------------------------------------------------------------------------------------------- neighbours


def test_neighbours_are_captions_of_the_same_image() -> None:
    counts = np.array([5, 1, 2, 3, 4])
    image_of = np.repeat(np.arange(5), counts)
    config = Embed(batch=4000, seed=3)
    chosen, previous, following = neighbours(config, counts, step=7)
    assert np.array_equal(image_of[previous], image_of[chosen])
    assert np.array_equal(image_of[following], image_of[chosen])
    many = counts[image_of[chosen]] > 2
    assert (previous[many] != chosen[many]).all()
    assert (following[many] != chosen[many]).all()
    assert (previous[many] != following[many]).all()
    two = image_of[chosen] == 2  # captions 6 and 7
    assert np.array_equal(previous[two], 13 - chosen[two])
    assert np.array_equal(following[two], 13 - chosen[two])
    alone = image_of[chosen] == 1
    assert set(previous[alone]) == set(following[alone]) == {5}


def test_every_caption_and_every_pair_of_neighbours_comes_up_equally_often() -> None:
    chosen, previous, following = neighbours(Embed(batch=60_000), np.array([4]), step=0)
    triples = np.unique(np.stack([chosen, previous, following], axis=1), axis=0, return_counts=True)
    assert len(triples[0]) == 4 * 3 * 2
    assert np.abs(triples[1] / 60_000 - 1 / 24).max() < 0.004  # five standard deviations


def test_neighbours_are_a_function_of_seed_and_step() -> None:
    counts = np.full(50, 5)
    first = neighbours(Embed(seed=1), counts, step=3)
    assert np.array_equal(first, neighbours(Embed(seed=1), counts, step=3))
    assert not np.array_equal(first, neighbours(Embed(seed=1), counts, step=4))
    assert not np.array_equal(first, neighbours(Embed(seed=2), counts, step=3))


# ----------------------------------------------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def trained() -> tuple[SkipThought, Tokenizer, onnx.ModelProto, float]:
    """A model after a short training on flowers, its tokenizer, graph and loss."""
    models: list[SkipThought] = []
    original = skip_thought._train

    def train(model: SkipThought, *rest: object) -> float:
        models.append(model)
        return original(model, *rest)  # type: ignore[arg-type]

    texts, _ = flowers(0, 800)
    tokenizer = Tokenizer.build(flat(texts), 200, 30)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(skip_thought, "_train", train)
        fitted = fit(SHORT, tokenizer, texts, quiet)
    return models[0], tokenizer, fitted.graph, fitted.loss


def test_what_a_caption_says_is_read_off_its_vector(
    trained: tuple[SkipThought, Tokenizer, onnx.ModelProto, float],
) -> None:
    _, tokenizer, graph, loss = trained
    texts, stated = flowers(0, 400)
    held_out, held_out_stated = flowers(800, 1000)
    untrained = fit(SHORT.model_copy(update={"steps": 1}), tokenizer, texts, quiet)
    assert loss < 1.5 < 4 < untrained.loss

    def accuracy(encoder: onnx.ModelProto, name: str) -> float:
        rows = [i for i, one in enumerate(stated) if name in one]
        held_out_rows = [i for i, one in enumerate(held_out_stated) if name in one]
        vectors = embed(encoder, tokenizer, [flat(texts)[i] for i in rows])
        held_out_vectors = embed(encoder, tokenizer, [flat(held_out)[i] for i in held_out_rows])
        probe = LogisticRegression(max_iter=200).fit(vectors, [stated[i][name] for i in rows])
        return probe.score(held_out_vectors, [held_out_stated[i][name] for i in held_out_rows])

    # Both colours are told apart, though they share words. Size and petal count take the default's longer training.
    assert accuracy(graph, "petal_colour") > 0.95 > 0.7 > accuracy(untrained.graph, "petal_colour")
    assert accuracy(graph, "centre_colour") > 0.95 > 0.8 > accuracy(untrained.graph, "centre_colour")
    assert accuracy(graph, "background") > 0.98


def test_the_decoders_read_the_vectors(trained: tuple[SkipThought, Tokenizer, onnx.ModelProto, float]) -> None:
    model, tokenizer, _, _ = trained
    texts, _ = flowers(800, 928)
    ids, lengths = (torch.from_numpy(array) for array in tokenizer.encode([image[0] for image in texts]))
    previous, following = (torch.from_numpy(tokenizer.encode([image[place] for image in texts])[0]) for place in (1, 2))
    with torch.no_grad():
        vectors = model.encode(ids, lengths)
        own = model.loss(vectors, previous, following)
        other = model.loss(vectors.roll(1, 0), previous, following)
    assert other > own + 0.1


def test_the_vectors_have_elements_of_unit_variance(
    trained: tuple[SkipThought, Tokenizer, onnx.ModelProto, float],
) -> None:
    _, tokenizer, graph, _ = trained
    vectors = embed(graph, tokenizer, flat(flowers(0, 800)[0]))
    np.testing.assert_allclose(vectors.mean(axis=0), 0, atol=1e-3)
    assert np.square(vectors).mean() == pytest.approx(1, rel=1e-3)


def test_an_unknown_word_changes_a_vector_less_than_another_colour(
    trained: tuple[SkipThought, Tokenizer, onnx.ModelProto, float],
) -> None:
    _, tokenizer, graph, _ = trained
    plain, unknown, other = embed(
        graph,
        tokenizer,
        ["a small red flower on grass", "a small splendiferous red flower on grass", "a small blue flower on grass"],
    )
    assert tokenizer.unknown_words("a small splendiferous red flower on grass") == ["splendiferous"]
    assert np.linalg.norm(unknown - plain) < 0.7 * np.linalg.norm(other - plain)


def test_the_graph_is_the_trained_encoder(trained: tuple[SkipThought, Tokenizer, onnx.ModelProto, float]) -> None:
    model, tokenizer, graph, _ = trained
    texts = flat(flowers(0, 800)[0])
    ids, lengths = (torch.from_numpy(array) for array in tokenizer.encode(texts))
    with torch.no_grad():
        normalised = torch.nn.functional.normalize(model.encode(ids, lengths), dim=1).double().numpy()
    centre, matrix = discriminant_map(normalised, np.array([len(image) for image in flowers(0, 800)[0]]))
    expected = (normalised - centre) @ matrix
    np.testing.assert_allclose(embed(graph, tokenizer, texts[:64]), expected[:64], atol=2e-4)


def test_the_same_seed_gives_the_same_bytes_and_leaves_torchs_generator_alone() -> None:
    texts = [["a red rose", "one rose in red", "a rose"], ["a blue iris"], []]
    tokenizer = Tokenizer.build(flat(texts), 20, 10)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again = (fit(TINY, tokenizer, copy.deepcopy(texts), quiet) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.graph.SerializeToString(deterministic=True) == again.graph.SerializeToString(deterministic=True)
    assert first.loss == again.loss
    other = fit(TINY.model_copy(update={"seed": 1}), tokenizer, texts, quiet)
    assert other.graph.SerializeToString(deterministic=True) != first.graph.SerializeToString(deterministic=True)


def test_the_threads_that_torch_may_use_make_no_difference_and_are_left_as_they_were() -> None:
    tokenizer = Tokenizer.build(["a red rose"], 20, 10)
    threads, graphs = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            fitted = fit(TINY, tokenizer, [["a red rose", "a rose"]], quiet)
            graphs.append(fitted.graph.SerializeToString(deterministic=True))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert graphs[0] == graphs[1]


def test_a_caption_that_is_alone_is_its_own_neighbour_and_is_learned() -> None:
    texts = [
        [f"{colour} {plant}"] for colour in ("red", "blue", "white") for plant in ("rose", "iris", "lily", "aster")
    ]
    tokenizer = Tokenizer.build(flat(texts), 20, 10)
    config = Embed(dimension=24, word_dimension=12, steps=200, batch=12, lr=2e-2)
    assert fit(config, tokenizer, texts, quiet).loss < 0.25  # log(12) / 3 words = 0.83 without reading the caption


def test_one_caption_is_enough_to_have_finite_vectors() -> None:
    tokenizer = Tokenizer.build(["a rose"], 20, 10)
    vectors = embed(fit(TINY, tokenizer, [["a rose"]], quiet).graph, tokenizer, ["a rose", "an unknown word"])
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(vectors[0], 0, atol=1e-5)  # the mean of itself


def test_an_odd_dimension_is_refused() -> None:
    tokenizer = Tokenizer.build(["a rose"], 20, 10)
    with pytest.raises(Refused, match=r"embed\.dimension: found 7"):
        fit(TINY.model_copy(update={"dimension": 7}), tokenizer, [["a rose"]], quiet)


def test_a_loss_that_is_not_finite_stops_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer.build(["a rose"], 20, 10)
    honest: Callable[..., torch.Tensor] = SkipThought.loss
    monkeypatch.setattr(SkipThought, "loss", lambda *arguments: honest(*arguments) * float("nan"))
    with pytest.raises(Failed, match=r"the loss is nan at step 0; a lower embed\.lr than 0\.001"):
        fit(TINY.model_copy(update={"lr": 1e-3}), tokenizer, [["a rose"]], quiet)
