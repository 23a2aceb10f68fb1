"""Explicit vectors inside kernels: the host's registers, an emitter of LLVM IR, addresses.

The kernels' language (`translate`) stops at scalars, and LLVM's vectoriser neither keeps a tile of
accumulators in registers nor uses 512-bit registers by itself. So inner loops are written as LLVM
IR here: an `Emitter` writes it, `ir_kernel` wraps it in a function that kernels call with plain
64-bit integers (addresses and sizes). A vector is `<lanes x float>`; LLVM splits or widens
it for whatever the host has, so every width is correct everywhere and one is fast.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from llvmlite import binding, ir

from ..translate import Intrinsic

I1 = ir.IntType(1)
I32 = ir.IntType(32)
I64 = ir.IntType(64)
BYTE = ir.IntType(8)
FLOAT = ir.FloatType()
DOUBLE = ir.DoubleType()
POINTER = ir.PointerType()


@dataclass(frozen=True)
class Target:
    """A vector unit.

    Attributes
    ----------
    name : str
        As `NPRESNET_VECTOR` spells it.
    lanes : int
        float32 values in a register.
    registers : int
        Vector registers that the instruction set names.
    """

    name: str
    lanes: int
    registers: int

    @property
    def tile_rows(self) -> int:
        """Rows of the largest two-vector-wide tile whose accumulators stay in registers.

        Two registers hold a step of the right operand, one the broadcast of the left; one is
        spare. 14 x 32 on AVX-512 (28 accumulators), 6 x 16 on AVX2; more rows spill.
        """
        return (self.registers - 4) // 2

    @property
    def tile_columns(self) -> int:
        """Columns of a tile: two registers."""
        return 2 * self.lanes


TARGETS = {
    "avx512": Target("avx512", 16, 32),
    "avx2": Target("avx2", 8, 16),
    "neon": Target("neon", 4, 32),
    "sse": Target("sse", 4, 16),
}


@cache
def vector_target() -> Target:
    """Return the vector unit to generate code for.

    The environment variable `NPRESNET_VECTOR` (a name in `TARGETS`) overrides what the host has.
    """
    asked = os.environ.get("NPRESNET_VECTOR")
    if asked:
        if asked not in TARGETS:
            raise ValueError(f"NPRESNET_VECTOR={asked!r}: expected one of {', '.join(TARGETS)}")
        return TARGETS[asked]
    features = binding.get_host_cpu_features()
    if features.get("avx512f") and features.get("avx512vl"):
        return TARGETS["avx512"]
    if features.get("avx2") and features.get("fma"):
        return TARGETS["avx2"]
    if features.get("neon") or "aarch64" in binding.get_default_triple():
        return TARGETS["neon"]
    return TARGETS["sse"]


LANES = vector_target().lanes
TILE_ROWS = vector_target().tile_rows
TILE_COLUMNS = vector_target().tile_columns
VECTOR_BYTES = 4 * LANES


def declare(module: ir.Module, kind: ir.FunctionType, name: str) -> ir.Function:
    """Return the function of a name in a module, declared if it isn't yet."""
    known = module.globals.get(name)
    return ir.Function(module, kind, name) if known is None else known


