"""What npresnet takes for granted of CuPy and of a device, each looked at by itself.

For a first hour with a machine: a check that fails says which of the things that stand-ins stood
for is other than was thought. Each check returns what is worth knowing, and raises if it fails.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

Found = dict[str, Any]


def _cupy() -> Any:
    from npresnet_kernels.gpu.device import array_module

    return array_module()


def _same(found: Any, expected: Any, error: float = 0.0) -> None:
    np.testing.assert_allclose(_cupy().asnumpy(found), expected, rtol=error, atol=error)


def _ramp(*shape: int) -> Any:
    numbers = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return numbers, _cupy().asarray(numbers)


def a_launch() -> Found:
    """A kernel compiled by NVRTC adds."""
    from npresnet_kernels.gpu import plan_layout

    x, here = _ramp(37)
    plan_layout.add(here, here, here)
    _same(here, x + x)
    return {}


def folding() -> Found:
    """Batch norm's scale goes into weights as the host has it."""
    from npresnet.backend import resolve
    from npresnet.engine.operations import FoldedBias, FoldedWeight
    from npresnet.tape import Context

    made = []
    for place in ("reference", "gpu"):
        backend = resolve(place)
        context = Context(backend, (False,) * 5)
        rng = np.random.default_rng(1)
        weight, gamma, mean = (
            backend.asarray(rng.standard_normal(shape).astype(np.float32))
            for shape in ((8, 3, 3, 3), (8,), (8,))
        )
        variance = backend.asarray(rng.uniform(0.5, 2, 8).astype(np.float32))
        with backend.scope():
            made.append(
                (
                    backend.to_numpy(
                        FoldedWeight.forward(context, weight, gamma, variance, eps=1e-5)
                    ),
                    backend.to_numpy(
                        FoldedBias.forward(context, None, gamma, mean, mean, variance, eps=1e-5)
                    ),
                )
            )
    for host, device in zip(*made, strict=True):
        np.testing.assert_allclose(device, host, rtol=1e-6, atol=1e-6)
    return {}


def rows_by_einsum() -> Found:
    """A linear layer of float64, which plans take row by row."""
    x, here = _ramp(5, 7)
    _same(_cupy().einsum("oi,i->o", here, here[0]), x @ x[0], 1e-5)
    return {}


def _recorded(run: Callable[[], object]) -> Any:
    from npresnet_kernels.gpu.graph import recorder

    return recorder().record(run)


def capture() -> Found:
    """Launches are recorded without running, and replayed on the same memory."""
    from npresnet_kernels.gpu import plan_layout

    x, here = _ramp(8)
    replay = _recorded(lambda: plan_layout.add(here, here, here))
    _same(here, 2 * x)
    replay()
    replay()
    _same(here, 8 * x)
    return {}


def counters_in_a_capture() -> Found:
    """A number without axes counts in a recording, as num_batches_tracked does."""
    counter = _cupy().zeros((), np.int64)

    def run() -> None:
        count = counter
        count += 1

    replay = _recorded(run)
    for _ in range(3):
        replay()
    if int(counter) != 4:
        raise AssertionError(f"one run and three replays counted {int(counter)}")
    return {}


def copies_in_a_capture() -> Found:
    """CuPy's own copy from array to array is recorded, with another order of axes too."""
    x, here = _ramp(4, 6)
    there = _cupy().zeros((6, 4), np.float32)

    def run() -> None:
        there.T[...] = here

    replay = _recorded(run)
    there.fill(0)
    replay()
    _same(there, x.T)
    return {}


def what_is_refused() -> Found:
    """An allocation, a wait and cuBLAS in a recording are errors, and leave the device usable."""
    from npresnet_kernels.gpu import plan_layout
    from npresnet_kernels.gpu.device import empty

    xp = _cupy()
    _, here = _ramp(4, 4)
    said = {}
    for name, call in {
        "allocation": lambda: empty((7,), np.float32),
        "wait": lambda: xp.cuda.Device().synchronize(),
        "cublas": lambda: xp.matmul(here, here, out=here),
    }.items():
        begun: list[bool] = []

        def run(call: Callable[[], object] = call, begun: list[bool] = begun) -> None:
            if begun:
                call()
            begun.append(True)

        try:
            _recorded(run)
        except Exception as error:
            said[name] = " ".join(str(error).split())[:160]
        else:
            raise AssertionError(f"{name} was recorded")
        plan_layout.add(here, here, here)
        float(here.sum())
    return said


def capture_while_another_thread_allocates() -> Found:
    """Only the recording thread is kept from allocating."""
    from npresnet_kernels.gpu import plan_layout

    xp, wrong, stop = _cupy(), [], threading.Event()
    x, here = _ramp(8)

    def allocate() -> None:
        try:
            while not stop.is_set():
                xp.zeros(1 << 20, np.uint8)
                xp.get_default_memory_pool().free_all_blocks()
        except Exception as error:
            wrong.append(error)

    thread = threading.Thread(target=allocate)
    thread.start()
    try:
        for _ in range(20):
            _recorded(lambda: plan_layout.add(here, here, here))()
    finally:
        stop.set()
        thread.join()
    if wrong:
        raise wrong[0]
    _same(here, x * 2.0**40)
    return {}


def memory_that_is_not_there() -> Found:
    """A request beyond the device says what was asked for and what is free."""
    from npresnet_kernels.gpu.device import empty
    from npresnet_kernels.gpu.errors import DeviceMemoryError

    try:
        empty((1 << 46,), np.uint8)
    except DeviceMemoryError as error:
        return {"said": str(error)[:200]}
    raise AssertionError("64 TiB were given")


def plans() -> Found:
    """A small network's plan and training plan, recorded, on two streams, beside the textbook's."""
    import npresnet as nr
    from tests.tiny import Tiny

    xp = _cupy()
    x = np.random.default_rng(0).standard_normal((4, 3, 16, 16)).astype(np.float32)
    labels = np.arange(4)
    losses, logits = {}, {}
    for place in ("reference", "gpu"):
        nr.manual_seed(0)
        with nr.use_backend(place):
            model = Tiny(num_classes=5)
            images = nr.tensor(x).data
            optimizer = nr.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
            step = nr.compile_step(
                model.train(), nr.functional.cross_entropy, optimizer, x.shape, precision="fp32"
            )
            losses[place] = [step(images, labels) for _ in range(4)]
            plan = nr.compile(model.eval(), x.shape, precision="fp32")
            for _ in range(3):
                logits[place] = xp.asnumpy(plan(images))
    if not (step.recorded and plan.recorded):
        raise AssertionError(f"recorded: step {step.recorded}, plan {plan.recorded}")
    np.testing.assert_allclose(losses["gpu"], losses["reference"], rtol=1e-4)
    np.testing.assert_allclose(logits["gpu"], logits["reference"], rtol=1e-3, atol=1e-4)
    streams = [xp.cuda.Stream(non_blocking=True) for _ in range(2)]
    made = []
    for stream in streams * 4:
        with stream:
            made.append(plan(images))
    xp.cuda.Device().synchronize()
    for found in made:
        _same(found, logits["gpu"])
    return {"losses": losses["gpu"]}


CHECKS: dict[str, Callable[[], Found]] = {
    check.__name__.replace("_", " "): check
    for check in (
        *(a_launch, folding, rows_by_einsum, capture, counters_in_a_capture, copies_in_a_capture),
        *(what_is_refused, capture_while_another_thread_allocates, memory_that_is_not_there, plans),
    )
}
