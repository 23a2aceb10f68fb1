"""A plan sees that its model is another one, by whatever attribute that comes."""

import numpy as np
import pytest

import npresnet as nr
from npresnet import nn
from tests.engine.networks import eager
from tests.parity import relative_error

F = nr.functional


class Settings(nn.Module):
    """Reads attributes of all kinds."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.factor, self.exact = 2.0, np.float32(0.5)
        self.strides, self.options = [1, 1], {"padding": 1, "scales": (1.0, [2.0])}
        self.activation = F.relu
        self.table = nr.tensor(np.ones((1, 4, 1, 1), np.float32))
        self.array = np.ones((1, 4, 1, 1), np.float32)
        self.hidden = [nn.Conv2d(4, 4, 1)]

    def forward(self, x):
        x = self.conv(x)
        padding, (first, (second,)) = self.options["padding"], self.options["scales"]
        x = self.hidden[0](x) * self.factor * self.exact.item() * first * second
        x = F.max_pool2d(self.activation(x), 3, tuple(self.strides), padding)
        return x * self.table + self.array


CHANGES = {
    "factor": 3.0,
    "exact": np.float32(0.25),
    "strides": [2, 1],
    "options": {"padding": 0, "scales": (1.0, [2.0])},
    "activation": F.sigmoid,
    "table": nr.tensor(np.full((1, 4, 1, 1), 3, np.float32)),
    "array": np.full((1, 4, 1, 1), 3, np.float32),
    "hidden": [nn.Conv2d(4, 4, 1)],
    "forward": lambda x: F.relu(x),
}


@pytest.fixture
def model():
    return Settings().eval()


X = np.random.default_rng(4).standard_normal((2, 3, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("name", CHANGES)
def test_an_attribute_that_is_another_one_is_seen(model, name):
    plan = nr.compile(model, X.shape)
    before = plan(X)
    setattr(model, name, CHANGES[name])
    truth = eager(model, X)
    assert plan(X).shape == truth.shape
    assert relative_error(plan(X), truth) <= 1e-5
    assert before.shape != truth.shape or relative_error(before, truth) > 0.01


def test_nested_settings_are_compared_by_their_values(model):
    plan = nr.compile(model, X.shape)
    graph = plan.graph
    model.options = {"padding": 1, "scales": (1.0, [2.0])}
    model.strides = [1, 1]
    model.train()  # a mode is no setting: an inference plan evaluates
    plan(X)
    model.eval()
    assert plan.graph is graph
    model.options = {"padding": 1, "scales": (1.0, [4.0])}
    assert relative_error(plan(X), eager(model, X)) <= 1e-5


def test_what_forward_leaves_behind_makes_no_other_model():
    class Remembering(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            self.maps = self.conv(x)
            return self.maps * 2

    model = Remembering().eval()
    plan = nr.compile(model, X.shape)
    graph = plan.graph
    eager(model, X)
    plan(X)
    assert plan.graph is graph
