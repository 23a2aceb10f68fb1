"""Optimizer updates of the fast set against the textbook in float64."""

import numpy as np
import pytest

from npresnet_kernels import reference
from npresnet_kernels.cpu import threads as pool
from npresnet_kernels.cpu.fast import update

SIZES = [(1003,), (3 * update.CHUNK + 5,), (7, 5), (1,), (0,)]


def draw(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def follow(name, shape, states, settings):
    """Take three steps with both sets; return what each has then."""
    results = []
    for kernels, dtype in ((update, np.float32), (reference, np.float64)):
        arrays = [draw(shape, 0).astype(dtype), *[np.zeros(shape, dtype) for _ in range(states)]]
        if states == 1:
            arrays[1][...] = np.nan  # made by the first step, whatever is there
        for step in range(3):
            grad = draw(shape, 1 + step).astype(dtype)
            parameter, *kept = arrays
            if name == "adamw_update_":
                kernels.adamw_update_(parameter, grad, *kept, step + 1, *settings)
            else:
                buffer = kept[0] if kept else None
                kernels.sgd_update_(parameter, grad, buffer, step == 0, *settings)
        results.append(arrays)
    return results


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize(
    ("name", "states", "settings"),
    [
        ("sgd_update_", 0, (0.1, 0.0, 0.0, 1e-2, False)),
        ("sgd_update_", 1, (0.1, 0.9, 0.0, 1e-2, False)),
        ("sgd_update_", 1, (0.1, 0.8, 0.3, 0.0, False)),
        ("sgd_update_", 1, (0.1, 0.9, 0.0, 1e-2, True)),
        ("adamw_update_", 2, (0.03, 0.8, 0.95, 1e-6, 0.1)),
    ],
)
def test_update(shape, name, states, settings):
    found, truth = follow(name, shape, states, settings)
    for one, other in zip(found, truth, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)


def test_same_bits_on_any_threads():
    before = pool.get_num_threads()
    shape, settings = (3 * update.CHUNK + 5,), (0.03, 0.8, 0.95, 1e-6, 0.1)
    try:
        pool.set_num_threads(3)
        together, _ = follow("adamw_update_", shape, 2, settings)
        pool.set_num_threads(1)
        alone, _ = follow("adamw_update_", shape, 2, settings)
    finally:
        pool.set_num_threads(before)
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one, other)


def test_takes_only_what_it_can():
    plain = draw((4, 6), 0)
    assert update.takes_update(plain, None, plain)
    assert not update.takes_update(plain, plain.astype(np.float64))
    assert not update.takes_update(plain, plain.T)
