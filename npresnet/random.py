"""One source of randomness for initialisation, dropout and random tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np

__all__ = ["generator", "manual_seed", "seeded"]

_generator = np.random.default_rng()


def manual_seed(seed: int) -> np.random.Generator:
    """Start the random numbers of npresnet anew from ``seed``, and return their generator.

    The numbers are NumPy's (PCG64), not torch's: the distributions agree, the draws don't.
    """
    global _generator
    _generator = np.random.default_rng(seed)
    return _generator


def generator() -> np.random.Generator:
    """Return the generator in use."""
    return _generator


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[np.random.Generator]:
    """Use random numbers begun from ``seed`` in a ``with`` block, then go on with the old ones."""
    global _generator
    before = _generator
    _generator = np.random.default_rng(seed)
    try:
        yield _generator
    finally:
        _generator = before
