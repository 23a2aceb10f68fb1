"""Mean cross-entropy with its gradient: each row of logits is read from memory once.

What a row's maximum, sum and gradient then read again lies in the L1 cache. Sums are in float64;
a row's arithmetic depends neither on the others nor on threads.
"""

from math import exp, inf, log

import numpy as np
import numpy.typing as npt

from .parallel import FIRST, kernel, next_item, run, thread_count
from .problem import Floats, address
from .vector import load_double, load_float, load_int, store_float

Integers = npt.NDArray[np.int64]

LOGITS, TARGET, LOSSES, GRADIENT, CLASSES, IGNORED, NUMBERS = range(FIRST, FIRST + 7)

WORTH_THREADS = 4096
"""Logits from which on more than one thread pays."""


@kernel
def entropy_rows(table: int, thread: int, threads: int) -> None:
    """Loss and gradient of rows; an item is a row."""
    classes, numbers = load_int(table, CLASSES), load_int(table, NUMBERS)
    smoothing, factor = load_double(numbers, 0), load_double(numbers, 1)
    spread = smoothing / classes
    row = next_item(table)
    while row >= 0:
        logits = load_int(table, LOGITS) + 4 * row * classes
        gradient = load_int(table, GRADIENT) + 4 * row * classes
        label = load_int(load_int(table, TARGET), row)
        loss = 0.0
        if label == load_int(table, IGNORED):
            for c in range(classes):
                store_float(gradient, c, np.float32(0.0))
        else:
            largest, added = -inf, 0.0
            for c in range(classes):
                value = load_float(logits, c)
                largest = max(largest, value)
                added += value
            total = 0.0
            for c in range(classes):
                power = exp(load_float(logits, c) - largest)
                store_float(gradient, c, np.float32(power))
                total += power
            loss = largest + log(total) - (1 - smoothing) * load_float(logits, label)
            if smoothing > 0:  # 0 times an infinite sum would be NaN
                loss -= spread * added
            for c in range(classes):
                aim = spread + (1 - smoothing if c == label else 0.0)
                share = load_float(gradient, c) / total
                store_float(gradient, c, np.float32((share - aim) * factor))
        store_float(load_int(table, LOSSES), row, np.float32(loss))
        row = next_item(table)


def cross_entropy(
    logits: Floats,
    target: Integers,
    loss: Floats,
    grad_logits: Floats,
    scale: Floats,
    *,
    ignore_index: int,
    label_smoothing: float,
    scratch: Floats,
) -> None:
    """Write the mean loss (1,) of logits (N, C), and its gradient times `scale` (1,).

    Parameters
    ----------
    logits, grad_logits : ndarray (N, C) of float32
    target : ndarray (N,) of int64
        Classes in range, or `ignore_index`.
    loss, scale : ndarray (1,) of float32
        Without a row that counts the loss is NaN and the gradient 0.
    ignore_index : int
        A class that counts for nothing.
    label_smoothing : float
        Share of the target that is spread over all classes.
    scratch : ndarray
        At least N float32.
    """
    rows, classes = logits.shape
    kept = int(np.count_nonzero(target != ignore_index))
    numbers = np.array([label_smoothing, float(scale[0]) / max(1, kept)])
    table = np.zeros(NUMBERS + 1, dtype=np.int64)
    table[LOGITS], table[GRADIENT] = address(logits), address(grad_logits)
    table[TARGET], table[LOSSES] = address(target), address(scratch)
    table[NUMBERS] = address(numbers)
    table[CLASSES], table[IGNORED] = classes, ignore_index
    threads = thread_count() if logits.size >= WORTH_THREADS else 1
    run(entropy_rows, table, rows, threads)
    loss[0] = scratch[:rows].sum(dtype=np.float64) / kept if kept else np.nan
