"""Drawn flowers: the dataset that needs no download, with every attribute known.

A flower is drawn in polar coordinates by signed distances (negative inside), at a multiple of its size, and reduced by
a box filter. Attributes and nuisances are hashes of (seed, index), so image i is the same in a dataset of any length,
and a longer dataset begins with the shorter one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ganlib.data.chance import uniform

Colour = tuple[int, int, int]

PETAL_COLOURS: dict[str, Colour] = {
    "red": (222, 30, 38),
    "orange": (252, 126, 14),
    "yellow": (254, 222, 42),
    "pink": (255, 122, 186),
    "purple": (132, 40, 190),
    "blue": (34, 74, 232),
    "turquoise": (16, 196, 178),
    "white": (250, 250, 252),
}
CENTRE_COLOURS: dict[str, Colour] = {
    "yellow": (255, 214, 30),
    "brown": (88, 46, 18),
    "white": (252, 252, 250),
    "green": (112, 184, 40),
}
BACKGROUNDS: dict[str, Colour] = {
    "sky": (142, 200, 244),
    "grass": (76, 142, 58),
    "night": (24, 26, 54),
    "sand": (226, 198, 146),
    "lavender": (182, 166, 222),
}
PETAL_COUNTS: dict[str, int] = {"four": 4, "five": 5, "six": 6, "eight": 8}
SIZES: dict[str, float] = {"small": 0.62, "medium": 0.80, "large": 1.0}

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "petal_colour": tuple(PETAL_COLOURS),
    "petal_shape": ("round", "pointed", "heart-shaped"),
    "petal_count": tuple(PETAL_COUNTS),
    "centre_colour": tuple(CENTRE_COLOURS),
    "size": tuple(SIZES),
    "background": tuple(BACKGROUNDS),
}
"""Every attribute and its values. An attribute's index in a drawing is an index into these."""

CLASSES: tuple[str, ...] = tuple(
    f"{colour} {shape}" for colour in ATTRIBUTES["petal_colour"] for shape in ATTRIBUTES["petal_shape"]
)
"""Class names: petal colour by petal shape."""

_RADIUS = 0.435  # of a large flower, as a share of the image
_CENTRE = 0.31  # radius of the flower's centre, as a share of the flower's
_CHUNK = 1 << 17  # samples drawn at once: the arrays stay in the processor's cache


