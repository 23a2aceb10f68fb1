"""Layers: arguments, initial values and printed form as torch's; state shared with torch."""

import inspect

import numpy as np
import pytest
import torch
from torch import nn as tnn

import npresnet as nr
from npresnet import nn
from npresnet.errors import DtypeError, RangeError, ShapeError
from tests.parity import relative_error

LAYERS = [
    ("Conv2d", (3, 5, 3), {}),
    ("Conv2d", (4, 6, (3, 5)), {"stride": 2, "padding": (1, 2), "groups": 2, "bias": False}),
    ("Conv2d", (4, 6, 3), {"padding": "same", "dilation": 2}),
    ("BatchNorm2d", (7,), {}),
    ("BatchNorm2d", (7,), {"momentum": None, "affine": False}),
    ("BatchNorm2d", (7,), {"bias": False}),
    ("BatchNorm2d", (7,), {"track_running_stats": False, "eps": 1e-3}),
    ("Linear", (5, 3), {}),
    ("Linear", (5, 3), {"bias": False}),
    ("ReLU", (), {}),
    ("ReLU", (), {"inplace": True}),
    ("Dropout", (0.3,), {}),
    ("Flatten", (), {}),
    ("Identity", (), {}),
    ("Softmax", (1,), {}),
    ("LogSoftmax", (1,), {}),
    ("Sigmoid", (), {}),
    ("MaxPool2d", (3, 2, 1), {}),
    ("AvgPool2d", (2,), {}),
    ("AdaptiveAvgPool2d", (1,), {}),
    ("AdaptiveAvgPool2d", ((None, 3),), {}),
    ("CrossEntropyLoss", (), {"label_smoothing": 0.1}),
]


@pytest.mark.parametrize("case", range(len(LAYERS)))
def test_layer_prints_and_names_its_state_as_torch(case):
    name, arguments, options = LAYERS[case]
    ours, theirs = (
        getattr(nn, name)(*arguments, **options),
        getattr(tnn, name)(*arguments, **options),
    )
    assert repr(ours) == repr(theirs)
    shapes = {k: tuple(v.shape) for k, v in theirs.state_dict().items()}
    assert {k: v.shape for k, v in ours.state_dict().items()} == shapes


@pytest.mark.parametrize("name", ["Conv2d", "BatchNorm2d", "Linear", "MaxPool2d", "AvgPool2d"])
def test_arguments_and_defaults_are_torchs(name):
    def arguments(cls):
        parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
        return [(p.name, p.default) for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]

    expected = [(n, d) for n, d in arguments(getattr(tnn, name)) if n != "bias" or d is not None]
    assert arguments(getattr(nn, name)) == expected


@pytest.mark.parametrize("layer", ["Conv2d", "Linear"])
def test_default_initialisation_has_torchs_distribution(layer):
    nr.manual_seed(0)
    torch.manual_seed(0)
    arguments = (64, 256, 3) if layer == "Conv2d" else (576, 256)
    ours, theirs = getattr(nn, layer)(*arguments), getattr(tnn, layer)(*arguments)
    bound = 1 / np.sqrt(576)
    for mine, other in ((ours.weight, theirs.weight), (ours.bias, theirs.bias)):
        values = np.abs(mine.numpy())
        assert values.max() <= bound
        assert values.max() > 0.98 * bound
        assert abs(mine.numpy().std() / other.detach().numpy().std() - 1) < 0.05
    nr.manual_seed(0)
    again = getattr(nn, layer)(*arguments)
    np.testing.assert_array_equal(again.weight.numpy(), ours.weight.numpy())


INITS = [
    ("uniform_", {"a": -2.0, "b": 3.0}),
    ("normal_", {"mean": 1.0, "std": 2.0}),
    ("kaiming_uniform_", {"a": 0.1}),
    ("kaiming_normal_", {"mode": "fan_out", "nonlinearity": "relu"}),
    ("xavier_uniform_", {"gain": 2.0}),
    ("xavier_normal_", {}),
    ("constant_", {"val": 3.0}),
    ("ones_", {}),
    ("zeros_", {}),
]


