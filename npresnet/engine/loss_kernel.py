"""A loss that plan kernels compute, with its gradient, where a training plan keeps both."""

from __future__ import annotations

from typing import Any

import numpy as np

from npresnet.engine.losses import recognised
from npresnet.engine.program import Program
from npresnet.engine.training_frame import TrainingFrame
from npresnet_kernels.contract import Array

__all__ = ["LossKernel"]


class LossKernel:
    """The loss of a program.

    Parameters
    ----------
    program : Program
    loss : callable
        One that :meth:`fits`.

    Attributes
    ----------
    rule : MeanCrossEntropy
        Its settings as of the last targets.
    """

    def __init__(self, program: Program, loss: Any) -> None:
        assert program.kernels is not None
        self._kernels, self._backend = program.kernels, program.backend
        self._loss, self.rule = loss, recognised(loss)
        self._logits = program.graph.outputs[0]
        self._classes = self._kernels.memory(8 * program.shape[0]).view(np.int64)
        self._numbers = self._kernels.memory(2 * 4).view(np.float32)  # the loss, its scale
        self._scale: float | None = None  # what stands there

    @staticmethod
    def fits(program: Program, loss: Any) -> bool:
        """Return whether plan kernels have this loss for what the program computes."""
        graph = program.graph
        if program.kernels is None or recognised(loss) is None or len(graph.outputs) != 1:
            return False
        logits, mark = graph.outputs[0], object()
        return (
            graph.rebuild([mark]) is mark  # not in a tuple or dict
            and len(logits.shape) == 2
            and logits.dtype == np.float32
            and logits.needs_grad
        )

    def takes(self, target: Any, images: int) -> bool:
        """Hand over the targets; False if they are something else than a class for each image.

        Raises
        ------
        RangeError
            If a class is out of range.
        """
        rule = recognised(self._loss)
        if rule != self.rule:  # the same loss with other settings
            self.rule = rule
        classes = None if rule is None else rule.classes(target, images, self._logits.shape[1])
        if classes is None:
            return False
        self._classes[:images] = self._backend.asarray(classes)
        return True

    def queue(self, frame: TrainingFrame, loss: Array, scale: Array) -> None:
        """Write the loss, and into the frame the gradient of the logits times ``scale``."""
        assert self.rule is not None
        grad = frame.target(self._logits)
        self._kernels.cross_entropy(
            frame.dense(frame.values[self._logits]),
            self._classes[: frame.batch],
            loss,
            grad,
            scale,
            **self.rule._asdict(),
            scratch=frame.scratch,
        )
        frame.settle(self._logits, grad)

    def __call__(self, frame: TrainingFrame, scale: float) -> float:
        """Return the loss; the gradient of the logits times ``scale`` is in the frame."""
        if scale != self._scale:
            self._numbers[1:] = self._backend.asarray(np.array([scale], np.float32))
            self._scale = scale
        self.queue(frame, self._numbers[:1], self._numbers[1:])
        return float(self._backend.to_numpy(self._numbers)[0])
