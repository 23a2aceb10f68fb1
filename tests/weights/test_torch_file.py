"""torch's files, made by torch, come back as torch reads them."""

import argparse
import collections
import io
import pathlib
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from npresnet.errors import WeightsError
from npresnet.weights import load_weights, open_weights, save_file
from tests.weights import torch_tar

CONTAINERS = {"torch zip": True, "torch legacy stream": False}
DTYPES = [
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8",
    "uint64", "uint32", "uint16", "uint8", "bool",
]  # fmt: skip


@pytest.fixture(params=CONTAINERS)
def container(request):
    return request.param


def save(value, path, container="torch zip"):
    torch.save(value, path, _use_new_zipfile_serialization=CONTAINERS[container])


def values(tensor):
    """What a file's tensor should come back as: 16-bit floats widened."""
    tensor = tensor.detach()
    return tensor.float().numpy() if tensor.dtype.itemsize == 2 and tensor.is_floating_point() \
        else tensor.numpy()  # fmt: skip


def assert_loads(path, expected):
    back = load_weights(path)
    assert list(back) == list(expected)
    for key, tensor in expected.items():
        want = values(tensor)
        assert back[key].shape == want.shape, key
        assert back[key].dtype == want.dtype, key
        np.testing.assert_array_equal(back[key], want, err_msg=key)
        assert back[key].flags.c_contiguous
        assert back[key].flags.writeable
        assert back[key].flags.owndata or back[key].base.flags.owndata


def tensors():
    """Views, shared storages and odd orders, all of one base."""
    torch.manual_seed(3)
    base = torch.randn(6, 10)
    return {
        "base": base,
        "again": base,
        "rows": base[2:5],
        "columns": base[:, ::3],
        "transposed": base.T,
        "expanded": base[:1].expand(7, 10),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(base[0]),
        "buffer": torch.nn.Buffer(torch.ones(3)),
        "count": torch.tensor(7),
    }


def test_every_dtype(tmp_path, container):
    torch.manual_seed(1)
    state = {name: (torch.randn(3, 4) * 50).abs().to(getattr(torch, name)) for name in DTYPES}
    state["odd"] = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 1e-40, 3e38]).bfloat16()
    save(state, tmp_path / "a.pth", container)
    assert_loads(tmp_path / "a.pth", state)
    assert np.signbit(load_weights(tmp_path / "a.pth")["odd"][1])
    opened = open_weights(tmp_path / "a.pth")
    assert opened.format == container
    assert [opened[name].stored for name in DTYPES] == DTYPES


def test_views_and_shared_storages(tmp_path, container):
    save(tensors(), tmp_path / "a.pth", container)
    assert_loads(tmp_path / "a.pth", tensors())
    back = load_weights(tmp_path / "a.pth")
    back["base"][:] = 0  # no array is another's view
    np.testing.assert_array_equal(back["again"], tensors()["again"])


def test_a_state_dict_with_its_versions(tmp_path, container):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    save(model.state_dict(), tmp_path / "a.pth", container)
    assert_loads(tmp_path / "a.pth", model.state_dict())


