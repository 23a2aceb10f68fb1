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
    table = summary(getattr(nr, name)(), (3, 224, 224))
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
