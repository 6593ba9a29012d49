"""How weights begin."""

from __future__ import annotations

from torch import nn


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
