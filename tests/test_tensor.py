"""Tensor against torch: arithmetic with broadcasting, shapes, reductions, indexing, the tape."""

import gc
import threading
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import npresnet as nr
from npresnet.errors import DtypeError, GraphError, RangeError, ShapeError
from tests.parity import assert_parity, relative_error

UNARY = {
    "neg": lambda x: -x,
    "scaled": lambda x: 2 * x - 3 + x / 4 - (1 - x) + 1 / (x * x + 1),
    "square": lambda x: x**2,
    "cube": lambda x: x**3,
    "exp": lambda x: x.exp(),
    "log": lambda x: (x * x + 1).log(),
    "sqrt": lambda x: (x * x + 1).sqrt(),
    "abs": lambda x: x.abs(),
    "clamp": lambda x: x.clamp(-0.5, 0.7),
    "clamp below": lambda x: x.clamp(min=0.1),
    "sum": lambda x: x.sum(),
    "sum dim": lambda x: x.sum(1),
    "sum keepdim": lambda x: x.sum((0, 2), keepdim=True),
    "mean": lambda x: x.mean(),
    "mean dim": lambda x: x.mean(-1),
    "mean dims": lambda x: x.mean([1, 2], keepdim=True),
    "max": lambda x: x.max(),
    "amax": lambda x: x.amax(),
    "amax dims": lambda x: x.amax((0, 2), keepdim=True),
    "amax of equals": lambda x: x.clamp(0.1, 0.2).amax(1),
    "max dim": lambda x: x.max(1)[0],
    "max keepdim": lambda x: x.max(2, keepdim=True)[0],
    "reshape": lambda x: x.reshape(4, -1),
    "view": lambda x: x.view(x.shape[0], -1),
    "flatten": lambda x: x.flatten(1),
    "flatten all": lambda x: x.flatten(),
    "permute": lambda x: x.permute(2, 0, 1),
    "transpose": lambda x: x.transpose(0, -1),
    "unsqueeze": lambda x: x.unsqueeze(1).unsqueeze(-1),
    "squeeze": lambda x: x.unsqueeze(1).squeeze(1).squeeze(),
    "expand": lambda x: x.unsqueeze(0).expand(3, -1, -1, -1),
    "row": lambda x: x[1],
    "slice": lambda x: x[:, 1:, ::2],
    "ellipsis": lambda x: x[..., None, -1],
    "twice": lambda x: x[[0, 1, 1, 0]],
    "reuse": lambda x: x * x + x,
    "clone": lambda x: x.clone() * 2,
    "double": lambda x: (x * 2).to(x.dtype),
}


@pytest.mark.parametrize("name", UNARY)
def test_one_tensor(name, rng):
    function = UNARY[name]
    assert_parity(function, function, [rng.standard_normal((2, 3, 4))], rng)


SHAPES = [((2, 3), (2, 3)), ((2, 3), (3,)), ((2, 1, 3), (4, 1)), ((), (2, 3)), ((1, 1), (5, 2))]


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("sign", ["+", "-", "*", "/"])
def test_two_tensors_broadcast(sign, shapes, rng):
    functions = {
        "+": lambda x, y: x + y,
        "-": lambda x, y: x - y,
        "*": lambda x, y: x * y,
        "/": lambda x, y: x / y,
    }
    x, y = (rng.random(s) + 0.5 for s in shapes)
    assert_parity(functions[sign], functions[sign], [x, y], rng)


@pytest.mark.parametrize(
    "shapes", [((2, 3), (3, 4)), ((3,), (3, 4)), ((2, 3), (3,)), ((3,), (3,)), ((5, 2, 3), (3, 4))]
)
def test_matmul(shapes, rng):
    x, y = (rng.standard_normal(s) for s in shapes)
    assert_parity(lambda x, y: x @ y, lambda x, y: x @ y, [x, y], rng)


def test_cat_and_stack(rng):
    a, b = rng.standard_normal((2, 3)), rng.standard_normal((2, 5))
    assert_parity(lambda x, y: nr.cat([x, y], 1), lambda x, y: torch.cat([x, y], 1), [a, b], rng)
    c = rng.standard_normal((2, 3))
    assert_parity(
        lambda x, y: nr.stack([x, y], 1), lambda x, y: torch.stack([x, y], 1), [a, c], rng
    )


