"""Sliced Wasserstein distance between the patches of two sets of images, scale by scale, in float32.

The metric of Karras et al. 2018 (Progressive growing of GANs, arXiv 1710.10196, section 5): every image becomes a
Laplacian pyramid (Burt & Adelson 1983), every level of the pyramid is described by random patches, and the patches of
two sets are compared by the sliced Wasserstein distance (Rabin et al. 2011). Coarse levels tell of layout and colour,
fine ones of texture and noise. It needs no trained network, so that it can be watched while one trains.

As in the paper, the patches of a set are normalised by the set's own mean and deviation of each channel: a set that is
only lighter or of more contrast at a level is at distance 0 there. Other than in the paper:
    places      both sets are cut at the same places, so that a set is at distance 0 from itself
    counts      the paper takes 128 patches of each of 16,384 images and 512 directions; the defaults here are what
                1,000 images of 32 x 32 x 3 need to be done within a second on one core
    pyramid     it ends at the side nearest to 16 pixels in octaves, which is 16 for the paper's powers of two and 14
                for 28; a side below 23 is a single level
"""

from __future__ import annotations

import itertools
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ganlib.problems import Refused

_NAME = "sliced Wasserstein distance"
_COARSEST = 16  # pixels
_IMAGES = 256  # whose pyramids are held at once
_DIRECTIONS = 32  # projected at once
_SHOWN = 1000.0  # the paper's tables give thousandths


def sliced_wasserstein_distance(
    real: np.ndarray, generated: np.ndarray, *, seed: int, patches: int = 32, directions: int = 128, patch: int = 7
) -> float:
    """Mean over the levels of the pyramid of the distance between normalised patches, times 1000; lower is better.

    Two finite samples of one distribution are at a distance above 0, which shrinks with the number of images: compare
    values of equal counts, and hold them against that of two sets of real images. Memory is about
    `8 * levels * N * patches * patch**2 * C` bytes.

    Args:
        real, generated: `(N, H, W, C)` and `(M, H, W, C)` uint8 with C 1 or 3. Of the larger set as many as the
            smaller one has are drawn by the seed.
        seed: of that choice, of the places and of the directions; the same seed gives the same number.
        patches: cut from each image at each level.
        directions: to project on, at each level.
        patch: side of a patch in pixels.

    Raises:
        Refused: for arrays of another kind or of different image shapes, a count below 1, a patch that does not fit
            into the coarsest level.
    """
    shapes = level_shapes(*_image_shape(real, generated))
    if min(patches, directions) < 1:
        raise Refused(f"{_NAME}: found {patches} patches and {directions} directions; take at least 1 of each")
    if not 1 <= patch <= min(shapes[-1]):
        raise Refused(f"{_NAME}: found patches of {patch} pixels; take 1 to {min(shapes[-1])}, the coarsest level")
    random = np.random.default_rng(seed)
    count = min(len(real), len(generated))
    real, generated = _drawn(real, count, random), _drawn(generated, count, random)
    corners = [random.integers(0, np.subtract(shape, patch - 1), (count, patches, 2)) for shape in shapes]
    distances = [
        sliced_wasserstein(_vectors(a), _vectors(b), unit_directions(directions, a[0].size, random))
        for a, b in zip(_patches(real, corners, patch), _patches(generated, corners, patch), strict=True)
    ]
    return _SHOWN * float(np.mean(distances))


def sliced_wasserstein(a: np.ndarray, b: np.ndarray, directions: np.ndarray) -> float:
    """Mean over `directions` `(k, d)`, unit vectors, of the 1-Wasserstein distance between the projections of `a` and
    `b`, both `(n, d)`.

    On a line the cheapest transport keeps the order, so that the distance is the mean of |a_(i) - b_(i)| over ranks i.

    Raises:
        Refused: for sets of different shapes, or empty ones.
    """
    if a.shape != b.shape or not a.size:
        raise Refused(f"{_NAME}: found vectors {a.shape} and {b.shape}; take as many of the same length from both")
    total = 0.0
    for start in range(0, len(directions), _DIRECTIONS):
        some = directions[start : start + _DIRECTIONS]
        gaps = np.sort(some @ a.T, axis=1) - np.sort(some @ b.T, axis=1)
        total += float(np.abs(gaps).mean(1, dtype=np.float64).sum())
    return total / len(directions)


def unit_directions(count: int, dimensions: int, random: np.random.Generator) -> np.ndarray:
    """Float32 `(count, dimensions)`, each uniform on the unit sphere: a normal vector over its length."""
    normal = random.standard_normal((count, dimensions))
    return (normal / np.linalg.norm(normal, axis=1, keepdims=True)).astype(np.float32)


def normalised(patches: np.ndarray) -> np.ndarray:
    """Patches `(n, pixels, C)` with mean 0 and standard deviation 1 in each channel, over all patches and pixels.

    A channel of one single value has no deviation and is 0 throughout: the patches of flat images are a point mass.
    """
    centred = patches - patches.mean(0, dtype=np.float64).mean(0).astype(np.float32)
    deviation = np.sqrt(np.square(centred).mean(0, dtype=np.float64).mean(0)).astype(np.float32)
    centred /= np.where(deviation > 0, deviation, np.float32(1))
    return centred


