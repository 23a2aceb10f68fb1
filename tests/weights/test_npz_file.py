import struct
import zipfile

import numpy as np
import pytest

from npresnet.errors import WeightsError
from npresnet.weights import load_weights, open_weights

RNG = np.random.default_rng(4)
STATE = {
    "layer1.0.conv1.weight": RNG.normal(size=(4, 3, 2, 2)).astype(np.float32),
    "fortran": np.asfortranarray(RNG.normal(size=(3, 4, 5))),
    "big": np.arange(5).astype(">i4"),
    "half": np.arange(6, dtype=np.float16).reshape(2, 3),
    "flags": np.array([True, False]),
    "scalar": np.int64(3),
    "empty": np.zeros((0, 2), np.float32),
}


def assert_loads(path):
    opened = open_weights(path)
    assert opened.format == "npz"
    assert set(opened) == set(STATE)
    for key, array in load_weights(path).items():
        np.testing.assert_array_equal(array, STATE[key])
        wide = STATE[key].dtype == np.float16
        assert array.dtype == (np.float32 if wide else STATE[key].dtype.newbyteorder("="))
        assert array.flags.c_contiguous
        assert array.flags.writeable


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_what_numpy_writes(tmp_path, write):
    write(tmp_path / "a.npz", **STATE)
    assert_loads(tmp_path / "a.npz")


def test_prefixes_of_wrappers(tmp_path):
    np.savez(tmp_path / "a.npz", **{f"module.{key}": value for key, value in STATE.items()})
    assert_loads(tmp_path / "a.npz")


def write_header(path, header):
    """An archive of one array, two numbers behind a header of somebody else's."""
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w.npy", data + struct.pack("<2f", 1, 2))


def test_arrays_as_python_2_wrote_them(tmp_path):
    write_header(
        tmp_path / "a.npz", b"{'descr': '<f4', 'fortran_order': False, 'shape': (2L,), }\n"
    )
    np.testing.assert_array_equal(load_weights(tmp_path / "a.npz")["w"], [1, 2])


@pytest.mark.parametrize("descr", [b"|a4", rb"<f\4"])
def test_deprecated_names_are_refused_without_a_warning(tmp_path, descr):
    header = b"{'descr': '%s', 'fortran_order': False, 'shape': (2,), }\n" % descr
    write_header(tmp_path / "a.npz", header)
    with pytest.raises(WeightsError, match=r"a.npz.*'w.npy'.*save it"):
        load_weights(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array([{}, None]), "Python objects, which would be unpickled"),
        (np.array(["text"]), "'w.npy' is str"),
        (np.ones(2, complex), "is complex128"),
        (np.ones(2, np.longdouble), "is (float128|longdouble|float96|float64)"),
        (np.ones(2, "M8[s]"), "is datetime64"),
        (np.ones(2, [("x", "f4")]), "is void"),
    ],
)
def test_what_has_no_place_in_a_model(tmp_path, value, message):
    np.savez(tmp_path / "a.npz", w=value)
    with pytest.raises(WeightsError, match=message) as caught:
        load_weights(tmp_path / "a.npz")
    assert "a.npz' (" in str(caught.value)
