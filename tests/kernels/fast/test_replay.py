"""A run noted down and repeated: the same as calling its kernels one by one."""

import gc
from dataclasses import replace

import numpy as np
import pytest

from npresnet_kernels.cpu import threads as pool
from npresnet_kernels.cpu.fast import parallel
from npresnet_kernels.cpu.fast.convolution import Convolution
from npresnet_kernels.cpu.fast.memory import aligned_empty
from npresnet_kernels.cpu.fast.norm import batch_norm_forward
from npresnet_kernels.cpu.fast.pool import average_pool_forward, max_pool_forward
from npresnet_kernels.cpu.fast.replay import Recorder


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


class Network:
    """Convolutions by each schedule, pools and a batch norm, one after the other."""

    def __init__(self, images=3):
        self.x = draw(images, 12, 12, 3)
        self.first = Convolution(3, 33, 3, 2, 1, 12, 12)
        self.second = Convolution(33, 128, 3, 1, 1, 3, 3, "winograd4")
        self.third = Convolution(128, 160, 3, 1, 1, 3, 3, "winograd2")
        self.weights = [
            layer.pack(draw(layer.channels_out, layer.channels_in, 3, 3, seed=i))
            for i, layer in enumerate((self.first, self.second, self.third))
        ]
        needs = (layer.scratch_floats(4) for layer in (self.first, self.second, self.third))
        self.scratch = aligned_empty(max(needs))
        self.y = np.empty((images, 160), np.float32)
        self.moments = np.empty((3, 2, 160))
        self.maps = [np.empty((images, n, n, c), np.float32) for n, c in ((6, 33), (3, 33))]
        self.maps += [np.empty((images, 3, 3, c), np.float32) for c in (128, 160)]

    def run(self):
        a, b, c, d = self.maps
        # 33 biases lie in a padded copy, which nobody but the kernels' table knows of
        moments = [self.moments[i, :, :n] for i, n in enumerate((33, 128, 160))]
        bias = draw(33, seed=5)
        self.first.forward(self.x, self.weights[0], a, self.scratch, bias, moments=moments[0])
        max_pool_forward(a, b)
        self.second.forward(b, self.weights[1], c, self.scratch, relu=True, moments=moments[1])
        ones = np.ones(128, np.float32)
        batch_norm_forward(c, ones, 2 * ones, ones, ones, c)
        self.third.forward(c, self.weights[2], d, self.scratch, moments=moments[2])
        average_pool_forward(d, self.y)


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = pool.get_num_threads()
    pool.set_num_threads(request.param)
    yield request.param
    pool.set_num_threads(before)


def check(network, replay):
    for seed in (1, 2, 3):
        network.x[...] = draw(*network.x.shape, seed=seed)
        network.run()
        truth, moments = network.y.copy(), network.moments.copy()
        for array in (network.y, network.moments, *network.maps):
            array.fill(np.nan)
        replay()
        np.testing.assert_array_equal(network.y, truth)
        for found, known, channels in zip(network.moments, moments, (33, 128, 160), strict=True):
            np.testing.assert_array_equal(found[:, :channels], known[:, :channels])


def test_a_replay_does_what_was_done(threads):
    network = Network()
    replay = Recorder().record(network.run)
    assert np.isfinite(network.y).all()  # recording does the run
    gc.collect()
    litter = [np.full(size, np.nan, np.float32) for size in (64, 64, 64, 33, 128, 256)]
    check(network, replay)
    del litter


def test_calls_outside_of_a_recording_are_not_noted():
    network = Network()
    network.run()
    replay = Recorder().record(lambda: max_pool_forward(network.maps[0], network.maps[1]))
    network.run()
    truth = network.maps[1].copy()
    for array in (network.y, network.maps[1]):
        array.fill(np.nan)
    replay()
    np.testing.assert_array_equal(network.maps[1], truth)
    assert np.isnan(network.y).all()


def test_an_empty_run():
    replay = Recorder().record(lambda: None)
    assert replay() is None
    assert parallel._noting.notes is None


def test_an_error_ends_the_noting():
    with pytest.raises(KeyError):
        Recorder().record(lambda: {}["missing"])
    assert parallel._noting.notes is None


@pytest.mark.parametrize("threads", [2], indirect=True)
def test_without_openmp_kernels_are_called_one_by_one(threads, monkeypatch):
    network = Network()
    replay = Recorder().record(network.run)
    monkeypatch.setattr(parallel, "_loaded_openmp", lambda: None)
    check(network, replay)
    check(network, Recorder().record(network.run))


@pytest.mark.parametrize("threads", [3], indirect=True)
@pytest.mark.skipif(parallel.openmp() is None, reason="needs OpenMP")
def test_openmp_may_give_fewer_threads(threads, monkeypatch):
    network = Network()
    replay = Recorder().record(network.run)
    there = parallel.openmp()
    fewer = replace(there, parallel=lambda f, x, n, flags: there.parallel(f, x, 2, flags))
    monkeypatch.setattr(parallel, "_loaded_openmp", lambda: fewer)
    check(network, replay)