class Emitter:
    """Writes LLVM IR on vectors of `LANES` floats at an `IRBuilder`'s position."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder
        self.vector = ir.VectorType(FLOAT, LANES)

    def shift(self, pointer: ir.Value, offset: int | ir.Value) -> ir.Value:
        """Return the pointer moved by `offset` bytes."""
        if isinstance(offset, int):
            if offset == 0:
                return pointer
            offset = ir.Constant(I64, offset)
        return self.builder.gep(pointer, [offset], source_etype=BYTE)

    def load(self, pointer: ir.Value, offset: int | ir.Value = 0) -> ir.Value:
        """Load a vector, aligned as a float."""
        return self.builder.load(self.shift(pointer, offset), align=4, typ=self.vector)

    def store(self, value: ir.Value, pointer: ir.Value, offset: int | ir.Value = 0) -> None:
        """Store a vector, aligned as a float."""
        self.builder.store(value, self.shift(pointer, offset), align=4)

    def broadcast(self, pointer: ir.Value, offset: int | ir.Value = 0) -> ir.Value:
        """Load one float into every lane."""
        scalar = self.builder.load(self.shift(pointer, offset), align=4, typ=FLOAT)
        return self.spread(scalar)

    def spread(self, scalar: ir.Value) -> ir.Value:
        """Copy a scalar into every lane."""
        vector = ir.VectorType(scalar.type, LANES)
        undefined = ir.Constant(vector, ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
        lanes = ir.Constant(ir.VectorType(I32, LANES), [0] * LANES)
        return self.builder.shuffle_vector(first, undefined, lanes)

    def constant(self, value: float) -> ir.Value:
        """Return a vector of one value, rounded to float32."""
        return ir.Constant(self.vector, [float(value)] * LANES)

    def add(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """Return a + b."""
        return self.builder.fadd(a, b)

    def subtract(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """Return a - b."""
        return self.builder.fsub(a, b)

    def multiply(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """Return a * b."""
        return self.builder.fmul(a, b)

    def square_root(self, a: ir.Value) -> ir.Value:
        """Return the square root of a vector of floats."""
        kind = ir.FunctionType(a.type, [a.type])
        function = declare(self.builder.module, kind, f"llvm.sqrt.v{LANES}f32")
        return self.builder.call(function, [a])

    def fma(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """Return a * b + c, rounded once."""
        kind = ir.FunctionType(a.type, [a.type] * 3)
        letter = "f32" if a.type.element == FLOAT else "f64"
        name = f"llvm.fma.v{a.type.count}{letter}"
        function = declare(self.builder.module, kind, name)
        return self.builder.call(function, [a, b, c])

    def maximum(self, value: ir.Value, floor: ir.Value) -> ir.Value:
        """Return the larger; a NaN in `value` stays."""
        return self.builder.select(self.builder.fcmp_ordered(">", floor, value), floor, value)

    def lanes_below(self, count: ir.Value) -> ir.Value:
        """Return the mask of lanes whose number is less than `count` (an i64)."""
        numbers = ir.Constant(ir.VectorType(I64, LANES), list(range(LANES)))
        return self.builder.icmp_signed("<", numbers, self.spread(count))

    def _masked(self, action: str, kind: ir.VectorType, result: ir.Type, rest: list[Any]) -> Any:
        """Declare `llvm.masked.<action>` for vectors of `kind`."""
        element, alignment = {FLOAT: ("f32", 4), DOUBLE: ("f64", 8), BYTE: ("i8", 1)}[kind.element]
        function_type = ir.FunctionType(result, rest)
        name = f"llvm.masked.{action}.v{LANES}{element}.p0"
        function = declare(self.builder.module, function_type, name)
        return function, ir.Constant(I32, alignment)

    def masked_load(
        self, pointer: ir.Value, mask: ir.Value, kind: ir.VectorType | None = None
    ) -> ir.Value:
        """Load the lanes in `mask`; the others are 0 and their memory is not touched."""
        kind = kind or self.vector
        arguments = [POINTER, I32, mask.type, kind]
        function, alignment = self._masked("load", kind, kind, arguments)
        zero = ir.Constant(kind, [ir.Constant(kind.element, 0)] * LANES)
        return self.builder.call(function, [pointer, alignment, mask, zero])

    def masked_store(self, value: ir.Value, pointer: ir.Value, mask: ir.Value) -> None:
        """Store the lanes in `mask`, of floats, doubles or bytes."""
        arguments = [value.type, POINTER, I32, mask.type]
        function, alignment = self._masked("store", value.type, ir.VoidType(), arguments)
        self.builder.call(function, [value, pointer, alignment, mask])

    def gather(self, pointer: ir.Value, stride: ir.Value, mask: ir.Value) -> ir.Value:
        """Load lane i from `pointer` + i * `stride` bytes, for lanes in `mask`; others are 0."""
        addresses = self._lane_addresses(pointer, stride)
        kind = ir.FunctionType(self.vector, [addresses.type, I32, mask.type, self.vector])
        name = f"llvm.masked.gather.v{LANES}f32.v{LANES}p0"
        function = declare(self.builder.module, kind, name)
        zero = ir.Constant(self.vector, [0.0] * LANES)
        return self.builder.call(function, [addresses, ir.Constant(I32, 4), mask, zero])

    def scatter(self, value: ir.Value, pointer: ir.Value, stride: ir.Value, mask: ir.Value) -> None:
        """Store lane i to `pointer` + i * `stride` bytes, for lanes in `mask`."""
        addresses = self._lane_addresses(pointer, stride)
        kind = ir.FunctionType(ir.VoidType(), [self.vector, addresses.type, I32, mask.type])
        name = f"llvm.masked.scatter.v{LANES}f32.v{LANES}p0"
        function = declare(self.builder.module, kind, name)
        self.builder.call(function, [value, addresses, ir.Constant(I32, 4), mask])

    def _lane_addresses(self, pointer: ir.Value, stride: ir.Value) -> ir.Value:
        """Return the vector of addresses `pointer` + i * `stride`."""
        numbers = ir.Constant(ir.VectorType(I64, LANES), list(range(LANES)))
        offsets = self.builder.mul(numbers, self.spread(stride))
        addresses = self.builder.gep(pointer, [offsets], source_etype=BYTE)
        # llvmlite types a gep by its base; a vector of offsets makes a vector of pointers
        addresses.type = ir.VectorType(POINTER, LANES)
        return addresses

    def prefetch(self, pointer: ir.Value, offset: int | ir.Value = 0, locality: int = 3) -> None:
        """Ask for the cache line at `pointer` + `offset`; any address is allowed."""
        kind = ir.FunctionType(ir.VoidType(), [POINTER, I32, I32, I32])
        function = declare(self.builder.module, kind, "llvm.prefetch.p0")
        hints = [ir.Constant(I32, hint) for hint in (0, locality, 1)]
        self.builder.call(function, [self.shift(pointer, offset), *hints])

    def loop(self, count: ir.Value, carried: Sequence[ir.Value]) -> "Loop":
        """Begin a counted loop over values carried from turn to turn; see `Loop`."""
        return Loop(self.builder, count, carried)


class Loop:
    """A loop of `count` turns (none if `count` <= 0) in IR, its state in phi nodes.

    Between construction and `close` the builder is inside the body: `index` counts from 0,
    `values` are the carried values at the turn's start. `close` gives the next ones, moves the
    builder behind the loop and returns the final ones.
    """

    def __init__(self, builder: ir.IRBuilder, count: ir.Value, carried: Sequence[ir.Value]) -> None:
        self.builder = builder
        self.count = count
        before = builder.block
        self.body = builder.append_basic_block("loop.body")
        self.after = builder.append_basic_block("loop.after")
        builder.cbranch(builder.icmp_signed(">", count, I64(0)), self.body, self.after)
        builder.position_at_end(self.body)
        self.index = builder.phi(I64)
        self.index.add_incoming(I64(0), before)
        self.values = [builder.phi(value.type) for value in carried]
        for phi, value in zip(self.values, carried, strict=True):
            phi.add_incoming(value, before)
        self._before = before
        self._initial = list(carried)

    def close(self, following: Sequence[ir.Value]) -> list[ir.Value]:
        """End the body with the values for the next turn; return the loop's results."""
        builder = self.builder
        end = builder.block
        index = builder.add(self.index, I64(1))
        builder.cbranch(builder.icmp_signed("<", index, self.count), self.body, self.after)
        self.index.add_incoming(index, end)
        for phi, value in zip(self.values, following, strict=True):
            phi.add_incoming(value, end)
        builder.position_at_end(self.after)
        results = [builder.phi(value.type) for value in following]
        for phi, value, initial in zip(results, following, self._initial, strict=True):
            phi.add_incoming(initial, self._before)
            phi.add_incoming(value, end)
        return results


