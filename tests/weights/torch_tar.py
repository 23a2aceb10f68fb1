"""Writes weight files as torch did before 0.1.10: tar archives. Later versions only read them."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
from collections import OrderedDict

import numpy as np

NAMES = {
    "float64": "Double",
    "float32": "Float",
    "float16": "Half",
    "int64": "Long",
    "int32": "Int",
    "int16": "Short",
    "int8": "Char",
    "uint8": "Byte",
}
FIRST_KEY = 94_000_000_000_000  # they were addresses


def global_(name):
    return b"c" + "\n".join(name.rsplit(".", 1)).encode() + b"\n"


def text(value):
    """A string as Python 2 pickled it."""
    return b"U" + bytes([len(value)]) + value.encode()


def number(value, python2=True):
    if value < 256:
        return b"K" + bytes([value])
    if python2:
        return b"L%dL\n" % value
    return b"\x8a\x08" + struct.pack("<q", value)


def dump(body):
    return b"\x80\x02" + body + b"."


class _Pickler(pickle.Pickler):
    """Puts the key of a tensor in its place."""

    def __init__(self, file, keys):
        super().__init__(file, protocol=2)
        self.keys = keys

    def persistent_id(self, value):
        return str(self.keys[id(value)]) if isinstance(value, np.ndarray) else None


def members(saved, arrays, views=(), python2=True):
    """The three members' bytes.

    `saved` is what was given to torch.save, with arrays for tensors; `arrays` lists them. `views`
    has (array, base, offset, strides) of arrays that share a base's storage.
    """
    keys = {id(a): FIRST_KEY + 64 * i for i, a in enumerate(arrays)}
    storage_keys = {id(a): FIRST_KEY * 2 + 64 * i for i, a in enumerate(arrays)}
    shared = {id(view): (base, offset, strides) for view, base, offset, strides in views}
    roots = [a for a in arrays if id(a) not in shared]
    storages = dump(number(len(roots)))
    for a in roots:
        kind = NAMES[a.dtype.name]
        storages += dump(
            number(storage_keys[id(a)], python2) + text("cpu") + global_(f"torch.{kind}Storage")
            + b"\x87q\x00"
        )  # fmt: skip
        storages += struct.pack("<q", a.size) + a.tobytes()
    storages += dump(b"]q\x00")
    tensors = dump(number(len(arrays)))
    for a in arrays:
        base, offset, strides = shared.get(id(a), (a, 0, None))
        if strides is None:
            strides = [n // a.itemsize for n in np.empty(a.shape, a.dtype).strides]
        kind = NAMES[a.dtype.name]
        tensors += dump(
            number(keys[id(a)], python2)
            + number(storage_keys[id(base)], python2)
            + global_(f"torch.{kind}Tensor")
            + b"\x87"
        )
        tensors += struct.pack(f"<{2 * a.ndim + 2}q", a.ndim, *a.shape, *strides, offset)
    body = io.BytesIO()
    _Pickler(body, keys).dump(saved)
    return {
        "sys_info": pickle.dumps({"protocol_version": 1000, "little_endian": True}, 2),
        "storages": storages,
        "tensors": tensors,
        "pickle": body.getvalue(),
    }


def archive(files, mtime=1480000000.25):
    """A tar archive; a time with a fraction brings an extended header before each member."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:", format=tarfile.PAX_FORMAT) as tar:
        for name, data in files.items() if isinstance(files, dict) else files:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), mtime
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def tar_bytes(state, python2=True):
    """A state dict of arrays as a tar file."""
    return archive(members(OrderedDict(state), list(state.values()), python2=python2))
