"""When runs are done plainly, recorded and replayed; which losses and memory go with that."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import npresnet as nr
from npresnet import functional as F
from npresnet import nn
from npresnet.engine.arena import Arena, ArenaPool
from npresnet.engine.losses import MeanCrossEntropy, recognised
from npresnet.engine.recording import Recording
from npresnet.errors import RangeError


class Recorder:
    """Notes what is asked of it; a replay does the run's work without the run."""

    def __init__(self):
        self.events = []

    def record(self, run):
        self.events.append("record")
        run()
        return lambda: self.events.append("replay")


def make(recorder, repeatable=True):
    recording = Recording(recorder)

    def run():
        recorder.events.append("run")
        return len(recorder.events), repeatable

    return lambda *held: recording(run, held)


def test_the_first_run_is_plain_the_second_recorded_the_others_replayed():
    recorder, held = Recorder(), object()
    call = make(recorder)
    assert [call(held) for _ in range(4)] == [1, 3, 3, 3]
    assert recorder.events == ["run", "record", "run", "replay", "replay"]


def test_other_arrays_make_another_run():
    recorder, first, second = Recorder(), np.zeros(2), np.zeros(2)  # equal, but not the same
    call = make(recorder)
    for held in ((first,), (first,), (second,), (second,), (second,), (second, first)):
        call(*held)
    once = ["run", "record", "run"]
    assert recorder.events == [*once, *once, "replay", "run"]


def test_what_makes_arrays_of_its_own_is_never_recorded():
    recorder = Recorder()
    call = make(recorder, repeatable=False)
    for _ in range(3):
        call()
    assert recorder.events == ["run"] * 3


def test_no_recorder():
    recording = Recording(None)
    assert [recording(lambda: (7, True), []) for _ in range(3)] == [7] * 3
    assert recording.replay is None


# ---------------------------------------------------------------------- losses


def hooked(loss):
    loss.register_forward_hook(lambda module, inputs, output: output * 2)
    return loss


@pytest.mark.parametrize(
    ("loss", "rule"),
    [
        (F.cross_entropy, MeanCrossEntropy()),
        (functools.partial(F.cross_entropy, label_smoothing=0.1), MeanCrossEntropy(-100, 0.1)),
        (nn.CrossEntropyLoss(ignore_index=3), MeanCrossEntropy(3)),
        (functools.partial(F.cross_entropy, reduction="sum"), None),
        (functools.partial(F.cross_entropy, label_smoothing=2.0), None),  # itself an error
        (nn.CrossEntropyLoss(reduction="sum"), None),
        (nn.CrossEntropyLoss(weight=np.ones(4, np.float32)), None),
        (nn.CrossEntropyLoss(reduce=False), None),
        (nn.CrossEntropyLoss(size_average=False), None),
        (hooked(nn.CrossEntropyLoss()), None),
        (F.nll_loss, None),
        (lambda output, target: F.cross_entropy(output, target), None),
    ],
)
def test_losses_that_kernels_have(loss, rule):
    assert recognised(loss) == rule


def test_targets():
    rule = MeanCrossEntropy(ignore_index=9)
    found = rule.classes(nr.tensor(np.array([0, 9, 4], np.uint8)), 3, 5)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, [0, 9, 4])
    np.testing.assert_array_equal(rule.classes([0, 1], 2, 5), [0, 1])
    with pytest.raises(RangeError, match="target 5 is out of range, expected 0 to 4"):
        rule.classes([0, 5], 2, 5)
    for other in (np.zeros((2, 5), np.float32), [0, 1, 2], [[0], [1]], "no targets"):
        assert rule.classes(other, 2, 5) is None


# ---------------------------------------------------------------------- memory


def test_working_memory_grows_with_what_is_asked():
    arena = Arena(64, lambda size: np.zeros(size, np.uint8))
    assert [arena.scratch(floats).size for floats in (10, 5, 100)] == [10, 10, 100]


def test_arenas_are_let_go_where_memory_runs_out():
    made = []

    def memory(size):
        if len(made) == 4:
            raise MemoryError("no more")
        made.append(size)
        return np.zeros(size, np.uint8)

    pool = ArenaPool(lambda: Arena(64, memory))
    with pool.lend() as first, pool.lend() as second:
        assert first is not second
    assert len(pool.idle()) == 2
    with pytest.raises(ValueError, match="of the run"), pool.lend():
        raise ValueError("of the run")
    assert len(pool.idle()) == 2
    with pool.lend(), pool.lend(), pytest.raises(MemoryError), pool.lend():
        pass
    assert len(pool.idle()) == 2  # those that were in use
    with pytest.raises(MemoryError), pool.lend() as arena:
        arena.scratch(1000)
    assert pool.idle() == []
