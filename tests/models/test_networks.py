"""Whole networks against torch: logits, every gradient, running statistics, training steps."""

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as TF

import npresnet as nr
import npresnet.functional as F
from npresnet import models
from npresnet.errors import RangeError, ShapeError
from tests.models.torch_resnet import TorchPlain, TorchResNet
from tests.parity import relative_error, to_numpy

FAMILY = {
    "resnet18": ((2, 2, 2, 2), False, 11_689_512),
    "resnet34": ((3, 4, 6, 3), False, 21_797_672),
    "resnet50": ((3, 4, 6, 3), True, 25_557_032),
    "resnet101": ((3, 4, 23, 3), True, 44_549_160),
    "resnet152": ((3, 8, 36, 3), True, 60_192_808),
}


@pytest.mark.parametrize("name", FAMILY)
def test_parameters_keys_and_shapes(name):
    blocks, bottleneck, count = FAMILY[name]
    ours = getattr(nr, name)()
    assert sum(p.numel() for p in ours.parameters()) == count
    with torch.device("meta"):
        theirs = TorchResNet(blocks, bottleneck)
    expected = {k: tuple(v.shape) for k, v in theirs.state_dict().items()}
    got = {k: v.shape for k, v in ours.state_dict().items()}
    assert got == expected
    assert "layer2.0.downsample.0.weight" in got


def pair(name):
    """A network here and its twin in torch, float64, the same random state."""
    nr.manual_seed(34)
    rng = np.random.default_rng(34)
    if name == "ResNet32":
        ours, theirs = nr.ResNet32(), TorchPlain()
    elif name == "resnet34":
        ours, theirs = nr.resnet34(num_classes=10), TorchResNet((3, 4, 6, 3), num_classes=10)
    elif name == "small":
        options = {"num_classes": 7, "in_chans": 1, "small_input": True}
        ours, theirs = nr.resnet18(**options), TorchResNet((2, 2, 2, 2), **options)
    else:
        ours, theirs = nr.resnet50(num_classes=5), TorchResNet((3, 4, 6, 3), True, num_classes=5)
    state = {key: np.array(to_numpy(value)) for key, value in ours.state_dict().items()}
    for key, value in state.items():
        if key.endswith("running_mean"):
            value[...] = rng.standard_normal(value.shape) * 0.1
        elif key.endswith("running_var"):
            value[...] = rng.random(value.shape) + 0.5
        elif value.ndim == 1 and value.dtype == np.float32:
            value[...] += rng.standard_normal(value.shape) * 0.1
    ours.load_state_dict(state)
    theirs.load_state_dict({k: torch.tensor(v) for k, v in state.items()})
    return ours.double(), theirs.double()


SHAPES = {
    "resnet34": (2, 3, 64, 64),
    "ResNet32": (2, 3, 196, 196),
    "small": (3, 1, 16, 16),
    "resnet50": (2, 3, 64, 64),
}


@pytest.mark.parametrize("name", SHAPES)
def test_training_step_in_float64(name, host_backend, rng):
    """Logits, gradients of all parameters, running statistics."""
    ours, theirs = pair(name)
    x = rng.standard_normal(SHAPES[name])
    output, expected = ours(nr.tensor(x)), theirs(torch.tensor(x))
    assert relative_error(output.numpy(), expected.detach().numpy()) <= 1e-9
    grad = rng.standard_normal(output.shape)
    output.backward(grad)
    expected.backward(torch.tensor(grad))
    grads = {k: p.grad for k, p in ours.named_parameters()}
    largest = {}
    for key, parameter in theirs.named_parameters():
        kind = key.rsplit(".", 1)[-1]
        true = parameter.grad.numpy()
        if key.endswith("bias") and np.abs(true).max() < 1e-9:
            # a bias in front of a batch norm has no effect: its gradient is rounding
            assert np.abs(to_numpy(grads[key])).max() < 1e-8
            continue
        largest[kind] = max(largest.get(kind, 0), relative_error(grads[key], true))
    assert max(largest.values()) <= 1e-8
    for key, value in theirs.state_dict().items():
        assert relative_error(ours.state_dict()[key], value.numpy()) <= 1e-10
    with nr.no_grad(), torch.no_grad():
        output, expected = ours.eval()(nr.tensor(x)), theirs.eval()(torch.tensor(x))
    assert relative_error(output.numpy(), expected.numpy()) <= 1e-9