def ir_kernel(name: str, arguments: str, body: Callable[..., None], inline: bool = False) -> Any:
    """Make a function of integers, for use inside compiled code, from IR.

    Parameters
    ----------
    name : str
        The symbol; one definition a module, however many calls.
    arguments : str
        A letter an argument: `p` an address, `i` a size. The caller passes 64-bit integers.
    body : callable
        `body(emitter, *values)` emits the function's body, up to but without its return.
    inline : bool
        Emit the body at each call instead of a function; for bodies of a few instructions.
    """
    symbol = f"npresnet_{name}_v{LANES}"

    def define(module: ir.Module) -> ir.Function:
        kinds = [POINTER if letter == "p" else I64 for letter in arguments]
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), symbol)
        function.linkage = "internal"
        function.attributes.add("noinline")
        function.attributes.add("nounwind")
        builder = ir.IRBuilder(function.append_basic_block("entry"))
        body(Emitter(builder), *function.args)
        builder.ret_void()
        return function

    def generate(builder: ir.IRBuilder, *values: ir.Value) -> None:
        converted = [
            builder.inttoptr(value, POINTER) if letter == "p" else value
            for letter, value in zip(arguments, values, strict=True)
        ]
        if inline:
            body(Emitter(builder), *converted)
        else:
            function = builder.module.globals.get(symbol) or define(builder.module)
            builder.call(function, converted)

    return Intrinsic(name, [I64] * len(arguments), generate)


