"""Relativistic GAN: real beside fake, and not each on its own (Jolicoeur-Martineau 2018, arXiv 1807.00734).

The paper's standard CNN for 32 pixels: DCGAN's small networks with leaky slopes of 0.1 and a spectral norm in place of
the discriminator's batch norm. As in the author's code it is on the convolutions and not on the last, dense layer. At
another resolution the number of doublings changes. The preset is the relativistic average standard GAN; `loss` of
params.yaml takes any other relativistic one.
"""

from __future__ import annotations

from pydantic import Field

from ganlib.card import Condition, DatasetSpec, Latent
from ganlib.families.base import NetworkSettings, TwoPlayers
from ganlib.families.objective import Objective
from ganlib.networks.dcgan import SmallDiscriminator, SmallGenerator
from ganlib.problems import Refused


class Settings(NetworkSettings):
    """`network` of a relativistic-gan model."""

    z: int = Field(128, ge=1, description="length of the latent")
    width: int = Field(64, ge=1, description="generator: channels before the last layer")
    discriminator_width: int = Field(64, ge=1, description="discriminator: channels of the first layer")
    spectral_norm: bool = Field(True, description="discriminator: spectral norm; without, batch norm")


class RelativisticGAN(TwoPlayers):
    """GAN with a relativistic discriminator."""

    preset = {
        "loss": "relativistic-average",
        "generator": {"name": "adam", "lr": 2e-4, "betas": [0.5, 0.999]},
        "discriminator": {"name": "adam", "lr": 2e-4, "betas": [0.5, 0.999]},
        "discriminator_steps": 1,
        "batch": 32,
    }
    tiny = {"network": {"z": 8, "width": 4, "discriminator_width": 4}, "batch": 8}
    Network = Settings

    def __init__(self, spec: DatasetSpec, text_dimension: int, network: Settings, objective: Objective) -> None:
        try:
            self.networks = {
                "generator": SmallGenerator(network.z, network.width, spec.size, spec.channels),
                "discriminator": SmallDiscriminator(
                    network.discriminator_width,
                    spec.size,
                    spec.channels,
                    spectral=network.spectral_norm,
                    slope=0.1,
                ),
            }
        except ValueError as error:
            raise Refused(f"ingest.size: {error}") from error
        self.settings = network
        self.objective = objective
        self.latent = Latent(size=network.z, distribution="normal")
        self.condition = Condition(kind="none")
