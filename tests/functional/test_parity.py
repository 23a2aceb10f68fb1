"""Every operation and its gradients against torch, float64 and float32, both kernel sets."""

import numpy as np
import pytest
import torch
import torch.nn.functional as TF

import npresnet as nr
import npresnet.functional as F
from tests.parity import assert_parity, relative_error, to_numpy

CONV = {
    "3x3": ((2, 3, 7, 9), (5, 3, 3, 3), {"padding": 1}),
    "stem 7x7 stride 2": ((2, 3, 17, 15), (4, 3, 7, 7), {"stride": 2, "padding": 3}),
    "1x1": ((3, 4, 5, 5), (6, 4, 1, 1), {}),
    "1x1 stride 2": ((2, 4, 7, 6), (6, 4, 1, 1), {"stride": 2}),
    "3x3 stride 2": ((2, 4, 8, 9), (6, 4, 3, 3), {"stride": 2, "padding": 1}),
    "uneven": ((2, 3, 9, 8), (4, 3, 2, 5), {"stride": (2, 1), "padding": (1, 2)}),
    "dilated": ((2, 3, 11, 12), (4, 3, 3, 3), {"dilation": (2, 3), "padding": 2}),
    "groups": ((2, 6, 6, 5), (4, 3, 3, 3), {"groups": 2, "padding": 1}),
    "depthwise": ((2, 5, 6, 6), (10, 1, 3, 3), {"groups": 5, "stride": 2, "padding": 1}),
    "skips pixels": ((1, 2, 9, 9), (3, 2, 2, 2), {"stride": 3}),
    "one pixel": ((2, 8, 1, 1), (6, 8, 3, 3), {"padding": 1}),
    "batch of one": ((1, 1, 4, 4), (1, 1, 3, 3), {}),
    "same": ((2, 3, 6, 7), (4, 3, 3, 3), {"padding": "same"}),
    "same, even kernel": ((2, 3, 6, 7), (4, 3, 4, 2), {"padding": "same"}),
    "valid": ((2, 3, 6, 7), (4, 3, 3, 3), {"padding": "valid"}),
    "no batch": ((3, 6, 7), (4, 3, 3, 3), {"padding": 1}),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch's, said once
@pytest.mark.parametrize("case", CONV)
def test_conv2d(case, backend, rng):
    x_shape, w_shape, options = CONV[case]
    inputs = [rng.standard_normal(s) for s in (x_shape, w_shape, w_shape[:1])]
    assert_parity(
        lambda x, w, b: F.conv2d(x, w, b, **options),
        lambda x, w, b: TF.conv2d(x, w, b, **options),
        inputs,
        rng,
    )


POOLS = {
    "max 3x3 stride 2": ("max_pool2d", (2, 3, 9, 8), (3, 2, 1)),
    "max 2x2": ("max_pool2d", (2, 3, 7, 7), (2,)),
    "max dilated": ("max_pool2d", (2, 3, 11, 9), (3, 2, 1, 2)),
    "max overlapping": ("max_pool2d", (2, 2, 6, 6), ((3, 2), 1)),
    "max ceil": ("max_pool2d", (2, 3, 8, 7), (3, 2, 1, 1, True)),
    "max no batch": ("max_pool2d", (3, 8, 7), (2,)),
    "avg 2x2": ("avg_pool2d", (2, 3, 7, 7), (2,)),
    "avg 3x3 padded": ("avg_pool2d", (2, 3, 9, 8), (3, 2, 1)),
    "avg without pad": ("avg_pool2d", (2, 3, 9, 8), (3, 2, 1, False, False)),
    "avg ceil": ("avg_pool2d", (2, 3, 8, 7), (3, 2, 1, True)),
    "avg ceil without pad": ("avg_pool2d", (2, 3, 8, 7), ((3, 2), 2, (1, 0), True, False)),
    "avg divisor": ("avg_pool2d", (2, 3, 8, 7), (3, 2, 1, False, True, 5)),
    "adaptive 1": ("adaptive_avg_pool2d", (2, 3, 7, 7), (1,)),
    "adaptive uneven": ("adaptive_avg_pool2d", (2, 3, 7, 9), ((3, 4),)),
    "adaptive larger": ("adaptive_avg_pool2d", (2, 3, 3, 2), (5,)),
    "adaptive None": ("adaptive_avg_pool2d", (2, 3, 5, 7), ((None, 3),)),
}


@pytest.mark.parametrize("case", POOLS)
def test_pools(case, backend, rng):
    name, shape, arguments = POOLS[case]
    assert_parity(
        lambda x: getattr(F, name)(x, *arguments),
        lambda x: getattr(TF, name)(x, *arguments),
        [rng.standard_normal(shape)],
        rng,
    )


def test_max_pool2d_indices_are_torchs(backend, rng):
    x = rng.integers(0, 3, (2, 3, 9, 8)).astype(np.float64)  # many ties
    x[0, 0, 3, 3] = np.nan
    ours = F.max_pool2d(x, 3, 2, 1, return_indices=True)
    theirs = TF.max_pool2d(torch.tensor(x), 3, 2, 1, return_indices=True)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine.numpy(), other.numpy())


