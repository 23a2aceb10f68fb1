"""A run that comes again and again, recorded once and replayed by one call.

Launching a kernel takes a few microseconds on a GPU, some twenty on the threads of the host, which
is longer than a small kernel runs. A backend whose plan kernels have a recorder (CUDA graphs, or
the kernels' tables on the host) notes the launches of one run, with their arguments, and repeats
them all at once. The same launches then read and write the same places, so only a run whose every
array lies in memory that stays can be recorded.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, Protocol, TypeVar

from npresnet.backend import Backend

__all__ = ["Recorder", "Recording", "turn_of", "turns_on"]


class Recorder(Protocol):
    """Notes what kernels are asked to do."""

    def record(self, run: Callable[[], object]) -> Callable[[], None]:
        """Do a run once, record it, and return what repeats it."""
        ...

    def turn(self) -> AbstractContextManager[None]:
        """Let a ``with`` block's work come behind that of earlier ones, of any thread or stream."""
        ...


def turn_of(recorder: Recorder | None) -> AbstractContextManager[None]:
    """Return a turn; without a recorder, work is done when a call returns, and needs none."""
    return nullcontext() if recorder is None else recorder.turn()


def turns_on(backend: Backend) -> Recorder | None:
    """Return what lets the calls of one plan take turns, whatever its dtype; None on the host."""
    if backend.reads_at_once:
        return None
    recorder: Recorder | None = backend.plan_kernels.recorder()
    return recorder


Result = TypeVar("Result")


class Recording(Generic[Result]):
    """A run of a plan for one batch: done plainly at first, recorded the second time, replayed.

    A run that comes once only, for the last batch of a data set, isn't worth recording.

    Parameters
    ----------
    recorder : Recorder or None
        None: every run is done plainly.

    Attributes
    ----------
    replay : callable or None
        Repeats the run; None as long as there is no recording.
    """

    def __init__(self, recorder: Recorder | None) -> None:
        self._recorder = recorder
        self._held: list[Any] = []
        self._repeatable = False
        self._result: list[Result] = []
        self.replay: Callable[[], None] | None = None

    def __call__(self, run: Callable[[], tuple[Result, bool]], held: Sequence[Any]) -> Result:
        """Do a run.

        Parameters
        ----------
        run : callable
            Works on arrays alone, and returns what it made of them and whether all of it will lie
            where it does next time. A replay doesn't call it: what it does on the host is done no
            more, and its result is that of the recorded run.
        held : sequence
            What the run reads beside the plan's own memory. They are kept alive, and a run that is
            given others is a new one.
        """
        if self._recorder is None:
            return run()[0]
        if len(held) != len(self._held) or not all(map(operator.is_, held, self._held)):
            self._held, self.replay, self._repeatable = list(held), None, False
        if self.replay is None and not self._repeatable:
            result, self._repeatable = run()
            return result
        if self.replay is None:

            def once() -> None:
                self._result = [run()[0]]

            self.replay = self._recorder.record(once)
        else:
            self.replay()
        return self._result[0]
