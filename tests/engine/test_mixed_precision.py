"""Plans in 16 bits and in TF32 on a GPU, against the same network in float64 on the CPU."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import npresnet as nr
from npresnet import functional as F
from npresnet import nn
from npresnet.engine import TrainingPlan
from npresnet.models import BasicBlock
from npresnet.optim import GradScaler
from tests.engine.rounded import Step
from tests.parity import relative_error, to_numpy
from tests.tiny import Tiny

Odd = functools.partial(Tiny, num_classes=4)

EPS = {"fp32": 2.0**-24, "tf32": 2.0**-11, "fp16": 2.0**-11, "bf16": 2.0**-8}
"""Half the distance of neighbouring numbers near 1: the error of one rounding."""

SHAPE = (6, 3, 9, 9)


class Residual(nn.Module):
    """A ResNet in small: every layer has a kernel of a plan's, so that steps are recorded."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.pool = nn.MaxPool2d(3, 2, 1)
        shortcut = nn.Sequential(nn.Conv2d(8, 12, 1, 2, bias=False), nn.BatchNorm2d(12))
        self.block = BasicBlock(8, 12, 2, shortcut)
        for conv in (self.block.conv1, self.block.conv2):  # a whole network draws them
            nn.init.kaiming_normal_(conv.weight)
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(12, 4)

    def forward(self, x):
        x = self.pool(nr.relu(self.bn1(self.conv1(x))))
        return self.fc(self.mean(self.block(x)).flatten(1))


def build(dtype="float32", kind=Residual):
    """The same network each time, in training mode, where the backend in force is."""
    nr.manual_seed(4)
    return kind().to(dtype).train()


def draw():
    rng = np.random.default_rng(7)
    return rng.standard_normal(SHAPE).astype(np.float32), rng.integers(0, 4, SHAPE[0])


def sgd(model):
    return nr.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)


def there(x):
    """An array where the backend in force computes."""
    return nr.tensor(x).data