@given(
    hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=4),
    st.integers(0, 2**32 - 1),
)
def test_gradient_of_a_broadcast_product(shapes, seed):
    rng = np.random.default_rng(seed)
    one, two = (np.asarray(rng.standard_normal(s)) for s in shapes.input_shapes)
    x, y = nr.Tensor(one, True), nr.Tensor(two, True)
    z = x * y
    assert z.shape == shapes.result_shape
    grad = rng.standard_normal(z.shape)
    z.backward(grad)
    # the adjoint: <grad, dz> = <x.grad, dx> for the direction dx = x
    assert np.isclose((grad * z.data).sum(), (x.grad * one).sum())
    assert np.isclose((grad * z.data).sum(), (y.grad * two).sum())


def test_gradient_check_by_differences(rng):
    """A central difference in float64 knows nothing of torch."""
    x = rng.standard_normal((2, 3))

    def f(t):
        return ((t * t).sum(1) / (t.exp().sum(1) + 1)).log().sum()

    t = nr.Tensor(x, True)
    f(t).backward()
    for i in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i] = 1e-6
        slope = (f(nr.Tensor(x + step)).item() - f(nr.Tensor(x - step)).item()) / 2e-6
        assert abs(slope - t.grad[i]) < 1e-7


def test_dtypes_follow_torch():
    assert nr.tensor([1.0, 2.0]).dtype == np.float32
    assert nr.tensor([1, 2]).dtype == np.int64
    assert nr.tensor(np.zeros(2)).dtype == np.float64
    assert (nr.tensor([1, 2]) * 0.5).dtype == np.float32
    assert (nr.tensor([1, 2]) / 2).dtype == np.float32
    assert (nr.tensor([1.0]) * 2).dtype == np.float32
    assert (nr.tensor([1.0]) * nr.tensor([2])).dtype == np.float32
    assert (nr.tensor([1.0]) * np.float64(2)).dtype == np.float32
    assert (np.ones(2) * nr.tensor([1.0])).dtype == np.float64
    assert (nr.tensor([1, 2]) == 1).dtype == np.bool_
    assert (nr.tensor([1, 1]) == 1).sum().item() == 2
    assert nr.tensor([1, 2]).float().mean().item() == 1.5


def test_sizes():
    x = nr.zeros(2, 3, 4)
    assert (x.size(), x.size(1), x.dim(), x.numel(), x.element_size()) == ((2, 3, 4), 3, 3, 24, 4)
    assert x.is_floating_point()
    assert not nr.tensor([1]).is_floating_point()


def test_mixed_dtypes_send_each_its_own_gradient():
    x = nr.tensor(np.ones(3, np.float32), True)
    y = nr.tensor(np.ones(3), True)
    (x * y).sum().backward()
    assert x.grad.dtype == np.float32
    assert y.grad.dtype == np.float64


def test_tensor_copies_and_from_numpy_shares():
    a = np.zeros(2)
    copied, shared = nr.tensor(a), nr.from_numpy(a)
    a[0] = 7
    assert copied.tolist() == [0, 0]
    assert shared.tolist() == [7, 0]


def test_numbers_out():
    assert nr.tensor([[3.5]]).item() == 3.5
    assert float(nr.tensor(2.0)) == 2.0
    assert int(nr.tensor(2)) == 2
    assert [10, 20, 30][nr.tensor(1)] == 20
    assert bool(nr.tensor([1]) == 1)
    assert np.asarray(nr.tensor([1.0, 2.0])).tolist() == [1, 2]
    assert [t.item() for t in nr.tensor([1, 2, 3])] == [1, 2, 3]


def test_argmax_and_max_as_torch(rng):
    x = rng.integers(0, 4, (3, 4, 5)).astype(np.float64)
    ours, theirs = nr.tensor(x), torch.tensor(x)
    assert ours.argmax().item() == int(x.argmax())
    assert ours.argmax(1).shape == tuple(theirs.argmax(1).shape)
    values, indices = ours.max(1)
    np.testing.assert_array_equal(values.numpy(), theirs.max(1)[0].numpy())
    np.testing.assert_array_equal(
        np.take_along_axis(x, indices.numpy()[:, None], 1)[:, 0], values.numpy()
    )


def test_gradients_add_up_over_backwards():
    x = nr.tensor([1.0, 2.0], requires_grad=True)
    (x * 3).sum().backward()
    (x * 4).sum().backward()
    assert x.grad.tolist() == [7, 7]