def attributes_of(index: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """What `draw` draws: for each name of `ATTRIBUTES` the indices of the values, `(N,)` int64."""
    return {
        name: (uniform(seed, f"attribute/{name}", index) * len(values)).astype(np.int64)
        for name, values in ATTRIBUTES.items()
    }


def draw(index: int | np.ndarray, seed: int, size: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Draw flowers.

    Args:
        index: which flowers, one or `(N,)`, each at least 0.
        seed: of all random choices.
        size: height and width of the images, in pixels.

    Returns:
        Images `(N, size, size, 3)` uint8, and for each name of `ATTRIBUTES` the indices of the values, `(N,)` int64.
    """
    index = np.atleast_1d(np.asarray(index))
    attributes = attributes_of(index, seed)
    images = np.empty((len(index), size, size, 3), dtype=np.uint8)
    detail = 4 if size <= 32 else 2
    chunk = max(1, _CHUNK // (size * detail) ** 2)
    for shape, distance in enumerate(_PETALS):
        chosen = np.flatnonzero(attributes["petal_shape"] == shape)
        for start in range(0, len(chosen), chunk):
            rows = chosen[start : start + chunk]
            values = {name: indices[rows] for name, indices in attributes.items()}
            images[rows] = _paint(index[rows], values, distance, seed, size, detail)
    return images, attributes


# ------------------------------------------------------------------------------------------------------------- petals
# Each takes u along the petal's axis and v >= 0 across it, both in radii of the flower, and half the petal's width,
# and returns the signed distance from the petal's edge, in radii.


def _round(u: np.ndarray, v: np.ndarray, width: np.ndarray) -> np.ndarray:
    return _ellipse(u - 0.56, v, 0.44, np.minimum(width, 0.40))


def _pointed(u: np.ndarray, v: np.ndarray, width: np.ndarray) -> np.ndarray:
    broad = 0.46  # where it is broadest
    inner = (v * broad - u * width) / np.hypot(broad, width)
    outer = (v * (1 - broad) - (1.04 - u) * width) / np.hypot(1 - broad, width)
    return _soft_maximum(inner, outer, 0.06)


def _heart_shaped(u: np.ndarray, v: np.ndarray, width: np.ndarray) -> np.ndarray:
    width = np.minimum(1.08 * width, 0.46)
    lobes = 0.68  # where the two lobes have their centres
    lobe = _ellipse(u - lobes, v - 0.46 * width, 0.32, 0.54 * width)
    wedge = (v * lobes - u * width) / np.hypot(lobes, width)
    above = u - lobes
    body = np.minimum(np.maximum(wedge, above), 0) + np.hypot(np.maximum(wedge, 0), np.maximum(above, 0))
    heart = np.minimum(lobe, body)
    slope = 1.5 * width
    return np.maximum(heart, ((u - 0.72) * slope - v) / np.sqrt(1 + slope * slope))


_PETALS: tuple[Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray], ...] = (_round, _pointed, _heart_shaped)


def _ellipse(u: np.ndarray, v: np.ndarray, along: float, across: np.ndarray) -> np.ndarray:
    # f / |grad f| for f = |p / r| - 1: exact on the edge, close to it elsewhere
    k = np.sqrt(np.square(u / along) + np.square(v / across))
    gradient = np.sqrt(np.square(u / along**2) + np.square(v / np.square(across)))
    return k * (k - 1) / np.maximum(gradient, 1e-6)


def _soft_maximum(a: np.ndarray, b: np.ndarray, softness: float) -> np.ndarray:
    blend = np.maximum(softness - np.abs(a - b), 0) / softness
    return np.maximum(a, b) + np.square(blend) * (softness / 4)


# ------------------------------------------------------------------------------------------------------------ painting


def _paint(
    index: np.ndarray,
    values: dict[str, np.ndarray],
    petal_distance: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    seed: int,
    size: int,
    detail: int,
) -> np.ndarray:
    """Flowers of one petal shape: `(N, size, size, 3)` uint8."""

    def jitter(name: str, amount: float) -> np.ndarray:
        return column(uniform(seed, name, index) * 2 - 1) * np.float32(amount)

    def column(numbers: np.ndarray) -> np.ndarray:
        return numbers.astype(np.float32)[:, None, None]

    side = size * detail
    axis = ((np.arange(side, dtype=np.float32) + 0.5) / side - 0.5)[None]
    x, y = axis[:, None, :], axis[:, :, None]
    scale = np.array(list(SIZES.values()))[values["size"]]
    radius = column(scale * _RADIUS) * (1 + jitter("radius", 0.02))
    pixel = 1 / (size * radius)  # in radii of the flower
    sample = pixel / detail

    x = (x - jitter("x", 0.015)) / radius
    y = (y - jitter("y", 0.015)) / radius
    distance = np.sqrt(x * x + y * y)
    count = column(np.array(list(PETAL_COUNTS.values()))[values["petal_count"]])
    sector = np.float32(2 * np.pi) / count
    turn = np.arctan2(x, -y) + jitter("turn", 0.05)  # clockwise from the top, where the first petal stands
    petal = np.round(turn / sector)
    angle = turn - petal * sector
    u, v = distance * np.cos(angle), np.abs(distance * np.sin(angle))
    width = np.minimum(0.62 * np.tan(sector / 2), 0.43)
    edge = petal_distance(u, v, width)

    # How much of the background's, the petals' and the centre's colour every sample shows. A soft shadow on the ground
    # sets the flower off; petals are darker at the base, at the edge and along the middle, each a little different.
    shade = 1.07 - 0.14 * (axis[:, :, None] + 0.5) + jitter("sky", 0.03)
    ground = shade * (1 - 0.34 * np.square(np.clip(1 - np.maximum(edge, distance - 1) / 0.24, 0, 1)))
    variation = np.sin(petal % count * 2.4 + jitter("petals", 3.0)) * 0.045
    tone = 0.88 + 0.20 * np.minimum(distance, 1) + variation - 0.10 * np.exp(-400 * v * v)
    tone = np.where(edge > -np.minimum(0.85 * pixel, 0.24 * width), 0.55 * tone, tone)
    middle = distance - _CENTRE
    light = 1.02 - 0.22 * np.square(distance / _CENTRE) - 0.16 * (x + y) / _CENTRE

    on_petal, on_centre = _cover(edge, sample), _cover(middle, sample)
    around = (1 - on_centre) * (1 - 0.58 * _cover(middle - pixel, sample))  # a dark rim, one pixel wide
    layers = (
        (ground * (1 - on_petal) * around, BACKGROUNDS, "background"),
        (tone * on_petal * around, PETAL_COLOURS, "petal_colour"),
        (light * on_centre, CENTRE_COLOURS, "centre_colour"),
    )
    picture = np.zeros((len(index), size, size, 3), dtype=np.float32)
    for amount, palette, name in layers:
        colour = np.array(list(palette.values()), dtype=np.float32)[values[name]][:, None, None, :]
        colour = colour + np.stack([jitter(f"{name}/{channel}", 7.0) for channel in "rgb"], axis=-1)
        share = amount.reshape(len(index), size, detail, size, detail).mean(axis=(2, 4))  # the box filter
        picture += colour * share[..., None]
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)


def _cover(distance: np.ndarray, sample: np.ndarray) -> np.ndarray:
    """1 where `distance` is negative and 0 elsewhere, with an edge one sample wide."""
    return np.clip(0.5 - distance / sample, 0, 1)
