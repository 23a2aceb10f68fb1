"""Threads: same bits however many, safe beside each other and after a fork."""

from __future__ import annotations

import multiprocessing
import threading
import warnings

import numpy as np
import pytest

from npresnet_kernels import cpu
from npresnet_kernels.cpu import threads


def work(seed=0):
    """A bit of everything, as bytes."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((6, 24, 33, 31)).astype(np.float32)
    weight = rng.standard_normal((40, 24, 3, 3)).astype(np.float32)
    options = ((1, 1), (1, 1), (1, 1))
    y = cpu.conv2d(x, weight, None, *options, 1)
    mean, var = cpu.batch_norm_statistics(y)
    invstd = 1 / np.sqrt(var + np.float32(1e-5))
    z = cpu.relu(cpu.batch_norm(y, mean, invstd, None, None))
    pooled, indices = cpu.max_pool2d(z, (3, 3), (2, 2), (1, 1), (1, 1), False)
    grad = cpu.max_pool2d_grad(pooled, indices, z.shape, (3, 3), (2, 2), (1, 1), (1, 1))
    grad, *_ = cpu.batch_norm_grad(cpu.relu_grad(grad, z), y, mean, invstd, None, True)
    dx = cpu.conv2d_grad_input(grad, weight, x.shape, *options, 1)
    dw = cpu.conv2d_grad_weight(grad, x, (3, 3), *options, 1)
    return b"".join(a.tobytes() for a in (y, mean, var, z, pooled, dx, dw))


def test_bits_do_not_depend_on_the_number_of_threads(num_threads):
    results = []
    for n in (1, 2, 3, 7, 2):
        num_threads(n)
        results.append(work())
    assert all(result == results[0] for result in results)


def test_calls_from_several_threads(num_threads):
    num_threads(2)
    known = [work(seed) for seed in range(4)]
    found = [b""] * 8

    def call(k):
        found[k] = work(k % 4)

    callers = [threading.Thread(target=call, args=(k,)) for k in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert found == known * 2


def _child(queue):
    queue.put(work())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_child_processes(method, num_threads):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    num_threads(2)
    known = work()  # the parent's threads run before the fork
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    with warnings.catch_warnings():
        # Python warns of forks with threads, and so does JAX if a test has imported it
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        children = [context.Process(target=_child, args=(queue,)) for _ in range(2)]
        for child in children:
            child.start()
    found = [queue.get(timeout=60) for _ in children]
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert found == [known] * 2
    assert work() == known


@pytest.mark.parametrize("n", [1, 2, 4])
def test_every_part_is_done_once(n, num_threads):
    num_threads(n)
    done = [0] * 1000
    lock = threading.Lock()

    def part(k):
        with lock:
            done[k] += 1

    threads.run(part, len(done))
    assert done == [1] * 1000
    threads.run(part, 0)


@pytest.mark.parametrize("n", [1, 3])
def test_an_error_reaches_the_caller(n, num_threads):
    num_threads(n)

    def part(k):
        if k == 5:
            raise ZeroDivisionError("part 5")

    with pytest.raises(ZeroDivisionError, match="part 5"):
        threads.run_gemm(part, 50)
    assert work() == work()  # the pool still works


def test_openblas_gets_its_threads_back(num_threads):
    blas = threads._blas
    if not blas.can_hold:
        pytest.skip("NumPy's BLAS is another one")
    before = blas.get()
    seen = []
    num_threads(2)
    threads.run_gemm(lambda k: seen.append(blas.get()), 4)
    assert seen == [1] * 4
    assert blas.get() == before


def test_wrong_number():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        threads.set_num_threads(0)


def test_spans_cover():
    for count, cost in [(0, 3), (1, 10**9), (1000, 1000), (7, 0)]:
        parts = threads.spans(count, cost)
        assert [k for start, stop in parts for k in range(start, stop)] == list(range(count))
