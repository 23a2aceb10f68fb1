"""Arrays of other libraries go in and come out, without copies where that can be."""

import numpy as np
import pytest
import torch

import npresnet as nr
from npresnet import nn
from npresnet.errors import BackendError, DtypeError

DTYPES = ("float32", "float64", "float16", "int64", "int32", "uint8", "bool")


def address(array):
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_numpy_and_torch_see_the_same_memory(dtype):
    values = np.arange(12).reshape(3, 4).astype(dtype)[:, ::2]  # strided
    tensor = nr.from_numpy(values)
    assert address(tensor.data) == address(values)
    for view in (np.asarray(tensor), np.from_dlpack(tensor), torch.from_dlpack(tensor).numpy()):
        assert address(view) == address(values)
        assert view.dtype == dtype
        np.testing.assert_array_equal(view, values)
    theirs = torch.tensor(np.ascontiguousarray(values)).t()
    ours = nr.from_dlpack(theirs)
    assert isinstance(ours, nr.Tensor)
    assert address(ours.data) == theirs.data_ptr()
    assert ours.dtype == dtype
    np.testing.assert_array_equal(ours.numpy(), values.T)


def test_copies_as_numpy_2_asks_for_them():
    tensor = nr.ones(2, 3)
    assert np.array(tensor, copy=False) is tensor.data
    assert np.asarray(tensor) is tensor.data
    assert not np.shares_memory(np.array(tensor), tensor.data)
    assert not np.shares_memory(np.array(tensor, copy=True), tensor.data)
    assert np.asarray(tensor, dtype=np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="copy"):
        np.array(tensor, dtype=np.float64, copy=False)
    assert not np.shares_memory(np.from_dlpack(tensor, copy=True), tensor.data)


def test_tensor_copies_and_as_tensor_shares():
    theirs = torch.ones(3, 2)
    copied = nr.tensor(theirs)
    shared = nr.functional.relu(theirs)  # computed from the same memory
    theirs[0, 0] = -7
    assert copied.tolist() == [[1, 1]] * 3
    assert shared.tolist() == [[1, 1]] * 3
    assert nr.functional.relu(theirs).tolist() == [[0, 1], [1, 1], [1, 1]]
    array = np.ones(2)
    for given in (array, memoryview(array)):
        tensor = nr.tensor(given)
        assert not np.shares_memory(tensor.data, array)
    assert nr.tensor([1.0, 2.0]).dtype == np.float32


class Viewing(nn.Module):
    """Calls methods of its input that arrays of other libraries don't have."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x * 2).flatten(1).view(x.size(0), -1)


def foreign_arrays(values):
    """The same numbers of every library that is here."""
    found = {"numpy": values, "torch": torch.tensor(values)}
    try:
        import jax.numpy as jnp
    except ImportError:  # heavy, and a test dependency only where it is installed anyway
        return found
    return {**found, "jax": jnp.asarray(values)}


def test_models_plans_and_steps_take_them(rng):
    x = rng.standard_normal((2, 3, 8, 8)).astype(np.float32)
    y = rng.standard_normal((2, 144)).astype(np.float32)
    nr.manual_seed(0)
    model = Viewing()
    plan = nr.compile(model, x.shape)
    state = {key: value.copy() for key, value in model.state_dict().items()}
    expected = plan(x)

    def loss(output, target):
        difference = output - nr.tensor(target)
        return (difference * difference).mean()

    losses = set()
    targets = foreign_arrays(y)
    for name, given in foreign_arrays(x).items():
        model.load_state_dict(state)
        with nr.no_grad():
            output = model(given)
        assert isinstance(output, nr.Tensor)
        np.testing.assert_allclose(output.numpy(), expected, atol=1e-5)
        planned = plan(given)
        assert type(planned) is np.ndarray
        np.testing.assert_array_equal(planned, expected)
        step = nr.compile_step(model, loss, nr.optim.SGD(model.parameters(), lr=0.1), x.shape)
        losses.add(step(given, targets[name]))
        np.testing.assert_array_equal(nr.tensor(given).numpy(), x)
        np.testing.assert_array_equal(nr.from_dlpack(given).numpy(), x)
        np.testing.assert_array_equal((nr.ones(*x.shape) * nr.tensor(given)).numpy(), x)
    assert len(losses) == 1


def test_gradients_reach_what_came_from_elsewhere(rng):
    x = torch.tensor(rng.standard_normal((2, 3)))
    ours = nr.tensor(x, requires_grad=True)
    grad = rng.standard_normal((2, 3))
    (ours * ours).backward(torch.tensor(grad))
    np.testing.assert_allclose(ours.grad, 2 * x.numpy() * grad)


def test_jax_reads_tensors():
    jnp = pytest.importorskip("jax.numpy", reason="jax isn't installed")
    tensor = nr.tensor([[1.0, 2.0]])
    np.testing.assert_array_equal(np.asarray(jnp.asarray(tensor)), tensor.numpy())
    np.testing.assert_array_equal(np.asarray(jnp.from_dlpack(tensor)), tensor.numpy())


class OnDevice:
    """What an array of another library on a device shows."""

    shape, dtype = (2, 3), np.dtype(np.float32)

    def __init__(self, kind):
        self.kind = kind

    def __dlpack_device__(self):
        return self.kind, 7

    def __dlpack__(self, **_):
        raise AssertionError("nobody may ask")


def test_what_cannot_be_taken():
    wants_gradient = torch.ones(2, 3, requires_grad=True)
    sixteen = torch.ones(2, 3, dtype=torch.bfloat16)
    layer = nn.Linear(3, 2)
    plan = nr.compile(layer, (2, 3))
    for door in (nr.tensor, nr.from_dlpack, layer, plan, nr.functional.relu):
        with pytest.raises(DtypeError, match=r"Tensor: .*detach"):
            door(wants_gradient)
        with pytest.raises(DtypeError, match="Tensor"):
            door(sixteen)
        with pytest.raises(BackendError, match=r"gpu:7, which npresnet can't use.*\.cpu\(\)"):
            door(OnDevice(2))
        with pytest.raises(BackendError, match="CPU or of a CUDA device"):
            door(OnDevice(8))
    for nothing in (3, "x", [1.0], None):
        with pytest.raises(DtypeError, match="from_dlpack expected"):
            nr.from_dlpack(nothing)
