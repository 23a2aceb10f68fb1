"""From a function of 64-bit integers to an object file, and from that to an address.

Numba types the function and makes LLVM IR of it; around that goes a C function of the kernel's
name. Its object file needs nothing but the C library, so LLVM's linker alone loads it in later
processes, without Numba.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from inspect import signature
from typing import Any

from llvmlite import binding, ir

from npresnet_kernels.cpu.deferred import for_numba

__all__ = ["compiled", "library_of", "loaded"]


def library_of(function: Callable[..., None], symbol: str) -> Any:
    """Return Numba's library, optimised, with a C function ``symbol`` for a Python function.

    Parameters
    ----------
    function : callable
        Compilable by Numba; all arguments are int64, nothing is returned.
    symbol : str
        A name in C.
    """
    from numba import njit, types
    from numba.core.compiler_lock import global_compiler_lock

    kinds = (types.int64,) * len(signature(function).parameters)
    decorate: Any = njit
    compiler = decorate(
        types.void(*kinds),
        error_model="numpy",  # a kernel has nobody to raise to
        no_cpython_wrapper=True,
        no_cfunc_wrapper=True,
    )
    with global_compiler_lock:
        result = compiler(for_numba(function)).overloads[kinds]
        context = result.target_context
        library = context.codegen().create_library(symbol)
        module = library.create_ir_module(symbol)
        integer = ir.IntType(64)
        made = ir.Function(module, ir.FunctionType(ir.VoidType(), [integer] * len(kinds)), symbol)
        builder = ir.IRBuilder(made.append_basic_block("entry"))
        inner = context.declare_function(module, result.fndesc)
        context.call_conv.call_function(builder, inner, types.none, kinds, made.args)
        builder.ret_void()
        library.add_ir_module(module)
        library.add_linking_library(result.library)
        library.finalize()
    return library


def compiled(function: Callable[..., None], symbol: str) -> bytes:
    """Return the object file of :func:`library_of`; nothing else in it can be seen from outside."""
    library = library_of(function, symbol)
    module = library._final_module
    for inside in (*module.functions, *module.global_variables):
        if inside.name != symbol and not inside.is_declaration:
            inside.linkage = "internal"
    code: bytes = library.codegen._tm.emit_object(module)
    return code


@functools.cache
def _engine() -> binding.ExecutionEngine:
    """Return the linker, one for the process: code is never unloaded."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine(jit=True)
    return binding.create_mcjit_compiler(binding.parse_assembly(""), machine)


def loaded(code: bytes, symbol: str) -> int:
    """Return the address of ``symbol`` in an object file, now part of the process."""
    engine = _engine()
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return int(engine.get_function_address(symbol))
