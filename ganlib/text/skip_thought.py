"""Skip-thought vectors (Kiros et al. 2015, arXiv 1506.06726): a caption's vector is what foretells its neighbours.

A bidirectional GRU reads the caption (the paper's bi-skip: half of the vector each way), and two decoders, each a GRU
whose gates the vector biases at every word, predict the previous and the next sentence. A caption has no such
sentences: its neighbours are two other captions of its image. Where an image has two captions, both neighbours are the
other one; a caption that is alone is its own neighbour, so that there the encoder learns to keep what the caption says.

What differs from the paper, and why:
- The decoders are half as wide as the vector: a third of the work less, and the vectors are read as well.
- The learning rate falls to 0 over the last steps: few steps are enough then.
- Some of the words are read as unknown, so that the vector of the unknown word is trained too; the paper's vocabulary
  leaves out enough of its corpus for that, a small corpus is known whole.
- The vector is L2-normalised as in the paper, and then mapped to the directions in which captions of different images
  differ more than captions of one image (`ganlib.text.discriminant`), a fixed affine map in the graph. Captions of one
  subject are alike, so what they state is a small part of a normalised vector's variance (petal count: 1% of it).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence

from ganlib.config import Embed
from ganlib.data.chance import uniform
from ganlib.data.progress import watched
from ganlib.problems import Failed, Refused
from ganlib.text.discriminant import discriminant_map
from ganlib.text.fitted import Fitted
from ganlib.text.gru_graph import gru_graph
from ganlib.text.tokenizer import PADDING, UNKNOWN, Tokenizer

_READ_AS_UNKNOWN = 0.05  # share of the words that the encoder reads while it is trained
_DECAY = 0.3  # share of the steps, the last ones, over which the learning rate falls to 0
_LAST_STEPS = 50  # that the reported loss is the mean of
_CHUNK = 1024  # captions encoded at once


class SkipThought(nn.Module):
    """The encoder and its two decoders, which share the word vectors and the output vocabulary."""

    def __init__(self, vocabulary: int, word_dimension: int, dimension: int) -> None:
        """vocabulary: numbers of the tokenizer, the special ones included; dimension: length of a vector, even."""
        super().__init__()
        self.words = nn.Embedding(vocabulary, word_dimension)
        self.encoder = nn.GRU(word_dimension, dimension // 2, batch_first=True, bidirectional=True)
        self.previous = Decoder(word_dimension, dimension, dimension // 2)
        self.next = Decoder(word_dimension, dimension, dimension // 2)
        self.output = nn.Linear(dimension // 2, vocabulary)

    def encode(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Captions `(N, T)` int64 of `lengths` `(N,)` to vectors `(N, dimension)`: the last state of each direction."""
        packed = pack_padded_sequence(self.words(ids), lengths, batch_first=True, enforce_sorted=False)
        _, last = self.encoder(packed)
        return last.transpose(0, 1).flatten(1)

    def loss(self, vectors: Tensor, previous: Tensor, following: Tensor) -> Tensor:
        """Cross entropy of both neighbours of each caption, in nats a word.

        Args:
            vectors: `(N, dimension)`.
            previous, following: the neighbours' words `(N, T)` int64, padded, each with a T of its own.

        Returns:
            minus equation 10 of the paper, sum_t log P(w_t of next | w_<t, h) + sum_t log P(w_t of previous | w_<t, h),
            divided by the number of words. The number of the padding ends a sentence, as in the paper's own code.
        """
        total, count = vectors.new_zeros(()), 0
        for decoder, sentence in ((self.previous, previous), (self.next, following)):
            targets = functional.pad(sentence, (0, 1), value=PADDING)
            is_read = functional.pad(sentence != PADDING, (1, 0), value=True)  # the words and one end
            before = functional.pad(self.words(sentence), (0, 0, 1, 0))  # nothing comes before the first word
            states = decoder(before, vectors)[is_read]
            total = total + functional.cross_entropy(self.output(states), targets[is_read], reduction="sum")
            count += len(states)
        return total / count


class Decoder(nn.Module):
    """A GRU over words whose gates the sentence's vector biases at every word (the paper's equations 5 to 8).

    r = sigmoid(W_r x + U_r h + C_r v), and likewise z and the proposed state: W x + C v is one matrix times the word
    and the vector joined. As cuDNN's, torch's GRU resets U h + b where the paper resets h.
    """

    def __init__(self, word_dimension: int, dimension: int, width: int) -> None:
        super().__init__()
        self.gru = nn.GRU(word_dimension + dimension, width, batch_first=True)

    def forward(self, words: Tensor, vectors: Tensor) -> Tensor:
        """Word vectors `(N, T, word_dimension)` and vectors `(N, dimension)` to states `(N, T, width)`."""
        repeated = vectors[:, None].expand(-1, words.shape[1], -1)
        states: Tensor = self.gru(torch.cat([words, repeated], dim=2))[0]
        return states


