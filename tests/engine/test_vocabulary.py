"""Turns that a forward may take, a line each: plans compute what eager does, in any batch."""

import numpy as np
import pytest

import npresnet as nr
from npresnet import functional as F
from npresnet import nn
from tests.engine.networks import lived_in
from tests.parity import relative_error

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
    return lived_in(Turn(forward, layers()))


def draw(seed, images=2):
    return np.random.default_rng(seed).standard_normal((images, *SHAPE[1:])).astype(np.float32)


@pytest.mark.parametrize("name", TURNS)
def test_inference(name):
    model = made(name).eval()
    plan = nr.compile(model, SHAPE)
    for images in (2, 1):
        x = draw(0, images)
        with nr.no_grad():
            truth = model(nr.tensor(x)).numpy()
        assert relative_error(plan(x), truth) < 2e-5


@pytest.mark.parametrize("name", TURNS)
def test_training(name):
    def loss(output, target):
        return (output * target).mean()

    one, other = made(name).train(), made(name).train()
    first, second = (nr.optim.SGD(m.parameters(), lr=0.05, momentum=0.9) for m in (one, other))
    step = nr.compile_step(other, loss, second, SHAPE)
    for seed in range(2):
        x = draw(seed, 2 - seed)
        output = one(nr.tensor(x))
        target = nr.tensor(np.random.default_rng(9).standard_normal(output.shape).astype(x.dtype))
        value = loss(output, target)
        first.zero_grad()
        value.backward()
        first.step()
        assert step(x, target) == pytest.approx(float(value), rel=1e-4, abs=1e-6)
    for (key, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert relative_error(b, a) < 1e-4, key