@functools.cache
def truth(steps, kind=Residual):
    """Losses of steps in float64, and the state dict after them."""
    x, y = draw()
    with nr.use_backend("reference"):
        model = build("float64", kind)
        optimizer, losses = sgd(model), []
        for _ in range(steps):
            loss = F.cross_entropy(model(nr.tensor(x.astype(np.float64))), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses, model.state_dict()


def assert_follows(step, model, precision, kind=Residual):
    """Six steps beside those in float64."""
    known, state = truth(6, kind)
    x, y = draw()
    before = [to_numpy(p.data).copy() for p in model.parameters()]
    losses = [step(there(x), y) for _ in known]
    assert losses[-1] < losses[0] - 0.05
    # a loss is a mean over many roundings
    np.testing.assert_allclose(losses, known, rtol=4 * EPS[precision])
    # gradients jump where rounding moves an input of a ReLU, or of a maximum, to the other side:
    # in a network of so few pixels one such place is percents of them
    wrong = change = 0.0
    for old, (key, p) in zip(before, model.named_parameters(), strict=True):
        wrong += np.square(to_numpy(p.data) - state[key]).sum()
        change += np.square(state[key] - old).sum()
    assert np.sqrt(wrong / change) < (1e-4 if precision == "fp32" else 0.1)
    for key, buffer in model.named_buffers():
        assert relative_error(to_numpy(buffer.data), state[key]) <= 40 * EPS[precision], key
    for tensor in (*model.parameters(), model.bn1.running_mean):
        assert tensor.dtype == np.float32


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
def test_training_follows_the_truth(device, precision):
    model = build()
    optimizer = sgd(model)
    scaler = GradScaler(2.0**8) if precision == "fp16" else None
    step = nr.compile_step(
        model, F.cross_entropy, optimizer, SHAPE, precision=precision, scaler=scaler
    )
    assert isinstance(step, TrainingPlan)
    assert step.scaler.is_enabled() == (precision == "fp16")
    assert_follows(step, model, precision)
    assert step.recorded
    for kept in optimizer.state.values():
        assert kept["momentum_buffer"].dtype == np.float32


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
def test_each_gradient_is_that_of_the_same_roundings(device, precision):
    """Half a rounding, that is, a quarter of the distance of neighbouring numbers, for each tensor.

    In float64 with the plan's roundings, ReLUs and maxima choose as in the plan; what differs is
    sums in float32, which push one number in a thousand over to its neighbour. float64 without
    roundings is at least twice as far away.
    """
    x, y = draw()
    model, scale = build(), 2.0**8 if precision == "fp16" else 1.0
    before = {key: to_numpy(p.data).astype(np.float64) for key, p in model.named_parameters()}
    optimizer = nr.optim.SGD(model.parameters(), lr=1.0)
    scaler = GradScaler(scale, enabled=precision == "fp16")
    step = nr.compile_step(
        model, F.cross_entropy, optimizer, SHAPE, precision=precision, scaler=scaler
    )
    loss = step(there(x), y)
    graph = step.graph
    values = {v: before[v.name] for v in graph.outside() if v.name in before}
    values[graph.inputs[0]] = x.astype(np.float64)
    known, exact = (Step(graph, values, y, word, scale) for word in (precision, "fp32"))
    assert loss == pytest.approx(known.loss, rel=max(EPS[precision] / 2, 1e-6))
    for value in graph.outside():
        if value.name in before:
            old = before[value.name]
            grad = old - to_numpy(value.source.data)
            error = np.linalg.norm(grad - known.grads[value])
            size = np.linalg.norm(known.grads[value])
            stored = EPS["fp32"] * np.linalg.norm(old)  # what the change was rounded to
            assert error <= max(EPS[precision] / 2, 16 * EPS["fp32"]) * size + stored, value.name
            if precision != "fp32":
                assert np.linalg.norm(grad - exact.grads[value]) > 2 * error, value.name


def test_layers_without_kernels_of_their_own(device):
    """A convolution without a batch norm, and a loss of the user's, which runs on the tape."""
    model = build(kind=Odd)
    step = nr.compile_step(
        model, lambda z, y: F.cross_entropy(z, y) * 1.0, sgd(model), SHAPE, precision="bf16"
    )
    assert_follows(step, model, "bf16", Odd)
    assert step.recorded


@pytest.mark.parametrize("precision", ["tf32", "fp16", "bf16"])
def test_inference_follows_the_truth(device, precision):
    x, _ = draw()
    with nr.use_backend("reference"), nr.no_grad():
        known = build("float64").eval()(nr.tensor(x.astype(np.float64))).numpy()
    plan = nr.compile(build().eval(), SHAPE, precision=precision)
    logits = to_numpy(plan(there(x)))
    assert logits.dtype == np.float32
    error = relative_error(logits, known)
    assert EPS[precision] / 50 < error <= 4 * EPS[precision]  # not float32's 1e-7
    for i in (0, 5):  # an image has the same bits alone
        np.testing.assert_array_equal(to_numpy(plan(there(x[i : i + 1]))), logits[i : i + 1])


def kept_of(model, optimizer):
    """Parameters, statistics and momentum, as NumPy's."""
    arrays = [p.data for p in model.parameters()]
    arrays += [kept["momentum_buffer"] for kept in optimizer.state.values() if kept]
    return [to_numpy(array).copy() for array in arrays], to_numpy(
        model.bn1.running_mean.data
    ).copy()


def test_a_step_that_overflows_is_left_out(device):
    x, y = draw()
    model = build()
    optimizer, scaler = sgd(model), GradScaler(2.0**40, backoff_factor=2.0**-30)
    step = nr.compile_step(
        model, F.cross_entropy, optimizer, SHAPE, precision="fp16", scaler=scaler
    )
    before, mean = kept_of(model, optimizer)
    first = step(there(x), y)
    after, moved = kept_of(model, optimizer)
    for one, other in zip(before, after, strict=False):
        np.testing.assert_array_equal(one, other)
    assert not any(map(np.any, after[len(before) :]))  # no momentum yet
    assert np.any(mean != moved)  # forward has been, as in torch
    assert scaler.get_scale() == 2.0**10
    assert first == pytest.approx(truth(6)[0][0], rel=4 * EPS["fp16"])
    losses = [step(there(x), y) for _ in range(6)]
    # as if the step that was left out had never been
    np.testing.assert_allclose(losses, truth(6)[0], rtol=4 * EPS["fp16"])
    assert scaler.state_dict()["_growth_tracker"] == 6


def test_scaling_saves_small_gradients(device):
    """Gradients below float16's least number, 6e-8, come through scaled, and only so."""
    x, y = draw()
    tiny = 2.0**-20

    def loss(output, target):
        return F.cross_entropy(output, target) * tiny

    changes = []
    with nr.use_backend("reference"):
        model = build("float64", Odd)
        loss(model(nr.tensor(x.astype(np.float64))), y).backward()
        known = to_numpy(model.conv1.weight.grad)
    for scaler in (GradScaler(2.0**26), GradScaler(enabled=False)):
        model = build(kind=Odd)
        before = model.conv1.weight.numpy()
        optimizer = nr.optim.SGD(model.parameters(), lr=1 / tiny)
        nr.compile_step(model, loss, optimizer, SHAPE, precision="fp16", scaler=scaler)(there(x), y)
        changes.append((before - model.conv1.weight.numpy()) * tiny)
    errors = [relative_error(change, known) for change in changes]
    assert errors[0] < 20 * EPS["fp16"]
    assert errors[1] > 0.1


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_run_goes_on_where_it_stopped(device, precision):
    """From the states of model, optimizer and scaler, to the bit."""
    x, y = draw()
    settings = {"init_scale": 2.0**8, "growth_interval": 2} if precision == "fp16" else None

    def made():
        model = build()
        optimizer = sgd(model)
        scaler = GradScaler(**settings) if settings else GradScaler(enabled=False)
        return (
            model,
            optimizer,
            scaler,
            nr.compile_step(
                model, F.cross_entropy, optimizer, SHAPE, precision=precision, scaler=scaler
            ),
        )

    model, optimizer, scaler, step = made()
    for _ in range(3):
        step(there(x), y)
    weights = {key: value.copy() for key, value in model.state_dict().items()}
    again, other, fresh, resumed = made()
    again.load_state_dict(weights)
    memory = optimizer.state_dict()
    memory["state"] = {
        number: {name: array.copy() for name, array in kept.items()}
        for number, kept in memory["state"].items()
    }
    other.load_state_dict(memory)
    fresh.load_state_dict(scaler.state_dict())
    assert [step(there(x), y) for _ in range(2)] == [resumed(there(x), y) for _ in range(2)]
    for one, two in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        np.testing.assert_array_equal(to_numpy(one), to_numpy(two))
    assert scaler.state_dict() == fresh.state_dict()
