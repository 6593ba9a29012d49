"""Random numbers that are a pure function of (seed, name, index): no state, so any part can be made again alone."""

from __future__ import annotations

import hashlib

import numpy as np


def uniform(seed: int, name: str, index: np.ndarray) -> np.ndarray:
    """A number in [0, 1) for each of `index` (integers, any shape), float64; another name is another sequence."""
    stream = np.uint64(int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "little"))
    return (_mix(index.astype(np.uint64) + stream) >> np.uint64(11)).astype(np.float64) / 2.0**53


def uniform_of(seed: int, name: str) -> float:
    """A number in [0, 1) for a name: which split an item falls into depends on its id alone, not on its neighbours."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "little") / 2.0**64


def _mix(state: np.ndarray) -> np.ndarray:
    # splitmix64 (Steele, Lea & Flood 2014, Fast splittable pseudorandom number generators, figure 17)
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
