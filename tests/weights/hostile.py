"""Broken and hostile weight files, made by code. Each must end in one clear error.

`GROUPS` has functions that give names and bytes. What would run, if a reader ran anything, makes
the file `MARK` in the working directory.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import pickletools
import struct
import tarfile
import zipfile
import zlib
from collections import OrderedDict

import numpy as np

from tests.weights import torch_tar
from tests.weights.pickles import (
    MAGIC,
    ZEROS,
    archive,
    array,
    call,
    header,
    legacy,
    legacy_storage,
    name,
    npy,
    npz,
    number,
    numbers,
    pickled,
    storage,
    table,
    tensor,
    text,
    torch_zip,
    tuple_,
)  # fmt: skip

MARK = "was-run"
RUN = text(f"touch {MARK}")

# The opcodes that the interpreter knows, by their names in pickletools.
SUBSET = (
    "PROTO STOP MARK NONE NEWTRUE NEWFALSE BININT1 BININT2 BININT LONG1 INT LONG BINFLOAT "
    "BINUNICODE SHORT_BINSTRING BINSTRING EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST "
    "APPEND APPENDS EMPTY_DICT SETITEM SETITEMS BINPUT LONG_BINPUT BINGET LONG_BINGET GLOBAL "
    "REDUCE NEWOBJ BUILD BINPERSID"
)


def both(found):
    """Each body in a zip and in a legacy stream."""
    made = {}
    for key, body in found.items():
        made[f"{key} (zip).pth"] = torch_zip(body)
        made[f"{key} (stream).pth"] = legacy(body.replace(storage(), legacy_storage(storage())))
    return made


def opcodes():
    """Every pickle opcode outside the subset, after values that it could use."""
    arguments = {
        "STRING": b"'a'\n", "UNICODE": b"a\n", "FLOAT": b"1.5\n", "PUT": b"0\n", "GET": b"0\n",
        "PERSID": b"0\n", "INST": b"posix\nsystem\n", "LONG4": struct.pack("<i", 1) + b"\1",
        "BINBYTES": struct.pack("<I", 1) + b"a", "SHORT_BINBYTES": b"\1a",
        "BINBYTES8": struct.pack("<Q", 1) + b"a", "BYTEARRAY8": struct.pack("<Q", 1) + b"a",
        "BINUNICODE8": struct.pack("<Q", 1) + b"a", "SHORT_BINUNICODE": b"\1a",
        "FRAME": struct.pack("<Q", 1), "EXT1": b"\1", "EXT2": b"\1\0", "EXT4": b"\1\0\0\0",
    }  # fmt: skip
    made = {}
    for opcode in pickletools.opcodes:
        if opcode.name not in SUBSET.split():
            code = opcode.code.encode("latin1") + arguments.get(opcode.name, b"")
            before = b"(" + text("posix") + text("system")
            made[f"opcode {opcode.name}.pth"] = torch_zip(b"}" + text("w") + before + code)
    for code in (0, 0x7F, 0xFE, 0xFF):
        made[f"opcode {code}.pth"] = torch_zip(b"}" + bytes([code]))
    return made


def names():
    """Globals that look like allowed ones, and those that attackers use."""
    pairs = [
        ("posix", "system"), ("os", "system"), ("nt", "system"), ("subprocess", "Popen"),
        ("builtins", "eval"), ("builtins", "exec"), ("__builtin__", "eval"), ("builtins", "open"),
        ("builtins", "getattr"), ("builtins", "__import__"), ("operator", "attrgetter"),
        ("functools", "partial"), ("importlib", "import_module"), ("runpy", "_run_code"),
        ("torch", "load"), ("torch.hub", "load"), ("torch.storage", "_load_from_bytes"),
        ("torch.jit", "load"), ("torch._utils", "_import_dotted_name"), ("torch", "_utils"),
        ("torch._utils", "_rebuild_tensor_v2 "), ("torch._utils", " _rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_tensor_v2\r"), ("torch._utils", "_rebuild_tensor_V2"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"), ("torch", "_utils._rebuild_tensor_v2"),
        ("torch._utils._rebuild_tensor_v2", ""), ("", "torch._utils._rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_tensor_v4"), ("Torch._utils", "_rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_t\u0435nsor_v2"), ("torch.utils", "_rebuild_tensor_v2"),
        ("torch", "FooStorage"), ("torch", "FloatStorage.__class__"), ("torch", "Floatstorage"),
        ("collections", "OrderedDict.__init__"), ("collections", "OrderedDict\0"),
        ("collections.abc", "OrderedDict"), ("builtins", "collections.OrderedDict"),
        ("argparse", "ArgumentParser"), ("argparse", "Namespace.__class__"),
        ("numpy", "load"), ("numpy.core.multiarray", "fromfile"), ("numpy", "dtype.__class__"),
        ("_codecs", "decode"), ("torch.serialization", "load"), ("torch", "serialization"),
        ("x" * 500, "y"), ("x", "y" * 500),
    ]  # fmt: skip
    made = {}
    for i, (module, attribute) in enumerate(pairs):
        shown = f"{i} {module}.{attribute}".encode("ascii", "replace").decode()[:60]
        shown = "".join(c if c.isalnum() or c in " ._" else "_" for c in shown)
        body = table(w=tensor(), args=call(module, attribute, RUN))
        made[f"name {shown}.pth"] = torch_zip(body)
    made["name in stream.pth"] = legacy(table(args=call("posix", "system", RUN)), (), ())
    made["name in system info.pth"] = legacy(
        table(), (), (), system=pickled(call("posix", "system", RUN))
    )
    made["name of state.pth"] = torch_zip(
        table(w=tensor()) + name("argparse", "Namespace") + b")R" + call("os", "system", RUN) + b"b"
    )
    made["name not UTF-8.pth"] = torch_zip(b"ctorch\n\xff\xfe\n")
    made["name without end.pth"] = torch_zip(b"ctorch")
    return made


def wrong_types():
    """REDUCE, NEWOBJ, BUILD, SETITEM, APPEND and the rest on what they aren't for."""
    things = {
        "None": b"N", "int": b"K\1", "text": text("a"), "tuple": b")", "list": b"]",
        "dict": b"}", "float": b"G" + struct.pack(">d", 1), "dtype": name("torch", "float32"),
        "storage type": name("torch", "FloatStorage"), "storage": storage(), "tensor": tensor(),
        "function": name("torch._utils", "_rebuild_tensor_v2"), "mark": b"(",
    }  # fmt: skip
    made = {}
    for key, thing in things.items():
        if key != "function":
            made[f"REDUCE {key}"] = thing + b")R"
            made[f"NEWOBJ {key}"] = thing + b")\x81"
        if key != "tuple":
            made[f"REDUCE with {key}"] = name("collections", "OrderedDict") + thing + b"R"
            made[f"REDUCE Namespace with {key}"] = name("argparse", "Namespace") + thing + b"R"
        made[f"BUILD {key}"] = thing + b"}b"
        if key != "list":
            made[f"APPEND to {key}"] = thing + b"Na"
            made[f"APPENDS to {key}"] = thing + b"(NNe"
        if key != "dict":
            made[f"SETITEM of {key}"] = thing + text("a") + b"Ns"
            made[f"SETITEMS of {key}"] = thing + b"(" + text("a") + b"Nu"
        if key in ("tuple", "list", "dict", "tensor", "storage", "dtype", "function"):
            made[f"key {key}"] = b"}" + thing + b"Ns"
        if key not in ("list", "tuple"):
            made[f"OrderedDict of {key}"] = call("collections", "OrderedDict", thing)
            made[f"OrderedDict of list of {key}"] = call(
                "collections", "OrderedDict", b"](" + thing + b"e"
            )
        if key not in ("storage", "mark"):
            made[f"tensor of {key}"] = table(w=tensor(thing))
        if key not in ("tensor", "mark"):
            made[f"parameter of {key}"] = table(
                w=call("torch._utils", "_rebuild_parameter", thing, b"\x89", b"N")
            )
        if key != "mark":
            made[f"persistent id {key}"] = thing + b"Q"
    rebuild = name("torch._utils", "_rebuild_tensor_v2")
    from_type = name("torch._tensor", "_rebuild_from_type_v2")
    made |= {
        "too few arguments": table(w=rebuild + tuple_(storage()) + b"R"),
        "too many arguments": table(w=rebuild + b"(" + b"N" * 20 + b"tR"),
        "rebuild by text": table(w=from_type + tuple_(text("eval"), b"N", b")", b"N") + b"R"),
        "rebuild by a list": table(w=from_type + tuple_(rebuild, b"N", b"]", b"N") + b"R"),
        "rebuild by itself": table(
            w=from_type + tuple_(from_type, b"N", tuple_(from_type, b"N", b")", b"N"), b"N") + b"R"
        ),
        "odd items": b"}(" + text("a") + b"u",
        "pairs of three": call("collections", "OrderedDict", b"](" + numbers(1, 2, 3) + b"e"),
        "pairs with a list as key": call(
            "collections", "OrderedDict", b"](" + tuple_(b"]", b"N") + b"e"
        ),
        "Size of text": table(w=call("torch", "Size", text("abc"))),
        "SETITEM of nothing": b"Ns",
        "SETITEMS without mark": b"}" + text("a") + b"Nu",
        "TUPLE without mark": b"Nt",
        "TUPLE2 of one": b"N\x86",
        "TUPLE3 of nothing": b"\x87",
        "STOP of nothing": b"",
        "STOP of two": b"}}",
        "STOP of a mark": b"(",
        "GET of nothing": b"h\7",
        "LONG_GET of nothing": b"j\xff\xff\xff\xff",
        "PUT of nothing": b"q\0",
        "text not UTF-8": b"X\2\0\0\0\xff\xfe",
        "key not UTF-8": b"}U\2\xff\xfeNs",
        "decimal of letters": b"Iabc\n",
        "decimal of 1,000 digits": b"L" + b"9" * 1000 + b"L\n",
        "decimal with underscores": b"I1_000\n",
        "decimal without end": b"I12",
        "protocol in the middle": b"\x80\x02}",
        "module id": tuple_(text("module"), b"N", b"N", b"N") + b"Q",
        "empty id": b")Q",
    }
    return both(made)