def level_shapes(height: int, width: int) -> list[tuple[int, int]]:
    """Height and width of each level, finest first; the shorter side is halved (rounded up) towards 16 pixels."""
    shapes = [(height, width)]
    while min(shapes[-1]) ** 2 > 2 * _COARSEST**2:  # nearer to 16, in octaves, by one more halving
        shapes.append(((shapes[-1][0] + 1) // 2, (shapes[-1][1] + 1) // 2))
    return shapes


def laplacian_pyramid(images: np.ndarray, levels: int) -> list[np.ndarray]:
    """The levels of float images `(N, H, W, C)`, finest first: what halving loses at each scale, then what is left.

    Adding `doubled` of the level below, from the last to the first, gives the images back.
    """
    gaussian = [images]
    for _ in range(levels - 1):
        gaussian.append(halved(gaussian[-1]))
    details = [fine - doubled(coarse, *fine.shape[1:3]) for fine, coarse in itertools.pairwise(gaussian)]
    return [*details, gaussian[-1]]


def halved(images: np.ndarray) -> np.ndarray:
    """Float images `(N, H, W, C)` smoothed by (1, 4, 6, 4, 1) / 16 along both axes, every second pixel of them kept;
    the border is mirrored about its pixel. Sides are at least 3."""
    for axis in (1, 2):
        padded = _padded(images, axis, 2, 2, "reflect")
        side = images.shape[axis]
        taps = [_along(padded, axis, slice(shift, shift + side, 2)) for shift in range(5)]
        images = ((taps[0] + taps[4]) + 4 * (taps[1] + taps[3]) + 6 * taps[2]) / 16
    return images


def doubled(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Float images `(N, h, w, C)` at `(N, height, width, C)`, where h and w are the halves, rounded up.

    Zeros between the pixels and the same kernel, twice as heavy, leave (1, 6, 1) / 8 at the pixels and (4, 4) / 8
    between them. Mirroring the finer grid repeats the last pixel of an even side and mirrors all other borders.
    """
    for axis, side in ((1, height), (2, width)):
        half = images.shape[axis]
        before = _padded(images, axis, 1, 0, "reflect")
        padded = _padded(before, axis, 0, 1, "edge" if side % 2 == 0 else "reflect")
        left, here, right = (_along(padded, axis, slice(shift, shift + half)) for shift in range(3))
        finer = np.empty((*images.shape[:axis], side, *images.shape[axis + 1 :]), dtype=images.dtype)
        _along(finer, axis, slice(0, None, 2))[:] = (left + 6 * here + right) / 8
        _along(finer, axis, slice(1, None, 2))[:] = _along((here + right) / 2, axis, slice(0, side // 2))
        images = finer
    return images


def _patches(images: np.ndarray, corners: list[np.ndarray], patch: int) -> list[np.ndarray]:
    """For each level, float32 `(N * patches, patch**2, C)` cut from images `(N, H, W, C)` with the top left pixels
    `corners` `(N, patches, 2)`."""
    channels = images.shape[3]
    cut = [np.empty((*places.shape[:2], patch, patch * channels), dtype=np.float32) for places in corners]
    for start in range(0, len(images), _IMAGES):
        some = slice(start, start + _IMAGES)
        pyramid = laplacian_pyramid(np.asarray(images[some], dtype=np.float32), len(corners))
        for level, places, into in zip(pyramid, corners, cut, strict=True):
            rows = level.reshape(*level.shape[:2], -1)  # a row of a patch is one run of patch * C numbers
            windows = sliding_window_view(rows, (patch, patch * channels), axis=(1, 2))
            top, left = places[some, :, 0], places[some, :, 1]
            into[some] = windows[np.arange(len(level))[:, None], top, left * channels]
    return [found.reshape(-1, patch * patch, channels) for found in cut]


def _vectors(patches: np.ndarray) -> np.ndarray:
    return normalised(patches).reshape(len(patches), -1)


def _drawn(images: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    if len(images) == count:
        return images
    return images[np.sort(random.choice(len(images), count, replace=False))]


def _image_shape(real: np.ndarray, generated: np.ndarray) -> tuple[int, int]:
    for name, images in (("real", real), ("generated", generated)):
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3) or not images.size:
            raise Refused(
                f"{_NAME}: found {name} images {images.dtype} {images.shape}; take uint8 (N, H, W, C) with C 1 or 3"
            )
    if real.shape[1:] != generated.shape[1:]:
        raise Refused(
            f"{_NAME}: found real images {real.shape[1:]} and generated ones {generated.shape[1:]}; take equal shapes"
        )
    return real.shape[1], real.shape[2]


def _padded(images: np.ndarray, axis: int, before: int, after: int, mode: Literal["reflect", "edge"]) -> np.ndarray:
    widths = [(0, 0)] * images.ndim
    widths[axis] = (before, after)
    return np.pad(images, widths, mode=mode)


def _along(images: np.ndarray, axis: int, part: slice) -> np.ndarray:
    return images[(slice(None),) * axis + (part,)]
