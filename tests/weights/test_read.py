"""What all formats share."""

import os

import numpy as np
import pytest

import npresnet as nr
from npresnet.errors import WeightsError
from npresnet.nn.state import LazyArray
from npresnet.weights import load_weights, open_weights, save_file

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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(WeightsError, match="isn't a regular file"):
        open_weights(tmp_path / "pipe.pth")


def test_the_networks_take_every_format(tmp_path):
    state = nr.resnet18(num_classes=3).state_dict()
    np.savez(tmp_path / "a.npz", **state)
    model = nr.resnet18(weights=tmp_path / "a.npz", num_classes=3)
    for key, array in model.state_dict().items():
        np.testing.assert_array_equal(array, state[key], err_msg=key)
