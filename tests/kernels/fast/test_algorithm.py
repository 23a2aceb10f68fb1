"""The choice of an algorithm: by shape alone, near the best where it was measured."""

import json
from dataclasses import astuple
from math import prod
from pathlib import Path

import pytest

from npresnet_kernels.cpu import threads as pool
from npresnet_kernels.cpu.fast import algorithm
from npresnet_kernels.cpu.fast.algorithm import FORMS, Work, choose_algorithm, work_of
from npresnet_kernels.cpu.fast.convolution import Convolution
from npresnet_kernels.cpu.fast.vector import LANES

HERE = Path(__file__).parent
TIMES = json.loads((HERE / "algorithm_times.json").read_text())
"""Of every 3x3 convolution of stride 1 in ResNet-18, 34 and 50 at 224x224 and 32x32, an image alone
and a batch: `bench/layers.py` on two AVX-512 cores, L2 of 2 MiB each, 2026-11-23, the least of a
few runs."""


@pytest.fixture
def measured_there(monkeypatch):
    """Choose as on the machine that was measured."""
    if LANES != 16:
        pytest.skip("measured with AVX-512")
    monkeypatch.setattr(algorithm, "L2_BYTES", 2 << 20)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((64, 64, 3, 1, 1, 56, 56), "winograd4"),
        ((128, 128, 3, 1, 1, 28, 28), "winograd4"),
        ((256, 256, 3, 1, 1, 14, 14), "winograd4"),
        ((512, 512, 3, 1, 1, 7, 7), "winograd4"),
        ((512, 512, 3, 1, 1, 1, 1), "direct"),
        ((256, 256, 3, 1, 1, 2, 2), "winograd2x2"),
        ((3, 64, 7, 2, 3, 224, 224), "direct"),
        ((256, 512, 1, 2, 0, 14, 14), "direct"),
    ],
)
def test_choice(shape, expected, measured_there):
    assert choose_algorithm(*shape) == expected


@pytest.mark.parametrize(
    ("size", "expected"), [((256, 14), "winograd4"), ((512, 7), "winograd4"), ((512, 1), "direct")]
)
def test_choice_in_training(size, expected, measured_there):
    channels, side = size
    shape = (channels, channels, 3, 1, 1, side, side)
    assert choose_algorithm(*shape, training=True) == expected


def test_choices_are_near_the_best_that_was_measured(measured_there):
    losses = {}
    for time in TIMES:
        cycles = time["cycles"]
        loss = cycles[choose_algorithm(*time["shape"])] / min(cycles.values())
        losses.setdefault(tuple(time["shape"]), []).append(loss)
    assert len(losses) == 12
    means = {shape: prod(values) ** (1 / len(values)) for shape, values in losses.items()}
    assert max(means.values()) < 1.25, "an image alone and a batch together"
    assert prod(means.values()) ** (1 / len(means)) < 1.06
    assert max(max(values) for values in losses.values()) < 1.5, "either of them"


def test_costs_are_those_that_the_times_give(measured_there, monkeypatch):
    monkeypatch.syspath_prepend(HERE.parents[2] / "bench")
    import calibrate

    assert astuple(calibrate.fit(TIMES)) == pytest.approx(astuple(algorithm.COSTS), rel=0.01)


def test_work_is_what_is_counted_by_hand(measured_there):
    shape = (64, 32, 3, 1, 1, 8, 8)
    tiles, points = 2 * 2 * 5, 36
    assert work_of("winograd4", *shape, 5) == Work(
        winograd=tiles * points * 64 * 32 / 32, transform=tiles * points * (64 + 32) / 32
    )
    assert work_of("direct", *shape, 5) == Work(
        direct=5 * 64 * 9 * 64 * 32 / 32, gather=5 * 64 * 9 * 64 / 32
    )
    large = (512, 512, 3, 1, 1, 7, 7)
    assert work_of("winograd2", *large, 1).weight == 12 * 512 * 512 * 4 - (2 << 20)
    assert work_of("winograd2", *large, 2).weight == 16 * 512 * 512 * 4 - (2 << 20)
    half = work_of("winograd4", *large, 8)
    assert half.weight == 18 * 512 * 512 * 4 - (2 << 20)
    assert half.made == 0
    anew = work_of("winograd4", *large, 8, training=True)
    assert anew.made == 36 * 512 * 512 / 16
    assert anew.weight == 0
    assert half.winograd == pytest.approx(anew.winograd * 7 / 6)
    # a tap that sees only padding is no work
    assert work_of("direct", 512, 512, 3, 1, 1, 1, 1, 1).direct == 512 * 512 / 32


@pytest.mark.parametrize("threads", [1, 3])
def test_choice_ignores_threads(threads):
    before = pool.get_num_threads()
    shapes = [(64, 64, 3, 1, 1, 8, 8), (256, 256, 3, 1, 1, 8, 8), (512, 512, 3, 1, 1, 4, 4)]
    choices = [Convolution(*shape).algorithm for shape in shapes]
    try:
        pool.set_num_threads(threads)
        assert [Convolution(*shape).algorithm for shape in shapes] == choices
    finally:
        pool.set_num_threads(before)


def test_caches_and_vectors_are_asked_for(monkeypatch):
    """Weights that an L2 holds cost nothing to read; on the same machine the choice is the same."""
    shape = (128, 128, 3, 1, 1, 28, 28)
    monkeypatch.setattr(algorithm, "L2_BYTES", 1 << 30)
    assert {work_of(name, *shape, 1).weight for name in ("direct", *FORMS)} == {0}
    monkeypatch.setattr(algorithm, "L2_BYTES", 0)
    assert work_of("winograd4", *shape, 1).weight == 36 * 128 * 128 * 4
    assert choose_algorithm(*shape) == choose_algorithm(*shape)


def test_errors_name_the_cure():
    with pytest.raises(ValueError, match="larger than the input"):
        Convolution(3, 8, 7, 1, 0, 5, 5)
    with pytest.raises(ValueError, match="expected 'auto'"):
        Convolution(3, 8, 3, 1, 1, 5, 5, "fft")
    with pytest.raises(ValueError, match="3x3 kernels, stride 1"):
        Convolution(3, 8, 3, 2, 1, 5, 5, "winograd4")
    with pytest.raises(ValueError, match="maps of 2x2 and padding 1"):
        Convolution(3, 8, 3, 1, 1, 2, 3, "winograd2x2")
    with pytest.raises(ValueError, match="maps of 2x2 and padding 1"):
        Convolution(3, 8, 3, 1, 2, 2, 2, "winograd2x2")
