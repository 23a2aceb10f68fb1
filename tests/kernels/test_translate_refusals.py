"""What the kernels' language lacks, or LLVM would take for something else, is refused by name."""

import functools
from textwrap import indent

import pytest

from npresnet_kernels.cpu.translate import translated
from tests.kernels.written import written

STATEMENTS = {
    # what isn't known at all
    "store_int(t, 0, [t])": "[t]",
    "store_int(t, 0, t.real)": "t",
    "store_int(t, 0, t[0])": "t[0]",
    "store_int(t, 0, nowhere)": "nowhere",
    "store_int(t, 0, len('abc'))": "'abc'",
    "store_int(t, 0, (a := 1))": "a := 1",
    "store_int(t, 0, abs(t))": "abs(t)",
    "store_int(t, 0, [i for i in range(3)])": "for i in",
    "store_int(t, 0, t**2)": "Pow",
    "store_int(t, 0, t << 1)": "LShift",
    "store_int(t, 0, ~t)": "~t",
    "store_int(t, 0, t is t)": "Is",
    "store_double(t, 0, 1.5 // 1.0)": "FloorDiv of double",
    "store_double(t, 0, 1.5 % t)": "Mod of double",
    "store_int(t, 0, 1.5 | 1)": "BitOr of double",
    "a: int = 1": "a: int = 1",
    "a = b = 1": "a = b = 1",
    "pass": "pass",
    "del t": "del t",
    "assert t": "assert t",
    "import os": "import os",
    "global GLOBAL": "global GLOBAL",
    "yield t": "yield t",
    "a = lambda: t": "lambda",
    "def inner(): return 1": "def inner",
    "with t: return": "with t",
    "try: store_int(t, 0, 1)\nfinally: return": "try",
    "raise ValueError": "raise ValueError",
    "t.a = 1": "t.a",
    "t[0] = 1": "t[0]",
    "t[0] += 1": "t[0]",
    # loops
    "for i in 'abc': t = 1": "'abc'",
    "for i in range(1, 9, step=2): t = 1": "step=2",
    "for i in range(): t = 1": "range()",
    "for i in range(1, 2, 3, 4): t = 1": "range(1, 2, 3, 4)",
    "for i in range(*t): t = 1": "*t",
    "for i in range(0.5): t = 1": "double doesn't turn into i64",
    "for i, j in range(3): t = 1": "(i, j)",
    "for i in range(3): t = 1\nelse: t = 2": "else",
    "while t: t = 0\nelse: t = 2": "else",
    "while t: break": "break",
    "while t: continue": "continue",
    # a name of the function's own is nothing else's, and may have no value yet
    "store_int(t, 0, GLOBAL)\nGLOBAL = 1": "GLOBAL, which may have no value here",
    "GLOBAL += 1": "GLOBAL, which may have no value here",
    "a += 1": "a, which may have no value here",
    "if t: a = 1\nstore_int(t, 0, a)": "a, which may have no value here",
    "if t: a = 1\nelif t > 2: a = 2\nstore_int(t, 0, a)": "a, which may have no value here",
    "for i in range(t): a = i\nstore_int(t, 0, a)": "a, which may have no value here",
    "for i in range(t): t = 1\nstore_int(t, 0, i)": "i, which may have no value here",
    "while t: a, t = 1, 0\nstore_int(t, 0, a)": "a, which may have no value here",
    "min = 3\nstore_int(t, 0, min(t, 1))": "min",
    "range = 3\nfor i in range(2): t = 1": "range",
    "math = 3\nstore_double(t, 0, math.sqrt(4))": "math",
    "two = 3\nstore_int(t, 0, two(t))": "two",
    # types
    "a = 1\na = 0.5": "double doesn't turn into i64",
    "a = 1\na /= 2": "double doesn't turn into i64",
    "a = t < 2\na = 2": "i64 doesn't turn into i1",
    "a = load_float(t, 0)\na = 0.5": "double doesn't turn into float",
    "store_int(t, 0, 0.5)": "double doesn't turn into i64",
    "store_int(t, 0.5, 0)": "double doesn't turn into i64",
    "store_int(t, 0, t if t else 0.5)": "double doesn't turn into i64",
    "store_int(t, 0, 9223372036854775808)": "9223372036854775808 takes more than 64 bits",
    "store_int(t, 0, None)": "None",
    "store_double(t, 0, 1j)": "1j",
    "if 0.5: t = 1": "double is neither true nor false",
    "store_int(t, 0, not 0.5)": "double is neither true nor false",
    "if load_float(t, 0) or t: t = 1": "float is neither true nor false",
    # Python's value would be an operand
    "store_int(t, 0, t or 5)": "t or 5",
    "store_int(t, 0, (t and 5) < 3)": "t and 5",
    "a = t < 3 or t": "t < 3 or t",
    # several values at once
    "a, b = t": "a, b = t",
    "a, b = two(t), 2, 3": "a, b = ",
    "a, b, c = two(t)": "a, b, c = two(t)",
    "a, *b = two(t)": "*b",
    "a, (b, c) = 1, two(t)": "(b, c)",
    "[a, b] = two(t)": "[a, b]",
    "a = two(t) + 1": "doesn't turn into double",
    "a = two(t) == two(t)": "is no number",
    "a = -two(t)": "is no number",
    "if two(t): t = 1": "neither true nor false",
    # calls
    "store_int(t, 0)": "2 arguments what takes 3",
    "two(t, t)": "2 arguments what takes 1",
    "store_int(t, index=0, value=1)": "index=0",
    "store_int(*t)": "*t",
    "store_int(t, 0, min(t))": "min(t)",
    "store_int(t, 0, max())": "max()",
    "store_int(t, 0, unknown(t))": "unknown(t)",
    "store_int(t, 0, two)": "is no number",
    "a = store_int(t, 0, 1)": "the value of store_int(t, 0, 1), which has none",
    "store_int(t, 0, 1 + silent(t))": "the value of silent(t), which has none",
    "silent(t) if t else silent(t)": "silent(t) if t",
    "a = silent(t) if t else silent(t)": "the value of silent(t), which has none",
    # results
    "return 1": "i64 doesn't turn into void",
    "return t, t": "return (t, t)",
    "return None": "None",
}

