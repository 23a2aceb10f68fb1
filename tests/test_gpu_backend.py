"""``set_backend("gpu")`` from end to end, on a machine whose GPUs are the host shim's."""

from __future__ import annotations

import copy
import json
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import npresnet as nr
from npresnet import backend as switch
from npresnet import nn
from npresnet.cli import main
from npresnet.errors import BackendError, DeviceMemoryError
from npresnet.training import evaluate
from npresnet.training.loop import TrainStep, smoothed_cross_entropy
from npresnet.weights import load_file, save_file
from npresnet_kernels.gpu import conv, discovery
from npresnet_kernels.gpu.precision import get_precision
from tests.parity import to_numpy
from tests.shim import build, fake_cupy
from tests.shim.backend import gpu_machine
from tests.tiny import Tiny, registered

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="the host shim needs g++")


@pytest.fixture
def machine():
    """A machine with two GPUs; the backend in force stays the CPU's."""
    with gpu_machine(), nr.use_backend("cpu"):
        yield


def problem(rng, images=6):
    return rng.standard_normal((images, 3, 9, 9)).astype(np.float32), rng.integers(0, 4, images)


def steps(name, x, y, move=False):
    """Losses and weights of a few steps; the model is made there, or made here and moved."""
    nr.manual_seed(1)
    with nr.use_backend("cpu" if move else name):
        model = Tiny(num_classes=4)
    if move:
        model.to(name)
    with nr.use_backend(name):
        optimizer = nr.optim.AdamW(model.parameters(), lr=0.01)
        losses = []
        for _ in range(4):
            loss = nr.functional.cross_entropy(model(nr.tensor(x)), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses, model


@pytest.mark.parametrize("name", ["gpu", "gpu:1"])
@pytest.mark.parametrize("move", [False, True])
def test_training_is_the_same_as_on_the_cpu(machine, name, move, rng):
    x, y = problem(rng)
    known, twin = steps("cpu", x, y)
    losses, model = steps(name, x, y, move)
    np.testing.assert_allclose(losses, known, rtol=1e-5)
    assert losses[-1] < losses[0]
    for (key, value), other in zip(
        model.state_dict().items(), twin.state_dict().values(), strict=True
    ):
        assert isinstance(value, fake_cupy.ndarray), key
        np.testing.assert_allclose(to_numpy(value), other, rtol=1e-3, atol=1e-5)
    assert model.fc.weight.device == ("gpu:1" if name == "gpu:1" else "gpu:0")
    assert model.to("cpu").fc.weight.device == "cpu"


def test_random_numbers_do_not_depend_on_the_device(machine):
    states = []
    for name in ("cpu", "gpu"):
        nr.manual_seed(7)
        with nr.use_backend(name):
            states.append([Tiny().fc.weight.numpy(), nr.randn(3).numpy(), nr.rand(2).numpy()])
    for one, other in zip(*states, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture
def by_columns(monkeypatch):
    """im2col for all: a tile of 128 x 128 on the host takes its time, however little is used."""
    monkeypatch.setattr(conv, "applies", lambda *_: False)


@pytest.mark.usefixtures("by_columns")
def test_a_whole_network_in_float16_float32_and_float64(machine, rng):
    nr.manual_seed(0)
    model = nr.resnet18(num_classes=3, in_chans=1, small_input=True).eval()
    x = rng.standard_normal((2, 1, 8, 8)).astype(np.float32)
    with nr.no_grad():
        truth = model.double()(nr.tensor(x).double()).numpy()
        model.to("gpu")
        for dtype, bound in (("float64", 1e-12), ("float32", 1e-5), ("float16", 1e-2)):
            output = model.to(dtype)(nr.tensor(x).to("gpu").to(dtype))
            assert output.dtype == dtype
            assert output.device == "gpu:0"
            error = np.abs(output.numpy() - truth).max() / np.abs(truth).max()
            assert error <= bound


def test_arrays_stay_where_they_are(machine, rng):
    x = rng.standard_normal((2, 3)).astype(np.float32)
    on_device = fake_cupy.asarray(x)
    tensor = nr.tensor(on_device)
    assert tensor.device == "gpu:0"
    assert isinstance((tensor * 2).data, fake_cupy.ndarray)
    assert isinstance(nr.relu(on_device).data, fake_cupy.ndarray)
    assert nr.zeros_like(tensor).device == "gpu:0"
    assert nr.relu(x).device == "cpu"
    with nr.use_backend("gpu:1"):
        assert nr.relu(on_device).device == "gpu:0"
        assert nr.tensor(x).device == "gpu:1"
        assert nr.Tensor(x).device == "cpu"


def test_mixed_devices_are_an_error(machine, rng):
    x = rng.standard_normal((2, 3)).astype(np.float32)
    layer = nn.Linear(3, 2).to("gpu:1")
    for other, place in ((x, "cpu"), (nr.tensor(x).to("gpu"), "gpu:0")):
        with pytest.raises(
            BackendError,
            match=rf'one input lives on the {place}, another on gpu:1: call model.to\("{place}"\) '
            r'or tensor.to\("gpu:1"\)',
        ):
            layer(other)
    with pytest.raises(BackendError, match="one input lives on"):
        nr.functional.batch_norm(
            nr.ones(2, 3).to("gpu"), np.zeros(3, np.float32), np.ones(3, np.float32), training=True
        )
    assert nr.tensor(x).to("gpu").to("gpu:1").device == "gpu:1"


def test_what_another_device_than_the_current_one_computes(machine, rng):
    """Comparisons, maxima and losses of a second device, which isn't current."""
    x = rng.standard_normal((4, 5)).astype(np.float32)
    there = nr.tensor(x).to("gpu:1")
    assert (there > 0).device == "gpu:1"
    assert there.argmax().item() == x.argmax()
    values, places = there.max(1)
    np.testing.assert_array_equal(values.numpy(), x.max(1))
    np.testing.assert_array_equal(places.numpy(), x.argmax(1))
    assert there.max().item() == x.max()
    assert nr.tensor(there).device == nr.tensor(there.data).device == "gpu:1"
    assert there.double().dtype == nr.tensor(there, dtype="float64").dtype == np.float64
    labels = nr.tensor(rng.integers(0, 5, 4)).to("gpu:1")
    for loss in (nr.functional.cross_entropy, nr.functional.nll_loss):
        known = loss(nr.tensor(x), labels.to("cpu")).item()
        np.testing.assert_allclose(loss(there, labels).item(), known, rtol=1e-6)
    model = Tiny(num_classes=4).to("gpu:1").double()
    model.bn1.reset_parameters()
    images = nr.tensor(rng.standard_normal((2, 3, 9, 9))).to("gpu:1")
    model(images).sum().backward()
    model.zero_grad(set_to_none=False)
    nr.optim.SGD(model.parameters()).zero_grad(set_to_none=False)
    assert not to_numpy(model.fc.weight.grad).any()
    assert "Tiny" in str(nr.inspect.summary(model, (3, 9, 9)))
    twin = copy.deepcopy(model)
    assert twin.fc.weight.device == "gpu:1"
    np.testing.assert_array_equal(twin.fc.weight.numpy(), model.fc.weight.numpy())


def test_dlpack_without_copies(machine):
    on_device = fake_cupy.asarray(np.arange(4.0))
    tensor = nr.from_dlpack(on_device)
    assert tensor.device == "gpu:0"
    on_device[...] = 7
    assert tensor.tolist() == [7] * 4
    assert tensor.__dlpack_device__() == (2, 0)
    back = fake_cupy.from_dlpack(tensor.data)
    assert back.data.ptr == on_device.data.ptr
    host = torch.arange(3.0)
    tensor = nr.from_dlpack(host)
    assert tensor.device == "cpu"
    host[0] = 5
    assert tensor.tolist() == [5, 1, 2]
    again = torch.from_dlpack(tensor)
    again[1] = 6
    assert tensor.tolist() == [5, 6, 2]


def test_precision(machine, rng):
    x = nr.tensor(rng.standard_normal((2, 3)).astype(np.float32)).to("gpu")
    layer = nn.Linear(3, 2).to("gpu")

    def kinds():
        fake_cupy.products.clear()
        layer(x)
        return fake_cupy.products

    assert kinds() == ["fp32"]
    with nr.use_backend("gpu", precision="tf32"):
        assert kinds() == ["tf32"]
        with nr.use_backend("gpu"):
            assert kinds() == ["tf32"]
    assert kinds() == ["fp32"]
    assert fake_cupy.COMPUTE_TYPES == {"float32": "default"}
    before = nr.get_backend()
    try:
        nr.set_backend("gpu", precision="tf32")
        assert kinds() == ["tf32"]
        nr.set_backend("gpu")
        assert get_precision() == "fp32"
    finally:
        nr.set_backend(before)
    with pytest.raises(BackendError, match="'fp32' or 'tf32', got 'fp16': 16 bits are for plans"):
        nr.set_backend("gpu", precision="fp16")
    with pytest.raises(BackendError, match="'tf32' needs backend 'gpu', got 'cpu': choose that"):
        nr.set_backend("cpu", precision="tf32")


def test_what_a_plan_may_compute_in(machine, monkeypatch):
    cpu, gpu = switch.resolve("cpu"), switch.resolve("gpu:1")
    assert [gpu.plan_precision(word) for word in switch.PRECISIONS] == list(switch.PRECISIONS)
    assert cpu.plan_precision(None) == cpu.plan_precision("fp32") == "fp32"
    assert gpu.plan_precision(None) == "fp32"
    with nr.use_backend("gpu", precision="tf32"):
        assert gpu.plan_precision(None) == "tf32"
        assert gpu.plan_precision("fp16") == "fp16"
    for word in ("fp16", "bf16", "tf32"):
        with pytest.raises(BackendError, match=f"'{word}' needs backend 'gpu', got 'cpu': choose"):
            cpu.plan_precision(word)
    with pytest.raises(BackendError, match=r"one of \('fp32', 'tf32', .*\), got 'float16'"):
        gpu.plan_precision("float16")
    monkeypatch.setattr(fake_cupy.cuda.Device, "compute_capability", "75")
    assert gpu.plan_precision("fp16") == "fp16"
    for word in ("bf16", "tf32"):
        message = f"'{word}' needs compute capability 8.0 .* gpu:1 has 7.5: choose 'fp16' or 'fp32'"
        with pytest.raises(BackendError, match=message):
            gpu.plan_precision(word)
    with pytest.raises(BackendError, match=r"'tf32' needs compute capability 8\.0"):
        nr.set_backend("gpu", precision="tf32")


def test_training_and_evaluation_use_plans(machine, rng):
    x, y = problem(rng)
    model = Tiny(num_classes=4).to("gpu")
    plan = nr.compile(model, x.shape)
    on_device = fake_cupy.asarray(x)
    logits = plan(on_device)
    assert isinstance(logits, fake_cupy.ndarray)
    with pytest.raises(BackendError, match=r"the input doesn't live .* nr.tensor\(x\).to"):
        plan(x)
    optimizer = nr.optim.SGD(model.parameters(), lr=0.05)
    step = TrainStep(model, smoothed_cross_entropy(0.1), optimizer)
    first, _ = step(x, y)
    for _ in range(3):
        loss, logits = step(x, y)
    assert loss < first
    assert isinstance(logits, np.ndarray)
    report = evaluate(model, [(x, y)])
    assert report.probabilities.shape == (6, 4)


@pytest.mark.usefixtures("by_columns")
def test_classifier(machine, rng):
    labels = rng.integers(0, 2, 16)
    labels[:2] = 0, 1
    images = (rng.integers(0, 60, (16, 8, 8)) + labels[:, None, None] * 150).astype(np.uint8)
    settings = {"model": "tiny", "epochs": 2, "batch_size": 8, "image_size": 8, "seed": 5}
    with registered():
        clf = nr.Classifier(backend="gpu", **settings).fit(images, labels)
        assert clf.model_.fc.weight.device == "gpu:0"
        twin = nr.Classifier(backend="cpu", **settings).fit(images, labels)
        ours, known = clf.predict_proba(images), twin.predict_proba(images)
    assert isinstance(ours, np.ndarray)
    np.testing.assert_allclose(ours, known, rtol=1e-3, atol=1e-3)


def test_classifier_in_16_bits(machine, rng, tmp_path):
    """It fits and predicts as in float32, and its file knows nothing of it."""
    labels = np.arange(16) % 2
    images = (rng.integers(0, 60, (16, 8, 8)) + labels[:, None, None] * 150).astype(np.uint8)
    settings = {"model": "tiny", "epochs": 2, "batch_size": 8, "image_size": 8, "seed": 5}
    path = tmp_path / "c.safetensors"
    with registered():
        twin = nr.Classifier(backend="cpu", **settings).fit(images, labels)
        known = twin.predict_proba(images)
        for precision in ("fp16", "bf16"):
            clf = nr.Classifier(backend="gpu", precision=precision, **settings)
            ours = clf.fit(images, labels).predict_proba(images)
            np.testing.assert_allclose(ours, known, atol=0.05)
            assert (ours != known).any()
            assert clf.model_.fc.weight.dtype == np.float32
        clf.save(path)
        again = nr.Classifier.load(path, backend="cpu").predict_proba(images)
    np.testing.assert_allclose(again, ours, atol=0.02)


def test_weight_files(machine, tmp_path):
    model = Tiny().to("gpu")
    path = tmp_path / "w.safetensors"
    save_file(model.state_dict(), path)
    saved = load_file(path)
    np.testing.assert_array_equal(saved["fc.weight"], model.fc.weight.numpy())
    other = Tiny().to("gpu:1")
    other.load_state_dict(saved)
    np.testing.assert_array_equal(saved["bn1.running_var"], other.bn1.running_var.numpy())


def test_commands_and_the_environment(tmp_path, monkeypatch, capsys):
    """Train on one device, predict on another, by the command."""
    monkeypatch.setattr(switch, "_default", None)
    with gpu_machine(), registered():
        run = tmp_path / "run"
        for i in range(12):
            folder = tmp_path / "images" / "ab"[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = np.full((8, 8, 3), 20 * i, np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
        options = ["--epochs", "1", "--batch-size", "4", "--image-size", "8", "--model", "tiny"]
        options += ["--backend", "gpu", "--precision", "bf16"]
        status = main(["train", str(tmp_path / "images"), "--out", str(run), *options])
        assert status == 0, capsys.readouterr().err
        assert "backend gpu:0, precision bf16" in capsys.readouterr().out
        assert json.loads((run / "settings.json").read_text())["precision"] == "bf16"
        monkeypatch.setattr(switch, "_default", None)
        monkeypatch.setenv("NPRESNET_BACKEND", "gpu:1")
        picture = tmp_path / "8.png"
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(picture)
        launched = len(fake_cupy.launched)
        weights = str(run / "best.safetensors")
        assert main(["predict", "--weights", weights, str(picture)]) == 0
        assert nr.get_backend() == "gpu:1"
        assert len(fake_cupy.launched) > launched


def test_out_of_memory_names_sizes_and_leaves_the_model_usable(machine, rng):
    x, _ = problem(rng)
    model = Tiny(num_classes=4).to("gpu").eval()
    inputs = nr.tensor(x).to("gpu")
    known = model(inputs).numpy()
    freed = fake_cupy.pool.freed
    fake_cupy.set_limit(600)
    try:
        with pytest.raises(
            DeviceMemoryError,
            match=r"asked for 4,800 bytes for \(6, 5, 5, 8\), [\d,]+ of [\d,]+ bytes are free",
        ) as caught:
            model(inputs)
        assert isinstance(caught.value, MemoryError)
        assert isinstance(caught.value, BackendError)
        assert fake_cupy.pool.freed > freed
        freed = fake_cupy.pool.freed
        with pytest.raises(DeviceMemoryError, match="asked for 1,000 bytes, "):
            nr.ones(250).to("cpu").to("gpu")
        assert fake_cupy.pool.freed > freed, "CuPy's own requests give back, too"
    finally:
        fake_cupy.set_limit()
    np.testing.assert_array_equal(model(inputs).numpy(), known)


def test_memory_that_the_pool_gives_back_is_enough(machine, monkeypatch):
    monkeypatch.setattr(
        fake_cupy, "get_default_memory_pool", lambda: type("", (), {"free_all_blocks": relent})
    )
    relented = []

    def relent():
        relented.append(True)
        fake_cupy.set_limit()

    fake_cupy.set_limit(10)
    try:
        x = fake_cupy.ndarray(np.ones(9, np.float32), 0)
        fake_cupy.set_limit()
        x = fake_cupy.asarray(np.ones(9, np.float32))
        fake_cupy.set_limit(10)
        assert nr.relu(x).tolist() == [1] * 9
        assert relented == [True]
    finally:
        fake_cupy.set_limit()


def test_an_error_in_a_kernel_names_it(machine, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered")

    monkeypatch.setattr(fake_cupy.RawKernel, "__call__", fail)
    with pytest.raises(
        BackendError,
        match=r"CUDA kernel relu of elementwise.cu failed with grid \(1,\), block \(256,\), "
        r"arguments \(float32\[2, 3\], float32\[2, 3\], 6\): CUDA_ERROR_ILLEGAL_ADDRESS.*"
        "CUDA_LAUNCH_BLOCKING=1",
    ):
        nr.relu(nr.ones(2, 3).to("gpu"))


def test_an_error_that_shows_later_says_how_to_find_the_kernel(machine, monkeypatch):
    def fail(*_):
        raise fake_cupy.CUDARuntimeError("cudaErrorIllegalAddress: an illegal memory access")

    x = nr.ones(2, 3).to("gpu")
    monkeypatch.setattr(fake_cupy.ndarray, "get", fail)
    with pytest.raises(
        BackendError, match=r"gpu:0: CUDARuntimeError: cudaErrorIllegal.*CUDA_LAUNCH_BLOCKING=1"
    ):
        x.numpy()


def change(monkeypatch, **parts):
    """Let the machine be another one."""
    for name, value in parts.items():
        monkeypatch.setattr(fake_cupy.cuda.runtime, name, value)


def no_devices():
    raise RuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")


def no_memory():
    raise RuntimeError("cudaErrorDevicesUnavailable: all devices are busy")


def properties(major, minor):
    return lambda _: {"name": b"Old", "major": major, "minor": minor, "totalGlobalMem": 1}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"driverGetVersion": lambda: 0}, "there is no NVIDIA driver: install one"),
        ({"getDeviceCount": no_devices}, "no usable CUDA device was found .*--gpus all"),
        ({"getDeviceCount": lambda: 0}, "has no CUDA device, or CUDA_VISIBLE_DEVICES hides it"),
        ({"runtimeGetVersion": lambda: 11080}, "CuPy uses CUDA 11.8, npresnet needs 12.0"),
        ({"driverGetVersion": lambda: 12040}, "knows CUDA up to 12.4, CuPy uses 13.0: update"),
        (
            {"getDeviceProperties": properties(7, 0)},
            "capability 7.0 is too old, .* 7.5 .*: choose another GPU, or backend 'cpu'",
        ),
        ({"memGetInfo": no_memory}, "it can't be opened .*busy.*: end the program .*nvidia-smi"),
        (
            {"getDeviceProperties": properties(7, 0), "memGetInfo": no_memory},
            "capability 7.0 is too old, .* 7.5 .*: choose another GPU, or backend 'cpu'",
        ),
    ],
)
def test_a_machine_that_will_not_do(machine, monkeypatch, parts, message, capsys):
    change(monkeypatch, **parts)
    with pytest.raises(BackendError, match=message):
        nr.set_backend("gpu")
    assert main(["devices"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("cpu ")
    assert re.search(message, shown)


def test_a_driver_that_is_a_little_older_than_cupy_will_do(machine, monkeypatch):
    change(monkeypatch, driverGetVersion=lambda: 13000, runtimeGetVersion=lambda: 13010)
    assert discovery.usable(0) is fake_cupy


def test_devices_command(machine, capsys, monkeypatch):
    monkeypatch.setenv("NPRESNET_BACKEND", "nonsense")  # looking needs no backend
    assert main(["devices"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == ("gpu:0  Host shim, compute capability 9.0, 512.0 of 1024.0 GiB free")
    assert len(lines) == 3


def test_there_is_no_third_device(machine):
    with pytest.raises(BackendError, match=r"no CUDA device 2: this machine has 2, .* choose one"):
        nr.set_backend("gpu:2")


def test_two_packages_are_an_error(monkeypatch, tmp_path):
    for kind in ("12x", "13x"):
        folder = tmp_path / f"cupy_cuda{kind}-14.2.dist-info"
        folder.mkdir()
        text = f"Metadata-Version: 2.1\nName: cupy-cuda{kind}\nVersion: 14.2\n"
        (folder / "METADATA").write_text(text)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])  # whatever is installed here
    monkeypatch.setattr(switch, "_made", {})
    with pytest.raises(
        BackendError,
        match=r"several CuPy packages are installed \(cupy-cuda12x 14.2, cupy-cuda13x 14.2\).*pip "
        r"uninstall cupy-cuda12x cupy-cuda13x, then pip install 'npresnet\[cuda13\]'",
    ):
        nr.set_backend("gpu")


def test_a_broken_cupy(machine, monkeypatch):
    def broken(name):
        raise RuntimeError("libcublas.so.13 is another one")

    monkeypatch.setattr(discovery.importlib, "import_module", broken)
    with pytest.raises(discovery.DeviceError, match=r"CuPy can't be imported .libcublas.*: pip"):
        discovery.find_cupy()


def test_no_compiler(machine, monkeypatch):
    def missing():
        raise RuntimeError("libnvrtc.so.13: cannot open shared object file")

    monkeypatch.setattr(
        fake_cupy.cuda, "nvrtc", type("", (), {"getVersion": missing}), raising=False
    )
    with pytest.raises(BackendError, match=r"NVRTC\) can't be loaded .*npresnet\[cuda13-ctk\]"):
        nr.set_backend("gpu")


def test_optimizer_state_comes_back_to_the_device(machine, rng):
    x, y = problem(rng)
    _, model = steps("gpu", x, y)
    optimizer = nr.optim.AdamW(model.parameters(), lr=0.01)
    nr.functional.cross_entropy(model(nr.tensor(x).to("gpu")), nr.tensor(y).to("gpu")).backward()
    optimizer.step()
    before = {key: to_numpy(value) for key, value in model.state_dict().items()}
    state = copy.deepcopy(optimizer.state_dict())
    on_host = {
        "state": {
            n: {k: to_numpy(v) if hasattr(v, "shape") else v for k, v in kept.items()}
            for n, kept in state["state"].items()
        },
        "param_groups": json.loads(json.dumps(state["param_groups"])),
    }
    optimizer.step()
    expected = to_numpy(model.fc.weight.data)
    assert np.abs(expected - before["fc.weight"]).max() > 1e-3
    for given in (state, on_host):
        model.load_state_dict(before)
        optimizer.load_state_dict(given)
        optimizer.step()
        np.testing.assert_array_equal(to_numpy(model.fc.weight.data), expected)
        moments = [v for kept in optimizer.state_dict()["state"].values() for v in kept.values()]
        assert all(isinstance(v, fake_cupy.ndarray) for v in moments if np.ndim(v))
