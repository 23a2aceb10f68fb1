"""The choice of an algorithm: by shape alone, and what it must be where it was measured."""

import pytest

from npresnet_kernels.cpu import threads as pool
from npresnet_kernels.cpu.fast.algorithm import choose_algorithm
from npresnet_kernels.cpu.fast.convolution import Convolution
from npresnet_kernels.cpu.fast.vector import LANES


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((64, 64, 3, 1, 1, 56, 56), "winograd4"),
        ((128, 128, 3, 1, 1, 28, 28), "winograd4"),
        ((256, 256, 3, 1, 1, 14, 14), "winograd4"),
        ((512, 512, 3, 1, 1, 7, 7), "winograd2"),
        ((512, 512, 3, 1, 1, 1, 1), "direct"),
        ((3, 64, 7, 2, 3, 224, 224), "direct"),
        ((256, 512, 1, 2, 0, 14, 14), "direct"),
    ],
)
@pytest.mark.skipif(LANES != 16, reason="measured with AVX-512")
def test_choice(shape, expected):
    assert choose_algorithm(*shape) == expected


def test_choice_ignores_threads():
    before = pool.get_num_threads()
    shape = (64, 64, 3, 1, 1, 8, 8)
    choice = Convolution(*shape).algorithm
    try:
        pool.set_num_threads(1)
        assert Convolution(*shape).algorithm == choice
    finally:
        pool.set_num_threads(before)


def test_errors_name_the_cure():
    with pytest.raises(ValueError, match="larger than the input"):
        Convolution(3, 8, 7, 1, 0, 5, 5)
    with pytest.raises(ValueError, match="expected 'auto'"):
        Convolution(3, 8, 3, 1, 1, 5, 5, "fft")
    with pytest.raises(ValueError, match="3x3 kernels, stride 1"):
        Convolution(3, 8, 3, 2, 1, 5, 5, "winograd4")
