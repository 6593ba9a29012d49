"""The networks that judge images: a small convolutional encoder, heads for what is known, and a caption matcher."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganlib.data.store import to_unit
from ganlib.evaluation.vocabulary import Bags

_FINAL_SIDE = 4  # the encoder halves the image until no side is longer
_LARGEST_SCALE = 100.0  # of cosine similarities, as in CLIP (Radford et al. 2021, section 2.5)


class Judge(nn.Module):
    """Features of images, logits of the heads on them, and vectors of images and captions that match.

    Stride-2 convolutions with batch norm and SiLU, without residual paths: the first 5 x 5 wide, then 3 x 3 with twice
    the channels up to four times `width`, down to 4 x 4 or less; then a linear layer with batch norm: the features.

    Args:
        size: height and width of an image, in pixels.
        channels: of an image.
        width: channels of the first layer.
        features: length of a feature vector, and of the vectors that match.
        heads: number of values of each head.
        terms: size of the matcher's vocabulary; 0 for no matcher.
    """

    def __init__(self, size: int, channels: int, width: int, features: int, heads: Sequence[int], terms: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [_convolution(channels, width, kernel=5)]
        side, wide = math.ceil(size / 2), width
        while side > _FINAL_SIDE:
            layers.append(_convolution(wide, min(2 * wide, 4 * width), kernel=3))
            side, wide = math.ceil(side / 2), min(2 * wide, 4 * width)
        self.encoder = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(side**2 * wide, features, bias=False), nn.BatchNorm1d(features)
        )
        self.heads = nn.ModuleList(nn.Linear(features, values) for values in heads)
        self.matcher = Matcher(features, terms) if terms else None

    def forward(self, images: Tensor) -> Tensor:
        """Features `(N, features)` float32 of images `(N, C, H, W)` in [-1, 1]."""
        return self.encoder(images.contiguous(memory_format=torch.channels_last))

    def logits(self, features: Tensor) -> list[Tensor]:
        """Logits `(N, values)` of each head."""
        return [head(F.silu(features)) for head in self.heads]


class Matcher(nn.Module):
    """Brings images and captions into one space: cosine similarity says how well they match.

    A caption is the mean of the embeddings of its terms, then two linear layers; an image is a linear map of its
    features.
    """

    def __init__(self, features: int, terms: int) -> None:
        super().__init__()
        self.terms = nn.EmbeddingBag(terms, features, mode="mean", include_last_offset=True)
        nn.init.normal_(self.terms.weight, std=0.5)  # a mean of a dozen then has a scale near that of the features
        self.caption = nn.Sequential(nn.Linear(features, 2 * features), nn.SiLU(), nn.Linear(2 * features, features))
        self.image = nn.Linear(features, features)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def image_vectors(self, features: Tensor) -> Tensor:
        """Vectors `(N, features)` of length 1 for image features `(N, features)`."""
        return F.normalize(self.image(F.silu(features)), dim=1)

    def caption_vectors(self, bags: Bags) -> Tensor:
        """Vectors `(captions, features)` of length 1."""
        numbers, ends = (torch.from_numpy(part) for part in bags)
        return F.normalize(self.caption(self.terms(numbers, ends)), dim=1)

    def loss(self, features: Tensor, bags: Bags) -> Tensor:
        """Symmetric InfoNCE of image features `(N, features)` and their captions (Radford et al. 2021, figure 3)."""
        scale = self.log_scale.exp().clamp(max=_LARGEST_SCALE)
        similarity = scale * self.image_vectors(features) @ self.caption_vectors(bags).T
        own = torch.arange(len(features))
        return (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own)) / 2


def instance_loss(first: Tensor, second: Tensor, temperature: float = 0.2) -> Tensor:
    """Features of two views of each image, `(N, d)` both: each must find its other view among all others (NT-Xent, Chen
    et al. 2020, SimCLR, equation 1)."""
    count = len(first)
    vectors = F.normalize(torch.cat([first, second]), dim=1)
    similarity = (vectors @ vectors.T / temperature).fill_diagonal_(float("-inf"))
    return F.cross_entropy(similarity, torch.arange(2 * count).roll(count))


def as_input(images: np.ndarray) -> Tensor:
    """uint8 `(N, H, W, C)` to float32 `(N, C, H, W)` in [-1, 1]."""
    return to_unit(torch.from_numpy(np.array(images, dtype=np.uint8)))


def _convolution(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride=2, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.SiLU(),
    )
