"""How weights begin."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

Layer = TypeVar("Layer", bound=nn.Module)


def dcgan_normal(module: nn.Module) -> None:
    """Convolutions and dense layers N(0, 0.02), batch norm N(1, 0.02): Radford et al. 2016 (1511.06434), section 4.

    Use as `network.apply(dcgan_normal)`.
    """
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def dense_normal(module: nn.Module, std: float) -> None:
    """The weights of a dense layer N(0, std)."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0.0, std)


def glorot(layer: Layer, gain: float = 1.0) -> Layer:
    """A convolution or dense layer uniform with variance 2 gain^2 / (fan in + fan out), its bias 0; gives it back.

    Glorot & Bengio 2010, eq. 16. Residual GANs take the gain sqrt 2 before a ReLU and 1 in shortcuts (1704.00028).
    Other modules stay as they are.
    """
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(layer.weight, gain)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return layer


def orthogonal(module: nn.Module) -> None:
    """Convolutions, dense layers and tables orthogonal as matrices, biases 0: Saxe et al. 2014 (arXiv 1312.6120).

    Use as `network.apply(orthogonal)`.
    """
    if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
        nn.init.orthogonal_(module.weight)
        if not isinstance(module, nn.Embedding) and module.bias is not None:
            nn.init.zeros_(module.bias)
