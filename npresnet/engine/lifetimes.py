"""When a training step needs what: from which moment to which, for the memory plan.

Time runs over the forward steps (step i at i), the loss (at len(steps)) and the backward steps in
reverse (step i at 2 * len(steps) - i).
"""

from __future__ import annotations

from npresnet.engine.graph import Graph, Value
from npresnet.engine.plain_training_steps import TrainingStep
from npresnet.engine.storage import Storage

__all__ = ["activation_lives", "gradient_lives", "gradient_places"]


def activation_lives(steps: list[TrainingStep], graph: Graph) -> dict[Value, tuple[int, int]]:
    """Return when each activation in the arena is written, and when it is read last."""
    end = 2 * len(steps)
    last: dict[Value, int] = {}
    for now, step in enumerate(steps):
        read = [value for value in step.node.inputs if value is not None]
        last.update(dict.fromkeys((*read, step.node.output), now))
    last.update(dict.fromkeys(graph.outputs, len(steps)))
    for now, step in reversed(list(enumerate(steps))):
        if step.node.output.needs_grad:
            for value in step.backward_reads:
                last[value] = max(last[value], end - now)
        if not step.buffered:  # its output may be a view of its input
            for source in filter(None, step.node.inputs):
                last[source] = max(last[source], last[step.node.output])
    lives = {
        step.node.output: (now, last[step.node.output])
        for now, step in enumerate(steps)
        if step.buffered
    }
    entry = graph.inputs[0]
    if entry in last:
        lives[entry] = (0, last[entry])
    return lives


def gradient_lives(steps: list[TrainingStep], graph: Graph) -> dict[Value, tuple[int, int]]:
    """Return when the gradient of each map or vector is first written, and when it is read last."""
    end = 2 * len(steps)
    first = dict.fromkeys(graph.outputs, len(steps))
    for now, step in reversed(list(enumerate(steps))):
        for value in step.node.inputs:
            if value is not None:
                first.setdefault(value, end - now)
    lives = {}
    for now, step in enumerate(steps):
        value = step.node.output
        if value.needs_grad and value in first and len(value.shape) in (2, 4):
            # steps without memory of their own may hand views of their gradient on
            lives[value] = (first[value], end - now if step.buffered else end)
    return lives


def gradient_places(
    steps: list[TrainingStep], lives: dict[Value, tuple[int, int]], storage: Storage
) -> dict[Value, Value]:
    """Return whose memory each value's gradient lies in: another's that it is written over."""
    end = 2 * len(steps)
    places = {value: value for value in lives}
    for now, step in reversed(list(enumerate(steps))):
        y, x = step.node.output, step.in_place
        if x not in lives or y not in lives or storage.of(x) != storage.of(y):
            continue
        # nothing is in x's gradient before this step, and nobody reads y's after it
        if lives[x][0] == lives[y][1] == end - now:
            places[x] = places[y]
    return places
