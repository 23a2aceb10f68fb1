"""Turns that a forward may take, a line each: plans compute what eager does, in any batch."""

import operator

import numpy as np
import pytest

import npresnet as nr
from npresnet import functional as F
from npresnet import nn
from tests.engine.against_eager import check_on_a_device, check_on_the_host, needs_shim
from tests.engine.networks import lived_in

SHAPE = (2, 16, 12, 10)


def conv(inputs, outputs, size=3, **options):
    return nn.Conv2d(inputs, outputs, size, **{"padding": size // 2, **options})


def weight(*shape):
    return nn.Parameter(np.random.default_rng(5).standard_normal(shape).astype(np.float32) * 0.3)


class Turn(nn.Module):
    """A forward given as a function of the layers and x."""

    def __init__(self, forward, layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.turn = forward

    def forward(self, x):
        return self.turn(self, x)


def twice(x, operation):
    return operation(x, x)


def excited(m, x):
    return m.a(x) * F.sigmoid(m.c(F.relu(m.b(F.adaptive_avg_pool2d(x, 1)))))


TURNS = {
    "a layer twice": (lambda m, x: m.a(F.relu(m.a(x))), lambda: {"a": conv(16, 16)}),
    "norm first": (
        lambda m, x: m.a(F.relu(m.n(x))),
        lambda: {"n": nn.BatchNorm2d(16), "a": conv(16, 8)},
    ),
    "the input as residual": (
        lambda m, x: F.relu(m.n(m.a(x)) + x),
        lambda: {"n": nn.BatchNorm2d(16), "a": conv(16, 16)},
    ),
    "a residual that is broadcast": (
        lambda m, x: F.relu(m.a(x) + x.mean([2, 3], keepdim=True)),
        lambda: {"a": conv(16, 16)},
    ),
    "added again behind its ReLU": (
        lambda m, x: F.relu(m.a(x) + x) + x,
        lambda: {"a": conv(16, 16)},
    ),
    "two branches that could both take the sum": (
        lambda m, x: F.relu(m.n(m.a(x)) + m.o(m.b(x))),
        lambda: {
            "a": conv(16, 16),
            "n": nn.BatchNorm2d(16),
            "b": conv(16, 16, 1),
            "o": nn.BatchNorm2d(16),
        },
    ),
    "a map twice": (
        lambda m, x: F.relu(twice(m.a(x), operator.add)),
        lambda: {"a": conv(16, 16)},
    ),
    "squares of features": (
        lambda m, x: twice(F.adaptive_avg_pool2d(m.a(x), 1), operator.mul),
        lambda: {"a": conv(16, 16)},
    ),
    "squeeze and excite": (
        excited,
        lambda: {"a": conv(16, 16), "b": conv(16, 4, 1), "c": conv(4, 16, 1)},
    ),
    "3x3 of a single pixel": (
        lambda m, x: m.b(F.adaptive_avg_pool2d(m.a(x), 1)),
        lambda: {"a": conv(16, 16), "b": conv(16, 7)},
    ),
    "uneven windows": (
        lambda m, x: F.max_pool2d(m.a(x), (3, 2), (2, 1), (1, 1)),
        lambda: {"a": nn.Conv2d(16, 8, (1, 3), padding=(0, 1))},
    ),
    "groups and dilation": (
        lambda m, x: m.b(F.relu(m.n(m.a(x)))),
        lambda: {
            "a": conv(16, 16, groups=4),
            "n": nn.BatchNorm2d(16),
            "b": conv(16, 8, dilation=2),
        },
    ),
    "a kernel as large as the image": (
        lambda m, x: m.a(x),
        lambda: {"a": nn.Conv2d(16, 8, (12, 10))},
    ),
    "more padding than kernel": (lambda m, x: m.a(x), lambda: {"a": conv(16, 8, padding=3)}),
    "one channel": (lambda m, x: m.a(x[:, :1]), lambda: {"a": conv(1, 1)}),
    "channels side by side": (
        lambda m, x: m.b(nr.cat([m.a(x), x], 1)),
        lambda: {"a": conv(16, 16), "b": conv(32, 8)},
    ),
    "weights made of parameters": (
        lambda m, x: F.conv2d(x, m.g * m.v, padding=1),
        lambda: {"g": weight(8, 1, 1, 1), "v": weight(8, 16, 3, 3)},
    ),
    "weights made of the input": (
        lambda m, x: F.conv2d(x, m.v * x.mean(), padding=1),
        lambda: {"v": weight(8, 16, 3, 3)},
    ),
    "a linear layer of rows of pixels": (lambda m, x: m.a(x), lambda: {"a": nn.Linear(10, 3)}),
    "pieces of images": (
        lambda m, x: m.a(x.reshape(-1, 4, *x.shape[2:])).reshape(x.shape[0], -1),
        lambda: {"a": conv(4, 8)},
    ),
    "another order of axes": (
        lambda m, x: m.a(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1),
        lambda: {"a": conv(16, 8)},
    ),
    "statistics of the batch in evaluation": (
        lambda m, x: m.n(m.a(x)),
        lambda: {"a": conv(16, 16), "n": nn.BatchNorm2d(16, track_running_stats=False)},
    ),
}


def maker(name):
    def make():
        nr.manual_seed(1)
        forward, layers = TURNS[name]
        return lived_in(Turn(forward, layers()))

    return make


@pytest.mark.parametrize("name", TURNS)
def test_on_the_host(name):
    check_on_the_host(maker(name), SHAPE)


@needs_shim
@pytest.mark.parametrize("name", TURNS)
def test_on_a_device(name):
    check_on_a_device(maker(name), SHAPE)
