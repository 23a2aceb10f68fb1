"""Pickles and torch's containers put together by hand, right or wrong."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile

import numpy as np

MARK = "was-run"  # the file that what would run makes
MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


def text(value):
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


RUN = text(f"touch {MARK}")


def number(value):
    if 0 <= value < 256:
        return b"K" + bytes([value])
    length = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([length]) + value.to_bytes(length, "little", signed=True)


def tuple_(*items):
    return b"(" + b"".join(items) + b"t"


def numbers(*values):
    return tuple_(*map(number, values))


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def call(module, attribute, *arguments):
    return name(module, attribute) + tuple_(*arguments) + b"R"


def storage(numel=4, key="0", kind="FloatStorage", view=b""):
    """A storage's persistent id; `view` is the sixth item of the legacy stream's."""
    return (
        tuple_(text("storage"), name("torch", kind), text(key), text("cpu"), number(numel), view)
        + b"Q"
    )


def tensor(store=None, offset=0, shape=(4,), strides=(1,)):
    shape, strides = (numbers(*n) if isinstance(n, tuple) else n for n in (shape, strides))
    offset = number(offset) if isinstance(offset, int) else offset
    return call(
        "torch._utils", "_rebuild_tensor_v2",
        storage() if store is None else store, offset, shape, strides, b"\x89", b"N",
    )  # fmt: skip


def table(**items):
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def pickled(body):
    return b"\x80\x02" + body + b"."


def archive(entries, compression=zipfile.ZIP_STORED):
    """A zip of (name, bytes) pairs; names may come twice."""
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", compression) as made:
        warnings.simplefilter("ignore", UserWarning)  # a name that comes twice is meant
        for entry, data in entries:
            made.writestr(zipfile.ZipInfo(entry), data, compression)
    return out.getvalue()


ZEROS = bytes(16)


def torch_zip(body, storages=(("0", ZEROS),), more=(), compression=zipfile.ZIP_STORED):
    """What torch.save would write for a pickle with this body."""
    return archive(
        [
            ("archive/data.pkl", pickled(body)),
            *((f"archive/data/{key}", data) for key, data in storages),
            ("archive/version", b"3\n"),
            *more,
        ],
        compression,
    )


def legacy_storage(store):
    """A storage's id with the sixth item of the legacy stream."""
    return store.removesuffix(b"tQ") + b"NtQ"


def legacy(
    body,
    keys=("0",),
    counts=(4,),
    data=ZEROS,
    version=1001,
    system=pickled(b"}"),  # noqa: B008
    magic=MAGIC,
):
    stream = magic + pickled(number(version)) + system + pickled(body)
    stream += pickled(b"](" + b"".join(map(text, keys)) + b"e")
    return stream + b"".join(struct.pack("<q", n) + data for n in counts)


def npy(header, data=b"", version=(1, 0), length=None):
    """An array file with the given header, right or wrong."""
    head = header if isinstance(header, bytes) else repr(header).encode()
    count = len(head) if length is None else length
    size = struct.pack("<H" if version == (1, 0) else "<I", count)
    return b"\x93NUMPY" + bytes(version) + size + head + data


def npz(array_file, more=(), compression=zipfile.ZIP_STORED):
    return archive([("w.npy", array_file), *more], compression)


def header(shape=(4,), descr="<f4", fortran_order=False):
    return {"descr": descr, "fortran_order": fortran_order, "shape": shape}


def array(values):
    out = io.BytesIO()
    np.save(out, values, allow_pickle=True)
    return out.getvalue()


class Runs:
    """An object whose pickle would run something."""

    def __reduce__(self):
        import os

        return os.system, (f"touch {MARK}",)


def patched(data, position, form, *values):
    """Bytes with some of them overwritten."""
    out = bytearray(data)
    struct.pack_into(form, out, position, *values)
    return bytes(out)
