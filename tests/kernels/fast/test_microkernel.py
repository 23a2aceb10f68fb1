"""The register tiles: every height, both layouts, no spills; Winograd's matrices; vector widths."""

import ctypes
import os
import subprocess
import sys

import numpy as np
import pytest

from npresnet_kernels.cpu.fast.direct_images import pixels_1, pixels_2
from npresnet_kernels.cpu.fast.finish import finish_summed
from npresnet_kernels.cpu.fast.matrices import winograd_matrices
from npresnet_kernels.cpu.fast.microkernel import gemm_blocked, gemm_strided
from npresnet_kernels.cpu.fast.sums import sum_rows
from npresnet_kernels.cpu.fast.vector import LANES, TILE_COLUMNS, TILE_ROWS
from npresnet_kernels.cpu.machine_code import assembly

FUNCTION = {"blocked": gemm_blocked, "strided": gemm_strided}


def call(kernel, *arguments):
    """Call a kernel through ctypes."""
    kind = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * len(arguments))
    kind(kernel.address)(*(int(argument) for argument in arguments))


@pytest.mark.parametrize("layout", ["blocked", "strided"])
@pytest.mark.parametrize("depth", [0, 4, 20, 64])
def test_products(layout, depth):
    rng = np.random.default_rng(0)
    b = rng.standard_normal((depth, TILE_COLUMNS)).astype(np.float32)
    blocks = -(-depth // LANES)
    for rows in range(1, TILE_ROWS + 1):
        left = rng.standard_normal((rows, depth)).astype(np.float32)
        c = np.full((rows, TILE_COLUMNS), np.nan, dtype=np.float32)
        if layout == "blocked":
            padded = np.zeros((rows, blocks * LANES), dtype=np.float32)
            padded[:, :depth] = left
            a = np.ascontiguousarray(padded.reshape(rows, blocks, LANES).transpose(1, 0, 2))
            a_stride = rows * LANES * 4
        else:
            a = np.ascontiguousarray(left.T)
            a_stride = rows * 4
        for accumulate in (0, 1):
            call(
                FUNCTION[layout],
                rows,
                a.ctypes.data,
                a_stride,
                b.ctypes.data,
                TILE_COLUMNS * 4,
                c.ctypes.data,
                TILE_COLUMNS * 4,
                depth,
                0,
                accumulate,
            )
            truth = (1 + accumulate) * (left.astype(np.float64) @ b)
            np.testing.assert_allclose(c, truth, atol=1e-4)


@pytest.mark.skipif(LANES != 16, reason="reads AVX-512 assembly")
@pytest.mark.parametrize(
    ("kernel", "products"),
    [
        *((product, 28) for product in (gemm_blocked, gemm_strided, pixels_1, pixels_2)),
        (finish_summed, 8),
        (sum_rows, 8),
    ],
)
def test_no_spills(kernel, products):
    text = assembly(kernel.function, kernel.symbol)
    stack = [line for line in text.splitlines() if "zmm" in line and "(%rsp" in line]
    assert not stack
    assert text.count("vfmadd") > products


@pytest.mark.parametrize(("outputs", "taps"), [(4, 3), (2, 3), (3, 4), (3, 2)])
def test_winograd_matrices(outputs, taps):
    output, weight, data = winograd_matrices(outputs, taps)
    rng = np.random.default_rng(0)
    d = rng.standard_normal((outputs + taps - 1,) * 2)
    g = rng.standard_normal((taps, taps))
    y = output @ ((weight @ g @ weight.T) * (data @ d @ data.T)) @ output.T
    windows = np.lib.stride_tricks.sliding_window_view(d, (taps, taps))
    np.testing.assert_allclose(y, np.einsum("ijrs,rs->ij", windows, g), atol=1e-12)


def test_other_vector_widths(tmp_path):
    """The narrower units' code is right, on whatever host runs it; both are compiled at once."""
    program = (
        "import numpy as np, sys\n"
        f"sys.path.insert(0, {os.path.dirname(__file__)!r})\n"
        "from test_convolution import *\n"
        "for shape, algorithm in (((2, 17, 33, 3, 1, 1, 9, 7), 'winograd4'),"
        " ((1, 5, 9, 3, 2, 1, 9, 7), 'direct')):\n"
        "    test_forward(shape, algorithm)\n"
        "    test_gradients(shape, algorithm)\n"
        "from test_half import *\n"
        "if half.FITS:\n"
        "    *_, y, truth = both(1, (128, 161), (5, 4), 1, 'winograd4')\n"
        "    np.testing.assert_array_equal(y, truth)\n"
    )
    running = {}
    for vector in ("avx2", "neon"):
        environment = {**os.environ, "NPRESNET_VECTOR": vector, "NUMBA_CACHE_DIR": str(tmp_path)}
        running[vector] = subprocess.Popen([sys.executable, "-c", program], env=environment)
    assert {vector: process.wait() for vector, process in running.items()} == {"avx2": 0, "neon": 0}


def test_unknown_vector_unit_is_named():
    environment = {**os.environ, "NPRESNET_VECTOR": "mmx"}
    program = "import npresnet_kernels.cpu.fast.vector"
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0
    assert "expected one of avx512" in run.stderr
