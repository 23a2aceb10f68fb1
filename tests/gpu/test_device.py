"""What only a device can show: its memory, its errors, 16 bits, the same bits from run to run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import npresnet as nr
from npresnet.backend import current_backend
from npresnet.errors import BackendError, DeviceMemoryError
from npresnet_kernels import gpu, reference
from npresnet_kernels.gpu.device import array_module, launch
from npresnet_kernels.gpu.errors import DeviceError
from tests.gpu.conftest import SHIM
from tests.gpu.on_device import gpu_set, to_host
from tests.parity import relative_error

HALF = float(np.finfo(np.float16).eps)


def half(rng, *shape):
    """Values that float16 holds."""
    return rng.standard_normal(shape).astype(np.float16)


CONV = ((1, 1), (1, 1), (1, 1), 1)
SIXTEEN_BITS = {
    "conv2d": lambda k, a: k.conv2d(a["x"], a["w"], a["b"], *CONV),
    "conv2d_grad_input": lambda k, a: k.conv2d_grad_input(a["g"], a["w"], a["x"].shape, *CONV),
    "conv2d_grad_weight": lambda k, a: k.conv2d_grad_weight(a["g"], a["x"], (3, 3), *CONV),
    "linear": lambda k, a: k.linear(a["rows"], a["matrix"], a["vector"]),
    "batch_norm_statistics": lambda k, a: k.batch_norm_statistics(a["x"])[1],
    "channel_sum": lambda k, a: k.channel_sum(a["x"]),
    "relu": lambda k, a: k.relu(a["x"]),
    "add": lambda k, a: k.add(a["x"], a["x"]),
    "max_pool2d": lambda k, a: k.max_pool2d(a["x"], (3, 3), (2, 2), (1, 1), (1, 1), False)[0],
    "adaptive_avg_pool2d": lambda k, a: k.adaptive_avg_pool2d(a["x"], (1, 1)),
    "softmax": lambda k, a: k.softmax(a["rows"], 1),
    "log_softmax": lambda k, a: k.log_softmax(a["rows"], 1),
}


@pytest.mark.parametrize("name", SIXTEEN_BITS)
def test_float16_against_float64(name, rng):
    arrays = {
        "x": half(rng, 3, 17, 9, 11),
        "w": half(rng, 13, 17, 3, 3) / 8,
        "b": half(rng, 13),
        "g": half(rng, 3, 13, 9, 11) / 8,
        "rows": half(rng, 5, 37),
        "matrix": half(rng, 11, 37),
        "vector": half(rng, 11),
    }
    call = SIXTEEN_BITS[name]
    result = call(gpu_set, arrays)
    assert result.dtype == np.float16
    truth = call(reference, {key: a.astype(np.float64) for key, a in arrays.items()})
    assert relative_error(result, truth) <= 4 * HALF


def test_the_same_bits_every_time(rng):
    """A training step twice over: no atomics, no order that depends on timing."""
    x = rng.standard_normal((6, 3, 15, 13)).astype(np.float32)
    y = rng.integers(0, 5, 6)
    results = []
    for _ in range(2):
        nr.manual_seed(3)
        with nr.use_backend("gpu"):
            model = nr.resnet18(num_classes=5, small_input=True)
            optimizer = nr.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
            loss = nr.functional.cross_entropy(model(nr.tensor(x)), y)
            loss.backward()
            optimizer.step()
            results.append([to_host(v) for v in model.state_dict().values()])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_same_answer_as_the_cpu(rng):
    x = rng.standard_normal((2, 3, 16, 16)).astype(np.float32)
    nr.manual_seed(1)
    model = nr.resnet34(num_classes=7, small_input=True).eval()
    with nr.no_grad():
        truth = model.double()(nr.tensor(x).double()).numpy()
        here = model.float()(nr.tensor(x)).numpy()
        there = model.to("gpu")(nr.tensor(x).to("gpu"))
    assert there.device == "gpu:0"
    assert relative_error(there, truth) <= 4 * relative_error(here, truth) + 1e-6


@pytest.mark.skipif(SHIM, reason="the shim's memory has no end")
def test_out_of_memory(rng):
    with nr.use_backend("gpu"):
        layer = nr.nn.Conv2d(3, 4, 3, padding=1)
        x = nr.tensor(rng.standard_normal((2, 3, 8, 8)).astype(np.float32))
        known = layer(x).numpy()
        with pytest.raises(DeviceMemoryError, match=r"asked for [\d,]+ bytes.* bytes are free"):
            nr.zeros(1 << 42)
        xp = current_backend().xp
        wide = xp.broadcast_to(xp.zeros((1, 1, 1, 1), np.float32), (1 << 20, 64, 128, 128))
        with pytest.raises(DeviceMemoryError, match=r"asked for [\d,]+ bytes.* bytes are free"):
            nr.relu(nr.Tensor(wide))
        np.testing.assert_array_equal(layer(x).numpy(), known)


def test_what_a_launch_that_fails_says():
    xp = array_module()
    x = xp.zeros(4, np.float32)
    with pytest.raises(
        DeviceError, match=r"kernel relu of elementwise.cu failed .* block \(2048,\)"
    ):
        launch(
            "elementwise.cu", "relu", (1,), (x, x, 4), block=(2048,), defines={"SCALAR": "float"}
        )
    np.testing.assert_array_equal(to_host(gpu.relu(x)), np.zeros(4))


def test_dlpack_shares_memory():
    xp = array_module()
    ours = nr.from_dlpack(xp.arange(4, dtype=np.float32))
    assert ours.device == "gpu:0"
    again = xp.from_dlpack(ours.data)
    again[...] = 3
    assert ours.tolist() == [3] * 4


@pytest.mark.skipif(SHIM or not torch.cuda.is_available(), reason="needs torch with CUDA")
def test_dlpack_with_torch():
    theirs = torch.arange(4.0, device="cuda")
    ours = nr.from_dlpack(theirs)
    theirs[0] = 9
    torch.cuda.synchronize()
    assert ours.tolist() == [9, 1, 2, 3]
    back = torch.from_dlpack(ours)
    assert back.data_ptr() == theirs.data_ptr()


def test_another_device_is_not_touched(rng):
    xp = array_module()
    if xp.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("needs two devices")
    x = rng.standard_normal((2, 3, 8, 8)).astype(np.float32)
    with nr.use_backend("gpu:1"):
        layer = nr.nn.Conv2d(3, 4, 3)
        layer(nr.tensor(x)).sum().backward()
        assert nr.Tensor(layer.weight.grad).device == "gpu:1"
    with pytest.raises(BackendError, match="one input lives on the gpu:0, another on gpu:1"):
        layer(nr.tensor(x).to("gpu:0"))


def test_indices_above_two_to_the_31():
    """Arrays of more than 2^31 elements, where the memory for them is there."""
    xp = array_module()
    if SHIM or xp.cuda.runtime.memGetInfo()[0] < 12 << 30:
        pytest.skip("needs 12 GiB")
    x = xp.zeros((2, 1, 1 << 15, (1 << 15) + 8), np.float16)  # 2^31 + 2^19 elements
    x[1, 0, -1, -1] = -1
    x[1, 0, -1, -2] = 2
    y = gpu.relu(x)
    assert float(y[1, 0, -1, -1]) == 0
    assert float(y[1, 0, -1, -2]) == 2
    assert float(gpu.channel_sum(x)[0]) == 1


def test_commands(capsys):
    cli = pytest.importorskip("npresnet.cli", reason="needs Pillow, safetensors and tqdm")
    assert cli.main(["devices"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("gpu:0  ")
    assert "compute capability" in lines[1]
