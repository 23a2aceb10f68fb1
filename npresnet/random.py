"""One source of randomness for initialisation, dropout and random tensors."""

from __future__ import annotations

import numpy as np

__all__ = ["generator", "manual_seed"]

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