@pytest.mark.parametrize("name", ["resnet34", "ResNet32"])
def test_float32_is_as_exact_as_torch(name, host_backend, rng):
    ours, theirs = pair(name)
    x = rng.standard_normal(SHAPES[name]).astype(np.float32)
    with torch.no_grad():
        truth = theirs.eval()(torch.tensor(x, dtype=torch.float64)).numpy()
        other = theirs.float()(torch.tensor(x)).numpy()
    with nr.no_grad():
        mine = ours.eval().float()(nr.tensor(x)).numpy()
    assert mine.dtype == np.float32
    assert relative_error(mine, truth) <= 4 * relative_error(other, truth) + 1e-6


# Small batches on small maps make training so ill-conditioned that torch disagrees with itself in
# another memory format (5e-3 after ten steps at (2, 3, 224, 224), lr 0.001). On these problems it
# agrees with itself to 1e-12.
PROBLEMS = {"resnet34": ((8, 3, 48, 48), 10, 0.01), "ResNet32": ((3, 3, 196, 196), 2, 0.02)}
# The textbook is slow at the size that the second needs; its operations are those of the first.
FEWER = {("reference", "ResNet32"): 3}


def training_losses(model, sgd, cross_entropy, tensor, name, steps=10):
    shape, classes, lr = PROBLEMS[name]
    rng = np.random.default_rng(20151210)
    x, y = tensor(rng.standard_normal(shape)), tensor(rng.integers(0, classes, shape[0]))
    optimizer = sgd(model.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4)
    losses = []
    for _ in range(steps):
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@functools.cache
def torch_losses(name):
    _, theirs = pair(name)
    return training_losses(theirs, torch.optim.SGD, TF.cross_entropy, torch.tensor, name)


@pytest.mark.parametrize("name", PROBLEMS)
def test_ten_sgd_steps_agree_to_1e_9(name, host_backend):
    ours, _ = pair(name)
    steps = FEWER.get((host_backend, name), 10)
    losses = training_losses(ours, nr.optim.SGD, F.cross_entropy, nr.tensor, name, steps)
    np.testing.assert_allclose(losses, torch_losses(name)[:steps], rtol=1e-9)
    assert losses[-1] < losses[0]


def test_resnet32_shapes_and_probabilities():
    nr.manual_seed(0)
    model = nr.ResNet32().eval()
    shapes = []
    for name in ("conv1", "maxpooling", "layer1", "layer2", "layer3", "layer4", "avgpooling"):
        getattr(model, name).register_forward_hook(lambda m, i, o: shapes.append(o.shape))
    model.classifier.register_forward_pre_hook(lambda m, i: shapes.append(i[0].shape))
    with nr.no_grad():
        out = model(nr.randn(8, 3, 224, 224))
    assert [*shapes, out.shape] == [
        (8, 64, 112, 112),
        (8, 64, 56, 56),
        (8, 64, 56, 56),
        (8, 128, 28, 28),
        (8, 256, 14, 14),
        (8, 512, 7, 7),
        (8, 512, 3, 3),
        (8, 4608),
        (8, 2),
    ]
    np.testing.assert_allclose(out.numpy().sum(1), np.ones(8), atol=1e-6)


def test_options():
    model = nr.resnet34(num_classes=3, in_chans=1, small_input=True, zero_init_residual=True)
    assert model.conv1.weight.shape == (64, 1, 3, 3)
    assert isinstance(model.maxpool, nr.nn.Identity)
    assert model.fc.weight.shape == (3, 512)
    assert not model.layer1[0].bn2.weight.numpy().any()
    bottlenecks = models.resnet50(zero_init_residual=True)
    assert not bottlenecks.layer3[2].bn3.weight.numpy().any()
    with pytest.raises(RangeError, match=r"no classes \(0\) or some"):
        nr.resnet18(num_classes=-1)
    with pytest.raises(RangeError, match="at least one input channel"):
        nr.resnet18(in_chans=0)
    with pytest.raises(TypeError, match="num_class"):
        nr.resnet18(num_class=3)
    with pytest.raises(ShapeError, match="expected 1 input channels, got 3"):
        model(nr.zeros(1, 3, 8, 8))


def test_initial_values_follow_the_paper():
    nr.manual_seed(0)
    model = nr.resnet34()
    weight = model.layer3[1].conv1.weight.numpy()
    assert abs(weight.std() / np.sqrt(2 / (256 * 9)) - 1) < 0.01  # He et al. 2015, fan_out
    nr.manual_seed(0)
    np.testing.assert_array_equal(nr.resnet34().layer3[1].conv1.weight.numpy(), weight)
