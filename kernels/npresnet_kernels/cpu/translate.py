"""From Python functions of numbers to LLVM IR: the language that kernels are written in.

Numba knows far more of Python, and takes 0.15 s a function to find out that all of it is 64-bit
integers. Kernels need little, and annotate their functions; so this walks their syntax trees once
and writes IR. It knows assignments (of several names, too), ``for ... in range``, ``while``,
``if``, conditional expressions, ``and``, ``or``, ``not``, comparisons, the rest of
:mod:`.arithmetic`, numbers and functions that the file has under a global name, helpers and
intrinsics. All else raises `SyntaxError`, which names the place; so does reading a variable that
may have no value yet, which Python would notice at run time and LLVM never.

Types are fixed: a variable keeps that of its first value, arguments and results have their
annotations', and a number that is stored there is converted. A range of step 0 is empty.
"""

from __future__ import annotations

import ast
import builtins
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any, NoReturn, TypeVar

from llvmlite import ir

from npresnet_kernels.cpu.arithmetic import BOOL, DOUBLE, INT, VOID, Arithmetic
from npresnet_kernels.cpu.syntax import syntax_tree

__all__ = ["Intrinsic", "helper", "translated"]

F = TypeVar("F", bound=Callable[..., Any])
Thunk = Callable[[], ir.Value]
Made = dict[Callable[..., Any], ir.Function]

KINDS = {"bool": BOOL, "int": INT, "float": DOUBLE}
"""What annotations say; a tuple of them is a structure."""


@dataclass(frozen=True, eq=False)
class Intrinsic:
    """LLVM IR that kernels call like a function.

    Attributes
    ----------
    name : str
    arguments : sequence of llvmlite types
        What is converted to before.
    generate : callable
        ``generate(builder, *values)`` emits the code and returns its value, if it has one.
    """

    name: str
    arguments: Sequence[ir.Type]
    generate: Callable[..., ir.Value | None]


_helpers: set[Callable[..., Any]] = set()


def helper(function: F) -> F:
    """Let kernels call a function; called from Python it stays what it is. A decorator."""
    _helpers.add(function)
    return function


def translated(function: Callable[..., None], symbol: str) -> ir.Module:
    """Return a module with a C function ``symbol`` that does what a Python function does.

    Parameters
    ----------
    function : callable
        All arguments are int, nothing is returned.
    symbol : str
        A name in C.

    Raises
    ------
    SyntaxError
        If the function, or one that it calls, uses more of Python than is known here.
    TypeError
        If it takes or returns anything else.
    OSError
        If its source can't be read.
    """
    module = ir.Module(symbol)
    made = _Function(module, {}, function, symbol).function
    if made.ftype != ir.FunctionType(VOID, [INT] * len(made.args)):
        raise TypeError(f"{function.__qualname__}: a kernel takes only int and returns None")
    made.linkage = "external"
    return module


def _kind(annotation: ast.expr | None) -> ir.Type:
    """Return the type that an annotation means."""
    name = ast.unparse(annotation) if annotation else "nothing"
    parts = annotation.slice if isinstance(annotation, ast.Subscript) else None
    if name.startswith("tuple[") and isinstance(parts, ast.Tuple):
        return ir.LiteralStructType([_kind(part) for part in parts.elts])
    if name not in KINDS:
        raise TypeError(f"the annotation {name}, only {', '.join(KINDS)} and tuples of them")
    return KINDS[name]


