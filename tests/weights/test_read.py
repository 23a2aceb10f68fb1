"""What all formats share."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import npresnet as nr
from npresnet.errors import WeightsError
from npresnet.nn.state import LazyArray
from npresnet.weights import load_weights, open_weights, save_file
from npresnet.weights.preprocessing import Preprocessing
from npresnet.weights.settings import ModelSettings
from tests.models.torch_resnet import TorchResNet

ROOT = Path(__file__).parent.parent.parent

STATE = {"fc.weight": np.arange(6, dtype=np.float32).reshape(3, 2), "fc.bias": np.ones(3)}


@pytest.fixture
def path(tmp_path):
    save_file(STATE, tmp_path / "a.safetensors", {"note": "x"})
    return tmp_path / "a.safetensors"


def test_an_open_file_tells_before_it_reads(path):
    opened = open_weights(path)
    assert list(opened) == ["fc.bias", "fc.weight"]
    assert len(opened) == 2
    assert opened.metadata == {"format": "pt", "note": "x"}
    assert (opened.format, opened.part, opened.prefix) == ("safetensors", "", "")
    assert (opened.path, opened.size) == (str(path), path.stat().st_size)
    array = opened["fc.weight"]
    assert isinstance(array, LazyArray)
    assert (array.shape, array.ndim, array.dtype, array.nbytes) == ((3, 2), 2, np.float32, 24)
    np.testing.assert_array_equal(array, STATE["fc.weight"])
    assert np.asarray(array, np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="copy"):
        np.asarray(array, copy=False)


@pytest.mark.parametrize("length", [0x4B50, 0x0280])
def test_a_header_whose_length_looks_like_another_format(path, length):
    """The first bytes are those of a zip archive ("PK") and of a pickle (80 02)."""
    save_file(STATE, path, {"note": ""})
    bare = int.from_bytes(path.read_bytes()[:8], "little")
    save_file(STATE, path, {"note": "x" * (length - bare)})
    assert int.from_bytes(path.read_bytes()[:8], "little") == length
    np.testing.assert_array_equal(load_weights(path)["fc.weight"], STATE["fc.weight"])


def test_prefixes_come_off_every_format(path):
    save_file({f"_orig_mod.{key}": value for key, value in STATE.items()}, path)
    assert set(load_weights(path)) == set(STATE)
    assert open_weights(path).prefix == "_orig_mod."


def test_a_model_takes_an_open_file(path):
    class Net(nr.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nr.nn.Linear(2, 3)

    model = Net()
    model.load_state_dict(open_weights(path))
    for key, array in STATE.items():
        np.testing.assert_array_equal(model.state_dict()[key], array)
    save_file({**STATE, "fc.bias": np.ones(4)}, path)
    model.fc.weight.data[...] = 7
    with pytest.raises(WeightsError, match=r"fc.bias \(expected \(3,\), got \(4,\)\)"):
        model.load_state_dict(open_weights(path))
    assert (model.fc.weight.data == 7).all()


def test_an_array_outlives_its_file(path):
    array = open_weights(path)["fc.weight"]
    path.unlink()
    np.testing.assert_array_equal(array.read(), STATE["fc.weight"])


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".npz", ".safetensors"])
def test_wrong_paths(tmp_path, suffix):
    with pytest.raises(WeightsError, match="there is no weight file"):
        open_weights(tmp_path / f"none{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(WeightsError, match="is a folder"):
        open_weights(tmp_path / f"folder{suffix}")


@pytest.mark.parametrize("name", ["notes.txt", "photo.png", "weights"])
def test_what_is_no_weight_file(tmp_path, name):
    (tmp_path / name).write_text("hello, this is no weight file")
    with pytest.raises(WeightsError, match="isn't a weight file of a known format: expected"):
        open_weights(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(WeightsError, match="isn't a regular file"):
        open_weights(tmp_path / "pipe.pth")


@pytest.mark.parametrize("new", [True, False])
def test_a_network_of_torchs_answers_as_in_torch(tmp_path, new):
    torch.manual_seed(0)
    theirs = TorchResNet((2, 2, 2, 2), num_classes=5).eval()
    saved = {"epoch": 9, "model": {f"module.{k}": v for k, v in theirs.state_dict().items()}}
    path = tmp_path / "checkpoint.pth"
    torch.save(saved, path, _use_new_zipfile_serialization=new)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = theirs(x).numpy()
    ours = nr.resnet18(weights=path, num_classes=5).eval()
    np.testing.assert_allclose(ours(nr.tensor(x.numpy())).data, expected, atol=2e-5)
    by_name = nr.Classifier("resnet18", weights=path)
    image = np.random.default_rng(0).integers(0, 256, (1, 80, 80, 3), np.uint8)
    assert by_name.predict_proba(image).shape == (1, 5)


@pytest.fixture(scope="module")
def small():
    """The settings and state dict of a network of three classes."""
    seen = Preprocessing(size=(32, 32), channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)
    with nr.nn.init.skip_random():
        state = nr.resnet18(num_classes=3).state_dict()
    return ModelSettings.new("resnet18", (0, 1, 2), seen), state


@pytest.mark.parametrize(
    ("arrays", "changes", "message"),
    [
        ({"fc.weight": np.float32(1)}, {}, "fc.weight"),
        ({"conv1.weight": np.float32(1)}, {}, "conv1.weight"),
        ({}, {"classes": list(range(500_000))}, "500000 classes"),
        ({}, {"architecture": "x" * 100_000}, "architecture expected a name"),
    ],
)
def test_files_that_lie_about_their_network(tmp_path, small, arrays, changes, message):
    settings, state = small
    told = {**settings.to_dict(), **changes}
    told["options"]["num_classes"] = len(told["classes"])
    path = tmp_path / "a.safetensors"
    save_file({**state, **arrays}, path, {"npresnet": json.dumps(told)})
    for load in (lambda: nr.resnet18(weights=path), lambda: nr.Classifier.load(path)):
        with pytest.raises(WeightsError, match=message) as caught:
            load()
        assert len(str(caught.value)) < 1000


MEASURE = """
import json, sys
from pathlib import Path
import safetensors
import npresnet as nr

def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024

nr.resnet18(num_classes=2, small_input=True)
peaks = []
for path in sys.argv[1:]:
    Path("/proc/self/clear_refs").write_text("5")  # the largest resident set begins anew
    before = memory("VmRSS")
    model = nr.resnet34(weights=path)
    peaks.append(memory("VmHWM") - before)
    del model
print(json.dumps(peaks))
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux")
def test_a_model_and_its_file_are_not_both_in_memory(tmp_path):
    state = nr.resnet34().state_dict()
    paths = [tmp_path / "w.safetensors", tmp_path / "w.pth", tmp_path / "w.npz"]
    save_file(state, paths[0])
    torch.save({key: torch.from_numpy(np.array(array)) for key, array in state.items()}, paths[1])
    np.savez(paths[2], **state)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *paths],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for path, peak in zip(paths, json.loads(done.stdout), strict=True):
        assert peak < 1.2 * path.stat().st_size, path.suffix
