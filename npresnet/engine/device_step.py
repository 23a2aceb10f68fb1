"""A whole training step on the device: forward, loss, backward and update, recorded as one run.

What the host hands over (images, classes, a new learning rate) is written into the device's memory
before, and what it wants to know (the loss, and whether all gradients were finite) is read once,
after. Nothing in between waits for the host.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from npresnet.backend import Backend
from npresnet.engine.kernels import RecordedKernels
from npresnet.engine.loss_kernel import LossKernel
from npresnet.engine.program import Program
from npresnet.engine.recording import Recorder, Recording
from npresnet.engine.training_steps import TrainingFrame
from npresnet.engine.update import Update
from npresnet.optim.optimizer import Optimizer
from npresnet.optim.scaler import GradScaler
from npresnet_kernels.contract import Array

__all__ = ["DeviceStep"]

SCALE = 1
"""Where in the status, behind the loss, the numbers of the scaling begin."""


class DeviceStep:
    """The training step of a program whose loss and optimizer the plan kernels have.

    Parameters
    ----------
    program : Program
        Whose kernels have a recorder.
    loss : LossKernel
        Of the same program.
    optimizer : Optimizer
        One that `Update.knows`.
    """

    def __init__(self, program: Program, loss: LossKernel, optimizer: Optimizer) -> None:
        kernels = cast(RecordedKernels, program.kernels)
        self._program, self._loss = program, loss
        self._backend: Backend = program.backend
        self._recorder: Recorder | None = kernels.recorder()
        self._update = Update(optimizer, kernels, program.backend)
        self._status = kernels.memory(4 * 4).view(np.float32)
        self._grads = program.expected_gradients()
        self._scale = 0.0  # what stands in the status
        self._recordings: dict[int, Recording[TrainingFrame]] = {}

    @staticmethod
    def fits(program: Program, optimizer: Optimizer) -> bool:
        """Return whether a whole step can be made of these and a `LossKernel`."""
        kernels = program.kernels
        return (
            kernels is not None
            and kernels.recorder() is not None
            and Update.knows(optimizer)
            and program.lies_in_its_memory
        )

    @property
    def recorded(self) -> bool:
        """Whether there is a recording."""
        return any(one.replay is not None for one in self._recordings.values())

    def __call__(
        self, x: Array, target: Any, scaler: GradScaler
    ) -> tuple[float, TrainingFrame] | None:
        """Take a step.

        Returns
        -------
        (float, TrainingFrame) or None
            The loss, and what was worked on; None if this step isn't one for the kernels: the
            targets are something else than classes, a parameter doesn't lie densely in memory.
        """
        batch = len(x)
        takes = self._loss.takes(target, batch)
        parts = self._update.prepare(self._grads) if takes else None
        if parts is None:
            return None
        self._set_scale(scaler.get_scale())
        program, status = self._program, self._status
        loss, scaling = status[:SCALE], status[SCALE:]
        frame = program.begin(x, keep=True)

        def run() -> tuple[TrainingFrame, bool]:
            frame.restart()
            program.forward(frame)
            self._loss.queue(frame, loss, scaling[:1])
            program.backward(frame)
            self._update.run(scaling)
            return frame, frame.repeatable

        if batch not in self._recordings:
            self._recordings[batch] = Recording(self._recorder)
        frame = self._recordings[batch](run, [*program.sources(), *parts, self._loss.rule])
        value, _, _, finite = self._backend.to_numpy(status).tolist()
        self._update.finish(bool(finite))
        scaler.advance(not finite)
        return value, frame

    def _set_scale(self, scale: float) -> None:
        """Write the loss scale, if another one is there."""
        if scale != self._scale:
            numbers = np.array([0, scale, 1 / scale, 1], np.float32)
            self._status[...] = self._backend.asarray(numbers)
            self._scale = scale
