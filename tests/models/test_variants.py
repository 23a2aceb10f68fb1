"""The family's variants against torch: values, gradients, plans, names and sizes."""

import functools

import numpy as np
import pytest
import torch

import npresnet as nr
from npresnet import models
from npresnet.errors import RangeError
from npresnet.models import BasicBlock, Bottleneck, ResNet
from tests.engine.networks import lived_in
from tests.models.torch_resnet import TorchResNet
from tests.parity import relative_error

# A block a stage: our arguments, and the same said in torch's twin.
CASES = {
    "grouped": (Bottleneck, {"cardinality": 8, "base_width": 6}, {"groups": 8, "width": 6}),
    "wide": (Bottleneck, {"base_width": 80}, {"width": 80}),
    "C": (Bottleneck, {"stem_type": "deep"}, {"deep": (32, 32, 64)}),
    "D": (
        BasicBlock,
        {"stem_type": "deep", "avg_down": True},
        {"deep": (32, 32, 64), "avg_down": True},
    ),
    "S": (BasicBlock, {"stem_type": "deep", "stem_width": 64}, {"deep": (64, 64, 128)}),
    "T": (
        Bottleneck,
        {"stem_type": "deep_tiered", "avg_down": True},
        {"deep": (24, 32, 64), "avg_down": True},
    ),
    "SE": (BasicBlock, {"rd_ratio": 1 / 16}, {"squeeze": 1 / 16}),
    "RS": (
        Bottleneck,
        {"stem_type": "deep", "avg_down": True, "replace_stem_pool": True, "rd_ratio": 0.25},
        {"deep": (32, 32, 64), "avg_down": True, "conv_pool": True, "squeeze": 0.25},
    ),
}
SHAPE = (3, 3, 70, 51)  # odd maps on the way: 35x26, 18x13, 9x7, 5x4, 3x2


@functools.cache
def pair(name):
    """A float64 network here and its twin in torch, of the same random state."""
    block, ours, theirs = CASES[name]
    nr.manual_seed(5)
    model = lived_in(ResNet(block, (1, 1, 1, 1), num_classes=4, **ours)).double()
    twin = TorchResNet((1, 1, 1, 1), block is Bottleneck, num_classes=4, **theirs).double()
    assert list(model.state_dict()) == list(twin.state_dict())
    twin.load_state_dict({key: torch.tensor(value) for key, value in model.state_dict().items()})
    return model, twin


@pytest.fixture(params=CASES)
def twins(request):
    """Both, as new."""
    model, twin = pair(request.param)
    before = {key: value.copy() for key, value in model.state_dict().items()}
    yield model.double().eval(), twin.double().eval()
    model.double().load_state_dict(before)
    model.zero_grad()
    twin.double().load_state_dict({key: torch.tensor(value) for key, value in before.items()})
    twin.zero_grad()


def test_values_in_evaluation(twins, rng):
    """Logits and feature maps in float64; logits in float32 and in plans of both."""
    model, twin = twins
    x = rng.standard_normal(SHAPE).astype(np.float32)
    wide = x.astype(np.float64)
    with torch.no_grad():
        truth = twin(torch.tensor(wide)).numpy()
        maps = [m.numpy() for m in twin.maps(torch.tensor(wide))]
    with nr.no_grad():
        assert relative_error(model(nr.Tensor(wide)).numpy(), truth) <= 1e-10
        last, found = model.forward_intermediates(nr.Tensor(wide))
    assert relative_error(last.numpy(), maps[-1]) <= 1e-10
    for mine, true in zip(found, maps, strict=True):
        assert relative_error(mine.numpy(), true) <= 1e-10
    assert relative_error(nr.compile(model, SHAPE)(wide), truth) <= 1e-10

    model.float()
    with torch.no_grad():
        limit = 4 * relative_error(twin.float()(torch.tensor(x)).numpy(), truth) + 1e-6
    with nr.no_grad():
        assert relative_error(model(nr.Tensor(x)).numpy(), truth) <= limit
    plan = nr.compile(model, SHAPE)
    together = plan(x)
    assert relative_error(together, truth) <= 2 * limit
    alone = np.concatenate([plan(x[i : i + 1]) for i in range(len(x))])
    np.testing.assert_array_equal(alone, together)  # the same bits in any batch
    twin.double()


def test_gradients_and_running_statistics(twins, rng):
    model, twin = (network.train() for network in twins)
    x = rng.standard_normal(SHAPE)
    output, expected = model(nr.Tensor(x)), twin(torch.tensor(x))
    grad = rng.standard_normal(output.shape)
    output.backward(grad)
    expected.backward(torch.tensor(grad))
    assert relative_error(output.numpy(), expected.detach().numpy()) <= 1e-9
    grads = {key: parameter.grad for key, parameter in model.named_parameters()}
    scale = max(float(np.abs(g).max()) for g in grads.values())
    for key, parameter in twin.named_parameters():
        assert np.abs(grads[key] - parameter.grad.numpy()).max() <= 1e-9 * scale, key
    for key, value in twin.state_dict().items():
        assert relative_error(model.state_dict()[key], value.numpy()) <= 1e-9, key


def test_a_training_plan_steps_as_torch_does(twins, rng):
    model, twin = (network.train() for network in twins)
    x, y = rng.standard_normal(SHAPE), rng.integers(0, 4, SHAPE[0])
    optimizer = nr.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    step = nr.compile_step(model, nr.functional.cross_entropy, optimizer, SHAPE)
    other = torch.optim.SGD(twin.parameters(), lr=0.01, momentum=0.9)
    for _ in range(2):
        loss = torch.nn.functional.cross_entropy(twin(torch.tensor(x)), torch.tensor(y))
        other.zero_grad()
        loss.backward()
        other.step()
        expected = float(loss.detach())
        assert abs(step(x, y) - expected) <= 1e-8 * abs(expected)
    for key, value in twin.state_dict().items():
        assert relative_error(model.state_dict()[key], value.numpy()) <= 1e-7, key


