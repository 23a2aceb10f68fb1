"""The table of layers."""

import numpy as np
import pytest

import npresnet as nr
from npresnet import nn
from npresnet.errors import RangeError, ShapeError
from npresnet.inspect import summary


@pytest.mark.parametrize(
    ("name", "billions"),
    # multiply-adds of convolutions and the classifier, as torchvision's page gives them (GFLOPS)
    [("resnet18", 1.81), ("resnet34", 3.66), ("resnet50", 4.09)],
)
def test_known_multiply_adds(name, billions):
    with nn.init.skip_random():
        model = getattr(nr, name)()
    table = summary(model, (3, 224, 224))
    assert round(table.multiply_adds / 1e9, 2) == billions


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.twice = nn.ReLU()
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        x = self.twice(self.bn(self.conv(self.twice(x))))
        return self.fc(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


def test_a_users_network_row_by_row():
    table = summary(Net(), (3, 8, 8))
    conv = next(row for row in table.rows if row.name == "conv")
    assert tuple(conv.output_shape) == (1, 4, 4, 4)
    assert conv.parameters == 3 * 4 * 9 + 4
    assert conv.multiply_adds == 4 * 4 * 4 * 27
    assert table.parameters == 112 + 8 + 10
    assert table.multiply_adds == 4 * 4 * 4 * 27 + 8
    text = str(table)
    assert "BatchNorm2d" in text
    assert len({len(line.rstrip()) for line in text.splitlines() if line.startswith("-")}) == 1


def test_the_model_is_left_as_it_was():
    net = Net().train()
    net.bn.eval()
    before = {key: value.copy() for key, value in net.state_dict().items()}
    summary(net, (3, 8, 8))
    assert net.training
    assert not net.bn.training
    for key, value in net.state_dict().items():
        np.testing.assert_array_equal(value, before[key])
    assert all(p.grad is None for p in net.parameters())


def test_wrong_shapes():
    with pytest.raises(RangeError, match="positive ints"):
        summary(Net(), (3, 0, 8))
    with pytest.raises(ShapeError, match="expected 3 input channels, got 1"):
        summary(Net(), (1, 8, 8))


class Odd(nn.Module):
    """Counts its calls, shares a layer, computes by functions, and has a layer to spare."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 2, 1)
        self.again = nn.Sequential(self.first)
        self.spare = nn.Linear(3, 3)
        self.scale = nn.Parameter(np.ones((2, 2), np.float32))
        self.register_buffer("calls", nr.zeros(1))

    def forward(self, x):
        self.calls.data += 1
        x = nn.functional.conv2d(self.again(self.first(x)), nr.ones(4, 1, 3, 3), groups=2)
        return {"maps": x, "sums": x.mean((2, 3))[:, :2] @ self.scale}


def test_what_is_odd_is_counted_once_and_put_back():
    net = Odd()
    calls = net.calls.data
    table = summary(net, (2, 5, 5))
    rows = [(r.name, r.output_shape, r.parameters, r.multiply_adds) for r in table.rows]
    assert rows == [
        ("(Odd)", (1, 4, 3, 3), 4, 4 * 9 * 9 + 4),
        ("first", (1, 2, 5, 5), 6, 100),
        ("first", (1, 2, 5, 5), 0, 100),  # the second time through the Sequential
        ("spare", None, 12, 0),
    ]
    assert table.parameters == sum(row.parameters for row in table.rows) == 22
    assert "not called" in str(table)
    assert net.calls.data is calls
    assert calls[0] == 0


def test_hooks_are_put_back_after_an_error_too():
    net = Net()
    seen = []
    handle = net.conv.register_forward_hook(lambda *_: seen.append(1))
    summary(net, (3, 8, 8))
    with pytest.raises(ShapeError):
        summary(net, (1, 8, 8))
    assert seen == [1]
    assert [len(m._forward_hooks) for m in net.modules()] == [0, 1, 0, 0, 0]
    assert not any(m._forward_pre_hooks for m in net.modules())
    handle.remove()


def test_a_batch_may_be_given():
    assert summary(Net(), (5, 3, 8, 8)).rows[-1].output_shape == (5, 2)
    assert summary(nn.Linear(7, 2), (7,)).multiply_adds == 14
