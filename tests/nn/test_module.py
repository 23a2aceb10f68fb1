"""Module: registration, walking, modes, state, hooks, and the two mistakes that everyone makes."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn as tnn

import npresnet as nr
from npresnet import nn
from npresnet.errors import BackendError, ModuleError, WeightsError


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.blocks = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Conv2d(4, 4, 1, bias=False)))
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        x = self.blocks(self.bn(self.conv(x)))
        return self.fc(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


class TorchNet(tnn.Module):
    def __init__(self):
        super().__init__()
        self.conv = tnn.Conv2d(3, 4, 3, padding=1)
        self.bn = tnn.BatchNorm2d(4)
        self.blocks = tnn.Sequential(tnn.ReLU(), tnn.Sequential(tnn.Conv2d(4, 4, 1, bias=False)))
        self.fc = tnn.Linear(4, 2)


def test_names_and_print_are_torchs():
    ours, theirs = Net(), TorchNet()
    assert repr(ours).replace("Net", "TorchNet") == repr(theirs)
    for walk in ("named_parameters", "named_buffers", "named_modules", "named_children"):
        assert [n for n, _ in getattr(ours, walk)()] == [n for n, _ in getattr(theirs, walk)()]
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert len(list(ours.parameters())) == len(list(theirs.parameters()))


def test_a_users_module_trains():
    nr.manual_seed(0)
    net = Net()
    x, y = nr.randn(16, 3, 6, 6), np.arange(16) % 2
    losses = []
    for _ in range(60):
        loss = nn.functional.cross_entropy(net(x), y)
        net.zero_grad()
        loss.backward()
        for p in net.parameters():
            p.data -= 0.3 * p.grad
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_forgetting_super_init_is_said():
    class Forgot(nn.Module):
        def __init__(self):
            self.conv1 = nn.Conv2d(3, 4, 3)

    with pytest.raises(
        ModuleError,
        match=r"Forgot.__init__ must call super\(\).__init__\(\) before it sets self.conv1",
    ):
        Forgot()


def test_forgetting_super_init_without_layers_is_said():
    class Forgot(nn.Module):
        def __init__(self):
            self.scale = 2

        def forward(self, x):
            return x * self.scale

    with pytest.raises(ModuleError, match=r"must call super\(\).__init__\(\) before"):
        Forgot()(nr.zeros(1))
    assert "without super" in repr(Forgot())


def test_forgetting_self_in_forward_is_said():
    class Forgot(nn.Module):
        def forward(x):
            return x

    with pytest.raises(
        ModuleError, match=r"Forgot.forward must take self first: write def forward\(self, x\)"
    ):
        Forgot()(nr.zeros(1))

    class Worse(nn.Module):
        def forward():
            return 1

    with pytest.raises(ModuleError, match=r"write def forward\(self\) instead"):
        Worse()()


def test_no_forward_is_said():
    class Empty(nn.Module):
        pass

    with pytest.raises(ModuleError, match="Empty has no forward"):
        Empty()(nr.zeros(1))


def test_attributes_register_replace_and_go():
    m = nn.Module()
    m.layer = nn.Linear(2, 2)
    m.weight = nn.Parameter(nr.zeros(3))
    m.register_buffer("count", nr.zeros(1))
    m.anything = [1, 2]
    assert {n for n, _ in m.named_parameters()} == {"weight", "layer.weight", "layer.bias"}
    with pytest.raises(ModuleError, match="weight is a Parameter and can't become a list"):
        m.weight = [1]
    m.weight = None
    assert m.weight is None
    m.count = nr.ones(1)
    assert m.state_dict()["count"].tolist() == [1]
    del m.layer
    assert not hasattr(m, "layer")
    with pytest.raises(AttributeError, match="no attribute 'layer'"):
        _ = m.layer
    m.layer = nn.Identity()
    assert m.get_submodule("layer") is m.layer
    assert "layer" in dir(m)


def test_shared_parameters_are_listed_once():
    m = nn.Module()
    m.a = nn.Linear(2, 2)
    m.b = m.a
    assert len(list(m.parameters())) == 2
    assert len(list(m.modules())) == 2


def test_train_eval_and_requires_grad_reach_all():
    net = Net().eval()
    assert not any(m.training for m in net.modules())
    assert all(m.training for m in net.train().modules())
    assert not any(p.requires_grad for p in net.requires_grad_(False).parameters())


def test_sequential_and_module_list():
    s = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    s.append(nn.Linear(3, 1))
    assert [type(m).__name__ for m in s] == ["Linear", "ReLU", "Linear"]
    assert s[-1].out_features == 1
    assert len(s[:2]) == 2
    s[1] = nn.Identity()
    assert repr(s) == repr(tnn.Sequential(tnn.Linear(2, 3), tnn.Identity(), tnn.Linear(3, 1)))
    assert list(nn.Sequential({"a": nn.ReLU(), "b": nn.ReLU()}).state_dict()) == []
    blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    assert [n for n, _ in blocks.named_parameters()][:2] == ["0.weight", "0.bias"]
    with pytest.raises(ModuleError, match="expected a Module, got int"):
        nn.Sequential(3)
    with pytest.raises(IndexError, match="out of range for 3"):
        s[3]


def test_hooks():
    net = Net()
    seen = []
    pre = net.conv.register_forward_pre_hook(lambda m, inputs: (inputs[0] * 0,))
    after = net.fc.register_forward_hook(lambda m, inputs, output: seen.append(output.shape))
    quiet = net(nr.randn(2, 3, 4, 4))
    assert seen == [(2, 2)]
    pre.remove()
    after.remove()
    net(nr.randn(2, 3, 4, 4))
    assert seen == [(2, 2)]
    assert quiet.shape == (2, 2)
    both = net.fc.register_forward_hook(lambda m, inputs, output: output * 0)
    np.testing.assert_array_equal(net(nr.randn(2, 3, 4, 4)).numpy(), np.zeros((2, 2)))
    both.remove()


def test_state_travels_to_torch_and_back(rng):
    ours, theirs = Net(), TorchNet()
    theirs.load_state_dict({k: torch.tensor(v) for k, v in ours.state_dict().items()})
    for key, value in theirs.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), ours.state_dict()[key])
    other = Net()
    keys = other.load_state_dict(theirs.state_dict())
    assert keys.missing_keys == []
    for key, value in ours.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[key], value)


def test_state_that_does_not_fit_changes_nothing():
    net = Net()
    before = copy.deepcopy(net.state_dict())
    state = {k: v + 1 for k, v in before.items()}
    state["fc.weight"] = np.zeros((3, 4), np.float32)
    del state["bn.weight"]
    state["extra"] = np.zeros(1)
    with pytest.raises(WeightsError, match=r"bn.weight.*extra.*fc.weight") as caught:
        net.load_state_dict(state)
    assert "\n" not in str(caught.value)
    for key, value in before.items():
        np.testing.assert_array_equal(net.state_dict()[key], value)
    del state["fc.weight"]
    keys = net.load_state_dict(state, strict=False)
    assert keys.unexpected_keys == ["extra"]
    assert set(keys.missing_keys) == {"bn.weight", "fc.weight"}
    assert net.state_dict()["fc.bias"].tolist() == (before["fc.bias"] + 1).tolist()
    with pytest.raises(WeightsError, match="expected a state dict"):
        net.load_state_dict([1])
    with pytest.raises(WeightsError, match=r"mis-shaped key: fc\.bias"):
        net.load_state_dict({**before, "fc.bias": "nothing"})


def test_a_file_without_num_batches_tracked_loads():
    net = Net()
    state = {k: v for k, v in net.state_dict().items() if "num_batches" not in k}
    assert net.load_state_dict(state).missing_keys == []


def test_double_float_and_to():
    net = Net().double()
    assert {a.dtype for a in net.state_dict().values()} == {np.dtype("f8"), np.dtype("i8")}
    assert net.float().fc.weight.dtype == np.float32
    assert net.to("reference") is net
    assert net.to("cpu") is net
    with pytest.raises(BackendError, match="unknown backend 'tpu'"):
        net.to("tpu")


def test_copies_and_pickles_are_independent():
    net = Net()
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        twin.fc.bias.data += 1
        assert not np.array_equal(twin.fc.bias.numpy(), net.fc.bias.numpy())
        assert repr(twin) == repr(net)
        x = nr.randn(2, 3, 4, 4)
        assert twin(x).shape == (2, 2)
