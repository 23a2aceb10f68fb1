"""safetensors and npz files that are wrong."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile

import numpy as np

from tests.weights.pickles import (
    MARK,
    Runs,
    array,
    header,
    npy,
    npz,
    patched,
)

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def tables():
    """safetensors with headers that are wrong."""

    def made_of(head, data=bytes(8), length=None):
        line = head if isinstance(head, bytes) else json.dumps(head).encode()
        return struct.pack("<Q", len(line) if length is None else length) + line + data

    def entry(**changes):
        return made_of({"w": {**ENTRY, **changes}})

    def raw(shape=b"[2]", more=b""):
        return made_of(
            b'{"w":{"dtype":"F32","shape":' + shape + b',"data_offsets":[0,8]}%s}' % more
        )

    same = b',"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
    made = {
        "length beyond": made_of({"w": ENTRY}, length=10_000),
        "length huge": made_of({"w": ENTRY}, length=2**63),
        "length of all bits": made_of({"w": ENTRY}, length=2**64 - 1),
        "length zero": made_of({"w": ENTRY}, length=0),
        "header too large": made_of(b"{" + b" " * 9_000_000 + b"}", b""),
        "header of many": made_of(
            {f"k{i}": {**ENTRY, "shape": [0], "data_offsets": [0, 0]} for i in range(150_000)}, b""
        ),
        "arrays of many": made_of(
            {f"k{i}": {**ENTRY, "shape": [0], "data_offsets": [0, 0]} for i in range(110_000)}, b""
        ),
        "not JSON": made_of(b"{'a': 1}"),
        "not a table": made_of([1, 2]),
        "not UTF-8": made_of(b'{"\xff":1}'),
        "nested": made_of(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        "unclosed": made_of(b'{"a":'),
        "lone surrogate": made_of(b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'),
        "dtype unknown": entry(dtype="F99"),
        "dtype number": entry(dtype=32),
        "dtype missing": made_of({"w": {"shape": [2], "data_offsets": [0, 8]}}),
        "dtype of 8 bits": entry(dtype="F8_E5M2", shape=[8]),
        "dtype of 4 bits": entry(dtype="F4", shape=[16]),
        "complex": entry(dtype="C64", shape=[1]),
        "shape NaN": raw(b"[NaN]"),
        "shape infinite": raw(b"[Infinity]"),
        "shape 1e400": raw(b"[1e400]"),
        "shape float": raw(b"[2.0]"),
        "shape text": raw(b'["2"]'),
        "shape null": raw(b"null"),
        "shape true": raw(b"[true]"),
        "shape negative": entry(shape=[-2]),
        "shape huge": entry(shape=[2**62, 2**62]),
        "shape over 64 bits": raw(b"[" + b"9" * 30 + b"]"),
        "shape of 5,000 digits": raw(b"[" + b"9" * 5000 + b"]"),
        "shape other than size": entry(shape=[3]),
        "empty and huge": made_of(
            {"w": {"dtype": "F32", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}}, b""
        ),
        "65 axes": entry(shape=[1] * 64 + [2]),
        "offsets swapped": entry(data_offsets=[8, 0]),
        "offsets negative": entry(data_offsets=[-8, 0]),
        "offsets NaN": made_of(b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[NaN,8]}}'),
        "offsets huge": entry(data_offsets=[2**62, 2**62 + 8]),
        "offsets of three": entry(data_offsets=[0, 8, 8]),
        "data missing": made_of({"w": ENTRY}, bytes(7)),
        "data left over": made_of({"w": ENTRY}, bytes(9)),
        "same bytes": made_of({"v": ENTRY, "w": ENTRY}),
        "overlap": made_of({"v": ENTRY, "w": {**ENTRY, "data_offsets": [4, 12]}}, bytes(12)),
        "hole": made_of({"v": ENTRY, "w": {**ENTRY, "data_offsets": [12, 20]}}, bytes(20)),
        "name twice": raw(more=same),
        "name twice, elsewhere": made_of(
            b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
            b'"w":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}', bytes(16)
        ),
        "field twice": raw(b'[2],"shape":[2]'),
        "metadata twice": raw(more=b',"__metadata__":{"a":"1"},"__metadata__":{"a":"2"}'),
        "metadata's name twice": raw(more=b',"__metadata__":{"a":"1","a":"2"}'),
        "metadata number": raw(more=b',"__metadata__":{"a":1}'),
        "metadata list": raw(more=b',"__metadata__":[1]'),
        "entry as list": made_of(b'{"w":["F32",[2],[0,8]]}'),
        "entry as text": made_of(b'{"w":"F32"}'),
        "wide floats cut": made_of(
            {"w": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}}, bytes(6)
        ),
    }  # fmt: skip
    return {f"header {key}.safetensors": data for key, data in made.items()}


def arrays():
    """npz with pickles, and broken ones."""
    four = bytes(16)
    objects = array(np.array([Runs(), None], dtype=object))
    nested = b"{'descr': '<f4', 'fortran_order': False, 'shape': " + b"(" * 9000
    good = npz(npy(header(), four))
    position = good.find(four)
    made = {
        "objects": npz(objects),
        "objects of size 0": npz(npy(header(shape=(0,), descr="|O"))),
        "objects in a field": npz(npy(header(descr=[("x", "|O")]), four)),
        "pickle as an array": npz(pickle.dumps(Runs())),
        "text among arrays": npz(npy(header(), four), [("a.txt", b"a")]),
        "array twice": npz(npy(header(), four), [("w.npy", npy(header(), four))]),
        "magic": npz(b"\x93NUMPX" + npy(header(), four)[6:]),
        "empty entry": npz(b""),
        "magic alone": npz(b"\x93NUMPY"),
        "version 9": npz(npy(header(), four, (9, 0))),
        "version 3": npz(npy(header(), four, (3, 0))),
        "header length": npz(npy(header(), four, length=0xFFFF)),
        "header of 4 GB": npz(npy(header(), four, (2, 0), length=2**32 - 1)),
        "header of 20,000": npz(npy(repr(header()).encode() + b" " * 20_000, four, (2, 0))),
        "header nested": npz(npy(nested, four)),
        "header signs": npz(npy(b"-" * 9000 + b"1", four)),
        "header empty": npz(npy(b"", four)),
        "header code": npz(npy(b"__import__('os').system('touch %s')" % MARK.encode(), four)),
        "header list": npz(npy(b"[1, 2]", four)),
        "header set": npz(npy(b"{1, 2}", four)),
        "header with a list as key": npz(npy(b"{[]: 1}", four)),
        "header not closed": npz(npy(b"{'descr': ", four)),
        "header with NUL": npz(npy(b"{'descr': '\0'}", four)),
        "header without shape": npz(npy({"descr": "<f4", "fortran_order": False}, four)),
        "header with more": npz(npy({**header(), "more": 1}, four)),
        "shape negative": npz(npy(header(shape=(-4,)), four)),
        "shape huge": npz(npy(header(shape=(2**62, 2**62)), four)),
        "shape huge and empty": npz(npy(header(shape=(0, 2**62, 2**62)), b"")),
        "shape over 64 bits": npz(npy(header(shape=(2**70,)), four)),
        "shape of floats": npz(npy(header(shape=(4.0,)), four)),
        "shape of NaN": npz(npy(b"{'descr':'<f4','fortran_order':False,'shape':(nan,)}", four)),
        "shape of text": npz(npy(header(shape=("4",)), four)),
        "shape as number": npz(npy(header(shape=4), four)),
        "shape of 33": npz(npy(header(shape=(1,) * 32 + (4,)), four)),
        "shape less": npz(npy(header(shape=(3,)), four)),
        "shape more": npz(npy(header(shape=(5,)), four)),
        "order text": npz(npy(header(fortran_order="no"), four)),
        "dtype text": npz(npy(header(descr="<U1"), four)),
        "dtype complex": npz(npy(header(descr="<c8", shape=(2,)), four)),
        "dtype dates": npz(npy(header(descr="<M8[s]", shape=(2,)), four)),
        "dtype void": npz(npy(header(descr="|V4"), four)),
        "dtype long double": npz(npy(header(descr="<f16", shape=(1,)), four)),
        "dtype fields": npz(npy(header(descr=[("x", "<f4")]), four)),
        "dtype subarray": npz(npy(header(descr=("<f4", (2,)), shape=(2,)), four)),
        "dtype subarray huge": npz(npy(header(descr=("<f4", (2**31 - 1,)), shape=(1,)), four)),
        "dtype unknown": npz(npy(header(descr="<x4"), four)),
        "dtype name": npz(npy(header(descr="os.system"), four)),
        "dtype None": npz(npy(header(descr=None), four)),
        "dtype number": npz(npy(header(descr=4), four)),
        "dtype nested": npz(npy(header(descr=[("a", [("b", [("c", "<f4")])])]), four)),
        "data changed": patched(good, position, "<B", 1),
        "data missing": npz(npy(header())),
        "bomb": npz(npy(header(shape=(25_000_000,)), bytes(100_000_000)),
                    compression=zipfile.ZIP_DEFLATED),
        "no zip": npy(header(), four),
    }  # fmt: skip
    return {f"npz {key}.npz": data for key, data in made.items()}