def bombs():
    """Files of few bytes that ask for much memory or time."""
    doubled = b"N" + b"".join(b"q%c(h%ch%ct" % (0, 0, 0) for _ in range(100))
    wide = b"](" + b"N" * 1000 + b"eq\0" + b"](" + b"h\0" * 5000 + b"e"
    collisions = b"".join(number(i * (2**61 - 1)) + b"N" for i in range(2**33, 2**33 + 900))
    long_key = "k" * 5000
    made = {
        "nine bytes.pth": b"\x80\x02]r\xff\xff\xff\xff.",
        "memo index": b"]r\xff\xff\xff\xff",
        "doubled tuples as key": b"}" + doubled + b"Ns",
        "doubled tuples": doubled,
        "wide lists": wide,
        "nested lists": b"]" * 300_000 + b"a" * 299_999,
        "nested dictionaries": (b"}" + text("a")) * 60_000 + b"}" + b"s" * 60_000,
        "nested tuples": b")" + b"\x85" * 400_000,
        "nested tuples as key": b"})" + b"\x85" * 400_000 + b"Ns",
        "nested tuples as persistent id": b")" + b"\x85" * 400_000 + b"Q",
        "nested tuples as shape": table(w=tensor(shape=b")" + b"\x85" * 400_000)),
        "nested tuples called": b")" + b"\x85" * 400_000 + b"R",
        "nested calls": (name("collections", "OrderedDict") + b"(") * 12_000,
        "marks": b"(" * 1_000_000,
        "empty lists": b"]" * 1_000_000,
        "empty dictionaries": b"}" * 1_000_000,
        "lists in a memo": b"".join(b"]r%s" % struct.pack("<I", i) for i in range(600_000)),
        "lists of lists": b"](" + b"]" * 15_000 + b"e" + b"(" + b"]" * 15_000 + b"e" * 2,
        "steps": b"}" + b"q\0" * 2_000_000,
        "text of 4 GB": b"X\xff\xff\xff\xff",
        "bytes of 4 GB": b"T\xff\xff\xff\xff",
        "tuple of itself": b"]q\0h\0ah\0a",
        "dictionary of itself": b"}q\0" + text("model") + b"h\0s",
        "colliding keys": b"}(" + collisions + b"u",
        "huge number as key": b"}" + number(2**1000) + b"Ns",
        "long names": b"}" + (text(long_key) + b"Ns") * 4000,
        "many tensors": table(w=tensor())
        + b"(" + text("a") + tensor() + b"q\1" + (text("b") + b"h\1") * 20_000 + b"u",
        "many names for a tensor": b"}" + text("a") + tensor() + b"q\1s("
        + b"".join(text(f"{i}") + b"h\1" for i in range(150_000)) + b"u",
        "many in fours": b"}" + text("a") + tensor() + b"q\1s" + b"".join(
            b"(" + text(f"{i}") + b"h\1" + text(f"{i}b") + b"h\1u" for i in range(70_000)
        ),
        "many calls": name("collections", "OrderedDict") + b"q\1]" + b"h\1)Ra" * 160_000,
        "many namespaces": name("argparse", "Namespace") + b"q\1]" + b"h\1)\x81}ba" * 100_000,
        "many globals": b"]" + (name("torch", "FloatStorage") + b"a") * 300_000,
        "many storages": b"]" + storage().replace(b"Q", b"q\1Q") + b"a" + b"h\1Qa" * 160_000,
        "many rebuilt": b"]" + tensor().replace(b"tR", b"tq\1R")
        + b"a" + (b"".join((name("torch._utils", "_rebuild_tensor_v2"), b"h\1Ra"))) * 160_000,
        "large pickle": b"}" + text("a" * 17_000_000) + b"Ns",
    }  # fmt: skip
    nine = made.pop("nine bytes.pth")
    long_number = b"\x8a\xff" + b"\x7f" * 255
    made["numbers of 255 bytes"] = table(w=tensor(shape=tuple_(long_number), offset=long_number))
    stretched = tensor(shape=(10**6, 10**6), strides=(0, 0))
    made["stretched"] = table(w=stretched)
    made["stretched in parts"] = table(
        **{f"w{i}": tensor(shape=(2**20, 4), strides=(0, 1)) for i in range(9)}
    )
    made["stretched to 64 TB"] = table(w=tensor(shape=(2**44,), strides=(0,)))
    made["shared many times"] = (
        b"}(" + text("w") + tensor(shape=(2**18,), strides=(0,)) + b"q\0"
        + b"".join(text(f"v{i}") + b"h\0" for i in range(300)) + b"u"
    )  # fmt: skip
    return {"nine bytes.pth": nine, **both(made)}


