"""Spectral normalisation: layers whose weight, as a matrix, has the largest singular value 1.

Miyato et al. 2018 (arXiv 1802.05957), algorithm 1: one step of the power iteration in each forward pass of training.

Evaluation takes some steps too and keeps none. The singular vector that goes with averaged weights (EMA) is an average
as well: shorter than 1 and a little off. u W v with two such vectors makes sigma too small and the layer too steep (of
norm 2 to 17 in place of 1 after 400 to 1,200 steps, measured); the steps give the vector its length and direction back.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear

from ganlib.networks.initialisation import glorot

EPSILON = 1e-12
STEPS = 2  # of the power iteration in evaluation; sigma of averaged weights then lacks 0.1 to 4% (measured)


class SpectralWeight(nn.Module):
    """A layer with a `weight` whose first dimension is the output; `direction` estimates its left singular vector."""

    weight: Tensor
    direction: Tensor

    def track(self) -> None:
        """Begin with a random direction."""
        self.register_buffer("direction", unit(torch.randn(self.weight.shape[0])))

    def normalised(self) -> Tensor:
        """The weight divided by the estimate of its largest singular value, in float32."""
        with torch.autocast(self.weight.device.type, enabled=False):
            matrix = self.weight.flatten(1)
            with torch.no_grad():
                left = self.direction
                for _ in range(1 if self.training else STEPS):
                    left = unit(matrix @ (matrix.T @ left))
                if self.training:
                    self.direction.copy_(left)
            sigma = (matrix.T @ left).norm()  # u W v with v = W^T u / sigma; u held constant, its gradient is u v^T
            return self.weight / sigma


class SpectralConv2d(SpectralWeight, nn.Conv2d):
    """A convolution whose weight `(out, in, h, w)` is normalised as a matrix `(out, in h w)`."""

    def __init__(self, channels: int, out: int, kernel: int, padding: int = 0, bias: bool = True) -> None:
        super().__init__(channels, out, kernel, padding=padding, bias=bias)
        self.track()

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.normalised(), self.bias)


class SpectralLinear(SpectralWeight, nn.Linear):
    """A dense layer of norm 1."""

    def __init__(self, features: int, out: int, bias: bool = True) -> None:
        super().__init__(features, out, bias)
        self.track()

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.normalised(), self.bias)


class SpectralEmbedding(SpectralWeight, nn.Embedding):
    """A table `(classes, features)` of norm 1 as a matrix."""

    def __init__(self, classes: int, features: int) -> None:
        super().__init__(classes, features)
        nn.init.xavier_uniform_(self.weight)
        self.track()

    def forward(self, labels: Tensor) -> Tensor:
        return embedding(labels, self.normalised())


class ProjectionLogit(nn.Module):
    """Features and classes to logits, in float32: a dense layer, and the inner product with the class's vector.

    Miyato & Koyama 2018 (arXiv 1802.05637), section 3, with a linear psi; both are spectrally normalised.
    """

    def __init__(self, features: int, classes: int, bias: bool = True) -> None:
        """
        Args:
            features: their length.
            classes: 0 to go without the class's term.
            bias: of the dense layer.
        """
        super().__init__()
        self.linear = glorot(SpectralLinear(features, 1, bias))
        self.table = SpectralEmbedding(classes, features) if classes else None

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits `(N,)` for features `(N, c)` and classes `(N,)`."""
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            logits = self.linear(features)[:, 0]
            if self.table is None or labels is None:
                return logits
            return logits + (self.table(labels) * features).sum(dim=1)


def unit(vector: Tensor) -> Tensor:
    """The vector at length 1; one of zeros stays."""
    return vector / vector.norm().clamp_min(EPSILON)
