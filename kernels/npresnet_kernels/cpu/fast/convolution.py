"""`Convolution`: forward, data gradient and weight gradient of one layer shape, float32 NHWC.

The gradient with respect to the input of a stride-1 convolution is a stride-1 convolution with
the filter turned by 180 degrees and its channels exchanged. With stride t, inputs fall into t x t
classes by their position modulo t; each class is a stride-1 convolution of the output gradient
with those taps that reach it.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from .algorithm import FORMS, WEIGHT_FORMS, choose_algorithm, fits_map
from .memory import ALIGNMENT, aligned_empty
from .norm import moments_of_sums
from .problem import (
    NO_EPILOGUE,
    DirectProblem,
    Epilogue,
    Floats,
    Grid,
    Problem,
    WeightView,
    WinogradProblem,
    ceil_div,
)
from .weight_problem import Layer, weight_problem


class Convolution:
    """One layer's convolution; knows its shape, but neither batch nor weights.

    Parameters
    ----------
    channels_in, channels_out : int
    kernel_size : int
    stride, padding : int
    height, width : int
        Of the input.
    algorithm : {"auto", "winograd4", "winograd2", "winograd2x2", "direct"}
        "auto" chooses by the shape.
    images : int
        The most in a call of `forward`, by weights that are packed once; 0 where they are packed
        for each call. Only how weights are stored depends on it.

    Attributes
    ----------
    algorithm : str
        The one in use.
    output_size : tuple of int
        Height and width of the output.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel_size: int,
        stride: int,
        padding: int,
        height: int,
        width: int,
        algorithm: str = "auto",
        images: int = 0,
    ) -> None:
        self.channels_in, self.channels_out = channels_in, channels_out
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.input_size = (height, width)
        self.output_size = (
            (height + 2 * padding - kernel_size) // stride + 1,
            (width + 2 * padding - kernel_size) // stride + 1,
        )
        if min(self.output_size) < 1:
            raise ValueError(
                f"kernel of {kernel_size} with padding {padding} is larger than the input "
                f"({height} x {width})"
            )
        if algorithm == "auto":
            algorithm = choose_algorithm(
                channels_in, channels_out, kernel_size, stride, padding, height, width
            )
        if algorithm not in (*FORMS, "direct"):
            raise ValueError(
                f"algorithm {algorithm!r}: expected 'auto', 'direct', {', '.join(map(repr, FORMS))}"
            )
        if algorithm in FORMS and (kernel_size != 3 or stride != 1 or padding > 2):
            raise ValueError(f"{algorithm} needs 3x3 kernels, stride 1 and padding 0, 1 or 2")
        if algorithm == "winograd2x2" and not fits_map((height, width), padding):
            raise ValueError(f"{algorithm} needs maps of 2x2 and padding 1")
        self.algorithm = algorithm
        self._forward = self._forward_problem(images)
        self._backward = self._backward_problems()
        layer = Layer(
            channels_in,
            channels_out,
            kernel_size,
            stride,
            padding,
            self.input_size,
            self.output_size,
        )
        self._weight = weight_problem(layer, WEIGHT_FORMS.get(self.algorithm))

    def _forward_problem(self, images: int) -> Problem:
        """Return the problem of the forward pass."""
        taps = self.kernel_size
        view = WeightView(0, 4 * self.channels_in * taps**2, 4 * taps**2, 4 * taps, 4)
        if self.algorithm in FORMS:
            return WinogradProblem(
                FORMS[self.algorithm],
                self.channels_in,
                self.channels_out,
                *self.input_size,
                self.padding,
                view,
                images,
            )
        grid = Grid(self.output_size, (taps, taps), -self.padding, -self.padding, self.stride)
        grid, view = _trimmed(grid, view, self.input_size)
        return DirectProblem(
            self.channels_in, self.channels_out, self.input_size, self.output_size, grid, view
        )

    def _backward_problems(self) -> list[Problem]:
        """Return the problems that make up the data gradient."""
        taps = self.kernel_size
        lane_step, depth_step = 4 * taps**2, 4 * self.channels_in * taps**2
        if self.algorithm in FORMS:
            problem = WinogradProblem(
                FORMS[self.algorithm],
                self.channels_out,
                self.channels_in,
                *self.output_size,
                taps - 1 - self.padding,
                WeightView(4 * (taps**2 - 1), lane_step, depth_step, -4 * taps, -4),
            )
            return [problem]
        problems: list[Problem] = []
        for row in range(self.stride):
            for column in range(self.stride):
                places, counts, firsts, lasts = [], [], [], []
                for start, size in zip((row, column), self.input_size, strict=True):
                    # taps that reach this class, read from the last to the first
                    tap = (start + self.padding) % self.stride
                    count = max(ceil_div(taps - tap, self.stride), 0)
                    places.append(max(ceil_div(size - start, self.stride), 0))
                    counts.append(count)
                    firsts.append((start + self.padding - tap) // self.stride - (count - 1))
                    lasts.append(tap + self.stride * (count - 1))
                if min(counts) == 0:
                    counts = [0, 0]
                grid = Grid(
                    (places[0], places[1]),
                    (counts[0], counts[1]),
                    firsts[0],
                    firsts[1],
                    1,
                    row,
                    column,
                    self.stride,
                )
                view = WeightView(
                    4 * (lasts[0] * taps + lasts[1]) if min(counts) else 0,
                    lane_step,
                    depth_step,
                    -4 * taps * self.stride,
                    -4 * self.stride,
                )
                if min(places) > 0:
                    grid, view = _trimmed(grid, view, self.output_size)
                    sizes = self.output_size, self.input_size
                    direct = DirectProblem(self.channels_out, self.channels_in, *sizes, grid, view)
                    problems.append(direct)
        return problems

    @property
    def packed_size(self) -> int:
        """Floats that `pack` makes."""
        return self._forward.weight_floats

    @property
    def packed_grad_size(self) -> int:
        """Floats that `pack_grad_input` makes."""
        return sum(_aligned_floats(problem.weight_floats) for problem in self._backward)

    @property
    def input_channels(self) -> int:
        """Channels that x is read with: the layer's own."""
        return self.channels_in

    def scratch_floats(
        self, threads: int, training: bool = False, batch: int = 1, channels: int | None = None
    ) -> int:
        """Return the size of the scratch that `forward` needs, or all three with `training`.

        No batch asks for more than another, and x has ``input_channels``.
        """
        needs = [self._forward.scratch_floats(threads)]
        if training:
            needs += [problem.scratch_floats(threads) for problem in self._backward]
            needs.append(self._weight.scratch_floats(threads))
        return max(needs)

    def pack(self, weight: Floats, out: Floats | None = None) -> Floats:
        """Return weights (K, C, R, S) as `forward` reads them; written into `out` if given.

        Where it reads them as they are, `packed_size` is 0, and they themselves come back.
        """
        if isinstance(self._forward, WinogradProblem) and self._forward.plain:
            return weight
        if out is None:
            out = aligned_empty(self.packed_size)
        self._forward.pack(weight, out)
        return out

    def pack_grad_input(self, weight: Floats, out: Floats | None = None) -> Floats:
        """Return weights (K, C, R, S) as `grad_input` reads them; as `pack` does."""
        if any(
            isinstance(problem, WinogradProblem) and problem.plain for problem in self._backward
        ):
            return weight
        if out is None:
            out = aligned_empty(self.packed_grad_size)
        start = 0
        for problem in self._backward:
            if problem.weight_floats:
                problem.pack(weight, out[start:])
            start += _aligned_floats(problem.weight_floats)
        return out

    def forward(
        self,
        x: Floats,
        packed: Floats,
        y: Floats,
        scratch: Floats,
        bias: Floats | None = None,
        residual: Floats | None = None,
        relu: bool = False,
        moments: npt.NDArray[np.float64] | None = None,
    ) -> None:
        """Compute y = relu(conv(x) + bias + residual).

        Parameters
        ----------
        x : ndarray (N, H, W, C)
        packed : ndarray
            From `pack`.
        y : ndarray (N, P, Q, K)
        scratch : ndarray
            At least `scratch_floats(thread_count())`.
        bias : ndarray (K,), optional
        residual : ndarray (N, P, Q, K), optional
        relu : bool
        moments : ndarray (2, K) of float64, optional
            Receives each channel's mean and biased variance over y.
        """
        problem = self._forward
        sums = None
        if moments is not None:
            sums = np.empty((problem.bands(len(y)), 2, self.channels_out))
        problem.run(x, packed, y, scratch, Epilogue(bias, residual, relu, sums))
        if moments is not None and sums is not None:
            moments_of_sums(sums, y.size // self.channels_out, moments)

    def grad_input(
        self,
        grad_y: Floats,
        packed_grad: Floats,
        grad_x: Floats,
        scratch: Floats,
        accumulate: bool = False,
    ) -> None:
        """Compute the gradient of x (N, H, W, C) from that of y (N, P, Q, K), or add it.

        ``accumulate`` makes grad_x its own residual: each place is read where it is written.
        """
        epilogue = Epilogue(residual=grad_x) if accumulate else NO_EPILOGUE
        start = 0
        for problem in self._backward:
            problem.run(grad_y, packed_grad[start:], grad_x, scratch, epilogue)
            start += _aligned_floats(problem.weight_floats)

    def grad_weight(self, x: Floats, grad_y: Floats, grad_weight: Floats, scratch: Floats) -> None:
        """Compute the gradient of the weights (K, C, R, S) from x and that of y."""
        self._weight.run(x, grad_y, grad_weight, scratch)


def _trimmed(grid: Grid, view: WeightView, size: tuple[int, int]) -> tuple[Grid, WeightView]:
    """Return both without the outer taps that see only padding: their weights are never read."""
    seen = []
    for first, count, all_taps, extent in zip(
        (grid.top, grid.left), grid.grid, grid.taps, size, strict=True
    ):
        used = [
            tap
            for tap in range(all_taps)
            if any(0 <= first + grid.step * i + tap < extent for i in range(count))
        ]
        seen.append((used[0], used[-1] + 1 - used[0]) if used else (0, 0))
    (row, rows), (column, columns) = seen
    taps = (rows, columns) if min(rows, columns) else (0, 0)
    offset = view.offset + row * view.row_step + column * view.tap_step
    return (
        replace(grid, taps=taps, top=grid.top + row, left=grid.left + column),
        replace(view, offset=offset),
    )


def _aligned_floats(count: int) -> int:
    """Return the next multiple of a cache line's floats."""
    return ceil_div(count * 4, ALIGNMENT) * ALIGNMENT // 4
