"""Operations that stand alone in a plan, by the shim: recorded, and right."""

from __future__ import annotations

import numpy as np
import pytest

import npresnet as nr
from npresnet import functional as F
from npresnet import nn
from npresnet.engine.plain_training_steps import TrainingStep
from npresnet.engine.program import Program
from npresnet.models.resnet import SqueezeExcite
from npresnet.optim import GradScaler
from tests.engine.networks import lived_in
from tests.parity import relative_error, to_numpy
from tests.shim import build as shim
from tests.shim.backend import gpu_on_host

SHAPE = (3, 3, 8, 6)
EPS = {"fp32": 1e-5, "fp16": 4e-3, "bf16": 3e-2}


@pytest.fixture
def device():
    if shim.compiler() is None:
        pytest.skip("the gpu kernels run on the host through g++, which isn't here")
    with gpu_on_host():
        yield


class Plain(nn.Module):
    """No batch norm; maps are flattened, as before there were residual networks."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.pool = nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False)
        self.head = nn.Linear(8 * 5 * 4, 5)

    def forward(self, x):
        x = nr.relu(self.first(x))
        x = self.pool(x + nr.relu(self.second(x)))
        return F.softmax(self.head(x.flatten(1)), dim=1)


class Excited(nn.Module):
    """Squeeze-and-excitation, a shortcut behind a mean of windows, and the largest of each map."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.excite = SqueezeExcite(12)
        self.down = nn.Sequential(
            nn.AvgPool2d(2), nn.Conv2d(12, 12, 1, bias=False), nn.BatchNorm2d(12)
        )
        self.grid = nn.AdaptiveAvgPool2d((4, 3))
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = nr.relu(self.norm(self.conv(x)))
        x = nr.relu(self.grid(self.excite(x)) + self.down(x))
        return F.log_softmax(self.head(F.max_pool2d(x, 3).flatten(1)), dim=1)


class Joined(nn.Module):
    """Maps and rows one behind the other, some of them scaled, one read twice."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 5, 3, padding=1)
        self.third = nn.Conv2d(13, 8, 1)
        self.register_buffer("strength", nr.tensor(np.float32([0.3])))
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = nr.relu(self.first(x))
        x = nr.cat([x, 0.5 * self.second(x)], 1)
        x = self.third(x) * self.strength
        most, mean = F.max_pool2d(x, 6).flatten(1), F.adaptive_avg_pool2d(x, 1).flatten(1)
        return self.head(nr.cat([mean, most], -1))


class Windowed(nn.Module):
    """Max pools of every kind: partial windows, other across than down, dilated."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)
        self.partial = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.uneven = nn.MaxPool2d((3, 2), (1, 2), (1, 0))
        self.dilated = nn.MaxPool2d((2, 3), 1, (0, 1), dilation=(3, 1))
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = nr.relu(self.dilated(self.first(x)))
        x = self.second(self.partial(x))
        return self.head(F.adaptive_avg_pool2d(self.uneven(x), 1).flatten(1))


class Frozen(nn.Module):
    """Batch norms that stay in evaluation while the rest trains."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(8, eps=1e-2)])
        self.head = nn.Linear(8, 5)

    def train(self, mode=True):
        super().train(mode)
        for norm in self.norms:
            norm.eval()
        return self

    def forward(self, x):
        x = nr.relu(self.norms[0](self.first(x)))
        x = nr.relu(self.norms[1](self.second(x)) + x)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


def made(make, dtype="float32"):
    nr.manual_seed(5)
    with nr.use_backend("cpu"):
        return lived_in(make()).to(dtype)


def draw(seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(SHAPE).astype(np.float32), rng.integers(0, 5, SHAPE[0])


@pytest.mark.parametrize("precision", EPS)
@pytest.mark.parametrize("make", [Plain, Excited, Joined, Windowed, Frozen])
def test_recorded_and_as_the_truth(device, make, precision):
    model, exact = made(make).to("gpu").train(), made(make, "float64").train()
    plan = nr.compile(model, SHAPE, precision=precision)
    first, second = (nr.optim.SGD(m.parameters(), lr=0.1) for m in (exact, model))
    scaler = GradScaler(2.0**8, enabled=precision == "fp16")
    step = nr.compile_step(
        model, F.cross_entropy, second, SHAPE, precision=precision, scaler=scaler
    )
    for seed in range(3):
        x, y = draw(seed)
        wide = nr.tensor(x.astype(np.float64))
        images = nr.tensor(x).data
        with nr.use_backend("reference"):
            with nr.no_grad():
                known = exact.eval()(wide.to("cpu")).numpy()
            value = F.cross_entropy(exact.train()(wide.to("cpu")), y)
            first.zero_grad()
            value.backward()
        before = [to_numpy(p.data).copy() for p in model.parameters()]
        assert relative_error(to_numpy(plan(images)), known) < EPS[precision]
        assert step(images, y) == pytest.approx(float(value), rel=EPS[precision])
        for (key, p), old, q in zip(
            model.named_parameters(), before, exact.parameters(), strict=True
        ):
            grad = (old - to_numpy(p.data)) / 0.1
            error = np.abs(grad - q.grad).max()
            assert error < 10 * EPS[precision] * np.abs(q.grad).max() + 1e-5, key
        first.step()
        exact.load_state_dict({k: to_numpy(v) for k, v in model.state_dict().items()})
    replayed = [to_numpy(plan(images)) for _ in range(3)]
    assert plan.recorded
    np.testing.assert_array_equal(replayed[0], replayed[2])
    assert step.recorded


FAMILIES = {
    "resnet18": {"small_input": True},
    "resnet26": {},
    "resnet50c": {},
    "resnext50_32x4d": {},
    "resnet10t": {},
    "seresnet18": {"global_pool": "max"},
    "resnet18d": {"global_pool": "avgmax"},
    "resnet14t": {"global_pool": "catavgmax"},
    "resnetrs50": {},
}


@pytest.mark.parametrize("name", [*FAMILIES, "ResNet32"])
def test_networks_of_the_library_can_be_recorded(device, name):
    """Every operation of a step has a kernel that writes into the plan's memory."""
    with nn.init.skip_random():
        if name == "ResNet32":
            model = nr.models.ResNet32()
        else:
            model = nr.models.create_model(name, num_classes=5, **FAMILIES[name])
    for precision in ("fp32", "bf16"):
        program = Program(model.train(), (2, 3, 224, 224), "auto", precision)
        slow = {s.node.operation.name for s in program.steps if type(s) is TrainingStep}
        assert slow == set()