AROUND = """
@helper
def two(value: int) -> tuple[int, float]:
    return value, value / 2

@helper
def silent(value: int) -> None:
    store_int(value, 0, 1)

def unknown(value: int) -> int:
    return value

"""


def refusal(source, name="refused"):
    """Return what the error for a function says, and the line that it names."""
    function, file = written(source, name, GLOBAL=7, functools=functools)
    with pytest.raises(SyntaxError) as caught:
        translated(function, "refused")
    assert caught.value.filename == file
    return caught.value.msg, source.splitlines()[caught.value.lineno - 1].strip()


@pytest.mark.parametrize("statement", STATEMENTS)
def test_statements(statement):
    body = indent(statement, "    ")
    said, line = refusal(f"{AROUND}def refused(t: int) -> None:\n    t = t + 1\n{body}\n")
    assert said.startswith("a kernel can't: ")
    assert STATEMENTS[statement] in said
    assert line in statement.split("\n")


HELPERS = {
    "def lacking(a) -> int:\n    return a": "the annotation nothing",
    "def lacking(a: int):\n    return a": "the annotation nothing",
    "def lacking(a: None) -> int:\n    return 1": "the annotation None",
    "def lacking(a: 'int') -> int:\n    return a": "the annotation 'int'",
    "def lacking(a: list[int, int]) -> int:\n    return 1": "the annotation list[int, int]",
    "def lacking(a: int) -> tuple[int, None]:\n    return a, a": "the annotation None",
    "def lacking(a: int) -> tuple[int, ...]:\n    return a, a": "the annotation ...",
    "def lacking(a: int) -> int:\n    return": "return",
    "def lacking(a: int) -> int:\n    return a, a": "return (a, a)",
    "def lacking(a: int) -> int:\n    return a / 2": "double doesn't turn into i64",
    "def lacking(a: int) -> tuple[int, int]:\n    return a": "i64 doesn't turn into {i64, i64}",
    "def lacking(a: int) -> tuple[int, int]:\n    return a, a, a": "return (a, a, a)",
    "def lacking(a: int) -> int:\n    if a:\n        return 1": "end lacking without the value",
    "def lacking(a: int) -> int:\n    while a:\n        return 1": "end lacking without the value",
    "def lacking(a: int, /) -> int:\n    return a": "the parameters a: int, /",
    "def lacking(a: int, *b: int) -> int:\n    return a": "the parameters a: int, *b",
    "def lacking(a: int, **b: int) -> int:\n    return a": "the parameters a: int, **b",
    "def lacking(a: int, *, GLOBAL: int=1) -> int:\n    return GLOBAL": "the parameters a: int, *",
    "def lacking(a: int, b: int=1) -> int:\n    return a": "the parameters a: int, b: int=1",
    "async def lacking(a: int) -> int:\n    return a": "lacking, which is no plain function",
    "def lacking(a: int) -> int:\n    yield a": "yield",
    "def other(a: int) -> int:\n    return a\n"
    "@functools.wraps(other)\ndef lacking(a: int) -> int:\n    return a + 1": "no plain function",
    "lacking = lambda a: a": "<lambda>, which is no plain function",
    "@functools.cache\ndef lacking(a: int) -> int:\n    return a": "no plain function",
}


@pytest.mark.parametrize("source", HELPERS)
def test_helpers(source):
    caller = "def refused(t: int) -> None:\n    lacking(t)\n"
    said, _ = refusal(f"{source}\nhelper(lacking)\n\n{caller}")
    assert HELPERS[source] in said


def test_an_enclosing_functions_names_are_not_the_files():
    source = """
def make(GLOBAL: int):
    def inner(t: int) -> None:
        store_int(t, 0, GLOBAL)
    return inner

made = make(3)
"""
    assert "the enclosing function's GLOBAL" in refusal(source, "made")[0]


@pytest.mark.parametrize("head", ["(t: float) -> None", "(t: int) -> int", "(t: bool) -> None"])
def test_kernels_take_integers_and_return_nothing(head):
    function, _ = written(f"def kernel{head}:\n    return{' 1' * head.endswith('int')}\n", "kernel")
    with pytest.raises(TypeError, match="a kernel takes only int and returns None"):
        translated(function, "kernel")
