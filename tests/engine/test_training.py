"""Training plans against eager steps: the same losses, parameters, statistics, optimizer state."""

import numpy as np
import pytest

import npresnet as nr
from npresnet import functional as F
from npresnet import nn
from npresnet.engine import EagerStep
from npresnet.errors import DtypeError, GraphError, RangeError, ShapeError
from tests.engine.networks import Branching, Late, Odd, lived_in
from tests.parity import relative_error


def twins(make, dtype):
    """Return two equal models in training mode."""
    nr.manual_seed(3)
    one, other = lived_in(make()).to(dtype), make().to(dtype)
    other.load_state_dict(one.state_dict())
    return one.train(), other.train()


def sgd(model, lr=0.01):
    return nr.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4)


def adamw(model):
    return nr.optim.AdamW(model.parameters(), lr=1e-3)


def eager_step(model, loss, optimizer, x, y):
    value = loss(model(nr.tensor(x)), y)
    optimizer.zero_grad()
    value.backward()
    optimizer.step()
    return float(value)


def assert_same_state(one, other, tolerance):
    for (key, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert relative_error(b, a) <= tolerance, key


def draw(shape, classes, dtype, seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape).astype(dtype), rng.integers(0, classes, shape[0])


CASES = {
    "resnet34": (lambda: nr.resnet34(num_classes=5), (3, 3, 64, 64), 5, sgd, 4),
    "resnet50": (lambda: nr.resnet50(num_classes=5), (2, 3, 64, 64), 5, sgd, 2),
    "ResNet32": (nr.ResNet32, (2, 3, 196, 196), 2, adamw, 2),
    "odd": (Odd, (4, 3, 17, 15), 5, adamw, 10),
}


@pytest.mark.parametrize("name", CASES)
def test_float64_steps_equal_eager(name):
    make, shape, classes, optimizer, steps = CASES[name]
    one, other = twins(make, np.float64)
    first, second = optimizer(one), optimizer(other)
    step = nr.compile_step(other, F.cross_entropy, second, shape)
    for i in range(steps):
        x, y = draw(shape, classes, np.float64, i)
        assert step(x, y) == pytest.approx(eager_step(one, F.cross_entropy, first, x, y), rel=1e-9)
    assert_same_state(one, other, 1e-9)
    for a, b in zip(first.state.values(), second.state.values(), strict=True):
        for key in a:
            assert relative_error(b[key], a[key]) <= 1e-9
    assert all(p.grad is None for p in other.parameters())


@pytest.mark.parametrize("name", CASES)
def test_float32_gradients_are_near_the_truth(name):
    make, shape, classes, _, _ = CASES[name]
    model, exact = twins(make, np.float32)
    exact.double()
    x, y = draw(shape, classes, np.float32, 0)
    truth = F.cross_entropy(exact(nr.tensor(x.astype(np.float64))), y)
    truth.backward()
    # a plain step of 1 leaves the gradient in the parameters
    before = [p.data.astype(np.float64) for p in model.parameters()]
    step = nr.compile_step(model, F.cross_entropy, nr.optim.SGD(model.parameters(), lr=1.0), shape)
    assert step(x, y) == pytest.approx(float(truth), rel=1e-4)
    wrong, whole = 0.0, 0.0
    for old, p, q in zip(before, model.parameters(), exact.parameters(), strict=True):
        wrong += np.square(old - p.data - q.grad).sum()
        whole += np.square(q.grad).sum()
    # In a deep network some ReLU's input rounds across 0, for eager or for the plan, and moves
    # gradients by percents; a shallow one has so few that none does.
    assert np.sqrt(wrong / whole) < (1e-5 if name == "odd" else 5e-2)
    for (key, a), b in zip(model.named_buffers(), exact.buffers(), strict=True):
        assert relative_error(a.data, b.data) < 1e-3, key


def test_float32_losses_follow_the_truth():
    shape = (8, 3, 24, 24)
    model, exact = twins(lambda: nr.resnet18(num_classes=5, small_input=True), np.float32)
    exact.double()
    # ten times the rate, and float32 on the tape is 1e-3 away too: each step multiplies rounding
    first, second = sgd(exact, 1e-4), sgd(model, 1e-4)
    step = nr.compile_step(model, F.cross_entropy, second, shape)
    for i in range(10):
        x, y = draw(shape, 5, np.float32, i)
        truth = eager_step(exact, F.cross_entropy, first, x.astype(np.float64), y)
        assert step(x, y) == pytest.approx(truth, rel=1e-4)
    assert_same_state(exact, model, 1e-2)
    assert int(model.bn1.num_batches_tracked) == 10


@pytest.mark.parametrize("algorithm", ["im2col", "direct", "winograd"])
def test_algorithms_can_be_forced(algorithm, monkeypatch):
    """And im2col is the contract's convolution, forward and backward."""
    model, exact = twins(lambda: nr.resnet18(num_classes=5, small_input=True), np.float32)
    exact.double()
    x, y = draw((4, 3, 16, 16), 5, np.float32, 0)
    step = nr.compile_step(model, F.cross_entropy, sgd(model, 1e-4), x.shape, algorithm=algorithm)
    used = {n.attributes["algorithm"] for n in step.graph.nodes if "algorithm" in n.attributes}
    assert used > {"direct"} if algorithm == "winograd" else used == {algorithm}
    calls = []
    for name in ("conv2d", "conv2d_grad_input", "conv2d_grad_weight"):
        kernel = getattr(step.backend.kernels, name)

        def counted(*arguments, kernel=kernel, name=name):
            calls.append(name)
            return kernel(*arguments)

        monkeypatch.setattr(step.backend.kernels, name, counted)
    loss = step(x, y)
    expected = {"conv2d": 20, "conv2d_grad_input": 19, "conv2d_grad_weight": 20}
    assert {name: calls.count(name) for name in set(calls)} == (
        expected if algorithm == "im2col" else {}
    )
    truth = eager_step(exact, F.cross_entropy, sgd(exact, 1e-4), x.astype(np.float64), y)
    assert loss == pytest.approx(truth, rel=1e-5)
    assert_same_state(exact, model, 1e-3)


@pytest.mark.parametrize("optimizer", [sgd, adamw])
def test_float32_updates_follow_the_truth(optimizer):
    shape = (4, 3, 17, 15)
    model, exact = twins(Odd, np.float32)
    exact.double()
    first, second = optimizer(exact), optimizer(model)
    step = nr.compile_step(model, F.cross_entropy, second, shape)
    for i in range(4):
        x, y = draw(shape, 5, np.float32, i)
        truth = eager_step(exact, F.cross_entropy, first, x.astype(np.float64), y)
        assert step(x, y) == pytest.approx(truth, rel=1e-4)
    for one, other in zip(second.state.values(), first.state.values(), strict=True):
        assert one.keys() == other.keys()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_same_step_gives_the_same_bits(dtype):
    one, other = twins(Odd, dtype)
    steps = [nr.compile_step(m, F.cross_entropy, sgd(m), (4, 3, 17, 15)) for m in (one, other)]
    for i in range(3):
        x, y = draw((4 - i, 3, 17, 15), 5, dtype, i)
        assert steps[0](x, y) == steps[1](x, y)
    for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_eager_and_plan_steps_take_turns():
    shape = (4, 3, 17, 15)
    one, other = twins(Odd, np.float64)
    first, second = sgd(one), sgd(other)
    step = nr.compile_step(other, F.cross_entropy, second, shape)
    for i in range(6):
        for optimizer in (first, second):
            optimizer.param_groups[0]["lr"] = 0.01 / (i + 1)
        x, y = draw((4 - i % 3, *shape[1:]), 5, np.float64, i)
        loss = eager_step(one, F.cross_entropy, first, x, y)
        if i % 2:
            assert step(x, y) == pytest.approx(loss, rel=1e-9)
        else:
            eager_step(other, F.cross_entropy, second, x, y)
    assert_same_state(one, other, 1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_plan_follows_what_is_frozen(dtype):
    shape = (4, 3, 17, 15)
    one, other = twins(Odd, dtype)
    first, second = sgd(one), sgd(other)
    step = nr.compile_step(other, F.cross_entropy, second, shape)
    for i, freeze in enumerate(
        (
            lambda m: None,
            lambda m: m.stem.requires_grad_(False),
            lambda m: m.third.eval(),
            lambda m: m.requires_grad_(False) and m.head.requires_grad_(True),
            lambda m: m.requires_grad_(True).train(),
        )
    ):
        freeze(one)
        freeze(other)
        x, y = draw(shape, 5, dtype, i)
        loss = eager_step(one, F.cross_entropy, first, x, y)
        assert step(x, y) == pytest.approx(loss, rel=1e-9 if dtype == np.float64 else 1e-3)
    assert_same_state(one, other, 1e-9 if dtype == np.float64 else 1e-2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_plan_follows_what_is_exchanged(dtype):
    shape = (4, 3, 17, 15)
    one, other = twins(Odd, dtype)
    first, second = sgd(one), sgd(other)
    step = nr.compile_step(other, F.cross_entropy, second, shape)

    def new_head(model):
        nr.manual_seed(5)
        model.head = nn.Linear(18, 5).to(dtype)

    for i, change in enumerate(
        (
            lambda m: None,
            lambda m: setattr(m, "pool", nn.AvgPool2d(3, 2, 1, ceil_mode=True)),  # no parameters
            lambda m: setattr(m.first, "eps", 0.3),
            lambda m: setattr(m.stem, "stride", (1, 1)),
            new_head,
        )
    ):
        change(one)
        change(other)
        x, y = draw(shape, 5, dtype, i)
        loss = eager_step(one, F.cross_entropy, first, x, y)
        assert step(x, y) == pytest.approx(loss, rel=1e-9 if dtype == np.float64 else 1e-3)
    assert_same_state(one, other, 1e-9 if dtype == np.float64 else 1e-2)


class Shared(nn.Module):
    """One layer twice, a value read three times, a sum of two norms, a detour without gradient."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.other = nn.BatchNorm2d(3)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(3, 4, bias=False)

    def forward(self, x):
        x = self.conv(x)
        y = self.norm(x) + x
        z = F.relu(self.other(x) + self.norm(y))
        z = self.conv(z) + y * x.detach()
        z = self.pool(z) + F.avg_pool2d(z, 2) + F.max_pool2d(z, 2)
        with nr.no_grad():
            scale = z.mean()
        return self.head((z * scale).mean([2, 3]))


@pytest.mark.parametrize("make", [Shared, Late])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_add_up(dtype, make):
    shape = (4, 3, 8, 6)
    one, other = twins(make, dtype)
    first, second = sgd(one), sgd(other)
    step = nr.compile_step(other, F.cross_entropy, second, shape)
    rel = 1e-9 if dtype == np.float64 else 1e-4
    for i in range(3):
        x, y = draw(shape, 4, dtype, i)
        loss = eager_step(one, F.cross_entropy, first, x, y)
        assert step(x, y) == pytest.approx(loss, rel=rel)
    assert_same_state(one, other, 10 * rel)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parameters_of_another_optimizer_are_left_alone(dtype):
    shape = (4, 3, 17, 15)
    one, other = twins(Odd, dtype)
    first, second = (nr.optim.SGD(m.head.parameters(), lr=0.1, momentum=0.9) for m in (one, other))
    step = nr.compile_step(other, F.cross_entropy, second, shape)
    other.stem.bias.grad = np.ones_like(other.stem.bias.data)
    for i in range(3):
        x, y = draw(shape, 5, dtype, i)
        loss = eager_step(one, F.cross_entropy, first, x, y)
        assert step(x, y) == pytest.approx(loss, rel=1e-9 if dtype == np.float64 else 1e-4)
    assert_same_state(one, other, 1e-9 if dtype == np.float64 else 1e-4)
    assert (other.stem.bias.grad == 1).all()
    assert all(p.grad is None for p in other.parameters() if p is not other.stem.bias)


def test_any_loss_will_do():
    shape = (4, 3, 17, 15)
    one, other = twins(Odd, np.float64)

    def penalised(model):
        def loss(output, target):
            weights = model.head.weight
            smooth = F.cross_entropy(output, target, label_smoothing=0.1, ignore_index=2)
            return smooth + (weights * weights).sum() * 0.01

        return loss

    first, second = sgd(one), sgd(other)
    step = nr.compile_step(other, penalised(other), second, shape)
    for i in range(3):
        x, y = draw(shape, 5, np.float64, i)
        expected = eager_step(one, penalised(one), first, x, y)
        assert step(nr.tensor(x), nr.tensor(y)) == pytest.approx(expected, rel=1e-9)
    assert_same_state(one, other, 1e-9)


def test_dropout_draws_as_eager_does():
    def make():
        return nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(288, 4)
        )

    one, other = twins(make, np.float64)
    first, second = sgd(one), sgd(other)
    step = nr.compile_step(other, F.cross_entropy, second, (2, 3, 8, 8))
    for i in range(3):
        x, y = draw((2, 3, 8, 8), 4, np.float64, i)
        nr.manual_seed(i)
        expected = eager_step(one, F.cross_entropy, first, x, y)
        nr.manual_seed(i)
        assert step(x, y) == pytest.approx(expected, rel=1e-9)


def test_an_inference_plan_sees_training():
    model = nr.resnet18(num_classes=5)
    shape = (2, 3, 32, 32)
    plan = nr.compile(model, shape)
    step = nr.compile_step(model.train(), F.cross_entropy, sgd(model), (4, 3, 64, 64))
    step(*draw((4, 3, 64, 64), 5, np.float32, 0))
    x, _ = draw(shape, 5, np.float32, 1)
    with nr.no_grad():
        expected = model.eval()(nr.tensor(x)).numpy()
    assert relative_error(plan(x), expected) < 1e-4


@pytest.mark.parametrize("loss", [F.cross_entropy, lambda o, y: F.cross_entropy(o, y) * 1])
def test_a_loss_that_is_not_finite_changes_no_parameter(loss):
    model = Odd()
    before = [p.data.copy() for p in model.parameters()]
    step = nr.compile_step(model, loss, sgd(model), (4, 3, 17, 15))
    x, y = draw((4, 3, 17, 15), 5, np.float32, 0)
    assert np.isnan(step(x * np.nan, y))
    for p, old in zip(model.parameters(), before, strict=True):
        np.testing.assert_array_equal(p.data, old)


def test_wrong_input():
    model = nr.resnet18(num_classes=5)
    step = nr.compile_step(model, F.cross_entropy, sgd(model), (4, 3, 64, 64))
    x, y = draw((4, 3, 64, 64), 5, np.float32, 0)
    with pytest.raises(ShapeError, match="made for inputs of shape"):
        step(x[:, :, :32], y)
    with pytest.raises(DtypeError, match="made for float32"):
        step(x.astype(np.float64), y)
    with pytest.raises(ShapeError, match="batches of up to 4, got 8"):
        step(np.concatenate([x, x]), y)
    with pytest.raises(RangeError, match="out of range"):
        step(x, y + 5)
    with pytest.raises(ShapeError, match="expected targets of shape"):
        step(x, y[:3])
    unreduced = nr.compile_step(
        model, lambda o, t: F.cross_entropy(o, t, reduction="none"), sgd(model), (4, 3, 64, 64)
    )
    with pytest.raises(ShapeError, match="one number"):
        unreduced(x, y)
    with pytest.raises(DtypeError, match=r"loss expected a function of \(output, target\)"):
        nr.compile_step(model, "cross_entropy", sgd(model), (4, 3, 64, 64))
    with pytest.raises(DtypeError, match=r"optimizer expected one of npresnet.optim's, got None"):
        nr.compile_step(model, F.cross_entropy, None, (4, 3, 64, 64))
    with pytest.raises(DtypeError, match="a plan is made of a Module, got NoneType"):
        nr.compile_step(None, F.cross_entropy, sgd(model), (4, 3, 64, 64))
    small = nr.compile_step(model, F.cross_entropy, sgd(model), (4, 3, 32, 32))
    with pytest.raises(ShapeError, match="more than one value a channel"):
        small(x[:1, :, :32, :32], y[:1])


@pytest.mark.parametrize("name", ["conv1.weight", "bn1.running_var"])
def test_arrays_that_are_read_only_are_left_alone(name, tmp_path):
    """As eager does; a memory map that compiled code writes to ends the process."""
    model = nr.resnet18(num_classes=5, small_input=True)
    tensor = {**dict(model.named_parameters()), **dict(model.named_buffers())}[name]
    np.save(tmp_path / "stored.npy", tensor.data)
    tensor.data = np.load(tmp_path / "stored.npy", mmap_mode="r")
    optimizer = sgd(model)
    x, y = draw((4, 3, 9, 9), 5, np.float32, 0)
    with pytest.raises(ValueError, match="read-only"):
        eager_step(model, F.cross_entropy, optimizer, x, y)
    step = nr.compile_step(model, F.cross_entropy, optimizer, x.shape)
    for _ in range(2):
        with pytest.raises(ValueError, match="read-only"):
            step(x, y)
    tensor.data = tensor.data.copy()
    assert np.isfinite(step(x, y))


def test_what_cannot_be_traced_runs_eagerly_on_request():
    one, other = twins(Branching, np.float64)
    shape = (4, 3, 8, 8)
    with pytest.raises(GraphError):
        nr.compile_step(other, F.cross_entropy, sgd(other), shape)
    step = nr.compile_step(other, F.cross_entropy, sgd(other), shape, fallback="eager")
    assert isinstance(step, EagerStep)
    optimizer = sgd(one)
    for i in range(2):
        x, y = draw(shape, 4, np.float64, i)
        assert step(x, y) == eager_step(one, F.cross_entropy, optimizer, x, y)
    other.float()
    assert np.isfinite(step(x.astype(np.float32), y))