@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (1, 7, 3, 3), (16, 5), (2, 1, 1, 1)])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm(shape, training, backend, rng):
    c = shape[1]
    x, w, b = rng.standard_normal(shape) * 3 + 5, rng.standard_normal(c), rng.standard_normal(c)
    mean, var = rng.standard_normal(c), rng.random(c) + 0.5
    ours = {
        np.dtype(d): [nr.tensor(mean.astype(d)), nr.tensor(var.astype(d))]
        for d in (np.float64, np.float32)
    }

    def mine(x, w, b):
        return F.batch_norm(x, *ours[x.dtype], w, b, training, 0.3, 1e-4)

    def other(x, w, b):
        running = [torch.tensor(v, dtype=x.dtype) for v in (mean, var)]
        return TF.batch_norm(x, *running, w, b, training, 0.3, 1e-4)

    assert_parity(mine, other, [x, w, b], rng)
    running = [torch.tensor(v) for v in (mean, var)]
    x64 = torch.tensor(x.astype(np.float32).astype(np.float64))
    TF.batch_norm(x64, *running, training=training, momentum=0.3)
    for value, true in zip(ours[np.dtype(np.float64)], running, strict=True):
        assert relative_error(value.numpy(), true) <= 1e-10
    for value, true in zip(ours[np.dtype(np.float32)], running, strict=True):
        assert relative_error(value.numpy(), true) <= 1e-6


def test_batch_norm_without_weights_and_statistics(backend, rng):
    assert_parity(
        lambda x: F.batch_norm(x, None, None, training=True),
        lambda x: TF.batch_norm(x, None, None, training=True),
        [rng.standard_normal((3, 4, 5, 2))],
        rng,
    )


@pytest.mark.parametrize("shape", [(5, 7), (7,), (2, 3, 7), (0, 7)])
def test_linear(shape, backend, rng):
    inputs = [rng.standard_normal(s) for s in (shape, (4, 7), (4,))]
    assert_parity(F.linear, TF.linear, inputs, rng)
    assert_parity(F.linear, TF.linear, inputs[:2], rng)


@pytest.mark.parametrize(
    ("shape", "dim"), [((5, 7), 1), ((5, 7), 0), ((2, 3, 4, 5), 1), ((6,), -1)]
)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax(name, shape, dim, backend, rng):
    assert_parity(
        lambda x: getattr(F, name)(x, dim),
        lambda x: getattr(TF, name)(x, dim),
        [rng.standard_normal(shape) * 10],
        rng,
    )


@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
@pytest.mark.parametrize("shape", [(4,), (2, 4), (2, 3, 4), (2, 3, 2, 2)])
def test_softmax_without_dim_follows_torchs_old_rule(shape, backend, rng):
    assert_parity(F.softmax, TF.softmax, [rng.standard_normal(shape)], rng)


def test_softmax_of_large_logits_stays_finite(backend):
    y = F.softmax(np.array([[1e4, 0.0], [-1e4, 1e4]], np.float32), 1)
    np.testing.assert_array_equal(y.numpy(), [[1, 0], [0, 1]])


def test_relu(backend, rng):
    x = rng.standard_normal((3, 4, 5, 6))
    x[0, 0, 0, :2] = 0.0, -0.0
    assert_parity(F.relu, TF.relu, [x], rng)


def test_sigmoid(backend, rng):
    x = rng.standard_normal((3, 4, 5)) * 10
    assert_parity(F.sigmoid, TF.sigmoid, [x], rng)
    far = F.sigmoid(np.array([-1e4, -100, 0, 100, 1e4], np.float32)).numpy()
    np.testing.assert_allclose(far, [0, 0, 0.5, 1, 1], atol=1e-40)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(6, 5), (2, 5, 3), (5,)])
def test_cross_entropy(shape, weighted, smoothing, reduction, backend, rng):
    target = rng.integers(0, 5, shape[:1] + shape[2:] if len(shape) > 1 else ())
    if target.ndim:
        target.flat[1] = 3
        target.flat[0] = -100  # ignored
    weight = rng.random(5).astype(np.float32) + 0.5
    options = {"reduction": reduction, "label_smoothing": smoothing}

    def ours(x):
        w = weight.astype(x.dtype) if weighted else None
        return F.cross_entropy(x, target, w, **options)

    def theirs(x):
        w = torch.tensor(weight, dtype=x.dtype) if weighted else None
        return TF.cross_entropy(x, torch.tensor(target), w, **options)

    assert_parity(ours, theirs, [rng.standard_normal(shape) * 3], rng)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_against_probabilities(reduction, backend, rng):
    target = rng.dirichlet(np.ones(5), 6)
    weight = rng.random(5) + 0.5

    def ours(x):
        t, w = target.astype(x.dtype), weight.astype(x.dtype)
        return F.cross_entropy(x, t, w, reduction=reduction, label_smoothing=0.2)

    def theirs(x):
        t, w = torch.tensor(target, dtype=x.dtype), torch.tensor(weight, dtype=x.dtype)
        return TF.cross_entropy(x, t, w, reduction=reduction, label_smoothing=0.2)

    assert_parity(ours, theirs, [rng.standard_normal((6, 5))], rng)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_nll_loss(reduction, backend, rng):
    target = rng.integers(0, 5, 6)
    target[0] = 2
    weight = rng.random(5)

    def ours(x):
        w = weight.astype(x.dtype)
        return F.nll_loss(F.log_softmax(x, 1), target, w, ignore_index=2, reduction=reduction)

    def theirs(x):
        t, w = torch.tensor(target), torch.tensor(weight, dtype=x.dtype)
        logs = TF.log_softmax(x, 1)
        return TF.nll_loss(logs, t, w, ignore_index=2, reduction=reduction)

    assert_parity(ours, theirs, [rng.standard_normal((6, 5))], rng)


