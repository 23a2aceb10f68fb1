"""Broken and hostile files: one clear error each, without much memory. All made by code."""

import contextlib
import itertools
import os
import resource
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import npresnet as nr
from npresnet.errors import OnnxError
from npresnet.export.load import load_onnx
from tests.export.graphs import graph

W = np.arange(36, dtype=np.float32).reshape(1, 4, 3, 3)
SEED = graph(
    [("Conv", ["x", "layer.weight"], ["a"], {"pads": [1, 1, 1, 1]}), ("Relu", ["a"], ["y"])],
    {"layer.weight": W},
    ["n", 4, 8, 8],
)


@contextlib.contextmanager
def little_memory(size):
    """Hold what is in the block to 200 MB of new memory beyond ``size``."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + size + 200_000_000
    resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def assert_refused(data, folder, text=None):
    """Load bytes; there must be one error of one line, within little memory."""
    path = folder / "a.onnx"
    path.write_bytes(data)
    with pytest.raises(OnnxError, match=text) as caught, little_memory(len(data)):
        load_onnx(path)
    message = str(caught.value)
    assert "a.onnx" in message
    assert "\n" not in message
    assert len(message) < 2000


def changed(edit):
    """Return the seed's bytes after ``edit(model)``."""
    model = onnx.ModelProto()
    model.CopyFrom(SEED)
    edit(model)
    return model.SerializeToString()


def test_the_seed_itself_is_fine(tmp_path):
    onnx.save(SEED, tmp_path / "a.onnx")
    assert list(load_onnx(tmp_path / "a.onnx").state_dict()) == ["layer.weight"]


