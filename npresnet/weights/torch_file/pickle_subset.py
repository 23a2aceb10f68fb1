"""An interpreter of the few pickle opcodes that state dicts use. It can't run anything.

``torch.save`` pickles by protocol 2 and needs half of the opcodes there are; the rest are errors.
A global is a name in a table (`allowed`), never an import. A call (REDUCE) of a function in that
table is one of ours; a call of anything else is an error. Python's own ``pickle.Unpickler`` isn't
used: restricted or not, nine bytes can make it ask for gigabytes.

What each opcode does is described in Python's ``pickletools``.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Any

from npresnet.errors import WeightsError
from npresnet.weights.mapped import Buffer
from npresnet.weights.torch_file.allowed import allowed, is_key
from npresnet.weights.torch_file.values import (
    Function,
    Inert,
    OrderedDict,
    damaged,
)

__all__ = ["PickleReader"]

# opcodes in all pickles of a file; a ResNet-152 with its average and Adam's state has 100,000
_MOST_STEPS = 500_000
_LARGEST = 1 << 24  # bytes of all pickles of a file
_DEEPEST = 20_000  # values and marks on the stack; pickles of dictionaries put down 2,000
_LONGEST_NAME = 200  # bytes of a global's module or name

_UINT2, _UINT4, _INT4, _FLOAT = (struct.Struct(f) for f in ("<H", "<I", "<i", ">d"))
_DECIMAL = re.compile(rb"-?[0-9]{1,20}L?")
_MARK = object()


class PickleReader:
    """Reads pickles that lie in a buffer, one after the other or apart.

    Parameters
    ----------
    buffer : mmap or bytes
        Where they lie.
    position, stop : int
        Where the next begins, and where the last ends at the latest.
    persistent_load : callable
        Gives the object of a persistent id.

    Attributes
    ----------
    position : int
        The byte after what was read; may be set.
    """

    def __init__(
        self, buffer: Buffer, position: int, stop: int, persistent_load: Callable[[Any], Any]
    ) -> None:
        self.position = position
        self._buffer = buffer
        self._stop = stop
        self._persistent_load = persistent_load
        self._globals = allowed()
        self._steps = _MOST_STEPS
        self._bytes = _LARGEST
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def continue_in(self, buffer: Buffer, position: int, stop: int) -> None:
        """Read on elsewhere, under the same limits."""
        self._buffer, self.position, self._stop = buffer, position, stop

    def load(self) -> Any:
        """Read the next pickle.

        Raises
        ------
        WeightsError
            It is truncated, not of protocol 2, too large, or does what no state dict needs. The
            message begins with a verb.
        """
        self._stack, self._memo = [], {}
        begin = self.position
        stack, memo, steps = self._stack, self._memo, _STEPS
        if self._take(2) != b"\x80\x02":
            raise WeightsError(
                f"has a pickle at byte {begin:,} that isn't of protocol 2: it is damaged, or save "
                "it again by torch.save with pickle_protocol=2, its default"
            )
        while True:
            opcode = self._take(1)
            self._steps -= 1
            if self._steps < 0:
                raise WeightsError(f"has pickles of over {_MOST_STEPS:,} steps: {_ALONE}")
            if opcode == b".":
                value = self._pop()
                if stack:
                    raise damaged("a pickle leaves more than one value")
                self._bytes -= self.position - begin
                memo.clear()
                return value
            step = steps.get(opcode)
            if step is None:
                raise WeightsError(
                    f"has the pickle opcode {opcode!r} at byte {self.position - 1:,}, which no "
                    f"state dict needs: it is damaged or holds more than weights; {_ALONE}"
                )
            step(self)
            if len(stack) > _DEEPEST:
                raise WeightsError(f"has a pickle nested over {_DEEPEST:,} deep: {_ALONE}")
            if self.position - begin > self._bytes:
                raise WeightsError(f"has pickles of over {_LARGEST >> 20} MiB: {_ALONE}")

    # ------------------------------------------------------------------ bytes and stack

    def _take(self, count: int) -> bytes:
        start, stop = self.position, self.position + count
        if stop > self._stop:
            raise WeightsError("is truncated within a pickle: fetch or save it again")
        self.position = stop
        return self._buffer[start:stop]

    def _line(self) -> bytes:
        end = self._buffer.find(
            b"\n", self.position, min(self._stop, self.position + _LONGEST_NAME + 1)
        )
        if end < 0:
            raise damaged("a pickle has a line without an end")
        return self._take(end - self.position + 1)[:-1]

    def _number(self, form: struct.Struct) -> Any:
        return form.unpack(self._take(form.size))[0]

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise damaged("a pickle takes a value that isn't there")
        return self._stack.pop()

    def _top(self) -> Any:
        value = self._pop()
        self._stack.append(value)
        return value

    def _pop_mark(self) -> list[Any]:
        """Take everything above the last mark, and the mark."""
        stack = self._stack
        for i in range(len(stack) - 1, -1, -1):
            if stack[i] is _MARK:
                values = stack[i + 1 :]
                del stack[i:]
                return values
        raise damaged("a pickle has a mark too few")

    # ------------------------------------------------------------------ values

    def _mark(self) -> None:
        self._stack.append(_MARK)

    def _none(self) -> None:
        self._stack.append(None)

    def _true(self) -> None:
        self._stack.append(True)

    def _false(self) -> None:
        self._stack.append(False)

    def _uint1(self) -> None:
        self._stack.append(self._take(1)[0])

    def _uint2(self) -> None:
        self._stack.append(self._number(_UINT2))

    def _int4(self) -> None:
        self._stack.append(self._number(_INT4))

    def _long1(self) -> None:
        length = self._take(1)[0]
        self._stack.append(int.from_bytes(self._take(length), "little", signed=True))

    def _decimal(self) -> None:
        """Read an integer over 32 bits as Python 2 wrote it."""
        line = self._line()
        if not _DECIMAL.fullmatch(line):
            raise damaged(f"a pickle has {line[:30]!r} for a whole number")
        self._stack.append(int(line.rstrip(b"L")))

    def _float(self) -> None:
        self._stack.append(self._number(_FLOAT))

    def _text(self) -> None:
        try:
            self._stack.append(self._take(self._number(_UINT4)).decode())
        except UnicodeDecodeError:
            raise damaged("a pickle has text that isn't UTF-8") from None

    def _short_string(self) -> None:
        self._string(self._take(1)[0])

    def _long_string(self) -> None:
        self._string(self._number(_UINT4))

    def _string(self, length: int) -> None:
        """Read Python 2's string: text where it can be, else bytes."""
        data = self._take(length)
        try:
            self._stack.append(data.decode())
        except UnicodeDecodeError:
            self._stack.append(data)

    # ------------------------------------------------------------------ containers

    def _empty_tuple(self) -> None:
        self._stack.append(())

    def _tuple(self) -> None:
        self._stack.append(tuple(self._pop_mark()))

    def _tuple1(self) -> None:
        self._stack.append((self._pop(),))

    def _tuple2(self) -> None:
        second = self._pop()
        self._stack.append((self._pop(), second))

    def _tuple3(self) -> None:
        third, second = self._pop(), self._pop()
        self._stack.append((self._pop(), second, third))

    def _empty_list(self) -> None:
        self._stack.append([])

    def _append(self) -> None:
        self._extend([self._pop()])

    def _appends(self) -> None:
        self._extend(self._pop_mark())

    def _extend(self, values: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, list):
            raise damaged(f"a pickle appends to {_kind(target)}")
        target.extend(values)

    def _empty_dict(self) -> None:
        self._stack.append({})

    def _setitem(self) -> None:
        value = self._pop()
        self._update([self._pop(), value])

    def _setitems(self) -> None:
        self._update(self._pop_mark())

    def _update(self, values: list[Any]) -> None:
        target = self._top()
        if isinstance(target, Inert):  # a defaultdict's items come one by one
            return
        if not isinstance(target, dict) or len(values) % 2:
            raise damaged(f"a pickle sets items of {_kind(target)}")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not is_key(key):
                raise WeightsError(
                    f"has a dictionary with {_kind(key)} as key, expected text or a number: "
                    f"{_ALONE}"
                )
            target[key] = value

    # ------------------------------------------------------------------ memo

    def _put1(self) -> None:
        self._memo[self._take(1)[0]] = self._top()

    def _put4(self) -> None:
        self._memo[self._number(_UINT4)] = self._top()

    def _get1(self) -> None:
        self._get(self._take(1)[0])

    def _get4(self) -> None:
        self._get(self._number(_UINT4))

    def _get(self, index: int) -> None:
        if index not in self._memo:
            raise damaged(f"a pickle takes {index} from its memo, which isn't in")
        self._stack.append(self._memo[index])

    # ------------------------------------------------------------------ what others may run

    def _global(self) -> None:
        """Look a name up; nothing is imported."""
        try:
            name = (self._line().decode(), self._line().decode())
        except UnicodeDecodeError:
            raise damaged("a pickle has a name that isn't UTF-8") from None
        if name not in self._globals:
            raise WeightsError(
                f"asks for {'.'.join(name)!r:.200}, which npresnet neither needs nor runs: if you "
                f"trust the file, {_ALONE}"
            )
        self._stack.append(self._globals[name])

    def _reduce(self) -> None:
        """Call one of our functions, or read over a call of what isn't kept."""
        arguments, function = self._pop(), self._pop()
        if isinstance(function, Inert) and isinstance(arguments, tuple):
            self._stack.append(function)
            return
        if not isinstance(function, Function) or not isinstance(arguments, tuple):
            raise damaged(f"a pickle calls {_kind(function)} with {_kind(arguments)}")
        self._stack.append(function(arguments))

    def _newobj(self) -> None:
        arguments, kind = self._pop(), self._pop()
        if not isinstance(kind, Inert) or not isinstance(arguments, tuple):
            raise damaged(f"a pickle makes an object of {_kind(kind)}")
        self._stack.append(kind)

    def _build(self) -> None:
        """Read over the attributes of a state dict (its versions) or of what isn't kept."""
        self._pop()
        target = self._top()
        if not isinstance(target, OrderedDict | Inert):
            raise damaged(f"a pickle sets attributes of {_kind(target)}")

    def _persistent(self) -> None:
        self._stack.append(self._persistent_load(self._pop()))


