"""The fuzz targets in short, the same cases each time; CI gives them longer, and other cases."""

import os

import pytest

from tests.fuzz import run
from tests.fuzz.targets import TARGETS, Target

CASES = 300


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_are_valid_and_mutations_raise_documented_errors(tmp_path, name):
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("limits are set as Linux does")
    target = TARGETS[name]
    seeds = target.seeds()
    run.warm_up(target, seeds, tmp_path)
    refused = 0
    for case in range(CASES):
        data = run.make(name, target, seeds, case)
        assert data == run.make(name, target, seeds, case)  # a number makes the same file
        run.read(target, data, tmp_path)
        try:
            target.read(tmp_path / f"case{target.suffix}")
        except target.errors:
            refused += 1
    assert 0.2 * CASES < refused < CASES  # else the mutations reach no further than the first check


def broken_target(error):
    def read(path):
        if path.read_bytes() == b"mutated":
            raise error

    return Target(lambda: [b"seed"], lambda data, rng: b"mutated", read, (ValueError,), ".bin")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyError("x"), "KeyError: 'x'"),
        (MemoryError(), "MemoryError"),
        (ValueError("without the name"), "an unclear message"),
    ],
)
def test_what_counts_as_broken(tmp_path, error, message):
    with pytest.raises(run.Broken, match=message):
        run.read(broken_target(error), b"mutated", tmp_path)


def test_a_broken_case_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(TARGETS, "broken", broken_target(KeyError("x")))
    with pytest.raises(run.Broken, match="case 5: KeyError"):
        run.cases("broken", 5, 10, tmp_path, tmp_path / "mark")
    assert int((tmp_path / "mark").read_text()) == 5
