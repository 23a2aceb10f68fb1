"""The switch."""

import sys
import threading
import types

import numpy as np
import pytest

import npresnet as nr
from npresnet import backend as switch
from npresnet.errors import BackendError


def test_scopes_nest_and_end():
    before = nr.get_backend()
    with nr.use_backend("reference"):
        assert nr.get_backend() == "reference"
        with nr.use_backend("cpu"):
            assert nr.get_backend() == "cpu"
        assert nr.get_backend() == "reference"
    assert nr.get_backend() == before


def test_set_backend_holds_for_all_threads_and_use_backend_for_one():
    before = nr.get_backend()
    seen = []

    def look():
        thread = threading.Thread(target=lambda: seen.append(nr.get_backend()))
        thread.start()
        thread.join()

    try:
        nr.set_backend("reference")
        with nr.use_backend("cpu"):
            look()
    finally:
        nr.set_backend(before)
    assert seen == ["reference"]


def test_both_sets_compute_the_same(rng):
    x, w = rng.standard_normal((2, 3, 8, 8)), rng.standard_normal((4, 3, 3, 3))
    outputs = []
    for name in ("reference", "cpu"):
        with nr.use_backend(name):
            outputs.append(nr.functional.conv2d(x, w, padding=1).numpy())
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-12)


@pytest.mark.parametrize("name", ["tpu", "gpu:x", "CPU", "", None, 3])
def test_unknown(name):
    with pytest.raises(BackendError, match=r"'reference', 'cpu', 'gpu' or 'gpu:N'"):
        nr.set_backend(name)


def test_gpu_without_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(switch, "_made", {})
    with pytest.raises(BackendError, match=r"CuPy can't be imported .*npresnet\[cuda13\]"):
        nr.set_backend("gpu")
    assert nr.get_backend() in ("cpu", "reference")


def test_environment_names_the_first_backend(monkeypatch):
    monkeypatch.setattr(switch, "_default", None)
    monkeypatch.setenv("NPRESNET_BACKEND", "reference")
    assert nr.get_backend() == "reference"
    monkeypatch.setattr(switch, "_default", None)
    monkeypatch.setenv("NPRESNET_BACKEND", "abacus")
    with pytest.raises(BackendError, match="unknown backend 'abacus'"):
        nr.get_backend()


class Elsewhere:
    """Stands for an array on a GPU."""

    device = types.SimpleNamespace(id=0)

    def get(self):
        return np.zeros(1)


def test_arrays_of_two_devices_do_not_mix():
    with pytest.raises(BackendError, match=r'one input lives on the .*call model.to\("'):
        switch.for_arrays([np.zeros(1), Elsewhere()])
    with pytest.raises(BackendError, match="expected a NumPy or CuPy array, got list"):
        switch.for_arrays([[1, 2]])