def storages():
    """Tensors that don't fit their storages."""
    one = {
        "storage too small": tensor(storage(5), shape=(5,)),
        "tensor beyond its storage": tensor(shape=(5,)),
        "offset beyond": tensor(offset=1),
        "offset far beyond": tensor(offset=2**62, shape=(1,)),
        "stride beyond": tensor(shape=(2, 2), strides=(3, 1)),
        "stride far beyond": tensor(shape=(2,), strides=(2**62,)),
        "negative stride": tensor(offset=3, strides=(-1,)),
        "negative size": tensor(shape=(-4,)),
        "negative sizes": tensor(shape=(-2, -2), strides=(1, 1)),
        "negative offset": tensor(offset=-1, shape=(1,)),
        "huge shape": tensor(shape=(2**62, 2**62), strides=(1, 1)),
        "huge shape, stride 0": tensor(shape=(2**40, 2**40), strides=(0, 0)),
        "huge empty shape": tensor(shape=(0, 2**62, 2**62), strides=(1, 1, 1)),
        "shape over 64 bits": tensor(shape=(2**70,), strides=(0,)),
        "stride over 64 bits": tensor(shape=(2,), strides=(2**70,)),
        "more strides than sizes": tensor(shape=(2,), strides=(1, 1)),
        "more sizes than strides": tensor(shape=(2, 2), strides=(1,)),
        "33 axes": tensor(shape=(1,) * 33, strides=(1,) * 33),
        "10,000 axes": tensor(shape=(1,) * 10_000, strides=(1,) * 10_000),
        "shape of floats": tensor(shape=tuple_(b"G" + struct.pack(">d", 4))),
        "shape of NaN": tensor(shape=tuple_(b"G" + struct.pack(">d", float("nan")))),
        "shape of booleans": tensor(shape=tuple_(b"\x88")),
        "shape of text": tensor(shape=tuple_(text("4"))),
        "shape as list": tensor(shape=b"](K\4e"),
        "shape as number": tensor(shape=b"K\4"),
        "shape as None": tensor(shape=b"N"),
        "strides as None": tensor(strides=b"N"),
        "offset as text": tensor(offset=text("0")),
        "offset as boolean": tensor(offset=b"\x88", shape=(1,)),
        "numel negative": tensor(storage(-4)),
        "numel huge": tensor(storage(2**61)),
        "numel over 64 bits": tensor(storage(2**70)),
        "complex": tensor(storage(2, kind="ComplexFloatStorage"), shape=(2,)),
        "untyped": tensor(storage(16, kind="UntypedStorage"), shape=(4,)),
        "dtype as text": call(
            "torch._utils", "_rebuild_tensor_v3", storage(16, kind="UntypedStorage"), b"K\0",
            numbers(4), numbers(1), b"\x89", b"N", text("float32"),
        ),
        "dtype as storage": call(
            "torch._utils", "_rebuild_tensor_v3", storage(16, kind="UntypedStorage"), b"K\0",
            numbers(4), numbers(1), b"\x89", b"N", name("torch", "FloatStorage"),
        ),
    }  # fmt: skip
    made = {f"{key}.pth": torch_zip(table(w=body)) for key, body in one.items()}
    made |= {
        "double of floats.pth": torch_zip(table(w=tensor(storage(4, kind="DoubleStorage")))),
        "storage missing.pth": torch_zip(table(w=tensor()), ()),
        "storage of another name.pth": torch_zip(table(w=tensor(storage(4, "../version")))),
        "storage by a path.pth": torch_zip(table(w=tensor(storage(4, "/etc/passwd")))),
        "storage by number.pth": torch_zip(
            table(w=tensor(storage().replace(text("0"), b"K\0")))
        ),
        "storage of type None.pth": torch_zip(
            table(w=tensor(storage().replace(name("torch", "FloatStorage"), b"N")))
        ),
        "storage of text.pth": torch_zip(
            table(w=tensor(storage().replace(text("storage"), text("stórage"))))
        ),
        "storage cut.pth": torch_zip(table(w=tensor()), (("0", ZEROS[:15]),)),
        "storage left over.pth": torch_zip(table(w=tensor()), (("0", bytes(17)),)),
        "one storage of two.pth": torch_zip(
            table(v=tensor(), w=tensor(storage(4, "1"))), (("0", ZEROS),)
        ),
    }  # fmt: skip
    return made


