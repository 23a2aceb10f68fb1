"""Networks put together at random: plans compute what eager does, whatever is read how often."""

import random

import pytest

import npresnet as nr
from npresnet import functional as F
from npresnet import nn
from npresnet.errors import ShapeError
from tests.engine.against_eager import check_on_a_device, check_on_the_host, needs_shim
from tests.engine.networks import lived_in


class Grown(nn.Module):
    """Operations on any of the last few maps, one after the other, then a linear layer."""

    def __init__(self, seed, shape):
        super().__init__()
        self.draw = random.Random(seed)
        self.layers, self.calls = nn.ModuleList(), []
        maps = [nr.zeros(*shape)]
        while len(maps) < 12:
            grow = self.draw.choice(GROWING)
            call = grow(self, maps)
            try:
                with nr.no_grad():
                    maps.append(call(maps))
            except ShapeError:  # a window larger than the maps
                continue
            self.calls.append(call)
        self.head = nn.Linear(maps[-1].shape[1], 3)

    def forward(self, x):
        maps = [x]
        for call in self.calls:
            maps.append(call(maps))
        return self.head(maps[-1].mean([2, 3]))

    def late(self, maps, fits=lambda x: True):
        """Return the number of one of the last maps that fit, else of the last."""
        numbers = [i for i, x in enumerate(maps[-4:], max(len(maps) - 4, 0)) if fits(x)]
        return self.draw.choice(numbers or [len(maps) - 1])

    def layer(self, maps, layer, i):
        self.layers.append(layer)
        return lambda v: layer(v[i])


def convolution(net, maps):
    i, size = net.late(maps), net.draw.choice((1, 2, 3, 3, 3))
    channels = maps[i].shape[1], net.draw.choice((8, 17, 32))
    stride, padding = net.draw.choice((1, 1, 2)), net.draw.choice((0, size // 2))
    bias = net.draw.choice((False, True))
    return net.layer(maps, nn.Conv2d(*channels, size, stride, padding, bias=bias), i)


def norm(net, maps):
    i = net.late(maps)
    return net.layer(maps, nn.BatchNorm2d(maps[i].shape[1]), i)


def again(net, maps):
    """Convolve twice with the same weights."""
    i = net.late(maps)
    channels = maps[i].shape[1]
    layer = nn.Conv2d(channels, channels, 3, padding=1)
    net.layers.append(layer)
    return lambda v: layer(F.relu(layer(v[i])))


def alone(operation):
    def grow(net, maps):
        i = net.late(maps)
        return lambda v: operation(v[i])

    return grow


def together(operation, alike):
    def grow(net, maps):
        i = net.late(maps)
        j = net.late(maps, lambda x: alike(x.shape, maps[i].shape))
        i = i if alike(maps[j].shape, maps[i].shape) else j
        return lambda v: operation(v[i], v[j])

    return grow


def same(a, b):
    return a == b


GROWING = [
    *[convolution] * 4,
    *[norm] * 3,
    again,
    *[alone(F.relu)] * 3,
    alone(F.sigmoid),
    alone(lambda x: x * 0.5 + 0.1),
    alone(lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True)),
    *[alone(lambda x: F.max_pool2d(x, 3, 2, 1))] * 2,
    alone(lambda x: F.max_pool2d(x, (2, 3), (1, 2), (0, 1), dilation=(2, 1))),
    alone(lambda x: F.avg_pool2d(x, 2)),
    *[together(lambda x, y: x + y, same)] * 3,
    together(lambda x, y: x * y, same),
    together(lambda x, y: nr.cat([x, y], 1), lambda a, b: a[2:] == b[2:]),
    together(lambda x, y: x * F.sigmoid(F.adaptive_avg_pool2d(y, 1)), lambda a, b: a[1] == b[1]),
]


def maker(seed):
    shape = (3, *[(3, 9, 8), (16, 8, 9)][seed % 2])

    def make():
        nr.manual_seed(seed)
        return lived_in(Grown(seed, shape))

    return make, shape


@pytest.mark.parametrize("seed", range(16))
def test_on_the_host(seed):
    check_on_the_host(*maker(seed))


@needs_shim
@pytest.mark.parametrize("seed", range(100, 116))
def test_on_a_device(seed):
    check_on_a_device(*maker(seed))