class _Function:
    """One function on its way to IR.

    A variable is a slot on the stack, of its first value's type; LLVM makes registers of them.

    Parameters
    ----------
    module : llvmlite.ir.Module
        Where the code goes.
    made : dict of callable to llvmlite.ir.Function
        The module's functions by what they were made from; this one is added.
    function : callable
        What is translated.
    symbol : str
        Its name there.
    """

    def __init__(self, module: ir.Module, made: Made, function: Any, symbol: str) -> None:
        plain = inspect.unwrap(function)
        code = plain.__code__
        self.module, self.made = module, made
        self.globals, self.locals = plain.__globals__, code.co_varnames
        self.slots: dict[str, tuple[ir.Value, ir.Type]] = {}
        self.bound: set[str] = set()  # names that have a value, whatever way led here
        self.line = code.co_firstlineno
        try:
            tree = syntax_tree(function)
            nothing = isinstance(tree.returns, ast.Constant) and tree.returns.value is None
            self.result = VOID if nothing else _kind(tree.returns)
            kinds = [_kind(parameter.annotation) for parameter in tree.args.args]
            kind = ir.FunctionType(self.result, kinds)
            self.function = ir.Function(module, kind, module.get_unique_name(symbol))
            made[function] = self.function
            self.function.linkage = "internal"
            self.function.attributes.add("nounwind")
            self.builder = ir.IRBuilder(self.function.append_basic_block("entry"))
            self.arithmetic = Arithmetic(self.builder)
            for parameter, value in zip(tree.args.args, self.function.args, strict=True):
                self.assign(parameter, value)
            self.block(tree.body)
            if not self.builder.block.is_terminated:
                if self.result != VOID:
                    raise TypeError(f"end {tree.name} without the value that it promises")
                self.builder.ret_void()
        except (TypeError, ValueError) as error:
            place = (code.co_filename, self.line, None, None)
            raise SyntaxError(f"a kernel can't: {error}", place) from error

    # statements

    def block(self, statements: Iterable[ast.stmt]) -> None:
        """Emit statements; those behind a return are never reached."""
        for statement in statements:
            if self.builder.block.is_terminated:
                return
            self.line = statement.lineno
            getattr(self, f"_{type(statement).__name__.lower()}", self.unknown)(statement)

    def unknown(self, node: ast.AST) -> NoReturn:
        """Raise the error for what isn't known."""
        raise TypeError(ast.unparse(node))

    def slot(self, kind: ir.Type) -> ir.Value:
        """Return a new place on the stack."""
        with self.builder.goto_entry_block():
            return self.builder.alloca(kind)

    def assign(self, target: ast.AST, value: ir.Value) -> None:
        """Store a value under a name, or a parameter's."""
        if isinstance(target, ast.arg):
            name = target.arg
        elif isinstance(target, ast.Name):
            name = target.id
        else:
            self.unknown(target)
        if name not in self.slots:
            self.slots[name] = self.slot(value.type), value.type
        slot, kind = self.slots[name]
        self.builder.store(self.arithmetic.converted(value, kind), slot)
        self.bound.add(name)

    def _assign(self, node: ast.Assign) -> None:
        target, *more = node.targets
        if more:
            self.unknown(node)
        if not isinstance(target, ast.Tuple):
            self.assign(target, self.value(node.value))
            return
        if isinstance(node.value, ast.Tuple):
            values = [self.value(each) for each in node.value.elts]
        else:
            whole = self.value(node.value)
            if not isinstance(whole.type, ir.LiteralStructType):
                self.unknown(node)
            parts = range(len(whole.type.elements))
            values = [self.builder.extract_value(whole, part) for part in parts]
        if len(values) != len(target.elts):
            self.unknown(node)
        for each, value in zip(target.elts, values, strict=True):
            self.assign(each, value)

    def _augassign(self, node: ast.AugAssign) -> None:
        before, value = self.value(node.target), self.value(node.value)
        self.assign(node.target, self.arithmetic.calculate(node.op, before, value))

    def _expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            self._call(node.value)
        elif not isinstance(node.value, ast.Constant):  # a docstring
            self.unknown(node)

    def _return(self, node: ast.Return) -> None:
        if node.value is None and self.result == VOID:
            self.builder.ret_void()
        elif node.value is None:
            self.unknown(node)
        elif isinstance(node.value, ast.Tuple):
            if not isinstance(self.result, ir.LiteralStructType):
                self.unknown(node)
            if len(self.result.elements) != len(node.value.elts):
                self.unknown(node)
            whole = ir.Constant(self.result, ir.Undefined)
            parts = zip(node.value.elts, self.result.elements, strict=True)
            for place, (each, kind) in enumerate(parts):
                value = self.arithmetic.converted(self.value(each), kind)
                whole = self.builder.insert_value(whole, value, place)
            self.builder.ret(whole)
        else:
            self.builder.ret(self.arithmetic.converted(self.value(node.value), self.result))

    def new_block(self) -> ir.Block:
        """Return a block to branch to."""
        return self.function.append_basic_block("block")

    def go(self, block: ir.Block) -> None:
        """Branch to a block, unless there was a return."""
        if not self.builder.block.is_terminated:
            self.builder.branch(block)

    def _if(self, node: ast.If) -> None:
        then, other, after = self.new_block(), self.new_block(), self.new_block()
        self.builder.cbranch(self.truth(node.test), then, other)
        before, ends = self.bound, []
        for block, statements in ((then, node.body), (other, node.orelse)):
            self.builder.position_at_end(block)
            self.bound = set(before)
            self.block(statements)
            if not self.builder.block.is_terminated:
                ends.append(self.bound)
                self.builder.branch(after)
        self.builder.position_at_end(after)
        if ends:
            self.bound = set.intersection(*ends)
        else:
            self.builder.unreachable()

    def loop(self, test: Thunk, enter: Callable[[], None], body: Sequence[ast.stmt]) -> None:
        """Emit turns of `enter` and `body` for as long as the test holds."""
        head, turn, after = self.new_block(), self.new_block(), self.new_block()
        self.builder.branch(head)
        self.builder.position_at_end(head)
        self.builder.cbranch(test(), turn, after)
        self.builder.position_at_end(turn)
        before, self.bound = self.bound, set(self.bound)
        enter()
        self.block(body)
        self.go(head)
        self.builder.position_at_end(after)
        self.bound = before  # there may have been no turn

    def _while(self, node: ast.While) -> None:
        if node.orelse:
            self.unknown(node)
        self.loop(lambda: self.truth(node.test), lambda: None, node.body)

    def _for(self, node: ast.For) -> None:
        turns, builder = node.iter, self.builder
        if not isinstance(turns, ast.Call) or self.known(turns.func) is not range:
            self.unknown(turns)
        if node.orelse or turns.keywords or not 1 <= len(turns.args) <= 3:
            self.unknown(node)
        limits = [self.arithmetic.converted(self.value(limit), INT) for limit in turns.args]
        limits = [INT(0), *limits] if len(limits) == 1 else limits
        start, stop, step = limits if len(limits) == 3 else (*limits, INT(1))
        counter = self.slot(INT)
        builder.store(start, counter)

        def more() -> ir.Value:
            now = builder.load(counter, typ=INT)
            up, down = (
                builder.and_(
                    builder.icmp_signed(a, INT(0), step), builder.icmp_signed(a, now, stop)
                )
                for a in ("<", ">")
            )
            return builder.or_(up, down)

        def enter() -> None:
            now = builder.load(counter, typ=INT)
            self.assign(node.target, now)
            builder.store(builder.add(now, step, flags=("nsw",)), counter)

        self.loop(more, enter, node.body)

    # expressions

    def value(self, node: ast.expr) -> ir.Value:
        """Emit an expression; return its value."""
        if isinstance(node, ast.Name) and node.id in self.locals:
            if node.id not in self.bound:
                raise TypeError(f"{node.id}, which may have no value here")
            slot, kind = self.slots[node.id]
            return self.builder.load(slot, typ=kind)
        if isinstance(node, ast.Constant):
            return self.arithmetic.constant(node.value)
        if isinstance(node, ast.Name | ast.Attribute):
            return self.arithmetic.constant(self.known(node))
        found = getattr(self, f"_{type(node).__name__.lower()}", self.unknown)(node)
        if found is None or found.type == VOID:
            raise TypeError(f"the value of {ast.unparse(node)}, which has none")
        return found

    def known(self, node: ast.expr) -> Any:
        """Return what a name, or a module's attribute, means outside of the function."""
        if isinstance(node, ast.Attribute):
            owner = self.known(node.value)
            if isinstance(owner, ModuleType) and hasattr(owner, node.attr):
                return getattr(owner, node.attr)
        elif isinstance(node, ast.Name) and node.id not in self.locals:
            for names in (self.globals, vars(builtins)):
                if node.id in names:
                    return names[node.id]
        return self.unknown(node)

    def truth(self, node: ast.expr) -> ir.Value:
        """Emit a condition."""
        if isinstance(node, ast.BoolOp):
            tests = [partial(self.truth, each) for each in node.values]
            return self.until(isinstance(node.op, ast.Or), tests)
        return self.arithmetic.truth(self.value(node))

    def until(self, decided: bool, tests: Sequence[Thunk]) -> ir.Value:
        """Emit tests one after the other, until one is as `decided`; return the last."""
        *early, last = tests
        ends, after = [], self.new_block()
        for test in early:
            value, following = test(), self.new_block()
            ends.append((BOOL(decided), self.builder.block))
            self.builder.cbranch(value, *((after, following) if decided else (following, after)))
            self.builder.position_at_end(following)
        ends.append((last(), self.builder.block))
        return self.joined(ends, after)

    def joined(self, ends: Sequence[tuple[ir.Value, ir.Block]], after: ir.Block) -> ir.Value:
        """Return, in the block `after`, the value of whichever block leads there."""
        for _, block in ends:
            self.builder.position_at_end(block)
            self.go(after)
        self.builder.position_at_end(after)
        phi = self.builder.phi(ends[0][0].type)
        for value, block in ends:
            phi.add_incoming(value, block)
        return phi

    def _binop(self, node: ast.BinOp) -> ir.Value:
        left, right = self.value(node.left), self.value(node.right)
        return self.arithmetic.calculate(node.op, left, right)

    def _unaryop(self, node: ast.UnaryOp) -> ir.Value:
        if isinstance(node.op, ast.Not):
            return self.builder.not_(self.truth(node.operand))
        if not isinstance(node.op, ast.USub):
            self.unknown(node)
        return self.arithmetic.negative(self.value(node.operand))

    def _ifexp(self, node: ast.IfExp) -> ir.Value:
        then, other = self.new_block(), self.new_block()
        self.builder.cbranch(self.truth(node.test), then, other)
        values, blocks = [], []
        for block, each in ((then, node.body), (other, node.orelse)):
            self.builder.position_at_end(block)
            values.append(self.value(each))
            blocks.append(self.builder.block)
        kind = self.arithmetic.common(values)
        ends = []
        for value, block in zip(values, blocks, strict=True):
            self.builder.position_at_end(block)
            ends.append((self.arithmetic.converted(value, kind), block))
        return self.joined(ends, self.new_block())

    def _boolop(self, node: ast.BoolOp) -> ir.Value:
        plain = (ast.Compare, ast.BoolOp)
        if not all(isinstance(each, plain) for each in node.values):
            self.unknown(node)  # Python's value would be an operand, not its truth
        return self.truth(node)

    def _compare(self, node: ast.Compare) -> ir.Value:
        seen = [self.value(node.left)]

        def test(sign: ast.cmpop, right: ast.expr) -> ir.Value:
            seen.append(self.value(right))
            return self.arithmetic.compare(sign, *seen[-2:])

        pairs = zip(node.ops, node.comparators, strict=True)
        return self.until(False, [partial(test, *each) for each in pairs])

    def _call(self, node: ast.Call) -> Any:
        called = self.known(node.func)
        if node.keywords:
            self.unknown(node)
        values = [self.value(each) for each in node.args]
        if isinstance(called, Intrinsic):
            return called.generate(self.builder, *self.arguments(values, called.arguments))
        if called in _helpers:
            made = self.made.get(called)
            if made is None:
                symbol = f"{called.__module__}.{called.__qualname__}"
                made = _Function(self.module, self.made, called, symbol).function
            return self.builder.call(made, self.arguments(values, made.ftype.args))
        value = self.arithmetic.call(called, values)
        return self.unknown(node) if value is None else value

    def arguments(self, values: Sequence[ir.Value], kinds: Sequence[ir.Type]) -> list[ir.Value]:
        """Return values as the types that are called for."""
        if len(values) != len(kinds):
            raise TypeError(f"call with {len(values)} arguments what takes {len(kinds)}")
        return [self.arithmetic.converted(*each) for each in zip(values, kinds, strict=True)]