def test_leaves_of_one_sum_have_gradients_of_their_own():
    x, y = nr.zeros(2, requires_grad=True), nr.zeros(2, requires_grad=True)
    (x + y).backward(np.ones(2, np.float32))
    x.grad += 1
    assert y.grad.tolist() == [1, 1]


def test_no_grad_records_nothing_and_detach_cuts():
    x = nr.tensor([1.0], requires_grad=True)
    with nr.no_grad():
        y = x * 2
        with nr.enable_grad():
            assert (x * 2).requires_grad
    assert not y.requires_grad
    assert not x.detach().requires_grad

    @nr.no_grad()
    def f():
        return x * 2

    assert not f().requires_grad
    assert nr.is_grad_enabled()
    (x * x.detach()).backward()
    assert x.grad.tolist() == [1]


def test_no_grad_holds_in_its_own_thread_only():
    x = nr.tensor([1.0], requires_grad=True)
    seen = []
    with nr.no_grad():
        thread = threading.Thread(target=lambda: seen.append((x * 2).requires_grad))
        thread.start()
        thread.join()
    assert seen == [True]


def test_a_long_chain_walks_back_without_recursion():
    x = nr.tensor([1.0], requires_grad=True)
    y = x
    for _ in range(5000):
        y = y + 1
    y.backward()
    assert x.grad.tolist() == [1]


def test_what_was_saved_is_freed_by_backward():
    x = nr.tensor([1.0, 2.0], requires_grad=True)
    middle = x * 2
    loss = (middle * middle).sum()
    kept = weakref.ref(middle)
    loss.backward(retain_graph=True)
    loss.backward()
    assert x.grad.tolist() == [16, 32]
    with pytest.raises(GraphError, match="retain_graph"):
        loss.backward()
    del middle
    gc.collect()
    assert kept() is None


def test_hooks_see_and_change_gradients():
    x = nr.tensor([1.0, 2.0], requires_grad=True)
    y = x * 3
    y.retain_grad()
    y.register_hook(lambda g: g * 10)
    seen = []
    x.register_hook(lambda g: seen.append(g.copy()))
    y.sum().backward()
    assert y.grad.tolist() == [1, 1]
    assert x.grad.tolist() == [30, 30]
    assert seen[0].tolist() == [30, 30]


def test_repr_shows_what_it_is():
    assert repr(nr.tensor([1.0, 2.0])) == "tensor([1., 2.])"
    x = nr.tensor([1.0], requires_grad=True)
    assert repr(x) == "tensor([1.], requires_grad=True)"
    assert "grad_fn=<mul>" in repr(x * 2)


WRONG = [
    (lambda x: x.backward(), ShapeError, "needs grad"),
    (lambda x: x.backward(np.ones(3)), ShapeError, r"grad has shape \(3,\), the tensor \(2, 3\)"),
    (lambda x: x.detach().sum().backward(), GraphError, "requires_grad=True"),
    (lambda x: x.item(), ShapeError, "one element"),
    (lambda x: x.reshape(4), ShapeError, "can't reshape"),
    (lambda x: x.permute(0, 0), RangeError, "each of 2 dimensions once"),
    (lambda x: x.sum(2), RangeError, "dimension 2 is out of range"),
    (lambda x: x + nr.zeros(4), ShapeError, "can't be broadcast"),
    (lambda x: x @ nr.zeros(4), ShapeError, "matmul"),
    (lambda x: x.expand(3, 3), ShapeError, "can't expand"),
    (lambda x: x[5], IndexError, r"shape \(2, 3\)"),
    (lambda x: nr.cat([x, nr.zeros(3, 4)]), ShapeError, "all other sizes must agree"),
    (lambda x: nr.cat([]), ShapeError, "at least one"),
    (lambda x: nr.tensor([1, 2]).mean(), DtypeError, "floating-point"),
    (lambda x: len(nr.tensor(1)), ShapeError, "no length"),
]


@pytest.mark.parametrize("case", range(len(WRONG)))
def test_errors(case):
    call, kind, message = WRONG[case]
    with pytest.raises(kind, match=message):
        call(nr.zeros(2, 3, requires_grad=True))


def test_mean_of_nothing_is_nan():
    assert np.isnan(nr.zeros(0, 3).mean().item())
    assert relative_error(nr.zeros(0).sum().numpy(), 0.0) == 0
