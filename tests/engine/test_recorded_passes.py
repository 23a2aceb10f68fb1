"""Training steps on the CPU: what is replayed has the bits of what is done plainly."""

import gc
import weakref

import numpy as np
import pytest

import npresnet as nr
from npresnet import functional as F
from npresnet import nn
from npresnet_kernels.cpu import plan, threads
from tests.engine.networks import Odd


class Biased(nn.Module):
    """Biases of odd counts, by every form; a stem that doesn't learn, a norm with nothing to."""

    def __init__(self, channels=17):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 5, stride=2, padding=2)
        self.first = nn.BatchNorm2d(channels, affine=False)
        self.wide = nn.Conv2d(channels, 33, 3, padding=1)
        self.second = nn.BatchNorm2d(33, track_running_stats=False)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.point = nn.Conv2d(33, 40, 1)
        self.third = nn.BatchNorm2d(40)
        self.head = nn.Linear(40, 5)
        self.stem.weight.requires_grad = False

    def forward(self, x):
        x = F.relu(self.first(self.stem(x)))
        x = self.pool(F.relu(self.second(self.wide(x))))
        x = F.adaptive_avg_pool2d(F.relu(self.third(self.point(x))), 1)
        return self.head(x.view(x.shape[0], -1))


CASES = {
    "resnet18": lambda: nr.resnet18(num_classes=5, small_input=True),
    "biased": Biased,
    "odd": Odd,  # with operations that have no kernel
}
SHAPE = (4, 3, 33, 31)


def plain_loss(model):
    return F.cross_entropy


def penalised(model):
    """Return a loss that runs on the tape, and has gradients of parameters by itself."""
    weight = model.head.weight
    return lambda output, target: F.cross_entropy(output, target) + (weight * weight).sum()


def train(make, loss):
    """Return losses, the model's state and the plan, after steps of every kind."""
    nr.manual_seed(1)
    model = make().train()
    optimizer = nr.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    step = nr.compile_step(model, loss(model), optimizer, SHAPE)
    losses, before = [], {}
    for i in range(13):
        rng = np.random.default_rng(i)
        images = 3 if i in (5, 6) else 4  # the last batch of an epoch
        threads.set_num_threads(1 if i in (7, 8) else 2)
        optimizer.param_groups[0]["lr"] = 0.01 / (1 + i)
        if i == 9:  # weights that were loaded meanwhile
            model.load_state_dict({k: v * 0.5 for k, v in model.state_dict().items()})
        x = rng.standard_normal((images, *SHAPE[1:])).astype(np.float32)
        if i == 10:  # a loss that isn't finite
            before = {k: v.copy() for k, v in model.state_dict().items()}
            x[0, 0, 0, 0] = np.nan
        if i == 11:
            model.load_state_dict(before)
        if i == 4:  # in the order that plans keep maps in
            x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        losses.append(step(x, rng.integers(0, 5, images)))
    return losses, model.state_dict(), step


@pytest.fixture(autouse=True)
def threads_as_before():
    before = threads.get_num_threads()
    yield
    threads.set_num_threads(before)


@pytest.mark.parametrize(
    ("name", "loss"), [*((name, plain_loss) for name in CASES), ("biased", penalised)]
)
def test_replays_have_the_bits_of_plain_steps(name, loss, monkeypatch):
    losses, state, step = train(CASES[name], loss)
    assert step.recorded == (name != "odd")
    monkeypatch.setattr(plan, "recorder", lambda: None)
    plain_losses, plain_state, plain = train(CASES[name], loss)
    assert not plain.recorded
    np.testing.assert_array_equal(losses, plain_losses)
    assert np.isnan(losses[10])
    assert np.isfinite(losses[:10] + losses[11:]).all()
    for key, value in plain_state.items():
        np.testing.assert_array_equal(state[key], value, err_msg=key)


def test_a_model_may_be_called_between_replays():
    """The output of a step is the caller's, and stays what it was."""
    nr.manual_seed(1)
    model = Biased().train()
    step = nr.compile_step(model, F.cross_entropy, nr.optim.SGD(model.parameters(), 0.1), SHAPE)
    rng = np.random.default_rng(0)
    seen = []
    for _ in range(6):
        x = rng.standard_normal(SHAPE).astype(np.float32)
        step(x, rng.integers(0, 5, 4))
        seen.append((step.output, step.output.copy()))
        model(nr.tensor(x))
    assert step.recorded
    for kept, copied in seen:
        np.testing.assert_array_equal(kept, copied)


def test_nothing_is_kept_of_parameters_that_were_exchanged():
    model = Biased().train()
    optimizer = nr.optim.SGD(model.parameters(), 0.1)
    step = nr.compile_step(model, F.cross_entropy, optimizer, SHAPE)
    rng = np.random.default_rng(0)

    def steps(*batches):
        for images in batches:
            step(rng.standard_normal((images, *SHAPE[1:])).astype(np.float32), [0] * images)

    steps(4, 4, 4, 4, 2, 2, 2, 2)
    old = weakref.ref(model.wide.weight.data)
    model.wide.weight.data = model.wide.weight.data.copy()
    steps(4, 4, 4, 4)
    gc.collect()
    assert step.recorded
    assert old() is None