def test_a_float32_training_plan(rng):
    """The fast kernels, where a variant leaves their beaten track: SE, average pool, groups."""
    structure = {"stem_type": "deep_tiered", "avg_down": True, "rd_ratio": 0.25, "cardinality": 4}
    nr.manual_seed(1)
    model = ResNet(Bottleneck, (1, 1, 1, 1), num_classes=4, base_width=8, **structure)
    state = {key: value.copy() for key, value in model.state_dict().items()}
    x, y = rng.standard_normal(SHAPE).astype(np.float32), rng.integers(0, 4, SHAPE[0])
    results = []
    for dtype in (np.float64, np.float32):
        model.to(dtype).load_state_dict(state)
        optimizer = nr.optim.SGD(model.parameters(), lr=0.01)
        if dtype == np.float64:
            loss = nr.functional.cross_entropy(model(nr.Tensor(x.astype(dtype))), y)
            loss.backward()
            optimizer.step()
            losses = [float(loss)]
        else:
            step = nr.compile_step(model, nr.functional.cross_entropy, optimizer, SHAPE)
            losses.append(step(x, y))
        results.append(model.fc.weight.data.astype(np.float64))
    assert abs(losses[0] - losses[1]) <= 1e-4 * losses[0]
    assert relative_error(results[1], results[0]) <= 1e-4


# Parameters as torchvision 0.29 and timm 1.0 publish them, timm in millions.
EXACT = {
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x8d": 88_791_336,
    "resnext101_64x4d": 83_455_272,
    "wide_resnet50_2": 68_883_240,
}
MILLIONS = {
    "resnet10t": 5.44,
    "resnet14t": 10.08,
    "resnet18d": 11.71,
    "resnet26": 16.00,
    "resnet34d": 21.82,
    "resnet50c": 25.58,
    "resnet50d": 25.58,
    "resnet50s": 25.68,
    "resnet50t": 25.57,
    "resnet101d": 44.57,
    "resnext50d_32x4d": 25.05,
    "seresnet50": 28.09,
    "seresnext50_32x4d": 27.56,
    "resnetrs50": 35.69,
    "resnetrs101": 63.62,
}


@pytest.mark.parametrize("name", [*EXACT, *MILLIONS])
def test_published_numbers_of_parameters(name):
    with nr.nn.init.skip_random():
        count = sum(p.numel() for p in nr.create_model(name).parameters())
    if name in EXACT:
        assert count == EXACT[name]
    else:
        assert round(count / 1e6, 2) == MILLIONS[name]


def test_keys_of_a_d_network_are_timms():
    with nr.nn.init.skip_random():
        keys = list(nr.create_model("resnet18d").state_dict())
    stem = [key for key in keys if key.startswith(("conv1", "bn1")) and "num" not in key]
    norm = ("weight", "bias", "running_mean", "running_var")
    assert stem == [
        "conv1.0.weight",
        *(f"conv1.1.{part}" for part in norm),
        "conv1.3.weight",
        *(f"conv1.4.{part}" for part in norm),
        "conv1.6.weight",
        *(f"bn1.{part}" for part in norm),
    ]
    shortcut = [key for key in keys if key.startswith("layer2.0.downsample") and "num" not in key]
    assert shortcut == [
        "layer2.0.downsample.1.weight",
        *(f"layer2.0.downsample.2.{part}" for part in norm),
    ]
    with nr.nn.init.skip_random():
        keys = list(nr.create_model("seresnet18").state_dict())
    assert [key for key in keys if "layer1.0.se" in key] == [
        f"layer1.0.se.{layer}.{part}" for layer in ("fc1", "fc2") for part in ("weight", "bias")
    ]


def test_every_name_makes_a_network():
    """One block a stage of each: it is the table that is looked at."""
    structures = {name: models.create.structure_of(name) for name in nr.list_models()}
    assert structures["resnext101_64x4d"]["layers"] == (3, 4, 23, 3)
    assert structures["resnext101_64x4d"]["cardinality"] == 64
    assert structures["wide_resnet101_2"]["base_width"] == 128
    assert structures["seresnext26t_32x4d"]["stem_type"] == "deep_tiered"
    assert structures["resnetrs420"]["replace_stem_pool"]
    for name, structure in structures.items():
        with nr.nn.init.skip_random():
            model = ResNet(**{**structure, "layers": (1, 1, 1, 1), "num_classes": 0})
        assert model.num_features == 512 * structure["block"].expansion, name


@pytest.mark.parametrize("name", ["resnetblur50", "resnetaa50", "resnet50_gn", "resnet51", "vgg"])
def test_other_names_are_refused(name):
    with pytest.raises(RangeError, match=f"no network '{name}': .*list_models") as caught:
        nr.create_model(name)
    assert ("did you mean" in str(caught.value)) == name.startswith("resnet")


def test_wrong_structure():
    with pytest.raises(RangeError, match="stem_type expected one of '', 'deep'"):
        ResNet(BasicBlock, (1, 1, 1, 1), stem_type="wide")
    with pytest.raises(RangeError, match="use Bottleneck"):
        ResNet(BasicBlock, (1, 1, 1, 1), cardinality=32)
    with pytest.raises(RangeError, match="global_pool expected one of 'avg'"):
        ResNet(BasicBlock, (1, 1, 1, 1), global_pool="mean")
    with pytest.raises(TypeError, match="stem"):
        nr.create_model("resnet18", stem="deep")
