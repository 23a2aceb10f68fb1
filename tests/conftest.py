"""Fixtures that every test may use."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings

import npresnet as nr

# Compiling a kernel on first use takes longer than hypothesis's usual deadline.
settings.register_profile("npresnet", deadline=None, derandomize=True)
settings.load_profile("npresnet")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20151210)


@pytest.fixture(params=["reference", "cpu"])
def backend(request):
    """Run the test once a kernel set."""
    with nr.use_backend(request.param):
        yield request.param
