"""Python's arithmetic in LLVM IR, on truth values, 64-bit integers, float32 and float64.

``//`` and ``%`` round down, ``/`` of integers makes a float64, as float32 does with an integer or a
Python float; an integer beside a float becomes float64 first, comparisons included. Nothing is
raised: as in NumPy an integer divided by 0 gives 0, what 64 bits don't hold wraps around, and
functions and ``/`` give infinities and NaN.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir

__all__ = ["BOOL", "DOUBLE", "FLOAT", "INT", "VOID", "Arithmetic"]

BOOL, INT, FLOAT, DOUBLE = ir.IntType(1), ir.IntType(64), ir.FloatType(), ir.DoubleType()
VOID = ir.VoidType()

MATH: dict[Any, str] = {math.sqrt: "sqrt", math.exp: "exp", math.log: "log"}
"""LLVM's names of functions from float64 to float64."""

INTEGERS: dict[type[ast.operator], str] = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.BitOr: "or_",
}
"""Methods of an `IRBuilder`, as in `FLOATS`."""

FLOATS: dict[type[ast.operator], str] = {ast.Add: "fadd", ast.Sub: "fsub", ast.Mult: "fmul"}

COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
}


class Arithmetic:
    """Emits operations at an `IRBuilder`'s position; `TypeError` where values don't suit one."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder

    def constant(self, number: object) -> ir.Value:
        """Return a Python number."""
        for python, kind in ((bool, BOOL), (int, INT), (float, DOUBLE)):
            if isinstance(number, python):
                if kind == INT and not -(2**63) <= number < 2**63:
                    raise TypeError(f"{number} takes more than 64 bits")
                return ir.Constant(kind, number)
        raise TypeError(f"{number!r} is no number")

    def converted(self, value: ir.Value, kind: ir.Type) -> ir.Value:
        """Return a value as another type, which must be one that holds all of its own's."""
        had = value.type
        if had == kind:
            return value
        if (had, kind) == (BOOL, INT):
            return self.builder.zext(value, INT)
        if had in (BOOL, INT) and kind == DOUBLE:
            return self.builder.sitofp(self.converted(value, INT), DOUBLE)
        if (had, kind) == (FLOAT, DOUBLE):
            return self.builder.fpext(value, DOUBLE)
        raise TypeError(f"{had} doesn't turn into {kind}")

    def common(self, values: Sequence[ir.Value]) -> ir.Type:
        """Return the type that holds all of some values' types."""
        kinds = [value.type for value in values]
        if all(kind == kinds[0] for kind in kinds):
            return kinds[0]
        return INT if all(kind in (BOOL, INT) for kind in kinds) else DOUBLE

    def alike(self, *values: ir.Value) -> list[ir.Value]:
        """Return values as the type that holds them all, no truth value among them."""
        kind = self.common(values)
        if kind not in (BOOL, INT, FLOAT, DOUBLE):
            raise TypeError(f"{kind} is no number")
        return [self.converted(value, INT if kind == BOOL else kind) for value in values]

    def truth(self, value: ir.Value) -> ir.Value:
        """Return whether a truth value holds, an integer isn't 0."""
        if value.type == BOOL:
            return value
        if value.type == INT:
            return self.builder.icmp_signed("!=", value, INT(0))
        raise TypeError(f"{value.type} is neither true nor false")

    def calculate(self, sign: ast.operator, a: ir.Value, b: ir.Value) -> ir.Value:
        """Return a + b, or with another sign."""
        a, b = self.alike(a, b)
        kind = type(sign)
        if kind is ast.Div:
            if a.type == INT:
                a, b = self.converted(a, DOUBLE), self.converted(b, DOUBLE)
            return self.builder.fdiv(a, b)
        if a.type == INT and kind in (ast.FloorDiv, ast.Mod):
            return self._rounded_down(kind is ast.Mod, a, b)
        emit = (INTEGERS if a.type == INT else FLOATS).get(kind)
        if emit is None:
            raise TypeError(f"there is no {kind.__name__} of {a.type}")
        return getattr(self.builder, emit)(a, b)

    def _rounded_down(self, rest_wanted: bool, a: ir.Value, b: ir.Value) -> ir.Value:
        """Return a % b or a // b; LLVM rounds to 0: that differs if signs do and there's a rest."""
        builder = self.builder
        nothing = builder.icmp_signed("==", b, INT(0))
        a, b = builder.select(nothing, INT(0), a), builder.select(nothing, INT(1), b)
        # the least integer by -1, which traps, as its negative by 1, which wraps around
        minus = builder.icmp_signed("==", b, INT(-1))
        a, b = builder.select(minus, builder.neg(a), a), builder.select(minus, INT(1), b)
        rest = builder.srem(a, b)
        differ = builder.icmp_signed("<", builder.xor(rest, b), INT(0))
        below = builder.and_(differ, builder.icmp_signed("!=", rest, INT(0)))
        if rest_wanted:
            return builder.add(rest, builder.select(below, b, INT(0)))
        return builder.sub(builder.sdiv(a, b), builder.zext(below, INT))

    def negative(self, value: ir.Value) -> ir.Value:
        """Return -value."""
        (value,) = self.alike(value)
        return self.builder.neg(value) if value.type == INT else self.builder.fneg(value)

    def compare(self, sign: ast.cmpop, a: ir.Value, b: ir.Value) -> ir.Value:
        """Return whether a < b, or another sign; NaN is only unequal."""
        a, b = self.alike(a, b)
        how = COMPARISONS.get(type(sign))
        if how is None:
            raise TypeError(f"there is no {type(sign).__name__} of {a.type}")
        if a.type == INT:
            return self.builder.icmp_signed(how, a, b)
        if how == "!=":
            return self.builder.fcmp_unordered(how, a, b)
        return self.builder.fcmp_ordered(how, a, b)

    def extreme(self, sign: ast.cmpop, values: Sequence[ir.Value]) -> ir.Value:
        """Return the least (`<`) or largest (`>`) of values, the first of equal ones."""
        best = values[0]
        for value in values[1:]:
            best, value = self.alike(best, value)
            best = self.builder.select(self.compare(sign, value, best), value, best)
        return best

    def float32(self, value: ir.Value) -> ir.Value:
        """Return a number, rounded to float32."""
        if value.type == DOUBLE:
            return self.builder.fptrunc(value, FLOAT)
        if value.type == FLOAT:
            return value
        return self.builder.sitofp(self.converted(value, INT), FLOAT)

    def call(self, function: Any, values: Sequence[ir.Value]) -> ir.Value | None:
        """Return what one of Python's functions of numbers gives; None if it isn't known here."""
        if function in (min, max) and len(values) > 1:
            return self.extreme(ast.Lt() if function is min else ast.Gt(), values)
        if function is np.float32:
            (value,) = values
            return self.float32(value)
        if function in MATH:
            kind = ir.FunctionType(DOUBLE, [DOUBLE])
            module, name = self.builder.module, f"llvm.{MATH[function]}.f64"
            made = module.globals.get(name) or ir.Function(module, kind, name)
            (value,) = values
            return self.builder.call(made, [self.converted(value, DOUBLE)])
        return None
