"""The kernels' language means what Python means by it, and what it lacks is refused by name."""

import ctypes
import math
from math import exp, inf, log, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npresnet_kernels.cpu import translate
from npresnet_kernels.cpu.fast.vector import (
    load_double,
    load_float,
    load_int,
    store_double,
    store_int,
)
from npresnet_kernels.cpu.machine_code import compiled, loaded
from npresnet_kernels.cpu.translate import helper, translated

SEVEN, HALF = 7, 0.5


def run(function, integers=(), floats=()):
    """Return the integers and floats that a kernel leaves in place of those given."""
    symbol = f"test_{function.__name__}"
    if symbol not in run.known:
        run.known[symbol] = loaded(compiled(function, symbol), symbol)
    whole = np.zeros(16, dtype=np.int64)
    broken = np.zeros(16)
    single = np.zeros(16, dtype=np.float32)
    whole[: len(integers)] = integers
    broken[: len(floats)] = single[: len(floats)] = floats
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)(run.known[symbol])
    call(whole.ctypes.data, broken.ctypes.data, single.ctypes.data)
    return whole.tolist(), broken.tolist()


run.known = {}


def integers(whole: int, broken: int, single: int) -> None:
    a, b = load_int(whole, 0), load_int(whole, 1)
    store_int(whole, 2, a // b)
    store_int(whole, 3, a % b)
    store_int(whole, 4, -a * 3 + (b - SEVEN))
    store_int(whole, 5, (a | 1) - b)
    store_int(whole, 6, min(a, b, SEVEN))
    store_int(whole, 7, max(a, b))
    store_int(whole, 8, (a < b) + (a <= b) + 2 * (a == b) + 4 * (a != b))
    store_int(whole, 9, 1 if a > b or (b >= 2 * a and not a) else -1)
    store_int(whole, 10, -5 <= a < 5 != b)
    store_double(broken, 0, a / b)
    store_double(broken, 1, a * HALF)
    store_double(broken, 2, a if a < b else 0.5)


small = st.integers(-(2**30), 2**30) | st.integers(-9, 9)


@settings(max_examples=200, deadline=None)
@given(small, small.filter(bool))
def test_integers(a, b):
    found, floats = run(integers, (a, b))
    expected = [
        a // b,
        a % b,
        -a * 3 + (b - 7),
        (a | 1) - b,
        min(a, b, 7),
        max(a, b),
        (a < b) + (a <= b) + 2 * (a == b) + 4 * (a != b),
        1 if a > b or (b >= 2 * a and not a) else -1,
        -5 <= a < 5 != b,
    ]
    assert found[2:11] == expected
    assert floats[:3] == [a / b, a * 0.5, a if a < b else 0.5]


def test_what_64_bits_do_not_hold_wraps_around():
    least, most = -(2**63), 2**63 - 1
    found, _ = run(integers, (least, -1))
    assert found[2:5] == [least, 0, 2**63 - 8]
    found, _ = run(integers, (most, 2))
    assert found[2:5] == [most // 2, 1, 2**63 - 2]


def floats(whole: int, broken: int, single: int) -> None:
    a, b = load_double(broken, 0), load_double(broken, 1)
    x, y = load_float(single, 0), load_float(single, 1)
    store_double(broken, 2, a * b + 1)
    store_double(broken, 3, x * y)  # rounded to float32
    store_double(broken, 4, x * a)
    store_double(broken, 5, x / 3)
    store_double(broken, 6, max(-inf, x) - min(b, a))
    store_double(broken, 7, np.float32(a) * np.float32(2))
    store_double(broken, 8, sqrt(a * a) + exp(-b * b) + math.log(1 + a * a))
    total = 0.0
    total += x
    total -= 2
    store_double(broken, 9, -total)
    store_int(whole, 0, a < b)
    store_int(whole, 1, a != a)
    store_int(whole, 2, a == a and a >= a)


def test_divided_by_zero_as_in_numpy():
    whole, broken = run(integers, (5, 0))
    assert whole[2:4] == [0, 0]
    assert broken[0] == inf


number = st.floats(-100, 100, width=32)


@settings(max_examples=100, deadline=None)
@given(number, number)
def test_floats(a, b):
    x, y = np.float32(a), np.float32(b)
    whole, found = run(floats, (), (a, b))
    expected = [a * b + 1, x * y, float(x) * a, float(x) / 3, float(x) - min(b, a), x * 2]
    assert found[2:8] == [float(value) for value in expected]
    assert found[8] == pytest.approx(math.sqrt(a * a) + math.exp(-b * b) + log(1 + a * a), 1e-12)
    assert found[9] == 2 - a
    assert whole[:3] == [a < b, False, True]


def test_nan_compares_as_in_python():
    whole, found = run(floats, (), (math.nan, 1.0))
    assert whole[:3] == [0, 1, 0]
    assert found[6] == -inf, "as max(-inf, nan) - min(1, nan)"


@helper
def first_over(limit: int, start: int) -> int:
    """Return the first square over a limit: out of a loop in a loop."""
    for number in range(start, 100):
        while number >= start:
            if number * number > limit:
                return number * number
            number -= limit + 100
    return -1


@helper
def halves(value: int) -> tuple[int, float]:
    """Return two of different kinds."""
    return value // 2, value / 2


@helper
def common(a: int, b: int) -> int:
    """Return the greatest common divisor: a function that calls itself."""
    return common(b, a % b) if b > 0 else a


@helper
def record(table: int, value: int) -> int:
    """Count a call, return what was given."""
    store_int(table, 9, load_int(table, 9) + 1)
    return value


def flow(whole: int, broken: int, single: int) -> None:
    """Loops, calls, several values at once."""
    limit = load_int(whole, 0)
    store_int(whole, 1, first_over(limit, 1))
    count, product = 0, 1
    for i in range(limit):
        count += i
        i = 1000  # as in Python, the next turn doesn't care
    for i in range(2, limit, 3):
        product = product * i % 1009
    store_int(whole, 2, count)
    store_int(whole, 3, product)
    for i in range(limit, 0, -2):
        store_int(whole, 4, i)
    for i in range(0, limit, 0 * limit):
        store_int(whole, 10, i + 1)
    store_int(whole, 11, common(12, limit))
    whole_half, exact = halves(limit)
    store_int(whole, 5, whole_half)
    store_double(broken, 0, exact)
    count, product = product, count
    store_int(whole, 6, count - product)
    if limit > 3 and record(whole, limit) > 5:
        store_int(whole, 7, 1)
    elif record(whole, 0) or limit == 2:
        store_int(whole, 7, 2)
        return
    store_int(whole, 8, translate.INT_FOR_TEST)


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 4, 5, 6, 17])
def test_flow(limit, monkeypatch):
    monkeypatch.setattr(translate, "INT_FOR_TEST", 11, raising=False)
    whole, broken = run(flow, (limit,))
    assert whole[1] == next(n * n for n in range(1, 100) if n * n > limit)
    assert whole[2] == sum(range(limit))
    assert whole[3] == math.prod(range(2, limit, 3)) % 1009
    assert whole[4] == (list(range(limit, 0, -2)) or [0])[-1]
    assert (whole[5], broken[0]) == (limit // 2, limit / 2)
    assert whole[6] == whole[3] - whole[2]
    assert whole[7] == (1 if limit > 5 else 2 if limit == 2 else 0)
    assert whole[8] == (0 if limit == 2 else 11)
    assert whole[11] == math.gcd(12, limit)
    assert whole[10] == 0, "a range of step 0 is empty"
    assert whole[9] == (limit > 3) + (limit <= 5), "only what decides is evaluated"


def test_without_its_source_a_kernel_says_what_is_missing():
    space: dict[str, object] = {}
    exec("def lost(table: int) -> None:\n    pass", space)
    with pytest.raises(OSError, match=r"compiled from their source; keep npresnet_kernels' \.py"):
        translated(space["lost"], "lost")