def scalar_load(name: str, kind: ir.Type) -> Any:
    """Make `load(address, index)`: element `index` of an array of `kind` at `address`."""

    def generate(builder: ir.IRBuilder, address: ir.Value, index: ir.Value) -> ir.Value:
        pointer = builder.inttoptr(address, POINTER)
        return builder.load(builder.gep(pointer, [index], source_etype=kind), typ=kind)

    return Intrinsic(name, [I64, I64], generate)


def scalar_store(name: str, kind: ir.Type) -> Any:
    """Make `store(address, index, value)`, the other direction of `scalar_load`."""

    def generate(
        builder: ir.IRBuilder, address: ir.Value, index: ir.Value, value: ir.Value
    ) -> None:
        pointer = builder.inttoptr(address, POINTER)
        builder.store(value, builder.gep(pointer, [index], source_etype=kind))

    return Intrinsic(name, [I64, I64, kind], generate)


load_int: Callable[[int, int], int] = scalar_load("load_int", I64)
load_float: Callable[..., Any] = scalar_load("load_float", FLOAT)
store_float: Callable[..., Any] = scalar_store("store_float", FLOAT)
load_double: Callable[..., Any] = scalar_load("load_double", DOUBLE)
store_int: Callable[[int, int, int], None] = scalar_store("store_int", I64)
store_double: Callable[..., Any] = scalar_store("store_double", DOUBLE)


def indirect_call(name: str, count: int) -> Any:
    """Make `call(address, ...)`: call the C function at an address with `count` 64-bit integers.

    Code called so is compiled once and shared; a helper is compiled again into each kernel.
    """
    kind = ir.FunctionType(ir.VoidType(), [I64] * count)

    def generate(builder: ir.IRBuilder, address: ir.Value, *values: ir.Value) -> None:
        # llvmlite's `call` takes the function's type from the pointer's, though LLVM's is opaque
        builder.call(builder.inttoptr(address, kind.as_pointer()), values)

    return Intrinsic(name, [I64] * (1 + count), generate)


def _fetch_add(order: str) -> Callable[..., Any]:
    """Return what generates an atomic addition of a memory order."""

    def generate(builder: ir.IRBuilder, address: ir.Value, amount: ir.Value) -> ir.Value:
        return builder.atomic_rmw("add", builder.inttoptr(address, POINTER), amount, order)

    return generate


fetch_add: Any = Intrinsic("fetch_add", [I64, I64], _fetch_add("monotonic"))
"""fetch_add(address, amount): add to an int64, atomically, and return what it was."""

hand_on: Any = Intrinsic("hand_on", [I64, I64], _fetch_add("acq_rel"))
"""`fetch_add` after which a thread sees all that those wrote who added before it."""