_ALONE = "load it with torch and save its state dict alone: torch.save(model.state_dict(), NAME)"


def _kind(value: Any) -> str:
    return value.name if isinstance(value, Inert | Function) else type(value).__name__


_STEPS: dict[bytes, Callable[[PickleReader], None]] = {
    b"(": PickleReader._mark,
    b"N": PickleReader._none,
    b"\x88": PickleReader._true,
    b"\x89": PickleReader._false,
    b"K": PickleReader._uint1,
    b"M": PickleReader._uint2,
    b"J": PickleReader._int4,
    b"\x8a": PickleReader._long1,
    b"I": PickleReader._decimal,
    b"L": PickleReader._decimal,
    b"G": PickleReader._float,
    b"X": PickleReader._text,
    b"U": PickleReader._short_string,
    b"T": PickleReader._long_string,
    b")": PickleReader._empty_tuple,
    b"t": PickleReader._tuple,
    b"\x85": PickleReader._tuple1,
    b"\x86": PickleReader._tuple2,
    b"\x87": PickleReader._tuple3,
    b"]": PickleReader._empty_list,
    b"a": PickleReader._append,
    b"e": PickleReader._appends,
    b"}": PickleReader._empty_dict,
    b"s": PickleReader._setitem,
    b"u": PickleReader._setitems,
    b"q": PickleReader._put1,
    b"r": PickleReader._put4,
    b"h": PickleReader._get1,
    b"j": PickleReader._get4,
    b"c": PickleReader._global,
    b"R": PickleReader._reduce,
    b"\x81": PickleReader._newobj,
    b"b": PickleReader._build,
    b"Q": PickleReader._persistent,
}
