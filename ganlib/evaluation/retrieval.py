"""R-precision: does an image's own caption rank above wrong ones (AttnGAN, Xu et al. 2018, section 4, with R = 1)."""

from __future__ import annotations

import numpy as np

from ganlib.evaluation.agreement import Proportion
from ganlib.evaluation.features import Extractor
from ganlib.evaluation.prompts import Prompts, wrong_captions

CANDIDATES = 99
"""Wrong captions that an image's own caption is ranked against."""

_POOL = 5000  # captions that candidates are taken from, at most
_BLOCK = 256  # prompts whose candidates' vectors are held at once


def r_precision(images: np.ndarray, own: np.ndarray, others: np.ndarray, candidates: np.ndarray) -> Proportion:
    """How many images are nearer to their own caption than to each candidate, by cosine similarity.

    Args:
        images: `(n, d)` image vectors of the caption matcher, of length 1.
        own: `(n, d)` vectors of each image's caption, of length 1.
        others: `(m, d)` vectors of the captions that candidates are taken from, of length 1.
        candidates: `(n, k)` indices into `others`.

    Returns:
        the count of images whose own caption is above all its candidates; a tie is no hit.
    """
    hits = 0
    for start in range(0, len(images), _BLOCK):
        rows = slice(start, start + _BLOCK)
        true = np.einsum("nd,nd->n", images[rows], own[rows])
        wrong = np.einsum("nd,nkd->nk", images[rows], others[candidates[rows]])
        hits += int(np.sum(true > wrong.max(axis=1)))
    return Proportion(hits, len(images))


def measure_r_precision(
    extractor: Extractor, features: np.ndarray, prompts: Prompts, pool: Prompts, seed: int
) -> Proportion | None:
    """R-precision of images that were made, or photographed, for prompts.

    Args:
        extractor: whose caption matcher judges.
        features: `(n, d)` of the images.
        prompts: the caption of each image.
        pool: captions in random order; the first 5,000 of them are what wrong ones are drawn from.
        seed: of the choice of 99 wrong captions for each image.

    Returns:
        None where some prompt has fewer than 99 wrong captions in the pool.
    """
    pool = pool.take(np.arange(min(len(pool), _POOL)))
    wrong = wrong_captions(prompts, pool)
    if min(len(indices) for indices in wrong) < CANDIDATES:
        return None
    random = np.random.default_rng(seed)
    candidates = np.stack([random.choice(indices, CANDIDATES, replace=False) for indices in wrong])
    own, others = extractor.text_features(prompts.texts), extractor.text_features(pool.texts)
    return r_precision(extractor.image_vectors(features), own, others, candidates)
