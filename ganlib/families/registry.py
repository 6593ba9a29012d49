"""Every GAN family by name. A new family is one file beside this one and one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ganlib.problems import Refused

if TYPE_CHECKING:
    from ganlib.families.base import Family, NetworkSettings

FAMILIES: dict[str, str] = {
    "gan": "ganlib.families.gan:GAN",
    "dcgan": "ganlib.families.dcgan:DCGAN",
    "cgan": "ganlib.families.cgan:ConditionalGAN",
    "lapgan": "ganlib.families.lapgan:LAPGAN",
    "gan-cls": "ganlib.families.gan_cls:GANCLS",
    "lsgan": "ganlib.families.lsgan:LSGAN",
    "f-gan": "ganlib.families.f_gan:FGAN",
    "wgan": "ganlib.families.wgan:WGAN",
    "wgan-gp": "ganlib.families.wgan_gp:WGANGP",
    "geometric-gan": "ganlib.families.geometric_gan:GeometricGAN",
    "sngan": "ganlib.families.sngan:SNGAN",
    "sagan": "ganlib.families.sagan:SAGAN",
    "relativistic-gan": "ganlib.families.relativistic_gan:RelativisticGAN",
    "biggan": "ganlib.families.biggan:BigGAN",
    "r3gan": "ganlib.families.r3gan:R3GAN",
}


def family(name: str) -> type[Family]:
    """The class of the family `name`.

    Raises:
        Refused: for a name that is not registered.
    """
    if name not in FAMILIES:
        raise Refused(f"family: found {name!r}; expected one of {', '.join(FAMILIES)}")
    module, _, attribute = FAMILIES[name].partition(":")
    found: type[Family] = getattr(import_module(module), attribute)
    return found


def settings(name: str) -> tuple[Mapping[str, Any], type[NetworkSettings], Callable[[Any], str]]:
    """The preset of the family `name`, the type of its own settings and, from these, its condition's kind; `Refused`
    as `family`."""
    kind = family(name)
    return kind.preset, kind.Network, kind.condition_kind
