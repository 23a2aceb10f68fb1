"""The kernel sets, one at a time."""

from __future__ import annotations

import pytest

from npresnet_kernels import budget
from npresnet_kernels.contract import KernelSet
from npresnet_kernels.cpu import threads
from tests.kernels.sets import SETS


@pytest.fixture(params=SETS)
def kernels(request: pytest.FixtureRequest) -> KernelSet:
    return SETS[request.param]


@pytest.fixture
def column_budget():
    """Set the column budget for a test."""
    before = budget.column_budget()
    yield budget.set_column_budget
    budget.set_column_budget(before)


@pytest.fixture
def num_threads():
    """Set the cpu set's number of threads for a test."""
    before = threads.get_num_threads()
    yield threads.set_num_threads
    threads.set_num_threads(before)