def fit(
    config: Embed, tokenizer: Tokenizer, captions: Sequence[Sequence[str]], report: Callable[[str], None]
) -> Fitted:
    """Train an encoder and write it as a graph.

    Args:
        config: dimensions, steps, batch, learning rate and seed.
        tokenizer: of the captions.
        captions: the captions of each image; images without captions are passed over.
        report: takes a line about the progress.

    Raises:
        Refused: for an odd dimension, or a caption without a word.
        Failed: where the loss is no longer finite.
    """
    if config.dimension % 2:
        raise Refused(
            f"embed.dimension: found {config.dimension}; skip-thought reads both ways, so give an even number"
        )
    flat = [caption for image in captions for caption in image]
    ids, lengths = (torch.from_numpy(array) for array in tokenizer.encode(flat))
    counts = np.array([len(image) for image in captions if image])
    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(config.seed)
        model = SkipThought(len(tokenizer), config.word_dimension, config.dimension)
        loss = _train(model, config, ids, lengths, counts, report)
        vectors = _normalised(model, ids, lengths)
    centre, matrix = discriminant_map(vectors, counts)
    gru = {name: value.numpy(force=True) for name, value in model.encoder.named_parameters()}
    return Fitted(graph=gru_graph(model.words.weight.numpy(force=True), gru, centre, matrix), loss=loss)


def neighbours(config: Embed, counts: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The captions of a step and two neighbours of each: a pure function of (seed, step).

    Args:
        config: its batch and seed.
        counts: `(images,)`, the number of captions of each image, at least 1; captions are numbered image by image.
        step: counted from 0.

    Returns:
        captions, previous and next, each `(batch,)` int64. The three differ where the image has three captions; of two,
        both neighbours are the other one; one is its own.
    """
    index = np.arange(step * config.batch, (step + 1) * config.batch)
    first = np.cumsum(counts) - counts
    chosen = (uniform(config.seed, "skip-thought/caption", index) * counts.sum()).astype(np.int64)
    image = np.searchsorted(first, chosen, side="right") - 1
    count, place = counts[image], chosen - first[image]
    # Places of the image's captions are counted round from the chosen one: two different ones of 1 to count - 1.
    one = 1 + (uniform(config.seed, "skip-thought/previous", index) * (count - 1)).astype(np.int64)
    other = 1 + (uniform(config.seed, "skip-thought/next", index) * (count - 2)).astype(np.int64)
    other = np.where(count > 2, other + (other >= one), one)
    return chosen, first[image] + (place + one) % count, first[image] + (place + other) % count


def _train(
    model: SkipThought,
    config: Embed,
    ids: Tensor,
    lengths: Tensor,
    counts: np.ndarray,
    report: Callable[[str], None],
) -> float:
    """Adam on the loss; returns its mean over the last steps."""
    optimiser = torch.optim.Adam(model.parameters(), lr=config.lr)
    losses: list[float] = []

    def words(chosen: np.ndarray) -> Tensor:
        rows = torch.from_numpy(chosen)
        return ids[rows, : int(lengths[rows].max())]

    for step in watched(range(config.steps), config.steps, "caption encoder steps", report):
        chosen, previous, following = neighbours(config, counts, step)
        read = words(chosen)
        chance = uniform(config.seed, f"skip-thought/unknown/{step}", np.arange(read.numel())).reshape(read.shape)
        hidden = torch.from_numpy(chance < _READ_AS_UNKNOWN) & (read != PADDING)
        vectors = model.encode(read.masked_fill(hidden, UNKNOWN), lengths[torch.from_numpy(chosen)])
        loss = model.loss(vectors, words(previous), words(following))
        for group in optimiser.param_groups:
            group["lr"] = config.lr * min(1.0, (config.steps - step) / (_DECAY * config.steps))
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise Failed(f"embed: the loss is {losses[-1]} at step {step}; a lower embed.lr than {config.lr} may help")
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimiser.step()
    return float(np.mean(losses[-_LAST_STEPS:]))


@contextmanager
def _one_thread() -> Iterator[None]:
    """torch on one thread: a GRU's steps are too small to share, and wait long for each other on cores in use."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _normalised(model: SkipThought, ids: Tensor, lengths: Tensor) -> np.ndarray:
    """The vectors of all captions, `(captions, d)` float64, each of length 1."""
    with torch.no_grad():
        parts = [slice(start, start + _CHUNK) for start in range(0, len(ids), _CHUNK)]
        states = torch.cat([model.encode(ids[part], lengths[part]) for part in parts])
    return functional.normalize(states, dim=1).double().numpy()
