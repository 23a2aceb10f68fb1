"""From a function of 64-bit integers to an object file, and from that to an address.

A kernel's object file needs nothing but the C library, so LLVM's linker alone loads it in later
processes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from llvmlite import binding

from npresnet_kernels.cpu.translate import translated

__all__ = ["assembly", "compiled", "loaded"]


@functools.cache
def _machine() -> binding.TargetMachine:
    """Return LLVM's view of this processor."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    target = binding.Target.from_default_triple()
    return target.create_target_machine(
        cpu=binding.get_host_cpu_name(),
        features=binding.get_host_cpu_features().flatten(),
        opt=3,
        # what LLVM's linker takes on x86
        reloc="static" if target.name.startswith("x86") else "default",
        jit=True,
    )


def _optimised(function: Callable[..., None], symbol: str) -> binding.ModuleRef:
    """Return the LLVM module of a function."""
    machine = _machine()
    made = translated(function, symbol)
    made.triple, made.data_layout = machine.triple, str(machine.target_data)
    module = binding.parse_assembly(str(made))
    passes = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(3))
    passes.getModulePassManager().run(module, passes)
    return module


def compiled(function: Callable[..., None], symbol: str) -> bytes:
    """Return the object file of a C function ``symbol`` that does what a Python function does.

    Parameters
    ----------
    function : callable
        All arguments are int, nothing is returned; see :mod:`.translate`.
    symbol : str
        A name in C, the only one that can be seen from outside.
    """
    code: bytes = _machine().emit_object(_optimised(function, symbol))
    return code


def assembly(function: Callable[..., None], symbol: str) -> str:
    """Return what :func:`compiled` makes of a function, to be read."""
    text: str = _machine().emit_assembly(_optimised(function, symbol))
    return text


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