def test_truncation(tmp_path):
    data = SEED.SerializeToString()
    for part in range(50):
        assert_refused(data[: len(data) * part // 50], tmp_path)


def test_any_changed_byte_loads_or_is_refused(tmp_path, rng):
    data = SEED.SerializeToString()
    path = tmp_path / "a.onnx"
    x = np.zeros((1, 4, 8, 8), np.float32)
    ran = 0
    for at in range(len(data)):
        broken = bytearray(data)
        broken[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        with contextlib.suppress(nr.NpresnetError), nr.use_backend("reference"), nr.no_grad():
            load_onnx(path)(x)
            ran += 1
    assert ran  # some bytes are numbers of the weights


def varint(number):
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def part(number, content):
    """Return a field with a length."""
    return varint(number << 3 | 2) + varint(len(content)) + content


OPSET = part(8, b"\x10\x11")

BYTES = {
    "nothing": (b"", "0 bytes"),
    "zeros": (bytes(1000), "ONNX file"),
    "text": (b"hello, world" * 20, None),
    "a group": (b"\x0b\x0c", "starts no field"),
    "a number without end": (b"\x08" + b"\xff" * 20, "doesn't end"),
    "a length beyond the file": (b"\x3a\xff\xff\xff\xff\x0f", "cut short"),
    "two graphs": (OPSET + part(7, b"") * 2, "two fields graph"),
    "no graph": (OPSET, "no graph"),
    "a graph that is a number": (OPSET + b"\x38\x01", "another kind of data"),
    "names that aren't text": (OPSET + part(7, part(1, part(4, b"\xff\xfe"))), "UTF-8"),
    "empty nodes, a bomb": (OPSET + part(7, part(1, b"") * 3_000_000), "fields"),
    "empty constants, a bomb": (OPSET + part(7, part(5, b"") * 3_000_000), "fields"),
    "unknown fields, a bomb": (OPSET + b"\xf8\x07\x00" * 3_000_000, "fields"),
    "packed numbers, a bomb": (OPSET + part(7, part(5, part(7, bytes(9_000_000)))), "fields"),
    "dimensions, a bomb": (OPSET + part(7, part(5, part(1, bytes(9_000_000)))), "fields"),
    "attributes, a bomb": (OPSET + part(7, part(1, part(5, b"") * 3_000_000)), "fields"),
    "a pickle": (b"\x80\x04\x95\x10\x00\x00\x00", None),
    "a zip": (b"PK\x03\x04" + bytes(100), None),
}


@pytest.mark.parametrize("name", BYTES)
def test_bytes(name, tmp_path):
    assert_refused(*BYTES[name][:1], tmp_path, BYTES[name][1])


def cycle(m):
    m.graph.node[0].input[0] = "y"


def doubled(m):
    m.graph.node.add().CopyFrom(m.graph.node[1])


def tensor(**fields):
    """Give the weight other fields."""

    def edit(m):
        weight = m.graph.initializer[0]
        for name, value in fields.items():
            if isinstance(value, list):
                del getattr(weight, name)[:]
                getattr(weight, name).extend(value)
            else:
                setattr(weight, name, value)

    return edit


def opset(version):
    def edit(m):
        m.opset_import[0].version = version

    return edit


def append(**attribute):
    def edit(m):
        m.graph.node[0].attribute.append(helper.make_attribute(*attribute.popitem()))

    return edit


EDITS = {
    "a cycle": (cycle, "cycle or is incomplete"),
    "a node that eats itself": (lambda m: m.graph.node[1].input.__setitem__(0, "y"), "cycle"),
    "a value made twice": (doubled, "exists already"),
    "no such constant": (lambda m: m.graph.initializer.pop(), "cycle or is incomplete"),
    "a constant twice": (
        lambda m: m.graph.initializer.add().CopyFrom(m.graph.initializer[0]), "two constants"),
    "a constant without a name": (tensor(name=""), "no name"),
    "no output": (lambda m: m.graph.output.pop(), "no node gives"),
    "an output that nobody makes": (
        lambda m: setattr(m.graph.output[0], "name", "z"), "no node gives the graph's output 'z'"),
    "an input twice": (lambda m: m.graph.input.add().CopyFrom(m.graph.input[0]), "two inputs"),
    "an input that is a sequence": (
        lambda m: m.graph.input[0].type.CopyFrom(
            helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, [1]))),
        "no tensor"),
    "huge dimensions": (tensor(dims=[2**40, 2**40]), "needs"),
    "dimensions whose product wraps to 36": (tensor(dims=[2**62, 4, 1, 9]), "needs"),
    "a negative dimension": (tensor(dims=[-1, 4, 3, 3]), "no usable shape"),
    "a thousand dimensions": (tensor(dims=[1] * 1000), "no usable shape"),
    "no dimension": (tensor(dims=[]), "needs"),
    "one number short": (tensor(raw_data=W.tobytes()[:-4]), "needs 144 bytes"),
    "no numbers": (tensor(raw_data=b""), "needs 36 numbers"),
    "numbers twice": (tensor(float_data=[1.0]), "more than once"),
    "numbers of another type": (
        tensor(raw_data=b"", int64_data=[1] * 36), "don't belong in int64_data"),
    "another dtype": (tensor(data_type=TensorProto.DOUBLE), "needs 288 bytes"),
    "text as weights": (tensor(data_type=TensorProto.STRING), "data type string"),
    "float8": (tensor(data_type=TensorProto.FLOAT8E4M3FN), "float8e4m3fn"),
    "an unknown dtype": (tensor(data_type=999), "number 999"),
    "a tensor in segments": (lambda m: setattr(m.graph.initializer[0].segment, "end", 3), "shape"),
    "sparse": (lambda m: m.graph.sparse_initializer.add().dims.append(3), "sparse"),
    "too old": (opset(6), "opset 6"),
    "too new": (opset(99), "opset 99"),
    "no version": (lambda m: m.opset_import.pop(), "one version"),
    "two versions": (lambda m: m.opset_import.add(domain="", version=9), "one version"),
    "an attribute twice": (append(pads=[1, 1, 1, 1]), "two attributes"),
    "an attribute of another type": (append(group="two"), "another type"),
    "a graph for an attribute": (append(group=SEED.graph), "another type"),
    "no inputs": (lambda m: m.graph.node[1].input.pop(), "0 inputs"),
    "many outputs": (lambda m: m.graph.node[1].output.extend("pqrs"), "5 outputs"),
    "an operator with a long name": (
        lambda m: setattr(m.graph.node[0], "op_type", "Con\nv" * 9999), "can't be run"),
    "a node with a long name": (
        lambda m: [setattr(m.graph.node[0], n, "Y" * 9999) for n in ("name", "op_type")],
        "can't be run"),
    "a value with a long name": (
        lambda m: m.graph.node[0].input.__setitem__(0, "Y\n" * 9999), "cut"),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_edits(name, tmp_path):
    edit, text = EDITS[name]
    assert_refused(changed(edit), tmp_path, text)


def test_as_many_nodes_as_fit_are_no_trouble(tmp_path):
    """All of one name."""
    names = ["x", *(f"v{i}" for i in range(30_000)), "y"]
    nodes = [("Relu", [a], [b], {"name": "n"}) for a, b in itertools.pairwise(names)]
    data = graph(nodes, {}, [1, 2]).SerializeToString()
    (tmp_path / "a.onnx").write_bytes(data)
    with little_memory(len(data)):
        model = load_onnx(tmp_path / "a.onnx")
    assert len(model._modules) == 30_001


def test_a_name_with_many_dots_makes_no_deep_tree(tmp_path):
    def edit(m):
        m.graph.initializer[0].name = m.graph.node[0].input[1] = ".".join("a" * 100_000)

    (tmp_path / "a.onnx").write_bytes(changed(edit))
    assert list(load_onnx(tmp_path / "a.onnx").state_dict()) == ["Conv_0.weight"]


@pytest.mark.parametrize(
    "name", ["__class__.forward", "training.weight", ".weight", "a..b", "_modules.a"]
)
def test_names_that_python_uses_harm_nothing(name, tmp_path):
    def edit(m):
        m.graph.initializer[0].name = m.graph.node[0].input[1] = name

    (tmp_path / "a.onnx").write_bytes(changed(edit))
    model = load_onnx(tmp_path / "a.onnx")
    assert model(np.zeros((1, 4, 8, 8), np.float32)).shape == (1, 1, 8, 8)
    assert len(list(model.parameters())) == 1


# ---------------------------------------------------------------------- external data


def outside(**entries):
    """Return a file whose weight is elsewhere."""

    def edit(m):
        weight = m.graph.initializer[0]
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        for key, value in entries.items():
            weight.external_data.add(key=key, value=value)

    return changed(edit)


PLACES = {
    "absolute": ({"location": "/etc/passwd"}, "in or below"),
    "above": ({"location": "../secret.bin"}, "in or below"),
    "above, hidden": ({"location": "sub/../../secret.bin"}, "in or below"),
    "a home": ({"location": "~/secret.bin"}, "in or below"),
    "a drive": ({"location": "C:secret.bin"}, "in or below"),
    "backslashes": ({"location": "..\\secret.bin"}, "in or below"),
    "nowhere": ({}, "in or below"),
    "the folder": ({"location": "."}, "in or below"),
    "a NUL": ({"location": "weights.bin\0"}, "in or below"),
    "missing": ({"location": "none.bin"}, "No such file"),
    "a folder": ({"location": "sub"}, "sub"),
    "a link": ({"location": "link.bin"}, "link"),
    "through a link": ({"location": "linked/weights.bin"}, "link"),
    "a pipe": ({"location": "pipe"}, "no regular file"),
    "too short": ({"location": "short.bin"}, "end at byte 10"),
    "beyond the end": ({"location": "weights.bin", "offset": "1"}, "end at byte"),
    "a negative offset": ({"location": "weights.bin", "offset": "-1"}, "offset"),
    "a huge offset": ({"location": "weights.bin", "offset": "9" * 19}, "end at byte"),
    "an offset of 5000 digits": ({"location": "weights.bin", "offset": "9" * 5000}, "offset"),
    "digits of another script": ({"location": "weights.bin", "offset": "\u0661"}, "offset"),
    "another length": ({"location": "weights.bin", "length": "1000000000000"}, "needs 144 bytes"),
    "a name of a megabyte": ({"location": "a" * 2**20}, "name too long|cut"),
}


@pytest.fixture
def places(tmp_path):
    """A folder with a model's data, and traps around it."""
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "weights.bin").write_bytes(W.tobytes())
    (folder / "sub" / "weights.bin").write_bytes(W.tobytes())
    (folder / "short.bin").write_bytes(bytes(10))
    (tmp_path / "secret.bin").write_bytes(W.tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "linked").symlink_to(folder / "sub")
    os.mkfifo(folder / "pipe")
    return folder


@pytest.mark.parametrize("name", PLACES)
def test_external_data_elsewhere(name, places):
    entries, text = PLACES[name]
    assert_refused(outside(**entries), places, f"(?i){text}")


@pytest.mark.parametrize("location", ["weights.bin", "sub/weights.bin", "./weights.bin"])
def test_external_data_beside_the_model(location, places):
    (places / "a.onnx").write_bytes(outside(location=location, offset="0", length="144"))
    np.testing.assert_array_equal(load_onnx(places / "a.onnx").state_dict()["layer.weight"], W)


def test_data_in_another_file_need_a_file():
    from npresnet.export.load import model_from_bytes

    with pytest.raises(OnnxError, match="load the file"):
        model_from_bytes(outside(location="weights.bin"))


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.onnx")
    for path in (tmp_path, tmp_path / "none.onnx", tmp_path / "pipe.onnx"):
        with pytest.raises(OnnxError, match=r"none.onnx|regular|directory"):
            load_onnx(path)


KINDS = [
    "float16",
    "float64",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "int64",
    "uint32",
    "uint64",
    "bool",
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_way_to_store_numbers(kind):
    from npresnet.export.arrays import as_array
    from npresnet.export.messages import TensorProto as Ours
    from npresnet.export.messages import _Budget, _decode

    values = np.array([[0, 1, 1], [1, 0, 100]]).astype(kind)
    raw = numpy_helper.from_array(values, "a")
    listed = helper.make_tensor("a", raw.data_type, values.shape, values.ravel().tolist())
    wide = np.float32 if kind == "float16" else np.dtype(kind)
    for stored in (raw, listed):
        data = memoryview(stored.SerializeToString())
        found = as_array(_decode(Ours, data, _Budget()), None)
        assert found.dtype == wide
        np.testing.assert_array_equal(found, values)


def test_bfloat16_is_widened():
    from npresnet.export.arrays import as_array
    from npresnet.export.messages import TensorProto as Ours

    stored = Ours(dims=[2], data_type=16, int32_data=[0x3FC0, 0xC000])
    np.testing.assert_array_equal(as_array(stored, None), np.float32([1.5, -2]))