def checkpoint(model, averaged=None):
    """All that training scripts put beside the weights."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(2, 3)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 6])
    saved = {
        "epoch": 3,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": schedule.state_dict(),
        "args": argparse.Namespace(lr=0.1, data=pathlib.Path("/data"), names={"a", "b"}),
        "best": np.float64(0.9),
        "history": np.arange(3.0),
        "counts": collections.defaultdict(list, {1: [2], 2: []}),
        "bytes": b"\xff\x00",
        "big": 2**70,
        "device": torch.device("cpu"),
        "size": torch.Size([1, 2]),
        "dtype": torch.float16,
        "sparse": torch.eye(3).to_sparse(),
        "complex": torch.ones(2, dtype=torch.complex64),
        "negative": torch.ones(2, dtype=torch.complex64).conj().imag,
    }
    if averaged is not None:
        saved["model_ema"] = averaged.state_dict()
    return saved


def test_a_training_checkpoint(tmp_path, container):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    save(checkpoint(model), tmp_path / "a.pth", container)
    assert_loads(tmp_path / "a.pth", model.state_dict())
    assert open_weights(tmp_path / "a.pth").part == "model"


def test_averaged_weights_come_first(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    save(checkpoint(model, averaged), tmp_path / "a.pth")
    opened = open_weights(tmp_path / "a.pth")
    assert (opened.part, opened.prefix) == ("model_ema", "module.")
    assert_loads(tmp_path / "a.pth", averaged.module.state_dict())


@pytest.mark.parametrize("part", ["state_dict", "model", "model_state_dict", "model_ema"])
def test_nested_checkpoints(tmp_path, container, part):
    state = OrderedDict(w=torch.randn(2), b=torch.randn(1))
    save({"epoch": 1, part: state, "loss": torch.tensor(0.5)}, tmp_path / "a.pth", container)
    assert_loads(tmp_path / "a.pth", state)


def test_a_checkpoint_in_a_checkpoint(tmp_path):
    state = {"w": torch.randn(2)}
    save({"model": {"state_dict": state, "name": "x"}}, tmp_path / "a.pth")
    assert_loads(tmp_path / "a.pth", state)
    assert open_weights(tmp_path / "a.pth").part == "model.state_dict"


def test_an_empty_part_does_not_count(tmp_path):
    state = {"w": torch.randn(2)}
    save({"model_ema": {}, "model": state}, tmp_path / "a.pth")
    assert_loads(tmp_path / "a.pth", state)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrappers(tmp_path, prefix):
    state = {"w": torch.randn(2), "module.b": torch.randn(1)}
    save({prefix + key: value for key, value in state.items()}, tmp_path / "a.pth")
    assert_loads(tmp_path / "a.pth", state)
    assert open_weights(tmp_path / "a.pth").prefix == prefix


def test_a_prefix_of_some_names_stays(tmp_path):
    state = {"module.w": torch.randn(2), "b": torch.randn(1)}
    save(state, tmp_path / "a.pth")
    assert_loads(tmp_path / "a.pth", state)


def test_what_is_no_tensor_in_a_state_dict_is_left_out(tmp_path):
    save({"w": torch.ones(2), "epoch": 3, "none": None, "extra": {"a": 1}}, tmp_path / "a.pth")
    assert_loads(tmp_path / "a.pth", {"w": torch.ones(2)})


def test_python_2_files(tmp_path):
    """OrderedDict as a list of pairs, byte strings as names, and long integers in decimals."""
    pair = b"]q\x01(U\x01w" + torch_tar.global_("torch._utils._rebuild_tensor_v2") + (
        b"((U\x07storage" + torch_tar.global_("torch.FloatStorage") + b"U\x0294U\x03cpuI3\nNtQ"
    )  # fmt: skip
    pair += b"L0L\n(K\x03t(K\x01t\x89NtRe"
    body = torch_tar.global_("collections.OrderedDict") + b"]q\x00" + pair + b"a\x85R"
    stream = b"".join(
        [
            pickle.dumps(0x1950A86A20F9469CFC6C, 2),
            pickle.dumps(1001, 2),
            pickle.dumps({}, 2),
            torch_tar.dump(body),
            torch_tar.dump(b"]U\x0294a"),
            struct.pack("<q3f", 3, 1, 2, 3),
        ]
    )
    (tmp_path / "a.pth").write_bytes(stream)
    assert_loads(tmp_path / "a.pth", {"w": torch.tensor([1.0, 2, 3])})
    assert torch.load(tmp_path / "a.pth", weights_only=False)["w"].tolist() == [1, 2, 3]


def test_views_of_storages_in_old_streams(tmp_path):
    """torch 0.4 still wrote storages that are parts of others."""
    view = (
        torch_tar.global_("torch._utils._rebuild_tensor_v2")
        + b"((X\x07\x00\x00\x00storage" + torch_tar.global_("torch.FloatStorage")
        + b"X\x01\x00\x00\x005X\x03\x00\x00\x00cpuK\x06(X\x01\x00\x00\x007K\x02K\x03ttQ"
        + b"K\x01(K\x02t(K\x01t\x89NtR"
    )  # fmt: skip
    stream = b"".join(
        [
            pickle.dumps(0x1950A86A20F9469CFC6C, 2),
            pickle.dumps(1001, 2),
            pickle.dumps({}, 2),
            torch_tar.dump(b"}X\x01\x00\x00\x00w" + view + b"s"),
            torch_tar.dump(b"]X\x01\x00\x00\x005a"),
            struct.pack("<q6f", 6, *range(6)),
        ]
    )
    (tmp_path / "a.pth").write_bytes(stream)
    assert_loads(tmp_path / "a.pth", {"w": torch.tensor([3.0, 4.0])})
    assert torch.load(tmp_path / "a.pth")["w"].tolist() == [3, 4]


ARRAYS = {
    "conv.weight": np.random.default_rng(1).normal(size=(4, 3, 3, 3)).astype(np.float32),
    "bias": np.arange(4, dtype=np.float64),
    "half": np.arange(4, dtype=np.float16),
    "tracked": np.arange(1),
    "bytes": np.arange(5, dtype=np.uint8),
    "empty": np.zeros((0, 2), np.float32),
}


@pytest.mark.parametrize("python2", [True, False])
def test_tar_files(tmp_path, python2):
    path = tmp_path / "a.pth"
    path.write_bytes(torch_tar.tar_bytes(ARRAYS, python2))
    expected = torch.load(path, weights_only=False)  # torch still reads them
    assert_loads(path, expected)
    assert open_weights(path).format == "torch tar"


def test_tar_files_with_views_and_times_in_seconds(tmp_path):
    base = ARRAYS["conv.weight"]
    view = np.ascontiguousarray(base[1:3, :, 0].transpose(2, 1, 0))
    files = torch_tar.members(
        OrderedDict(base=base, view=view), [base, view], [(view, base, 27, (1, 9, 27))]
    )
    path = tmp_path / "a.pth"
    path.write_bytes(torch_tar.archive(files, mtime=1480000000))
    assert_loads(path, {"base": torch.from_numpy(base), "view": torch.from_numpy(view)})
    assert torch.equal(torch.load(path, weights_only=False)["view"], torch.from_numpy(view))


def rewritten(path, change, compression=zipfile.ZIP_STORED):
    """The archive anew, each entry through `change(name, bytes)`, without alignment."""
    out = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w", compression) as new:
        for name in old.namelist():
            data = change(name, old.read(name))
            if data is not None:
                new.writestr(name, data)
    return out.getvalue()


def test_big_endian_files(tmp_path):
    state = {name: torch.arange(1, 5).to(getattr(torch, name)) for name in DTYPES}
    save(state, tmp_path / "a.pth")
    sizes = [getattr(torch, name).itemsize for name in DTYPES]

    def swap(name, data):
        if name.endswith("/byteorder"):
            return b"big"
        stem, _, number = name.rpartition("/")
        if not stem.endswith("/data"):
            return data
        size = sizes[int(number)]
        return np.frombuffer(data, f"V{size}").tobytes() if size == 1 else (
            np.frombuffer(data, f"u{size}").byteswap().tobytes()
        )  # fmt: skip

    (tmp_path / "big.pth").write_bytes(rewritten(tmp_path / "a.pth", swap))
    assert_loads(tmp_path / "big.pth", state)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_archives_that_other_tools_made(tmp_path, compression):
    state = {**tensors(), "zeros": torch.zeros(1000)}
    save(state, tmp_path / "a.pth")
    data = rewritten(tmp_path / "a.pth", lambda name, data: data, compression)
    (tmp_path / "b.pth").write_bytes(data)
    assert_loads(tmp_path / "b.pth", state)
    old = rewritten(  # torch 1.6 wrote neither
        tmp_path / "a.pth",
        lambda name, data: None if name.endswith(("byteorder", "format_version")) else data,
    )
    (tmp_path / "b.pth").write_bytes(old)
    assert_loads(tmp_path / "b.pth", state)


def test_zip64_archives(tmp_path):
    save(tensors(), tmp_path / "a.pth")
    out = io.BytesIO()
    with zipfile.ZipFile(tmp_path / "a.pth") as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            with new.open(name, "w", force_zip64=True) as entry:
                entry.write(old.read(name))
    (tmp_path / "b.pth").write_bytes(wide_end(out.getvalue()))
    assert_loads(tmp_path / "b.pth", tensors())


def wide_end(data):
    """An archive whose directory is found through the records for over 4 GiB only."""
    end = data.rfind(b"PK\5\6")
    count, size, start = struct.unpack_from("<HLL", data, end + 10)
    wide = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, start)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, end, 1)
    end_record = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return data[:end] + wide + locator + end_record


def test_the_name_says_nothing_about_the_format(tmp_path):
    state = {"w": torch.ones(2)}
    save(state, tmp_path / "a.safetensors")
    assert_loads(tmp_path / "a.safetensors", state)
    safetensors.torch.save_file(state, tmp_path / "a.pth")
    assert_loads(tmp_path / "a.pth", state)


def test_round_trip_through_safetensors_into_torch(tmp_path, container):
    save({"model": tensors()}, tmp_path / "a.pth", container)
    save_file(load_weights(tmp_path / "a.pth"), tmp_path / "b.safetensors")
    back = safetensors.torch.load_file(tmp_path / "b.safetensors")
    for key, tensor in tensors().items():
        assert torch.equal(back[key], tensor)


@settings(max_examples=25)
@given(st.data())
def test_any_view(tmp_path_factory, data):
    shape = tuple(data.draw(st.lists(st.integers(0, 5), max_size=4)))
    base = torch.arange(int(np.prod(shape))).float().reshape(shape)
    view = base.permute(data.draw(st.permutations(range(base.ndim))))
    for axis in range(view.ndim):
        length = view.shape[axis]
        start = data.draw(st.integers(0, length))
        view = view.narrow(axis, start, data.draw(st.integers(0, length - start)))
        if view.shape[axis]:
            view = view[(slice(None),) * axis + (slice(None, None, data.draw(st.integers(1, 3))),)]
    path = tmp_path_factory.mktemp("view") / "a.pth"
    save({"view": view, "base": base}, path, data.draw(st.sampled_from(list(CONTAINERS))))
    assert_loads(path, {"view": view, "base": base})


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(2, 2)


def assert_refused(path, message):
    with pytest.raises(WeightsError, match=message) as caught:
        open_weights(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_whole_model_is_refused_with_the_cure(tmp_path, container, monkeypatch):
    monkeypatch.setitem(sys.modules, Net.__module__, sys.modules[__name__])
    save(Net(), tmp_path / "a.pth", container)
    assert_refused(tmp_path / "a.pth", r"asks for .*Net'.* torch\.save\(model\.state_dict\(\)")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused_with_the_cure(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "a.pt")
    assert_refused(tmp_path / "a.pt", r"is a TorchScript archive.*jit\.load\(NAME\)\.state_dict")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.ones(2), "holds a single tensor"),
        (lambda: [torch.ones(2)], "holds a list"),
        (lambda: {"epoch": 3, "best": 0.5}, "no state dict .* it has 'epoch', 'best'"),
        (lambda: {3: torch.ones(2)}, "a tensor under 3"),
        (lambda: {"w": torch.ones(2, dtype=torch.complex64)}, "'w' is complex64"),
        (lambda: {"w": torch.ones(2).to(torch.float8_e5m2)}, "'w' is float8_e5m2"),
        (lambda: {"w": torch.eye(2).to_sparse()}, "'w' is sparse"),
        (lambda: {"w": torch.ones(2, device="meta")}, "'w' is without values"),
        (lambda: {"w": np.ones(2)}, "'w' is NumPy's"),
        (
            lambda: {"w": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8)},
            "'w' is quantized",
        ),
        (
            lambda: {"w": torch.ones(2, dtype=torch.complex64).conj().imag},
            "lazily",
        ),
        (lambda: {("a", 1): 2}, "a dictionary with tuple as key"),
        (
            lambda: {"w": torch.ones(1), "o": OrderedDict, "i": io.BytesIO()},
            r"asks for '_io\.BytesIO'",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_what_is_no_state_dict(tmp_path, container, make, message):
    save(make(), tmp_path / "a.pth", container)
    assert_refused(tmp_path / "a.pth", message)


def test_other_protocols_are_refused_with_the_cure(tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "a.pth", pickle_protocol=4)
    assert_refused(tmp_path / "a.pth", "isn't of protocol 2.*pickle_protocol=2")
