"""Broken and hostile weight files, made by code. Each must end in one clear error.

`GROUPS` has functions that give names and bytes. What would run, if a reader ran anything, makes
the file `MARK` in the working directory.
"""

from __future__ import annotations

import gzip
import io
import pickle
import zlib
from collections import OrderedDict

import numpy as np

from tests.weights import hostile_archives, hostile_arrays, hostile_pickles, torch_tar
from tests.weights.pickles import MARK, Runs


def others():
    """What isn't a weight file at all."""
    rng = np.random.default_rng(0)
    contents = {
        "empty": b"",
        "one byte": b"\x80",
        "two letters": b"PK",
        "text": b"this is not a weight file at all\n" * 3,
        "zeros": bytes(10_240),
        "noise": rng.bytes(5000),
        "bare pickle": pickle.dumps({"w": Runs()}, 2),
        "bare pickle, protocol 0": b"cos\nsystem\n(S'touch " + MARK.encode() + b"'\ntR.",
        "bare pickle, protocol 4": pickle.dumps({"w": Runs()}, 4),
        "gzip": gzip.compress(bytes(1000)),
        "zlib": zlib.compress(bytes(1000)),
        "png": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(100),
        "page": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 87\n",
    }
    return {
        f"other {key}{suffix}": data
        for key, data in contents.items()
        for suffix in (".pth", ".safetensors", ".npz")
    }


def truncated():
    """Every format, cut at each fiftieth of its length."""
    import safetensors.torch
    import torch

    torch.manual_seed(0)
    state = OrderedDict(a=torch.randn(9, 10), b=torch.randn(7), c=torch.tensor(3))
    whole = {}
    for key, new in (("zip", True), ("stream", False)):
        out = io.BytesIO()
        torch.save({"epoch": 1, "model": state}, out, _use_new_zipfile_serialization=new)
        whole[f"{key}.pth"] = out.getvalue()
    whole["tar.pth"] = torch_tar.tar_bytes({key: value.numpy() for key, value in state.items()})
    whole["table.safetensors"] = safetensors.torch.save(dict(state))
    out = io.BytesIO()
    np.savez(out, **{key: value.numpy() for key, value in state.items()})
    whole["arrays.npz"] = out.getvalue()
    return {
        f"cut at {i} of 50 {key}": data[: len(data) * i // 50]
        for key, data in whole.items()
        for i in range(50)
    }


GROUPS = {
    "opcodes": hostile_pickles.opcodes,
    "names": hostile_pickles.names,
    "wrong types": hostile_pickles.wrong_types,
    "bombs": hostile_pickles.bombs,
    "storages": hostile_pickles.storages,
    "zips": hostile_archives.zips,
    "streams": hostile_archives.streams,
    "tars": hostile_archives.tars,
    "safetensors": hostile_arrays.tables,
    "npz": hostile_arrays.arrays,
    "others": others,
    "truncated": truncated,
}