@pytest.mark.parametrize(("name", "options"), INITS)
def test_init_has_torchs_mean_and_spread(name, options):
    nr.manual_seed(1)
    torch.manual_seed(1)
    ours, theirs = nr.zeros(64, 32, 3, 3), torch.zeros(64, 32, 3, 3)
    assert getattr(nn.init, name)(ours, **options) is ours
    getattr(tnn.init, name)(theirs, **options)
    spread = theirs.numpy().std()
    assert abs(ours.numpy().mean() - theirs.numpy().mean()) <= 0.05 * spread
    assert abs(ours.numpy().std() - spread) <= 0.02 * spread


@pytest.mark.parametrize("momentum", [0.1, 0.3, None])
def test_batch_norm_moves_its_statistics_as_torch(momentum, backend, rng):
    ours = nn.BatchNorm2d(4, momentum=momentum).double()
    theirs = tnn.BatchNorm2d(4, momentum=momentum).double()
    for _ in range(3):
        x = rng.standard_normal((3, 4, 5, 5)) * 2 + 1
        mine, other = ours(nr.tensor(x)), theirs(torch.tensor(x))
        assert relative_error(mine.numpy(), other.detach().numpy()) <= 1e-10
    for key, value in theirs.state_dict().items():
        assert relative_error(ours.state_dict()[key], value.numpy()) <= 1e-10
    x = rng.standard_normal((2, 4, 5, 5))
    mine, other = ours.eval()(nr.tensor(x)), theirs.eval()(torch.tensor(x))
    assert relative_error(mine.numpy(), other.detach().numpy()) <= 1e-10
    assert int(ours.num_batches_tracked) == 3


def test_batch_norm_without_statistics_uses_the_batch_in_evaluation_too(rng):
    x = rng.standard_normal((3, 4, 5, 5))
    ours = nn.BatchNorm2d(4, track_running_stats=False).double().eval()
    theirs = tnn.BatchNorm2d(4, track_running_stats=False).double().eval()
    mine, other = ours(nr.tensor(x)).numpy(), theirs(torch.tensor(x)).detach().numpy()
    assert relative_error(mine, other) <= 1e-10


def test_losses_as_layers(rng):
    x, target = rng.standard_normal((5, 3)), rng.integers(0, 3, 5)
    weight = rng.random(3)
    for name in ("CrossEntropyLoss", "NLLLoss"):
        ours = getattr(nn, name)(nr.tensor(weight), reduction="sum")
        theirs = getattr(tnn, name)(torch.tensor(weight), reduction="sum")
        mine, other = ours(nr.tensor(x), target), theirs(torch.tensor(x), torch.tensor(target))
        assert relative_error(mine.numpy(), other.numpy()) <= 1e-10


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: nn.Conv2d(0, 4, 3), RangeError, "at least one channel"),
        (lambda: nn.Conv2d(4, 6, 3, groups=4), RangeError, "groups=4 must divide"),
        (lambda: nn.Conv2d(4, 6, 0), RangeError, "kernel_size must be at least 1"),
        (lambda: nn.Conv2d(4, 6, 3, stride=0), RangeError, "stride must be at least 1"),
        (lambda: nn.Conv2d(4, 6, "3"), DtypeError, "kernel_size must be an integer or a pair"),
        (lambda: nn.Conv2d(4, 6, 3, padding_mode="reflect"), RangeError, "'zeros'"),
        (lambda: nn.BatchNorm2d(0), RangeError, "at least one channel"),
        (lambda: nn.Linear(3, 0), RangeError, "at least one feature"),
        (lambda: nn.Dropout(2), RangeError, "probability"),
        (lambda: nn.BatchNorm2d(3)(nr.zeros(2, 3)), ShapeError, r"expected \(N, C, H, W\)"),
        (lambda: nn.BatchNorm2d(3)(nr.zeros(2, 4, 2, 2)), ShapeError, "expected 3 channels"),
        (
            lambda: nn.Conv2d(3, 4, 3)(nr.zeros(1, 3, 8, 8).double()),
            DtypeError,
            "convert the input",
        ),
        (lambda: nn.init.kaiming_normal_(nr.zeros(3)), ShapeError, "at least 2 dimensions"),
        (lambda: nn.init.kaiming_normal_(nr.zeros(3, 3), mode="x"), RangeError, "fan_in"),
    ],
)
def test_errors(make, kind, message):
    with pytest.raises(kind, match=message):
        make()
