"""Turns that a forward may take, a line each: plans compute what eager does, in any batch."""

import operator

import numpy as np
import pytest

import npresnet as nr
from npresnet import functional as F
from npresnet import nn
from tests.engine.networks import lived_in
from tests.parity import relative_error, to_numpy
from tests.shim import build as shim
from tests.shim.backend import gpu_on_host

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


def made(name):
    nr.manual_seed(1)
    forward, layers = TURNS[name]
    with nr.use_backend("cpu"):
        return lived_in(Turn(forward, layers()))


def draw(seed, images=2):
    return np.random.default_rng(seed).standard_normal((images, *SHAPE[1:])).astype(np.float32)


device = pytest.mark.skipif(shim.compiler() is None, reason="the host shim needs g++")


@pytest.mark.parametrize("name", TURNS)
def test_inference(name):
    check_inference(name, made(name))


@device
@pytest.mark.parametrize("name", TURNS)
def test_inference_on_a_device(name):
    with gpu_on_host():
        check_inference(name, made(name).to("gpu"))


def check_inference(name, model):
    """Compare a plan of a model with a twin on the tape: plain, recorded, replayed."""
    plan = nr.compile(model, SHAPE)
    twin = made(name).eval()
    for images, seed in ((2, 0), (1, 1), (2, 2), (2, 3)):
        x = draw(seed, images)
        with nr.no_grad(), nr.use_backend("cpu"):
            truth = twin(nr.tensor(x)).numpy()
        assert relative_error(plan(nr.tensor(x)).numpy(), truth) < 2e-5


@pytest.mark.parametrize("name", TURNS)
def test_training(name):
    check_training(name, made(name))


@device
@pytest.mark.parametrize("name", TURNS)
def test_training_on_a_device(name):
    with gpu_on_host():
        check_training(name, made(name).to("gpu"))


def check_training(name, other):
    """Take two steps by a plan of a model, and with a twin on the tape."""

    def loss(output, target):
        return (output * target).mean()

    one, other = made(name).train(), other.train()
    first, second = (nr.optim.SGD(m.parameters(), lr=0.05, momentum=0.9) for m in (one, other))
    step = nr.compile_step(other, loss, second, SHAPE)
    for seed in range(2):
        x = draw(seed, 2 - seed)
        with nr.use_backend("cpu"):
            output = one(nr.tensor(x))
            noise = np.random.default_rng(9).standard_normal(output.shape).astype(x.dtype)
            value = loss(output, nr.tensor(noise))
            first.zero_grad()
            value.backward()
            first.step()
        found = step(nr.tensor(x), nr.tensor(noise))
        assert found == pytest.approx(float(value), rel=1e-4, abs=1e-6)
    for (key, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert relative_error(to_numpy(b), a) < 1e-4, key