GOOD = table(w=tensor())


def patched(data, position, form, *values):
    """Bytes with some of them overwritten."""
    out = bytearray(data)
    struct.pack_into(form, out, position, *values)
    return bytes(out)


def zips():
    """Archives that aren't what they say."""
    good = torch_zip(GOOD)
    end = good.rfind(b"PK\5\6")
    central = good.find(b"PK\1\2")
    second = good.find(b"PK\1\2", central + 1)
    big = bytes(100_000_000)
    bomb = torch_zip(
        table(w=tensor(storage(25_000_000), shape=(25_000_000,))), (("0", big),),
        compression=zipfile.ZIP_DEFLATED,
    )  # fmt: skip
    bomb_central = bomb.find(b"archive/data/0", bomb.find(b"PK\1\2")) - 46
    deflated = torch_zip(GOOD, compression=zipfile.ZIP_DEFLATED)
    deflated_second = deflated.find(b"PK\1\2", deflated.find(b"PK\1\2") + 1)
    flipped = bytearray(deflated)
    flipped[deflated.find(b"data.pkl") + 20] ^= 0xFF
    wide = good[:end] + struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 3, 3, 9, 9)
    wide_end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, *[0xFFFFFFFF] * 2, 0)
    many = [(f"archive/data/{i}", b"") for i in range(66_000)]
    made = {
        "two pickles": torch_zip(GOOD, more=[("other/data.pkl", pickled(GOOD))]),
        "pickle twice": torch_zip(GOOD, more=[("archive/data.pkl", pickled(GOOD))]),
        "storage twice": torch_zip(GOOD, [("0", ZEROS), ("0", bytes(16))]),
        "no pickle": archive([("archive/data/0", ZEROS)]),
        "only a text": archive([("readme.txt", b"hello")]),
        "empty archive": archive([]),
        "archive of an archive": archive([("inner.zip", good)]),
        "program": torch_zip(GOOD, more=[("archive/constants.pkl", pickled(b")"))]),
        "pickle empty": archive([("archive/data.pkl", b"")]),
        "pickle goes on": archive([("archive/data.pkl", pickled(GOOD) + b"x"),
                                   ("archive/data/0", ZEROS)]),
        "byte order odd": torch_zip(GOOD, more=[("archive/byteorder", b"middle")]),
        "byte order long": torch_zip(GOOD, more=[("archive/byteorder", b"little" * 1000)]),
        "bytes before": b"PK" + bytes(100) + good,
        "bytes after": good + b"x",
        "comment short": patched(good, end + 20, "<H", 5),
        "count less": patched(good, end + 8, "<2H", 2, 2)[: end + 12]
        + patched(good, end + 12, "<L", 30)[end + 12 :],
        "count more": patched(good, end + 8, "<2H", 4, 4),
        "count zero": patched(good, end + 8, "<2H", 0, 0),
        "two disks": patched(good, end + 4, "<2H", 1, 1),
        "directory beyond": patched(good, end + 16, "<L", 2**31),
        "directory huge": patched(good, end + 12, "<L", 2**31),
        "directory at zero": patched(good, end + 16, "<L", 0),
        "directory sign": patched(good, central, "<4s", b"PK\1\3"),
        "encrypted": patched(good, central + 8, "<H", 1),
        "method bzip2": patched(good, central + 10, "<H", 12),
        "method lzma": torch_zip(GOOD, compression=zipfile.ZIP_LZMA),
        "method unknown": patched(good, central + 10, "<H", 99),
        "sizes differ": patched(good, central + 20, "<L", 3),
        "size beyond": patched(good, central + 20, "<2L", 2**30, 2**30),
        "size short": patched(good, second + 20, "<2L", 15, 15),
        "offset beyond": patched(good, second + 42, "<L", 2**30),
        "offset of another": patched(good, second + 42, "<L", 0),
        "offset within": patched(good, second + 42, "<L", 5),
        "name length": patched(good, second + 28, "<H", 0xFFFF),
        "extra length": patched(good, second + 30, "<H", 0xFFFF),
        "local name": patched(good, 30, "<B", ord("X")),
        "local name length": patched(good, 26, "<H", 0xFFFF),
        "name not UTF-8": patched(patched(good, central + 8, "<H", 0x800), central + 46, "<B", 255),
        "zip64 without locator": good[:end] + wide_end,
        "zip64 locator astray": wide + struct.pack("<4sLQL", b"PK\6\7", 0, 2**60, 1) + wide_end,
        "zip64 sign": wide + struct.pack("<4sLQL", b"PK\6\7", 0, 3, 1) + wide_end,
        "zip64 directory": wide + struct.pack("<4sLQL", b"PK\6\7", 0, end, 1) + wide_end,
        "zip64 size without field": patched(good, second + 20, "<2L", 2**32 - 1, 2**32 - 1),
        "bomb": bomb,
        "bomb that says less": patched(bomb, bomb_central + 24, "<L", 16),
        "bomb in entries": torch_zip(
            table(**{f"w{i}": tensor(storage(2**20, str(i)), shape=(2**20,)) for i in range(30)}),
            [(str(i), bytes(2**22)) for i in range(30)],
            compression=zipfile.ZIP_DEFLATED,
        ),
        "bomb of a pickle": torch_zip(
            b"}" + text("a") * 20_000_000, compression=zipfile.ZIP_DEFLATED
        ),
        "deflated damaged": bytes(flipped),
        "deflated sum": patched(deflated, deflated_second + 16, "<L", 7),
        "deflated size": patched(deflated, deflated_second + 24, "<L", 17),
        "overlapping": overlapping(),
        "many entries": torch_zip(GOOD, more=many),
    }  # fmt: skip
    return {f"zip {key}.pth": data for key, data in made.items()}


def overlapping():
    """Two entries, of which the second lies in the bytes of the first."""
    inner = archive([("archive/data/0", ZEROS)])
    local = inner[: inner.find(b"PK\1\2")]
    return_directory = inner[inner.find(b"PK\1\2") : inner.rfind(b"PK\5\6")]
    outer = archive([("archive/data.pkl", pickled(GOOD)), ("archive/blob", local)])
    blob = outer.find(local)
    start = outer.find(b"PK\1\2")
    end = outer.rfind(b"PK\5\6")
    inside = patched(return_directory, 42, "<L", blob)
    directory = outer[start:end] + inside
    record = patched(outer[end:], 8, "<2H2L", 3, 3, len(directory), start)
    return outer[:start] + directory + record


def streams():
    """Legacy streams that aren't whole."""
    body = table(w=tensor(legacy_storage(storage())))
    view = tuple_(text("1"), number(2), number(4))

    def with_view(given):
        return legacy(table(w=tensor(storage().removesuffix(b"tQ") + given + b"tQ")))

    made = {
        "magic alone": MAGIC,
        "magic of another": legacy(body, magic=pickled(number(0x1950A86A20F9469CFC6D))),
        "no magic": pickled(body),
        "version": legacy(body, version=1002),
        "version text": MAGIC + pickled(text("1001")) + legacy(body)[len(MAGIC) + 7 :],
        "keys missing": legacy(body, (), ()),
        "keys other": legacy(body, ("1",)),
        "keys twice": legacy(body, ("0", "0"), (4, 4)),
        "keys more": legacy(body, ("0", "1"), (4, 4)),
        "keys text": legacy(body).replace(pickled(b"](" + text("0") + b"e"), pickled(text("0"))),
        "keys numbers": legacy(body).replace(pickled(b"](" + text("0") + b"e"), pickled(b"](K\0e")),
        "count less": legacy(body, counts=(3,)),
        "count more": legacy(body, counts=(5,)),
        "count negative": legacy(body, counts=(-4,)),
        "count huge": legacy(body, counts=(2**62,)),
        "elements missing": legacy(body, data=ZEROS[:15]),
        "elements left over": legacy(body, data=bytes(17)),
        "two sizes": legacy(
            table(v=tensor(legacy_storage(storage(3)), shape=(1,)),
                  w=tensor(legacy_storage(storage())))
        ),
        "view beyond": with_view(view),
        "view negative": with_view(tuple_(text("1"), number(-1), number(1))),
        "view of text": with_view(text("abc")),
        "view of floats": with_view(tuple_(text("1"), b"G" + bytes(8), number(1))),
        "zip id": legacy(table(w=tensor())),
        "bomb in system info": legacy(body, system=pickled(b"]" * 1_000_000)),
        "steps in system info": legacy(body, system=pickled(b"}" + b"q\0" * 1_000_000)),
    }  # fmt: skip
    return {f"stream {key}.pth": data for key, data in made.items()}


def tars():
    """Tar archives that aren't torch's, or that lead out of themselves."""
    state = {"w": np.ones(4, np.float32)}
    files = torch_tar.members(OrderedDict(state), list(state.values()))

    def link(member, kind, target="/etc/passwd"):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w:", format=tarfile.PAX_FORMAT) as tar:
            for entry, data in files.items():
                info = tarfile.TarInfo(entry)
                if entry == member:
                    info.type, info.linkname = kind, target
                    tar.addfile(info)
                else:
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        return out.getvalue()

    def changed(**members):
        return torch_tar.archive(
            {k: v for k, v in {**files, **members}.items() if v is not None}, mtime=0
        )

    good = changed()
    kinds = {
        "symbolic link": tarfile.SYMTYPE, "hard link": tarfile.LNKTYPE,
        "device": tarfile.CHRTYPE, "pipe": tarfile.FIFOTYPE, "folder": tarfile.DIRTYPE,
        "sparse": tarfile.GNUTYPE_SPARSE,
    }  # fmt: skip
    made = {
        f"{member} is a {what}": link(member, kind)
        for member in ("storages", "tensors", "pickle")
        for what, kind in kinds.items()
    }
    dump, n = torch_tar.dump, torch_tar.number
    kind, t = torch_tar.global_("torch.FloatStorage"), torch_tar.global_("torch.FloatTensor")
    row = struct.pack("<q", 4) + bytes(16)
    pair = dump(n(7) + b"U\3cpu" + kind + b"\x87")
    views = dump(b"]")

    def stored(count=1, first=pair, data=row, last=views):
        return changed(storages=dump(n(count)) + first + data + last)

    def described(first=None, *values):
        first = dump(n(torch_tar.FIRST_KEY) + n(7) + t + b"\x87") if first is None else first
        return changed(
            storages=dump(n(1)) + pair + row + views,
            tensors=dump(n(1)) + first + struct.pack(f"<{len(values)}q", *values),
        )

    made |= {
        "no storages": changed(storages=None),
        "no tensors": changed(tensors=None),
        "no pickle": changed(pickle=None),
        "other members": torch_tar.archive({"a.txt": b"a"}),
        "many members": torch_tar.archive({f"f{i}": b"" for i in range(10_000)}),
        "checksum": patched(good, 148, "<8s", b"0000000\0"),
        "size not octal": retarred(good, 124, b"99999999999\0"),
        "size beyond": retarred(good, 124, b"77777777777\0"),
        "size negative": retarred(good, 124, b"\xff" * 12),
        "paths in headers": torch_tar.archive({"x" * 200: b"", **files}),
        "member twice": torch_tar.archive([*files.items(), *files.items()]),
        "storages empty": changed(storages=b""),
        "storages of text": changed(storages=dump(b"U\1a")),
        "count negative": changed(storages=dump(b"J\xff\xff\xff\xff")),
        "count huge": stored(count=2**40),
        "count of one more": stored(count=2),
        "storage of a list": stored(first=dump(b"]")),
        "storage of two": stored(first=dump(b"K\7K\7\x86")),
        "storage of a tensor type": stored(first=dump(n(7) + b"U\3cpu" + t + b"\x87")),
        "storage of a call": stored(first=dump(call("posix", "system", RUN))),
        "storage key": stored(first=dump(b"U\1a" + b"U\3cpu" + kind + b"\x87")),
        "storage too short": stored(data=struct.pack("<q", 2**50) + bytes(16)),
        "storage negative": stored(data=struct.pack("<q", -1)),
        "views of text": stored(last=dump(b"U\1a")),
        "view of three": stored(last=dump(b"](" + numbers(1, 2, 3) + b"e")),
        "view beyond": stored(last=dump(b"](" + numbers(1, 7, 2, 4) + b"e")),
        "view of nothing": stored(last=dump(b"](" + numbers(1, 8, 0, 1) + b"e")),
        "view twice": stored(last=dump(b"](" + numbers(7, 7, 0, 1) + b"e")),
        "tensor of 100 axes": described(None, 100, *[1] * 201),
        "tensor of 4 billion axes": described(None, 0xFFFFFFFF),
        "tensor cut": described(None, 1, 4),
        "tensor beyond": described(None, 1, 5, 1, 0),
        "tensor offset": described(None, 1, 4, 1, 1),
        "tensor stride negative": described(None, 1, 4, -1, 3),
        "tensor stretched": described(None, 2, 2**30, 2**30, 0, 0, 0),
        "tensor of no storage": described(
            dump(n(torch_tar.FIRST_KEY) + n(9) + t + b"\x87"), 1, 4, 1, 0
        ),
        "tensor of a number": described(dump(n(1) + n(7) + b"K\1\x87"), 1, 4, 1, 0),
        "tensor with a storage's key": described(dump(n(7) + n(7) + t + b"\x87"), 1, 4, 1, 0),
        "pickle of nothing": changed(pickle=dump(table(w=b"U\x019Q"))),
        "pickle with an id of text": changed(pickle=dump(table(w=b"U\3abcQ"))),
        "pickle with an id of a list": changed(pickle=dump(table(w=b"]Q"))),
        "pickle of a call": changed(pickle=dump(table(w=call("os", "system", RUN)))),
    }  # fmt: skip
    return {f"tar {key}.pth": data for key, data in made.items()}


