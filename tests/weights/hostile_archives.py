"""Zip and tar archives and legacy streams that aren't what they say."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from collections import OrderedDict

import numpy as np

from tests.weights import torch_tar
from tests.weights.pickles import (
    MAGIC,
    RUN,
    ZEROS,
    archive,
    call,
    legacy,
    legacy_storage,
    number,
    numbers,
    patched,
    pickled,
    storage,
    table,
    tensor,
    text,
    torch_zip,
    tuple_,
)

GOOD = table(w=tensor())


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
