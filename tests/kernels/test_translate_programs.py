"""Programs written at random do as kernels what Python does, in its order."""

import ctypes
import random
from textwrap import indent

import numpy as np
import pytest

from npresnet_kernels.cpu.machine_code import compiled, loaded
from tests.kernels.written import written

FRAME = """
@helper
def note(t: int, value: int) -> int:
    store_int(t, 3, (load_int(t, 3) * 31 + value) % 1000003)
    return value


@helper
def program(t: int, a: int, b: int, c: int) -> int:
    d, e = a, b
{body}
    return a + 3 * b - 5 * c + 7 * d - e


def kernel(t: int) -> None:
    store_int(t, 4, program(t, load_int(t, 0), load_int(t, 1), load_int(t, 2)))
"""


class Writer:
    """Writes statements and expressions; values stay small enough for 64 bits."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.loops = 0

    def one(self, *choices):
        return self.random.choice(choices)

    def name(self):
        return self.one(*"abcde")

    def number(self, depth=2):
        """An expression of integers."""
        if depth == 0:
            return self.one(self.name(), self.name(), str(self.random.randint(-9, 9)))
        x, y, test = self.number(depth - 1), self.number(depth - 1), self.test(depth - 1)
        return self.one(
            f"({x} {self.one('+', '-', '*')} {y})",
            f"({x} {self.one('//', '%')} ({y} | 1))",
            f"({x} {self.one('//', '%')} {self.one(-7, -1, 2, 3)})",
            f"-{x}",
            f"{self.one('min', 'max')}({x}, {y}, {self.name()})",
            f"({x} if {test} else {y})",
            f"note(t, {x})",
            f"({self.comparison(depth - 1)}) + {x}",
        )

    def comparison(self, depth):
        signs = [self.one("<", "<=", ">", ">=", "==", "!=") for _ in range(self.one(1, 1, 2, 3))]
        first = self.number(depth)
        return first + "".join(f" {sign} note(t, {self.number(depth)})" for sign in signs)

    def test(self, depth=1):
        """A condition."""
        if depth == 0:
            return self.one(self.name(), self.comparison(0))
        x, y = self.test(depth - 1), self.test(depth - 1)
        return self.one(f"({x} and {y})", f"({x} or {y})", f"(not {x})", self.comparison(depth))

    def turns(self):
        """A range, some empty."""
        start, stop = f"{self.number(1)} % 7", f"{self.number(1)} % 9 - 2"
        step = self.one(
            "1", "2", "-1", "-3", f"({self.number(1)} % 5 | 1)", f"-({self.name()} % 3) - 1"
        )
        return self.one(
            f"range({stop})", f"range({start}, {stop})", f"range({start}, {stop}, {step})"
        )

    def statement(self, depth):
        if depth == 0 or self.random.random() < 0.4:
            return self.one(
                f"{self.name()} = {self.number()} % 31 - 9",
                f"{self.name()}, {self.name()} = {self.name()}, {self.number()} % 29",
                "{0} {1}= {2}\n{0} %= {3}".format(
                    self.name(), self.one(*"+-*"), self.number(1), self.one(23, -19)
                ),
                f"note(t, {self.number()})",
            )
        block, other = (indent(self.block(depth - 1), "    ") for _ in range(2))
        self.loops += 1
        return self.one(
            f"if {self.test()}:\n{block}",
            f"if {self.test()}:\n{block}\nelse:\n{other}",
            f"if {self.test()}:\n{block}\nelif {self.test()}:\n{other}",
            f"if {self.test()}:\n    return {self.number()}\n",
            f"for {self.one('a', 'i')} in {self.turns()}:\n{block}",
            f"n{self.loops} = {self.number(1)} % 4\nwhile n{self.loops} > 0 and {self.test()}:\n"
            f"    n{self.loops} -= 1\n{block}",
        )

    def block(self, depth):
        return "\n".join(self.statement(depth) for _ in range(self.one(1, 2, 3)))


def in_c(function, symbol):
    """Return what calls a function as a kernel."""
    return ctypes.CFUNCTYPE(None, ctypes.c_int64)(loaded(compiled(function, symbol), symbol))


@pytest.mark.parametrize("seed", range(24))
def test_programs(seed):
    source = FRAME.format(
        body=indent(Writer(seed).block(3) + "\n" + Writer(-seed).block(2), "    ")
    )
    in_python, _ = written(source, "kernel", load_int=list.__getitem__, store_int=list.__setitem__)
    function, _ = written(source, "kernel")
    call = in_c(function, f"program{seed}")
    draw = random.Random(seed)
    for _ in range(20):
        table = [draw.randint(-20, 20) for _ in range(3)] + [0, 0]
        found = np.array(table, dtype=np.int64)
        in_python(table)
        call(found.ctypes.data)
        assert found.tolist() == table, source


SAME_NAME = """
@helper
def number(a: int) -> int:
    return 1

first = number

@helper
def number(a: int) -> int:
    return 2

def kernel(t: int) -> None:
    store_int(t, 0, first(t) + 10 * number(t))
"""


def test_two_functions_of_a_name_are_two():
    function, _ = written(SAME_NAME, "kernel")
    found = np.zeros(1, dtype=np.int64)
    in_c(function, "same_name")(found.ctypes.data)
    assert found == 21
