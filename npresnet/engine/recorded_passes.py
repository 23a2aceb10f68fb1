"""Forward and backward of a program, each recorded: loss and update are the caller's.

On the host a step of some hundred kernels spends a tenth of its time between them.
"""

from __future__ import annotations

import operator

from npresnet.engine.program import Program
from npresnet.engine.recording import Recorder, Recording
from npresnet.engine.training_frame import TrainingFrame
from npresnet.tensor import Tensor
from npresnet_kernels.contract import Array

__all__ = ["RecordedPasses"]

Grads = dict[Tensor, Array]


class RecordedPasses:
    """Both passes of a program.

    Parameters
    ----------
    program : Program
    recorder : Recorder or None
        None: they are done plainly every time.
    """

    def __init__(self, program: Program, recorder: Recorder | None) -> None:
        self._program = program
        self._recorder = recorder if program.lies_in_its_memory else None
        self._sources: list[Array] = []
        self._forward: dict[tuple[int, int], Recording[TrainingFrame]] = {}
        self._backward: dict[tuple[int, int], Recording[Grads]] = {}

    @property
    def recorded(self) -> bool:
        """Whether there is a recording."""
        return any(one.replay is not None for one in self._forward.values())

    def forward(self, x: Array) -> TrainingFrame:
        """Compute the outputs; no gradient is there yet."""
        program = self._program
        begun = program.begin(x, keep=self._recorder is not None)

        def run() -> tuple[TrainingFrame, bool]:
            begun.restart()
            program.forward(begun)
            return begun, begun.repeatable

        self._forget_others()
        held = [*self._sources, begun.values[program.graph.inputs[0]]]
        recording = self._forward.setdefault(self._key(begun), Recording(self._recorder))
        frame = recording(run, held)
        program.count()
        frame.grads.clear()
        return frame

    def backward(self, frame: TrainingFrame) -> Grads:
        """Return the gradient of each parameter, from those of the outputs in the frame."""
        program, begun = self._program, dict(frame.grads)

        def run() -> tuple[Grads, bool]:
            frame.grads.clear()
            frame.grads.update(begun)
            frame.repeatable = True  # what the loss did isn't part of it
            return program.backward(frame), frame.repeatable

        held = [*self._sources, *begun.values(), frame]
        recording = self._backward.setdefault(self._key(frame), Recording(self._recorder))
        return recording(run, held)

    def _forget_others(self) -> None:
        """Forget what was recorded with other parameters: each batch size would keep old ones."""
        sources = self._program.sources()
        same = len(sources) == len(self._sources)
        if not (same and all(map(operator.is_, sources, self._sources))):
            self._forward.clear()
            self._backward.clear()
            self._sources = sources

    def _key(self, frame: TrainingFrame) -> tuple[int, int]:
        """Return what a recording is made for: how many images, on how many threads."""
        kernels = self._program.kernels
        return frame.batch, 0 if kernels is None else kernels.thread_count()
