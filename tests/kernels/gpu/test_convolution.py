"""Implicit products on the host shim, at every tile's edges, in every precision."""

from __future__ import annotations

import numpy as np
import pytest

from npresnet_kernels import reference
from npresnet_kernels.gpu import products
from npresnet_kernels.gpu.precision import use_precision
from npresnet_kernels.gpu.tiles import TILES
from npresnet_kernels.shapes import conv_output_size
from tests.parity import relative_error
from tests.shim import build
from tests.shim.on_host import gpu_on_host

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="the host shim needs g++")

# precision: dtype, how float32 products are taken, the error of rounded operands and results
PRECISIONS = {
    "exact": (np.float32, "fp32", 2e-6),
    "tf32": (np.float32, "tf32", 2e-3),
    "fp16": (np.float16, "fp32", 2e-3),
}
# x shape, output channels, kernel size, stride, padding, dilation
CASES = {
    "one channel short": ((1, 31, 9, 8), 63, (3, 3), (1, 1), (1, 1), (1, 1)),
    "one row more": ((1, 9, 5, 13), 65, (2, 2), (1, 1), (1, 1), (2, 1)),
    "stride 2": ((2, 16, 9, 8), 8, (3, 3), (2, 2), (1, 1), (1, 1)),
    "a stem in pairs of pixels": ((1, 3, 13, 16), 8, (7, 7), (2, 2), (3, 3), (1, 1)),
    "stem": ((1, 3, 13, 15), 8, (7, 7), (2, 2), (3, 3), (1, 1)),
    "shares": ((3, 4, 21, 19), 5, (1, 3), (1, 1), (0, 1), (1, 1)),
}


def results_of(kernels, case, dtype, rng):
    shape, outs, window, *options = case
    size = conv_output_size(shape[2:], window, *options)
    x, w, b, dy = (
        rng.standard_normal(s).astype(dtype)
        for s in (shape, (outs, shape[1], *window), (outs,), (shape[0], outs, *size))
    )

    def run(kernels, x, w, b, dy):
        return (
            kernels.conv2d(x, w, b, *options, 1),
            kernels.conv2d_grad_input(dy, w, x.shape, *options, 1),
            kernels.conv2d_grad_weight(dy, x, window, *options, 1),
        )

    truth = run(reference, *(a.astype(np.float64) for a in (x, w, b, dy)))
    return run(kernels, x, w, b, dy), truth


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", CASES)
def test_against_the_reference(case, precision, rng):
    dtype, taken, bound = PRECISIONS[precision]
    with use_precision(taken):
        ours, truth = results_of(gpu_on_host, CASES[case], dtype, rng)
    for result, exact in zip(ours, truth, strict=True):
        assert result.dtype == dtype
        assert relative_error(result, exact) <= bound


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("tile", TILES[:-1])
def test_large_tiles(tile, precision, rng, monkeypatch):
    monkeypatch.setattr(products, "choose_tile", lambda *_: tile)
    dtype, taken, bound = PRECISIONS[precision]
    with use_precision(taken):
        ours, truth = results_of(gpu_on_host, CASES["one row more"], dtype, rng)
    for result, exact in zip(ours, truth, strict=True):
        assert relative_error(result, exact) <= bound


def test_an_image_has_the_same_bits_in_any_batch(rng):
    x = rng.standard_normal((5, 8, 9, 9)).astype(np.float32)
    w = rng.standard_normal((8, 8, 3, 3)).astype(np.float32)
    options = ((1, 1), (1, 1), (1, 1), 1)
    together = gpu_on_host.conv2d(x, w, None, *options)
    alone = gpu_on_host.conv2d(x[3:4], w, None, *options)
    np.testing.assert_array_equal(together[3:4], alone)
