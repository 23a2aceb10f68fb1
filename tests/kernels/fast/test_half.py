"""Weights transformed in one direction: the bits of those transformed in both, for a few tiles."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npresnet_kernels.cpu import threads as pool
from npresnet_kernels.cpu.fast import half, parallel
from npresnet_kernels.cpu.fast.algorithm import HALF_TILES
from npresnet_kernels.cpu.fast.convolution import Convolution
from npresnet_kernels.cpu.fast.memory import aligned_empty
from npresnet_kernels.cpu.fast.vector import LANES
from npresnet_kernels.cpu.machine_code import assembly

fits = pytest.mark.skipif(not half.FITS, reason="needs 32 vector registers")


def run(layer, x, weight, bias, residual):
    y = np.full((len(x), *layer.output_size, layer.channels_out), np.nan, np.float32)
    scratch = aligned_empty(layer.scratch_floats(parallel.thread_count()))
    layer.forward(x, layer.pack(weight), y, scratch, bias, residual, relu=True)
    return y


def both(images, channels, size, padding, algorithm, most=None):
    """Return the results of a layer that knows how many images come, and of one that doesn't."""
    rng = np.random.default_rng(0)
    shape = *channels, 3, 1, padding, *size, algorithm
    few, many = Convolution(*shape, most or images), Convolution(*shape)
    maps = [(images, *size, channels[0]), (images, *few.output_size, channels[1])]
    x, residual = (rng.standard_normal(shape).astype(np.float32) for shape in maps)
    weight = rng.standard_normal((channels[1], channels[0], 3, 3)).astype(np.float32)
    bias = rng.standard_normal(channels[1]).astype(np.float32)
    results = [run(layer, x, weight, bias, residual) for layer in (few, many)]
    return few, many, *results


@fits
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    ("images", "channels", "size", "padding", "algorithm"),
    [
        (1, (256, 256), (14, 14), 1, "winograd4"),
        (1, (256, 240), (7, 7), 1, "winograd2"),
        (1, (128, 161), (9, 13), 1, "winograd4"),
        (3, (144, 96), (5, 5), 0, "winograd4"),
        (3, (272, 128), (3, 3), 1, "winograd2"),
        (1, (160, 160), (1, 1), 2, "winograd4"),
        (5, (512, 512), (4, 4), 1, "winograd4"),
        (12, (352, 352), (7, 6), 1, "winograd4"),  # many tiles: more than 16 MiB as a whole
    ],
)
def test_the_bits_are_those_of_whole_transforms(
    threads, images, channels, size, padding, algorithm, monkeypatch
):
    monkeypatch.setattr(pool, "_threads", threads)
    few, many, y, truth = both(images, channels, size, padding, algorithm)
    smaller = (4 if algorithm == "winograd2" else 6) / 3
    whole = many.packed_size or smaller * few.packed_size  # 0: made on the way
    assert few.packed_size == whole / smaller
    np.testing.assert_array_equal(y, truth)


@fits
@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 8),
    st.integers(6, 12),
    st.integers(90, 200),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.integers(1, 2),
    st.sampled_from(["winograd2", "winograd4"]),
)
def test_any_shape(images, vectors, channels_out, size, padding, algorithm):
    *_, y, truth = both(images, (16 * vectors, channels_out), size, padding, algorithm)
    np.testing.assert_array_equal(y, truth)


@fits
def test_fewer_images_than_said():
    few, *_, y, truth = both(1, (256, 256), (6, 6), 1, "winograd4", most=4)
    assert few.packed_size == 18 * 256 * 256
    np.testing.assert_array_equal(y, truth)


@fits
def test_for_many_tiles_weights_are_transformed_as_a_whole():
    shape = 256, 256, 3, 1, 1, 8, 8, "winograd4"
    sizes = [Convolution(*shape, images).packed_size for images in (0, 4, 5)]
    assert HALF_TILES == 16  # four tiles an image
    assert sizes == [36 * 256 * 256, 18 * 256 * 256, 36 * 256 * 256]
    odd = Convolution(250, 256, 3, 1, 1, 8, 8, "winograd4", 1)  # 250 isn't a number of vectors
    assert odd.packed_size == 36 * 252 * 256


@pytest.mark.skipif(LANES != 16, reason="reads AVX-512 assembly")
@pytest.mark.parametrize("kernel", [*half.HALF_PRODUCTS_4, *half.HALF_PRODUCTS_2])
def test_no_spills(kernel):
    text = assembly(kernel.function, kernel.symbol)
    assert not [line for line in text.splitlines() if "zmm" in line and "(%rsp" in line]
    assert text.count("{1to16}") >= 24 * 4
