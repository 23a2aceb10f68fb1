"""What the machine can do: multiply-adds in registers, a large matrix product, a large copy.

They run in the same rounds as the peers, so that a share of the peak compares with the clock the
peers had.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from worker import Work


def _threads() -> int:
    return int(os.environ.get("NPRESNET_BENCH_THREADS", "1"))


def _vector_unit() -> tuple[int, int]:
    """Return the floats in a vector register and the number of registers."""
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    if features.get("avx512f"):
        return 16, 32
    if features.get("avx2"):
        return 8, 16
    return 4, 32 if "aarch64" in binding.get_default_triple() else 16


def _fma_loop(lanes: int, chains: int) -> Any:
    """Compile a function of n that does n turns of `chains` independent vector a = a * b + c.

    A dozen chains and more hide the latency of the two FMA units; all of it stays in registers.
    """
    from llvmlite import ir
    from numba import njit, types
    from numba.core import cgutils
    from numba.extending import intrinsic

    vector = ir.VectorType(ir.FloatType(), lanes)

    def splat(value: float) -> ir.Constant:
        return ir.Constant(vector, [value] * lanes)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        kind = ir.FunctionType(vector, [vector] * 3)
        name = f"llvm.fma.v{lanes}f32"
        fma = cgutils.get_or_insert_function(builder.module, kind, name)
        before = builder.block
        body = builder.append_basic_block("body")
        after = builder.append_basic_block("after")
        builder.branch(body)
        builder.position_at_end(body)
        index = builder.phi(ir.IntType(64))
        index.add_incoming(ir.Constant(index.type, 0), before)
        sums = [builder.phi(vector) for _ in range(chains)]
        for i, phi in enumerate(sums):
            phi.add_incoming(splat(float(i)), before)  # all different, or they become one
        moved = [builder.call(fma, [phi, splat(0.5), splat(0.25)]) for phi in sums]
        for phi, value in zip(sums, moved, strict=True):
            phi.add_incoming(value, body)
        following = builder.add(index, ir.Constant(index.type, 1))
        index.add_incoming(following, body)
        builder.cbranch(builder.icmp_signed("<", following, values[0]), body, after)
        builder.position_at_end(after)
        total = moved[0]
        for value in moved[1:]:
            total = builder.fadd(total, value)
        return builder.extract_element(total, ir.Constant(ir.IntType(32), 0))

    @intrinsic
    def turns(typing_context: Any, count: Any) -> Any:
        return types.float32(types.int64), generate

    @njit(nogil=True)
    def loop(count):
        return turns(count)

    return loop


def fma_peak(turns: int = 5_000_000, **_: Any) -> Work:
    """Multiply-adds on registers, every thread: nothing on this machine computes faster."""
    lanes, registers = _vector_unit()
    chains = 24 if registers == 32 else 12
    loop = _fma_loop(lanes, chains)
    loop(1)
    threads = _threads()
    pool = ThreadPoolExecutor(threads)

    def run() -> None:
        list(pool.map(loop, [turns] * threads))

    return Work(run, amounts={"flop": 2.0 * lanes * chains * turns * threads})


def sgemm(order: int = 2048, **_: Any) -> Work:
    """NumPy's product of two float32 matrices, which its BLAS runs on every thread."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((order, order), dtype=np.float32) for _ in range(2))
    out = np.empty_like(a)
    return Work(lambda: np.matmul(a, b, out=out), amounts={"flop": 2.0 * order**3})


def copy(megabytes: int = 256, **_: Any) -> Work:
    """Copy an array, a part a thread; bytes read and bytes written both count."""
    threads = _threads()
    parts = [(np.ones(megabytes * 2**20 // 4 // threads, np.float32), None) for _ in range(threads)]
    parts = [(source, np.zeros_like(source)) for source, _ in parts]
    pool = ThreadPoolExecutor(threads)

    def run() -> None:
        list(pool.map(lambda part: np.copyto(part[1], part[0]), parts))

    return Work(run, amounts={"bytes": 2.0 * sum(source.nbytes for source, _ in parts)})
