import json
import os
import struct

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from npresnet.errors import NpresnetError, WeightsError, WriteError
from npresnet.weights import load_file, load_metadata, load_weights, save_file

RNG = np.random.default_rng(2)
DTYPES = [
    "float64",
    "float32",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint64",
    "uint32",
    "uint16",
    "uint8",
    "bool",
]


def file_with(header, data=b"", length=None):
    """Bytes of a safetensors file with the given header, right or wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def same(a, b):
    return (
        a.keys() == b.keys()
        and all(a[k].dtype == b[k].dtype and a[k].shape == b[k].shape for k in a)
        and all(np.array_equal(a[k], b[k], equal_nan=a[k].dtype.kind == "f") for k in a)
    )


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda k: k != "__metadata__"),
        st.sampled_from(DTYPES).flatmap(
            lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, min_side=0, max_side=4))
        ),
        max_size=4,
    )
)
@settings(max_examples=60, deadline=None)
def test_round_trip(tmp_path_factory, state):
    path = tmp_path_factory.mktemp("round") / "a.safetensors"
    save_file(state, path)
    assert same(load_file(path), state)


def test_memory_order_and_byte_order_do_not_matter(tmp_path):
    x = RNG.normal(size=(4, 5, 6, 7)).astype(np.float32)
    channels_last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    state = {
        "plain": x,
        "channels_last": channels_last,
        "strided": x[::2, ::-1, 1:, ::3],
        "broadcast": np.broadcast_to(x[:1], x.shape),
        "big_endian": x.astype(">f4"),
        "list": [1.0, 2.0],
        "tracked": np.int64(7),
    }
    save_file(state, tmp_path / "a.safetensors")
    back = load_file(tmp_path / "a.safetensors")
    for key, value in state.items():
        np.testing.assert_array_equal(back[key], value)
        assert back[key].flags.c_contiguous
        assert back[key].flags.writeable
        assert back[key].dtype.isnative
    assert back["tracked"].shape == ()
    assert back["tracked"].dtype == np.int64
    assert not channels_last.flags.c_contiguous  # the arguments stay as they were
    assert state["big_endian"].dtype == ">f4"


def test_loaded_arrays_outlive_their_file(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"a": np.arange(1000.0)}, path)
    back = load_file(path)
    save_file({"a": np.zeros(1000)}, path)
    path.unlink()
    np.testing.assert_array_equal(back["a"], np.arange(1000.0))
    back["a"] += 1
    assert back["a"][0] == 1


def test_metadata(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({}, path)
    assert load_metadata(path) == {"format": "pt"}
    assert load_file(path) == {}
    save_file({}, path, metadata={"model": "resnet34", "classes": '["a", "b"]'})
    assert load_metadata(path)["classes"] == '["a", "b"]'
    assert load_metadata(path)["format"] == "pt"
    path.write_bytes(file_with({}))
    assert load_metadata(path) == {}
    with pytest.raises(WeightsError, match="metadata expected text"):
        save_file({}, path, metadata={"epoch": 3})


def test_files_from_torch_load(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "a.safetensors"
    wide = {name: torch.randn(3, 4).to(getattr(torch, name)) for name in ("float64", "float32")}
    narrow = {name: torch.randn(3, 4).to(getattr(torch, name)) for name in ("float16", "bfloat16")}
    narrow["odd"] = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 1e-40, 3e38]).bfloat16()
    narrow["scalar"] = torch.tensor(1.5).bfloat16()
    narrow["empty"] = torch.zeros(0, 3).bfloat16()
    whole = {"tracked": torch.tensor(5), "mask": torch.tensor([True, False])}
    safetensors.torch.save_file(wide | narrow | whole, path)
    back = load_weights(path)
    assert list(back) == sorted(wide | narrow | whole)
    for key, value in (wide | whole).items():
        np.testing.assert_array_equal(back[key], value.numpy())
        assert back[key].dtype == value.numpy().dtype
    for key, value in narrow.items():
        np.testing.assert_array_equal(back[key], value.float().numpy())
        assert back[key].dtype == np.float32
        assert back[key].shape == tuple(value.shape)
    assert np.signbit(back["odd"][1])


def test_bfloat16_nan_stays_nan(tmp_path):
    tensor = torch.tensor([torch.nan, 1.0]).bfloat16()
    safetensors.torch.save_file({"a": tensor}, tmp_path / "a.safetensors")
    np.testing.assert_array_equal(load_file(tmp_path / "a.safetensors")["a"], [np.nan, 1.0])


def test_our_files_load_in_torch(tmp_path):
    path = tmp_path / "a.safetensors"
    x = RNG.normal(size=(2, 3, 4, 5)).astype(np.float32)
    save_file({"w": x.transpose(3, 2, 1, 0), "h": x.astype(np.float16), "n": np.int64(3)}, path)
    back = safetensors.torch.load_file(path)
    assert torch.equal(back["w"], torch.from_numpy(x.transpose(3, 2, 1, 0).copy()))
    assert torch.equal(back["h"], torch.from_numpy(x.astype(np.float16)))
    assert back["n"].shape == ()
    assert back["n"].dtype == torch.int64
    with safetensors.safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2"])
def test_unsupported_dtypes_are_named(tmp_path, dtype):
    path = tmp_path / "a.safetensors"
    entry = {"dtype": dtype, "shape": [2], "data_offsets": [0, 2]}
    path.write_bytes(file_with({"fc.weight": entry}, bytes(2)))
    with pytest.raises(WeightsError, match=f"holds .fc.weight. as {dtype}") as caught:
        load_file(path)
    assert "expected one of" in str(caught.value)


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
BROKEN = {
    "empty": b"",
    "short": b"abc",
    "text": b"this is not a weight file at all",
    "header beyond the end": file_with({"a": ENTRY}, bytes(8), length=10_000),
    "huge header": file_with({"a": ENTRY}, bytes(8), length=2**63),
    "not JSON": file_with(b"{'a': 1}"),
    "not a table": file_with([1, 2]),
    "unknown dtype": file_with({"a": {**ENTRY, "dtype": "F99"}}, bytes(8)),
    "data missing": file_with({"a": ENTRY}, bytes(7)),
    "data left over": file_with({"a": ENTRY}, bytes(9)),
    "size and shape differ": file_with({"a": {**ENTRY, "shape": [3]}}, bytes(8)),
    "huge shape": file_with({"a": {**ENTRY, "shape": [2**62, 2**62]}}, bytes(8)),
    "negative shape": file_with({"a": {**ENTRY, "shape": [-2]}}, bytes(8)),
    "offsets swapped": file_with({"a": {**ENTRY, "data_offsets": [8, 0]}}, bytes(8)),
    "overlap": file_with({"a": ENTRY, "b": ENTRY}, bytes(8)),
    "bfloat16 beyond the end": file_with(
        {"a": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}}, bytes(6)
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files(tmp_path, name):
    path = tmp_path / "model.safetensors"
    path.write_bytes(BROKEN[name])
    for read in (load_file, load_metadata, load_weights):
        with pytest.raises(WeightsError, match="isn't a whole safetensors file") as caught:
            read(path)
        assert "\n" not in str(caught.value)
        assert f"({len(BROKEN[name]):,} bytes)" in str(caught.value)


def test_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"a": np.arange(20.0), "b": np.arange(6, dtype=np.int64)}, path)
    whole = path.read_bytes()
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        with pytest.raises(WeightsError, match="truncated"):
            load_file(path)


def test_wrong_paths(tmp_path):
    with pytest.raises(WeightsError, match=r"there is no weight file .*nothing") as caught:
        load_file(tmp_path / "nothing.safetensors")
    assert isinstance(caught.value, NpresnetError)
    assert isinstance(caught.value, ValueError)
    with pytest.raises(WeightsError, match="is a folder: name the weight file inside it"):
        load_file(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"can't read .*Not a directory"):
        load_file(tmp_path / "file" / "a.safetensors")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WeightsError, match="isn't a regular file"):
        load_file(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("value", "dtype"),
    [("text", "<U4"), (None, "object"), (1j, "complex128"), (np.datetime64("2024"), "datetime64")],
)
def test_values_that_cannot_be_saved(tmp_path, value, dtype):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"old")
    with pytest.raises(WeightsError, match=r"can't save 'fc.bias': .* got dtype " + dtype):
        save_file({"fc.weight": np.ones(3), "fc.bias": value}, path)
    assert path.read_bytes() == b"old"


def test_keys_that_are_no_text(tmp_path):
    with pytest.raises(WeightsError, match="keys are text, got 3"):
        save_file({3: np.ones(2)}, tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_failing_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "best.safetensors"
    save_file({"a": np.arange(3.0)}, path)
    before = path.read_bytes()

    def half(arrays, filename, metadata):
        filename.write_bytes(before[:20])
        raise safetensors.SafetensorError("I/O error:\n No space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", half)
    with pytest.raises(WriteError, match="I/O error: No space left on device"):
        save_file({"a": np.zeros(3)}, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["best.safetensors"]


def test_a_missing_folder(tmp_path):
    with pytest.raises(WriteError, match=r"there is no folder .*runs.*: make it first"):
        save_file({"a": np.ones(1)}, tmp_path / "runs" / "best.safetensors")


@pytest.mark.skipif(os.name != "posix", reason="permission bits are POSIX's")
def test_a_new_file_has_the_usual_permissions(tmp_path):
    """The library's own files can be read by their owner only."""
    (tmp_path / "other").touch()
    save_file({"x": np.zeros(1)}, tmp_path / "new.safetensors")
    assert (tmp_path / "new.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode
