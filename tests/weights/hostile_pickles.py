"""Pickles in torch's files that are broken, that would run something, or that ask for too much."""

from __future__ import annotations

import pickletools
import struct

from tests.weights.pickles import (
    RUN,
    ZEROS,
    call,
    legacy,
    legacy_storage,
    name,
    number,
    numbers,
    pickled,
    storage,
    table,
    tensor,
    text,
    torch_zip,
    tuple_,
)

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
