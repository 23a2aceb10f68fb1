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
from npresnet.engine.losses import recognised
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
    loss : callable
        One that is `recognised`.
    optimizer : Optimizer
        One that `Update.knows`.
    """

    def __init__(self, program: Program, loss: Any, optimizer: Optimizer) -> None:
        kernels = cast(RecordedKernels, program.kernels)
        self._program, self._kernels = program, kernels
        self._loss, self._rule = loss, recognised(loss)
        self._backend: Backend = program.backend
        self._logits = program.graph.outputs[0]
        self._recorder: Recorder | None = kernels.recorder()
        self._update = Update(optimizer, kernels, program.backend)
        self._classes = kernels.memory(8 * program.shape[0]).view(np.int64)
        self._status = kernels.memory(4 * 4).view(np.float32)
        self._grads = program.expected_gradients()
        self._scale = 0.0  # what stands in the status
        self._recordings: dict[int, Recording[TrainingFrame]] = {}

    @staticmethod
    def fits(program: Program, loss: Any, optimizer: Optimizer) -> bool:
        """Return whether a whole step can be made of these."""
        graph, kernels = program.graph, program.kernels
        if kernels is None or kernels.recorder() is None or len(graph.outputs) != 1:
            return False
        logits, mark = graph.outputs[0], object()
        return (
            recognised(loss) is not None
            and Update.knows(optimizer)
            and graph.rebuild([mark]) is mark  # not in a tuple or dict
            and len(logits.shape) == 2
            and logits.dtype == np.float32
            and logits.needs_grad
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
        rule = recognised(self._loss)
        if rule != self._rule:  # the same loss with other settings
            self._rule = rule
        rule, batch = self._rule, len(x)
        classes = None if rule is None else rule.classes(target, batch, self._logits.shape[1])
        parts = None if classes is None else self._update.prepare(self._grads)
        if rule is None or classes is None or parts is None:
            return None
        self._classes[:batch] = self._backend.asarray(classes)
        self._set_scale(scaler.get_scale())
        program, status = self._program, self._status
        loss, scaling = status[:SCALE], status[SCALE:]
        frame = program.begin(x, keep=True)

        def run() -> tuple[TrainingFrame, bool]:
            frame.restart()
            program.forward(frame)
            logits = frame.values[self._logits]
            self._kernels.cross_entropy(
                frame.dense(logits),
                self._classes[:batch],
                loss,
                frame.target(self._logits),
                scaling[:1],
                **rule._asdict(),
                scratch=frame.scratch,
            )
            program.backward(frame)
            self._update.run(scaling)
            return frame, frame.repeatable

        if batch not in self._recordings:
            self._recordings[batch] = Recording(self._recorder)
        frame = self._recordings[batch](run, [*program.sources(), *parts, rule])
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
