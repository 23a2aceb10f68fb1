"""Winograd's matrices of F(m, r), and straight-line vector code that multiplies by them.

A convolution of an m x m output tile with an r x r filter needs only (m + r - 1)^2 products once
the input tile d and the filter g are transformed [1]_:  Y = A^T [(G g G^T) * (B^T d B)] A.
The matrices come from interpolation at m + r - 2 points and infinity. The points decide the
rounding error: 0, ±√2/2, ±√2 halve that of the textbook's 0, ±1, ±2.

.. [1] A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks",
   arXiv:1509.09308, 2015.
"""

from collections.abc import Sequence
from functools import cache
from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from .vector import Emitter

Matrix = npt.NDArray[np.float64]

POINTS = {4: (0.0, 1.0, -1.0), 6: (0.0, sqrt(0.5), -sqrt(0.5), sqrt(2.0), -sqrt(2.0))}
"""Finite interpolation points by size of the transformed tile; the last point is infinity."""


@cache
def winograd_matrices(outputs: int, taps: int) -> tuple[Matrix, Matrix, Matrix]:
    """Return A^T (m, n), G (n, r) and B^T (n, n) of F(m, r), n = m + r - 1, in float64."""
    points = POINTS[outputs + taps - 1]
    size = len(points) + 1
    output = np.zeros((outputs, size))
    weight = np.zeros((size, taps))
    data = np.zeros((size, size))
    for i, point in enumerate(points):
        others = [other for other in points if other != point]
        scale = np.prod([point - other for other in others])
        output[:, i] = [point**power for power in range(outputs)]
        weight[i] = [point**power / scale for power in range(taps)]
        data[i, : size - 1] = np.poly(others)[::-1]
    output[-1, -1] = weight[-1, -1] = 1.0
    data[-1] = np.poly(points)[::-1]
    # rounding off the dust of the square roots leaves exact zeros and ones, which save
    # multiplications, and rows that mirror each other exactly
    return np.round(output, 14) + 0.0, np.round(weight, 14) + 0.0, np.round(data, 14) + 0.0


MAP_2 = (
    np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0]]),
    np.array([[0.0, 1.0, 0.0], [0.0, -1.0, 1.0], [1.0, -1.0, 0.0]]),
    np.array([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0]]),
)
"""A^T, G and B^T of a whole map of two pixels with padding 1, r = 3.

Beyond the map all is 0, so y0 = g1 x0 + g2 x1 and y1 = g0 x0 + g1 x1, which three products give:
g1 (x0 + x1), (g2 - g1) x1 and (g0 - g1) x0. In two dimensions that makes 9 of the 16 that are left
of F(2, 3) or of the direct form.
"""


def _combine(e: Emitter, terms: Sequence[tuple[float, ir.Value]]) -> ir.Value:
    """Emit the sum of coefficient * value, with as few multiplications as possible."""
    ordered = sorted(terms, key=lambda term: term[0] != 1.0)
    coefficient, total = ordered[0]
    if coefficient != 1.0:
        total = e.multiply(e.constant(coefficient), total)
    for coefficient, value in ordered[1:]:
        if coefficient == 1.0:
            total = e.add(total, value)
        elif coefficient == -1.0:
            total = e.subtract(total, value)
        else:
            total = e.fma(e.constant(coefficient), value, total)
    return total


def _mirror(row: Matrix, other: Matrix) -> tuple[list[int], list[int]] | None:
    """Return the columns where two rows are equal and where opposite, if that is all of them."""
    even = [i for i in range(len(row)) if row[i] == other[i] and row[i] != 0]
    odd = [i for i in range(len(row)) if row[i] == -other[i] and row[i] != 0]
    if even and odd and len(even) + len(odd) == np.count_nonzero(row) == np.count_nonzero(other):
        return even, odd
    return None


def apply_matrix(e: Emitter, matrix: Matrix, values: Sequence[ir.Value]) -> list[ir.Value]:
    """Emit matrix @ values for vectors, sharing the work of mirrored rows.

    The rows of points p and -p agree in even powers and differ in the odd ones' sign, so both
    are even ± odd. Likewise the columns of A^T and G: there the inputs are summed first.
    """
    results: list[ir.Value | None] = [None] * len(matrix)
    columns = _mirrored_columns(matrix)
    if columns:
        return _apply_by_columns(e, matrix, values, columns)
    for i, row in enumerate(matrix):
        if results[i] is not None:
            continue
        for j in range(i + 1, len(matrix)):
            mirrored = _mirror(row, matrix[j])
            if mirrored:
                even, odd = mirrored
                factor = row[odd[-1]]
                sum_even = _combine(e, [(row[k], values[k]) for k in even])
                sum_odd = _combine(e, [(row[k] / factor, values[k]) for k in odd])
                results[i] = _combine(e, [(1.0, sum_even), (factor, sum_odd)])
                results[j] = _combine(e, [(1.0, sum_even), (-factor, sum_odd)])
                break
        else:
            results[i] = _combine(e, [(c, v) for c, v in zip(row, values, strict=True) if c != 0])
    return [result for result in results if result is not None]


def _mirrored_columns(matrix: Matrix) -> list[tuple[int, int]]:
    """Return pairs of columns whose entries are equal in even rows and opposite in odd ones."""
    signs = (-1.0) ** np.arange(len(matrix))
    count = matrix.shape[1]
    return [
        (i, j)
        for i in range(count)
        for j in range(i + 1, count)
        if np.array_equal(matrix[:, i], signs * matrix[:, j]) and np.count_nonzero(matrix[:, i]) > 1
    ]


def _apply_by_columns(
    e: Emitter, matrix: Matrix, values: Sequence[ir.Value], pairs: list[tuple[int, int]]
) -> list[ir.Value]:
    """Emit matrix @ values where column j of each pair mirrors column i."""
    sums = {i: (e.add(values[i], values[j]), e.subtract(values[i], values[j])) for i, j in pairs}
    second = {j for _, j in pairs}
    results = []
    for number, row in enumerate(matrix):
        terms = []
        for i, value in enumerate(values):
            if row[i] != 0 and i not in second:
                terms.append((float(row[i]), sums[i][number % 2] if i in sums else value))
        results.append(_combine(e, terms))
    return results


def apply_one_side(e: Emitter, matrix: Matrix, tile: list[list[ir.Value]]) -> list[list[Any]]:
    """Emit matrix @ tile for a square tile of vectors."""
    size = len(tile)
    columns = [apply_matrix(e, matrix, [tile[i][j] for i in range(size)]) for j in range(size)]
    return [[column[i] for column in columns] for i in range(len(matrix))]


def apply_both_sides(e: Emitter, matrix: Matrix, tile: list[list[ir.Value]]) -> list[list[Any]]:
    """Emit matrix @ tile @ matrix^T for a square tile of vectors."""
    return [apply_matrix(e, matrix, row) for row in apply_one_side(e, matrix, tile)]
