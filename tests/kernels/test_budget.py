"""The column budget holds, and changes no result."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from npresnet_kernels import budget, cpu, reference
from tests.kernels.test_conv import CASES, all_of, draw

SHAPES = {
    "batch": ((32, 16, 16, 16), 16, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "one image": ((1, 16, 64, 64), 16, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "one row": ((1, 16, 1, 4096), 16, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "groups": ((8, 16, 32, 32), 16, (3, 3), (1, 1), (1, 1), (1, 1), 4),
    "stride": ((8, 16, 64, 64), 16, (5, 5), (2, 2), (2, 2), (1, 1), 1),
}


def peak(call):
    """Bytes that a call has allocated at its worst, beside what it returns."""
    call()  # compiled, and threads started
    tracemalloc.start()
    result = call()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most - result.nbytes


@pytest.mark.parametrize("kernels", [reference, cpu], ids=["reference", "cpu"])
@pytest.mark.parametrize("name", SHAPES)
def test_budget_holds(name, kernels, column_budget, rng):
    _, _, kernel, *window, groups = SHAPES[name]
    x, weight, _, grad = (a.astype(np.float32) for a in draw(SHAPES[name], rng))
    options = (*window, groups)
    limit = 256 * 1024
    column_budget(limit)
    columns = kernels.im2col(x, kernel, *window).nbytes
    assert columns > 5 * limit
    # x, its padded copy, grad_output, the weights' copies; then the columns, and as much again
    # for products on their way
    copies = 3 * x.nbytes + 2 * grad.nbytes + 8 * weight.nbytes + 2**16
    calls = [
        lambda: kernels.conv2d(x, weight, None, *options),
        lambda: kernels.conv2d_grad_input(grad, weight, x.shape, *options),
        lambda: kernels.conv2d_grad_weight(grad, x, kernel, *options),
    ]
    for call in calls:
        assert peak(call) < copies + 2 * limit


@pytest.mark.parametrize("size", [1, 1000, 20000])
@pytest.mark.parametrize("case", ["uneven", "depthwise", "1x1", "3x3 stride 2", "dilated"])
def test_results_do_not_depend_on_it(case, size, kernels, column_budget, rng):
    options, inputs = CASES[case][3:], draw(CASES[case], rng)
    expected = all_of(kernels, *inputs, options=options)
    column_budget(size)
    for value, known in zip(all_of(kernels, *inputs, options=options), expected, strict=True):
        np.testing.assert_allclose(value, known, rtol=1e-11, atol=1e-11)


def test_default():
    assert budget.COLUMN_BUDGET == 64 * 2**20


def test_wrong_size():
    with pytest.raises(ValueError, match="above 0, got 0"):
        budget.set_column_budget(0)


@pytest.mark.parametrize(("value", "code"), [("12345", 0), ("many", 1), ("0", 1)])
def test_environment(value, code, monkeypatch):
    monkeypatch.setenv("NPRESNET_COLUMN_BUDGET", value)
    script = "from npresnet_kernels import budget; assert budget.column_budget() == 12345"
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True)
    assert done.returncode == code
    assert not code or b"NPRESNET_COLUMN_BUDGET expected a number" in done.stderr