def retarred(data, position, value):
    """A tar with a field of its first header changed, and the checksum with it."""
    out = bytearray(data)
    out[position : position + len(value)] = value
    out[148:156] = b" " * 8
    out[148:156] = b"%06o\0 " % sum(out[:512])
    return bytes(out)


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


class _Runs:
    def __reduce__(self):
        import os

        return os.system, (f"touch {MARK}",)


def arrays():
    """npz with pickles, and broken ones."""
    four = bytes(16)
    objects = array(np.array([_Runs(), None], dtype=object))
    nested = b"{'descr': '<f4', 'fortran_order': False, 'shape': " + b"(" * 9000
    good = npz(npy(header(), four))
    position = good.find(four)
    made = {
        "objects": npz(objects),
        "objects of size 0": npz(npy(header(shape=(0,), descr="|O"))),
        "objects in a field": npz(npy(header(descr=[("x", "|O")]), four)),
        "pickle as an array": npz(pickle.dumps(_Runs())),
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
        "bare pickle": pickle.dumps({"w": _Runs()}, 2),
        "bare pickle, protocol 0": b"cos\nsystem\n(S'touch " + MARK.encode() + b"'\ntR.",
        "bare pickle, protocol 4": pickle.dumps({"w": _Runs()}, 4),
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
    "opcodes": opcodes,
    "names": names,
    "wrong types": wrong_types,
    "bombs": bombs,
    "storages": storages,
    "zips": zips,
    "streams": streams,
    "tars": tars,
    "safetensors": tables,
    "npz": arrays,
    "others": others,
    "truncated": truncated,
}