@pytest.mark.parametrize("widths", [(1, 2), (0, 1, 2, 0), (-1, 2, 1, -2)])
def test_pad(widths, rng):
    x = rng.standard_normal((2, 3, 4, 5))
    assert_parity(lambda t: F.pad(t, widths), lambda t: TF.pad(t, widths), [x], rng)
    np.testing.assert_array_equal(
        F.pad(x, widths, value=7.5).numpy(), TF.pad(torch.tensor(x), widths, value=7.5).numpy()
    )


def _strided(rng, shape):
    """The same values, but every second element of a larger array, axes exchanged."""
    n, c, h, w = shape
    return rng.standard_normal((w * 2, n, h, c * 3))[::2, :, ::-1, ::3].transpose(1, 3, 2, 0)


@pytest.mark.parametrize("operation", ["conv2d", "max_pool2d", "avg_pool2d", "relu", "batch_norm"])
def test_any_memory_order(operation, backend, rng):
    x = _strided(rng, (2, 3, 6, 5))
    w = rng.standard_normal((4, 3, 3, 3))
    calls = {
        "conv2d": lambda m, t: m.conv2d(t, nr.tensor(w) if m is F else torch.tensor(w)),
        "max_pool2d": lambda m, t: m.max_pool2d(t, 2),
        "avg_pool2d": lambda m, t: m.avg_pool2d(t, 2),
        "relu": lambda m, t: m.relu(t),
        "batch_norm": lambda m, t: m.batch_norm(t, None, None, training=True),
    }
    ours = nr.tensor(x, requires_grad=True)
    theirs = torch.tensor(np.ascontiguousarray(x), requires_grad=True)
    mine, other = calls[operation](F, ours), calls[operation](TF, theirs)
    grad = _strided(rng, tuple(mine.shape))
    mine.backward(grad)
    other.backward(torch.tensor(np.ascontiguousarray(grad)))
    assert relative_error(mine.numpy(), other.detach().numpy()) <= 1e-10
    assert relative_error(ours.grad, theirs.grad.numpy()) <= 1e-10


@pytest.mark.parametrize("operation", ["conv2d", "max_pool2d", "adaptive_avg_pool2d", "relu"])
def test_empty_batch(operation, backend):
    x = nr.zeros(0, 3, 6, 6, requires_grad=True)
    w = nr.zeros(4, 3, 3, 3, requires_grad=True)
    calls = {
        "conv2d": (lambda: F.conv2d(x, w), (0, 4, 4, 4)),
        "max_pool2d": (lambda: F.max_pool2d(x, 2), (0, 3, 3, 3)),
        "adaptive_avg_pool2d": (lambda: F.adaptive_avg_pool2d(x, 1), (0, 3, 1, 1)),
        "relu": (lambda: F.relu(x), (0, 3, 6, 6)),
    }
    call, shape = calls[operation]
    y = call()
    assert y.shape == shape
    y.backward(np.zeros(shape, np.float32))
    assert x.grad is not None
    assert x.grad.shape == x.shape
    if operation == "conv2d":
        np.testing.assert_array_equal(to_numpy(w.grad), np.zeros(w.shape))


def test_empty_batch_leaves_running_statistics(backend):
    mean, var = nr.full([3], 2.0), nr.full([3], 3.0)
    y = F.batch_norm(nr.zeros(0, 3, 2, 2), mean, var, training=True)
    assert y.shape == (0, 3, 2, 2)
    np.testing.assert_array_equal(mean.numpy(), [2, 2, 2])
    np.testing.assert_array_equal(var.numpy(), [3, 3, 3])


def test_dropout_keeps_the_mean_and_is_seeded(rng):
    x = nr.ones(100, 100, requires_grad=True)
    nr.manual_seed(3)
    y = F.dropout(x, 0.25)
    assert set(np.unique(y.numpy()).round(5)) == {0.0, np.float32(1 / 0.75).round(5)}
    assert abs(float(y.mean()) - 1) < 0.05
    y.backward(np.ones((100, 100)))
    np.testing.assert_array_equal(x.grad, y.numpy())
    nr.manual_seed(3)
    np.testing.assert_array_equal(F.dropout(x, 0.25).numpy(), y.numpy())
    assert F.dropout(x, 0.25, training=False) is x
    np.testing.assert_array_equal(F.dropout(x, 1.0).numpy(), np.zeros((100, 100)))
