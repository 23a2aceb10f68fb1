"""A training step on the device: forward, loss, backward and update, recorded.

What the host hands over (images, classes, a new learning rate) is written into the device's memory
before, and what it wants to know (the loss, and whether all gradients were finite) is read once,
after. Nothing in between waits for the host. A loss that the plan kernels don't have runs on the
tape: then what comes before it and what comes after are two recordings.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from npresnet.backend import Backend
from npresnet.engine.kernels import RecordedKernels, recorded_kernels
from npresnet.engine.loss_kernel import LossKernel
from npresnet.engine.program import Program
from npresnet.engine.recording import Recorder, Recording
from npresnet.engine.training_frame import TrainingFrame
from npresnet.engine.update import Update
from npresnet.optim.optimizer import Optimizer
from npresnet.optim.scaler import GradScaler
from npresnet_kernels.contract import Array

__all__ = ["DeviceStep"]

SCALE = 1
"""Where in the status, behind the loss, the numbers of the scaling begin."""


class DeviceStep:
    """The training step of a program whose optimizer the plan kernels have.

    Parameters
    ----------
    program : Program
        Whose kernels record training steps.
    loss : LossKernel or None
        Of the same program; None for any other loss.
    optimizer : Optimizer
        One that `Update.knows`.
    """

    def __init__(self, program: Program, loss: LossKernel | None, optimizer: Optimizer) -> None:
        kernels = cast(RecordedKernels, program.kernels)
        self._program, self._loss = program, loss
        self._backend: Backend = program.backend
        self._recorder: Recorder | None = kernels.recorder()
        self._update = Update(optimizer, kernels, program.backend)
        self._status = kernels.memory(4 * 4).view(np.float32)
        self._grads = program.expected_gradients()
        self._scale = 0.0  # what stands in the status
        self._recordings: dict[tuple[str, int], Recording[TrainingFrame]] = {}

    @staticmethod
    def fits(program: Program, optimizer: Optimizer) -> bool:
        """Return whether a step can be made of these."""
        return (
            recorded_kernels(program.kernels) is not None
            and Update.knows(optimizer)
            and program.lies_in_its_memory
        )

    @property
    def recorded(self) -> bool:
        """Whether there is a recording."""
        return any(one.replay is not None for one in self._recordings.values())

    def whole(
        self, x: Array, target: Any, scaler: GradScaler
    ) -> tuple[float, TrainingFrame] | None:
        """Take a step.

        Returns
        -------
        (float, TrainingFrame) or None
            The loss, and what was worked on; None if the loss of these targets isn't one for the
            kernels (they are something else than classes, say), or a parameter doesn't lie densely
            in memory.
        """
        loss = self._loss
        takes = loss is not None and loss.takes(target, len(x))
        parts = self._update.prepare(self._grads) if takes else None
        if loss is None or parts is None:
            return None
        self._set_scale(scaler.get_scale())
        program, status = self._program, self._status
        frame = program.begin(x, keep=True)
        # a scaler finds out by the gradients
        watched = None if scaler.is_enabled() else status[:SCALE]

        def run() -> tuple[TrainingFrame, bool]:
            frame.restart()
            program.forward(frame)
            program.count()
            loss.queue(frame, status[:SCALE], status[SCALE : SCALE + 1])
            program.backward(frame)
            self._update.run(status[SCALE:], watched)
            return frame, frame.repeatable

        held = [*program.sources(), *parts, loss.rule, scaler.is_enabled()]
        frame = self._recording("whole", len(x))(run, held)
        return self._finish(scaler), frame

    def forward(self, x: Array) -> TrainingFrame:
        """Compute the outputs, for a loss on the tape; no gradient is there yet."""
        program = self._program
        frame = program.begin(x, keep=True)

        def run() -> tuple[TrainingFrame, bool]:
            frame.restart()
            program.forward(frame)
            program.count()
            return frame, frame.repeatable

        frame = self._recording("forward", len(x))(run, program.sources())
        frame.grads.clear()
        return frame

    def backward(self, frame: TrainingFrame, scaler: GradScaler) -> bool:
        """Go back from the gradients of the outputs, which are in the frame, and update.

        Returns
        -------
        bool
            False if nothing was done: an output has no gradient, so that some parameters may have
            none, or a parameter doesn't lie densely in memory.
        """
        outputs = self._program.graph.outputs
        reaches = all(v in frame.grads for v in outputs if v.needs_grad)
        parts = self._update.prepare(self._grads) if reaches else None
        if parts is None:
            return False
        self._set_scale(scaler.get_scale())
        program, begun = self._program, dict(frame.grads)

        def run() -> tuple[TrainingFrame, bool]:
            frame.grads.clear()
            frame.grads.update(begun)
            program.backward(frame)
            self._update.run(self._status[SCALE:])
            return frame, frame.repeatable

        held = [*program.sources(), *parts]
        self._recording("backward", frame.batch)(run, held)
        self._finish(scaler)
        return True

    def _recording(self, what: str, batch: int) -> Recording[TrainingFrame]:
        """Return the recording of a part of the step for a batch."""
        return self._recordings.setdefault((what, batch), Recording(self._recorder))

    def _finish(self, scaler: GradScaler) -> float:
        """Read what the device found out, and note the step; return the loss, if it has one."""
        value, _, _, finite = self._backend.to_numpy(self._status).tolist()
        self._update.finish(bool(finite))
        scaler.advance(not finite)
        return float(value)

    def _set_scale(self, scale: float) -> None:
        """Write the loss scale, if another one is there."""
        if scale != self._scale:
            numbers = np.array([0, scale, 1 / scale, 1], np.float32)
            self._status[...] = self._backend.asarray(numbers)
            self._scale = scale
