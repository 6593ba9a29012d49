"""WGAN: a critic of the earth mover's distance, its weights clipped (Arjovsky et al. 2017, arXiv 1701.07875).

The networks are DCGAN's with batch norm in the critic too and no biases, as in the authors' code, from which the critic
steps are as well: 5 for each generator step, 100 in each of the first 25 and in every 500th.
"""

from __future__ import annotations

from pydantic import Field

from ganlib.card import Condition, DatasetSpec, Latent
from ganlib.families.base import NetworkSettings, TwoPlayers
from ganlib.families.objective import Objective
from ganlib.networks.dcgan import PyramidDiscriminator, PyramidGenerator
from ganlib.problems import Refused


class Settings(NetworkSettings):
    """`network` of a wgan model."""

    z: int = Field(100, ge=1, description="length of the latent")
    width: int = Field(64, ge=1, description="generator: channels before the last layer")
    discriminator_width: int = Field(64, ge=1, description="critic: channels of the first layer")


class WGAN(TwoPlayers):
    """Wasserstein GAN with weight clipping."""

    preset = {
        "loss": "wasserstein",
        "generator": {"name": "rmsprop", "lr": 5e-5},
        "discriminator": {"name": "rmsprop", "lr": 5e-5, "clip_weights": 0.01},
        "discriminator_steps": 5,
        "discriminator_boost": {"steps": 100, "warm_up": 25, "every": 500},
        "batch": 64,
    }
    tiny = {
        "network": {"z": 8, "width": 4, "discriminator_width": 4},
        "discriminator_steps": 2,
        "discriminator_boost": {"steps": 3, "warm_up": 1, "every": 2},
        "batch": 8,
    }
    Network = Settings

    def __init__(self, spec: DatasetSpec, text_dimension: int, network: Settings, objective: Objective) -> None:
        try:
            self.networks = {
                "generator": PyramidGenerator(network.z, network.width, spec.size, spec.channels),
                "discriminator": PyramidDiscriminator(
                    network.discriminator_width, spec.size, spec.channels, bias=False
                ),
            }
        except ValueError as error:
            raise Refused(f"ingest.size: {error}") from error
        self.settings = network
        self.objective = objective
        self.latent = Latent(size=network.z, distribution="normal")
        self.condition = Condition(kind="none")
