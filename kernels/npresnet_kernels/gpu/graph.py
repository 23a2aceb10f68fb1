"""Kernels recorded once as a CUDA graph, then started again by a single call.

What is recorded are launches with their addresses: a replay works on the same memory. So nothing
may be allocated while recording (the pool would lend the memory to others afterwards), and nothing
may wait for the device or call cuBLAS, which CuPy refuses to capture.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from npresnet_kernels.gpu.device import array_module
from npresnet_kernels.gpu.errors import DeviceError

__all__ = ["Recorder", "Replay", "recorder"]


class Replay:
    """A recorded graph; a call queues it on the current stream.

    Parameters
    ----------
    graph : cupy.cuda.Graph
    run : callable
        What was recorded: it holds the arrays that the graph works on.
    """

    def __init__(self, graph: Any, run: Callable[[], object]) -> None:
        self._graph = graph
        self._run = run

    def __call__(self) -> None:
        """Queue all kernels, in their order, behind what the current stream has queued."""
        self._graph.launch()


class Recorder:
    """Records calls on the current device, and lets those who share memory take turns there."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._event: Any = None  # when the last turn's work is done

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Let a ``with`` block's work come behind that of earlier ones, on the host and here.

        Threads wait for each other while they queue work; work itself waits on the device, where
        it was queued on another stream. All blocks are of one device.
        """
        cuda = array_module().cuda
        with self._lock:
            stream = cuda.get_current_stream()
            if self._event is None:
                self._event = cuda.Event(disable_timing=True)
            else:
                stream.wait_event(self._event)
            try:
                yield
            except BaseException:
                with contextlib.suppress(Exception):  # the first error says what is wrong
                    self._event.record(stream)
                raise
            self._event.record(stream)

    def record(self, run: Callable[[], object]) -> Replay:
        """Run ``run`` once as it is, then record what it launches.

        The first run compiles and loads every kernel, and its work is done; recording does no work.

        Parameters
        ----------
        run : callable
            Launches kernels on memory that lives as long as it does, the same ones every time.

        Returns
        -------
        Replay
            Called without arguments.

        Raises
        ------
        DeviceError
            If something that can't be recorded happened, with its name; errors of the first run.
        """
        xp = array_module()
        run()
        stream = xp.cuda.Stream(non_blocking=True)  # the default stream can't be recorded
        problem, graph = None, None
        with stream, _no_allocation(xp):
            stream.begin_capture(xp.cuda.runtime.streamCaptureModeThreadLocal)
            try:
                run()
            except Exception as error:
                problem = error
            try:
                graph = stream.end_capture()
            except Exception as error:  # where the recording broke off, this says only that it did
                problem = problem or error
        if graph is None or problem is not None:
            raise DeviceError(
                f"this can't be recorded as a CUDA graph: {problem}: what is recorded writes into "
                "memory that is there, without copies from or to the host, waiting or cuBLAS"
            ) from problem
        graph.upload()
        return Replay(graph, run)


def recorder() -> Recorder:
    """Return what records one plan's kernels."""
    return Recorder()


def _no_allocation(xp: Any) -> Any:
    """A hook on the pools of this thread under which an allocation is an error."""

    class NoAllocation(xp.cuda.MemoryHook):  # type: ignore[misc]
        name = "npresnet recording"

        def malloc_preprocess(self, *, size: int, **_: Any) -> None:
            raise DeviceError(f"{size:,} bytes of device memory were asked for")

    return NoAllocation()
