"""Fuzz targets: safetensors, torch's three containers, npz."""

from __future__ import annotations

import io
import json
import pickletools
import struct
import tarfile
import zipfile
from collections import OrderedDict

import numpy as np

from npresnet.errors import WeightsError
from npresnet.weights import load_weights
from tests.fuzz.mutate import a_part, some_bytes
from tests.weights import pickles, torch_tar

ARRAYS = {
    "fc.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "fc.bias": np.arange(3, dtype=np.float64),
    "count": np.array(7),
    "mask": np.array([True, False]),
}

_JSON = [b'"dtype"', b'"shape"', b'"data_offsets"', b"[", b"]", b"{", b"}", b",", b":", b"NaN",
         b"-1", b"0", b"1e9", b"18446744073709551616", b'"BF16"', b'"F16"', b'"BOOL"', b'"F8_E5M2"',
         b'"__metadata__"', b"null", b"true", b'"\\ud800"', b"\xff"]  # fmt: skip
_PICKLE = [
    *(opcode.code.encode("latin1") for opcode in pickletools.opcodes),
    pickles.storage(), pickles.tensor(), pickles.number(2**64), pickles.numbers(2**40, 0),
    pickles.name("collections", "OrderedDict"), pickles.name("argparse", "Namespace"),
    pickles.name("torch._utils", "_rebuild_parameter"), pickles.name("torch", "Size"),
    pickles.name("torch._tensor", "_rebuild_from_type_v2"), pickles.name("posix", "system"),
    pickles.name("torch", "HalfStorage"), pickles.name("torch", "BFloat16Storage"),
    pickles.text("state_dict"), pickles.text("module.w"), b"h\0", b"q\0", b"K\0", b")R", b")\x81",
]  # fmt: skip
_ARRAY = [b"'descr'", b"'shape'", b"'fortran_order'", b"True", b"'<f4'", b"'>f8'", b"'|O'", b"(",
          b")", b"{", b"}", b",", b"-1", b"9" * 30, b"3L", b"()", b"\x93NUMPY", b"[", b"'<f2'",
          b"1e5", b"None", b"lambda:0", b"\0"]  # fmt: skip


def _safetensors_seeds():
    import safetensors.numpy

    wide = json.dumps({"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    half = {"half": np.ones(3, np.float16), "none": np.zeros((0, 2), np.int8)}
    return [
        safetensors.numpy.save(ARRAYS, {"format": "pt"}),
        safetensors.numpy.save(half),
        struct.pack("<Q", len(wide)) + wide + bytes(4),
    ]


def _change_header(data, rng):
    if rng.random() < 0.3:
        return some_bytes(data, rng, _JSON)
    length = int.from_bytes(data[:8], "little")
    header = some_bytes(data[8 : 8 + length], rng, _JSON)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def _torch_seeds(new):
    import torch

    state = OrderedDict((key, torch.from_numpy(value.copy())) for key, value in ARRAYS.items())
    state["half"] = torch.ones(2).half()
    state["narrow"] = torch.arange(3).to(torch.uint16)
    state["view"] = state["fc.weight"].T[1:]
    made = []
    for saved in (
        state,
        {"epoch": 1, "model": state, "optimizer": {"state": {0: {"m": state["fc.bias"]}}}},
        {"state_dict": {f"module.{key}": torch.nn.Parameter(state[key]) for key in ("half",)}},
    ):
        out = io.BytesIO()
        torch.save(saved, out, _use_new_zipfile_serialization=new)
        made.append(out.getvalue())
    return made


def _unzip(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def _zip(parts, rng):
    return pickles.archive(parts, rng.choice((zipfile.ZIP_STORED,) * 3 + (zipfile.ZIP_DEFLATED,)))


def _change_zip(data, rng):
    chance = rng.random()
    if chance < 0.25:
        return some_bytes(data, rng)
    if chance < 0.5:
        return a_part(data, rng, _unzip, _zip, _PICKLE)
    parts = [
        (name, some_bytes(content, rng, _PICKLE) if name.endswith("data.pkl") else content)
        for name, content in _unzip(data)
    ]
    return _zip(parts, rng)


def _change_stream(data, rng):
    return some_bytes(data, rng, _PICKLE)


def _tar_seeds():
    arrays = {key: value for key, value in ARRAYS.items() if key != "mask"}
    view = np.arange(2, dtype=np.float32)
    base = arrays["fc.weight"]
    with_view = torch_tar.members(
        OrderedDict(base=base, view=view), [base, view], [(view, base, 4, (4,))]
    )
    return [
        torch_tar.tar_bytes(arrays),
        torch_tar.tar_bytes(arrays, python2=False),
        torch_tar.archive(with_view, mtime=0),
    ]


def _untar(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [(member.name, tar.extractfile(member).read()) for member in tar]


def _change_tar(data, rng):
    if rng.random() < 0.25:
        return some_bytes(data, rng)
    return a_part(data, rng, _untar, lambda parts, _: torch_tar.archive(parts), _PICKLE)


def _npz_seeds():
    made = []
    for write in (np.savez, np.savez_compressed):
        out = io.BytesIO()
        write(out, fortran=np.asfortranarray(ARRAYS["fc.weight"]), big=np.ones(2, ">f4"), **ARRAYS)
        made.append(out.getvalue())
    return made


def _change_npz(data, rng):
    if rng.random() < 0.25:
        return some_bytes(data, rng)
    return a_part(data, rng, _unzip, _zip, _ARRAY)


def _target(seeds, mutate, suffix):
    return {
        "seeds": seeds,
        "mutate": mutate,
        "read": load_weights,
        "errors": (WeightsError,),
        "suffix": suffix,
    }


TARGETS = {
    "safetensors": _target(_safetensors_seeds, _change_header, ".safetensors"),
    "torch-zip": _target(lambda: _torch_seeds(True), _change_zip, ".pth"),
    "torch-legacy": _target(lambda: _torch_seeds(False), _change_stream, ".pth"),
    "torch-tar": _target(_tar_seeds, _change_tar, ".pth"),
    "npz": _target(_npz_seeds, _change_npz, ".npz"),
}
