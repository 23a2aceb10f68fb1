"""Both sets offer the contract, and light modules stay light."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from npresnet_kernels.contract import KernelSet

FUNCTIONS = [name for name in vars(KernelSet) if not name.startswith("_")]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signature(name, kernels):
    ours = inspect.signature(getattr(kernels, name))
    theirs = inspect.signature(getattr(KernelSet, name))
    assert list(ours.parameters.values()) == list(theirs.parameters.values())[1:]  # less self
    assert ours.return_annotation == theirs.return_annotation


def test_nothing_more_nothing_less(kernels):
    assert sorted(kernels.__all__) == sorted(FUNCTIONS)


def test_reference_needs_no_numba():
    code = (
        "import sys; import npresnet_kernels.reference, npresnet_kernels.budget;"
        "sys.exit('numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
