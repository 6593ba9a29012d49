"""A package of a published network, for benchmarks that need one of real size. Its weights are fresh: their values do
not change the time of a run."""

from __future__ import annotations

from pathlib import Path

from ganlib.card import DatasetSpec, ModelCard
from ganlib.config import Export, Optimiser, Train


def dcgan(out: Path, size: int = 64) -> Path:
    """Write the package of DCGAN's generator at the width of the paper's code (100 latents, 512 to 64 channels at 64
    pixels, 3.6 million weights) and return its folder.

    Args:
        out: the package's folder.
        size: of an image, in pixels.
    """
    import torch

    from ganlib.export.package import write_package
    from ganlib.families.dcgan import DCGAN, Settings
    from ganlib.models import objective

    torch.manual_seed(0)
    spec = DatasetSpec(name="folder", size=size, channels=3, counts={"train": 1}, mean=(0.0,) * 3, std=(1.0,) * 3)
    config = Train(family="dcgan", generator=Optimiser(), discriminator=Optimiser())
    family = DCGAN(spec, 0, Settings(), objective(config))
    card = ModelCard(
        name="dcgan",
        family="dcgan",
        latent=family.latent,
        condition=family.condition,
        size=size,
        channels=3,
        steps=0,
        images_seen=0,
        parameters={},
        data={},
    )
    write_package(family, card, None, None, Export(precisions=["float32"]), out, lambda line: None)
    return out
