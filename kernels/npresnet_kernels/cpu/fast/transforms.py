"""Winograd's transforms of data, filters, outputs and gradients, one tile of channels at a time.

Each is a kernel behind an address, compiled once and called by all that tile a convolution. The
mathematics is in `matrices`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from .half import HALF_PRODUCTS_2, HALF_PRODUCTS_4
from .matrices import MAP_2, Matrix, apply_both_sides, apply_one_side, winograd_matrices
from .parallel import Kernel, kernel
from .vector import I64, LANES, VECTOR_BYTES, Emitter, indirect_call, ir_kernel

FILTERS_AHEAD = 4
"""Filters, of L output channels each, that are fetched before their turn."""


def _grid(
    e: Emitter, pointer: ir.Value, rows: int, columns: int, row_step: ir.Value, step: ir.Value
) -> list[list[ir.Value]]:
    """Emit the pointers of a grid with byte steps between rows and columns."""
    builder = e.builder
    firsts = [e.shift(pointer, builder.mul(row_step, I64(i))) for i in range(rows)]
    offsets = [builder.mul(step, I64(j)) for j in range(columns)]
    return [[e.shift(first, offset) for offset in offsets] for first in firsts]


def _into_points(matrix: Matrix) -> Callable[..., None]:
    """Return the body of `input(source, row step, column step, target, point step, count, step)`.

    Loads a square tile, transforms it, stores its points `point_step` apart; `count` times, on
    consecutive vectors of channels in the source and every `vector_step` bytes in the target.
    """

    def body(
        e: Emitter,
        source: ir.Value,
        row_step: ir.Value,
        step: ir.Value,
        target: ir.Value,
        point_step: ir.Value,
        count: ir.Value,
        vector_step: ir.Value,
    ) -> None:
        side = matrix.shape[1]
        turn = e.loop(count, [source, target])
        here, there = turn.values
        tile = [
            [e.load(pointer) for pointer in row]
            for row in _grid(e, here, side, side, row_step, step)
        ]
        _store_points(e, apply_both_sides(e, matrix, tile), there, point_step)
        turn.close([e.shift(here, VECTOR_BYTES), e.shift(there, vector_step)])

    return body


def _gathered_points(matrix: Matrix, half: bool = False) -> Callable[..., None]:
    """Return the body of `weight(source, row step, column step, lane step, lanes, target, ...)`.

    The same for filters whose lanes lie `lane_step` bytes apart in memory, as in (K, C, R, S);
    `count` of them, every `source_step` bytes. Only the first `lanes` lanes exist. With `half`,
    they are transformed in one direction only: `point_step` lies between rows, whose numbers are
    neighbours.
    """

    def body(
        e: Emitter,
        source: ir.Value,
        row_step: ir.Value,
        step: ir.Value,
        lane_step: ir.Value,
        lanes: ir.Value,
        target: ir.Value,
        point_step: ir.Value,
        count: ir.Value,
        source_step: ir.Value,
        vector_step: ir.Value,
    ) -> None:
        side = matrix.shape[1]
        mask = e.lanes_below(lanes)
        turn = e.loop(count, [source, target])
        here, there = turn.values
        ahead = e.shift(here, e.builder.mul(source_step, I64(FILTERS_AHEAD)))
        for _ in range(LANES):
            e.prefetch(ahead)
            ahead = e.shift(ahead, lane_step)
        tile = [
            [e.gather(pointer, lane_step, mask) for pointer in row]
            for row in _grid(e, here, side, side, row_step, step)
        ]
        if half:
            rows = apply_one_side(e, matrix, tile)
            places = _grid(e, there, len(rows), side, point_step, I64(VECTOR_BYTES))
            for values, pointers in zip(rows, places, strict=True):
                for value, pointer in zip(values, pointers, strict=True):
                    e.store(value, pointer)
        else:
            _store_points(e, apply_both_sides(e, matrix, tile), there, point_step)
        turn.close([e.shift(here, source_step), e.shift(there, vector_step)])

    return body


def _from_points(matrix: Matrix) -> Callable[..., None]:
    """Return the body of `output(points, point step, bias, floor, residual, ...)`.

    Loads points, transforms them back, adds bias and residual, clamps from below, stores an
    m x m tile; for `count` consecutive vectors of channels. `floor` is the address of the
    smallest value let through (-inf, or 0 for ReLU). Residual steps of 0 and an address of zeros
    mean no residual.
    """

    def body(
        e: Emitter,
        source: ir.Value,
        point_step: ir.Value,
        bias: ir.Value,
        floor: ir.Value,
        residual: ir.Value,
        residual_row_step: ir.Value,
        residual_step: ir.Value,
        residual_vector_step: ir.Value,
        target: ir.Value,
        row_step: ir.Value,
        step: ir.Value,
        count: ir.Value,
    ) -> None:
        side, size = matrix.shape
        lowest = e.broadcast(floor)
        turn = e.loop(count, [source, bias, residual, target])
        points, offsets, other, there = turn.values
        offset = e.load(offsets)
        tile = _load_points(e, size, points, point_step)
        added = _grid(e, other, side, side, residual_row_step, residual_step)
        places = _grid(e, there, side, side, row_step, step)
        for i, row in enumerate(apply_both_sides(e, matrix, tile)):
            for j, value in enumerate(row):
                value = e.add(e.add(value, offset), e.load(added[i][j]))
                e.store(e.maximum(value, lowest), places[i][j])
        forward = [e.shift(pointer, VECTOR_BYTES) for pointer in (points, offsets)]
        turn.close([*forward, e.shift(other, residual_vector_step), e.shift(there, VECTOR_BYTES)])

    return body


def _into_filters(matrix: Matrix) -> Callable[..., None]:
    """Return the body of `filter(points, point step, target, row step, tap step, lane step, ...)`.

    Transforms points back and stores the taps with lanes `lane_step` bytes apart, the first
    `lanes` of them.
    """

    def body(
        e: Emitter,
        source: ir.Value,
        point_step: ir.Value,
        target: ir.Value,
        row_step: ir.Value,
        step: ir.Value,
        lane_step: ir.Value,
        lanes: ir.Value,
    ) -> None:
        side = len(matrix)
        mask = e.lanes_below(lanes)
        tile = _load_points(e, matrix.shape[1], source, point_step)
        places = _grid(e, target, side, side, row_step, step)
        for i, row in enumerate(apply_both_sides(e, matrix, tile)):
            for j, value in enumerate(row):
                e.scatter(value, places[i][j], lane_step, mask)

    return body


def _load_points(
    e: Emitter, size: int, source: ir.Value, point_step: ir.Value
) -> list[list[ir.Value]]:
    """Emit loads of a square of points, `point_step` bytes apart, row by row."""
    tile = []
    for _ in range(size):
        row = []
        for _ in range(size):
            row.append(e.load(source))
            source = e.shift(source, point_step)
        tile.append(row)
    return tile


def _store_points(
    e: Emitter,
    points: list[list[ir.Value]],
    target: ir.Value,
    point_step: ir.Value,
) -> None:
    """Emit stores of a square of points, `point_step` bytes apart, row by row."""
    for row in points:
        for value in row:
            e.store(value, target)
            target = e.shift(target, point_step)


_input_4_3 = ir_kernel("input_4_3", "piipiii", _into_points(winograd_matrices(4, 3)[2]))
_input_2_3 = ir_kernel("input_2_3", "piipiii", _into_points(winograd_matrices(2, 3)[2]))
_weight_4_3 = ir_kernel("weight_4_3", "piiiipiiii", _gathered_points(winograd_matrices(4, 3)[1]))
_weight_2_3 = ir_kernel("weight_2_3", "piiiipiiii", _gathered_points(winograd_matrices(2, 3)[1]))
_half_4_3 = ir_kernel("half_4_3", "piiiipiiii", _gathered_points(winograd_matrices(4, 3)[1], True))
_half_2_3 = ir_kernel("half_2_3", "piiiipiiii", _gathered_points(winograd_matrices(2, 3)[1], True))
_output_4_3 = ir_kernel("output_4_3", "pipppiiipiii", _from_points(winograd_matrices(4, 3)[0]))
_output_2_3 = ir_kernel("output_2_3", "pipppiiipiii", _from_points(winograd_matrices(2, 3)[0]))


@kernel
def input_4_3(
    source: int,
    row_step: int,
    step: int,
    target: int,
    point_step: int,
    count: int,
    vector_step: int,
) -> None:
    """B^T d B of F(4x4, 3x3): 6 x 6 pixels to 36 points."""
    _input_4_3(source, row_step, step, target, point_step, count, vector_step)


@kernel
def input_2_3(
    source: int,
    row_step: int,
    step: int,
    target: int,
    point_step: int,
    count: int,
    vector_step: int,
) -> None:
    """B^T d B of F(2x2, 3x3): 4 x 4 pixels to 16 points."""
    _input_2_3(source, row_step, step, target, point_step, count, vector_step)


@kernel
def weight_4_3(
    source: int,
    row_step: int,
    step: int,
    lane_step: int,
    lanes: int,
    target: int,
    point_step: int,
    count: int,
    source_step: int,
    vector_step: int,
) -> None:
    """G g G^T of F(4x4, 3x3): 3 x 3 taps to 36 points."""
    _weight_4_3(
        source,
        row_step,
        step,
        lane_step,
        lanes,
        target,
        point_step,
        count,
        source_step,
        vector_step,
    )


@kernel
def weight_2_3(
    source: int,
    row_step: int,
    step: int,
    lane_step: int,
    lanes: int,
    target: int,
    point_step: int,
    count: int,
    source_step: int,
    vector_step: int,
) -> None:
    """G g G^T of F(2x2, 3x3): 3 x 3 taps to 16 points."""
    _weight_2_3(
        source,
        row_step,
        step,
        lane_step,
        lanes,
        target,
        point_step,
        count,
        source_step,
        vector_step,
    )


@kernel
def half_4_3(
    source: int,
    row_step: int,
    step: int,
    lane_step: int,
    lanes: int,
    target: int,
    point_step: int,
    count: int,
    source_step: int,
    vector_step: int,
) -> None:
    """G g of F(4x4, 3x3): 3 x 3 taps to 6 rows of 3."""
    _half_4_3(
        source,
        row_step,
        step,
        lane_step,
        lanes,
        target,
        point_step,
        count,
        source_step,
        vector_step,
    )


@kernel
def half_2_3(
    source: int,
    row_step: int,
    step: int,
    lane_step: int,
    lanes: int,
    target: int,
    point_step: int,
    count: int,
    source_step: int,
    vector_step: int,
) -> None:
    """G g of F(2x2, 3x3): 3 x 3 taps to 4 rows of 3."""
    _half_2_3(
        source,
        row_step,
        step,
        lane_step,
        lanes,
        target,
        point_step,
        count,
        source_step,
        vector_step,
    )


@kernel
def output_4_3(
    points: int,
    point_step: int,
    bias: int,
    floor: int,
    residual: int,
    residual_row_step: int,
    residual_step: int,
    residual_vector_step: int,
    target: int,
    row_step: int,
    step: int,
    count: int,
) -> None:
    """A^T M A of F(4x4, 3x3): 36 points to 4 x 4 pixels."""
    _output_4_3(
        points,
        point_step,
        bias,
        floor,
        residual,
        residual_row_step,
        residual_step,
        residual_vector_step,
        target,
        row_step,
        step,
        count,
    )


@kernel
def output_2_3(
    points: int,
    point_step: int,
    bias: int,
    floor: int,
    residual: int,
    residual_row_step: int,
    residual_step: int,
    residual_vector_step: int,
    target: int,
    row_step: int,
    step: int,
    count: int,
) -> None:
    """A^T M A of F(2x2, 3x3): 16 points to 2 x 2 pixels."""
    _output_2_3(
        points,
        point_step,
        bias,
        floor,
        residual,
        residual_row_step,
        residual_step,
        residual_vector_step,
        target,
        row_step,
        step,
        count,
    )


_input_2_map = ir_kernel("input_2_map", "piipiii", _into_points(MAP_2[2]))
_weight_2_map = ir_kernel("weight_2_map", "piiiipiiii", _gathered_points(MAP_2[1]))
_output_2_map = ir_kernel("output_2_map", "pipppiiipiii", _from_points(MAP_2[0]))


@kernel
def input_2_map(
    source: int,
    row_step: int,
    step: int,
    target: int,
    point_step: int,
    count: int,
    vector_step: int,
) -> None:
    """A map of 2 x 2 pixels to 9 points."""
    _input_2_map(source, row_step, step, target, point_step, count, vector_step)


@kernel
def weight_2_map(
    source: int,
    row_step: int,
    step: int,
    lane_step: int,
    lanes: int,
    target: int,
    point_step: int,
    count: int,
    source_step: int,
    vector_step: int,
) -> None:
    """3 x 3 taps to the 9 points of a map of 2 x 2 pixels."""
    _weight_2_map(
        source,
        row_step,
        step,
        lane_step,
        lanes,
        target,
        point_step,
        count,
        source_step,
        vector_step,
    )


@kernel
def output_2_map(
    points: int,
    point_step: int,
    bias: int,
    floor: int,
    residual: int,
    residual_row_step: int,
    residual_step: int,
    residual_vector_step: int,
    target: int,
    row_step: int,
    step: int,
    count: int,
) -> None:
    """9 points to a map of 2 x 2 pixels."""
    _output_2_map(
        points,
        point_step,
        bias,
        floor,
        residual,
        residual_row_step,
        residual_step,
        residual_vector_step,
        target,
        row_step,
        step,
        count,
    )


_input_3_4 = ir_kernel("input_3_4", "piipiii", _into_points(winograd_matrices(3, 4)[1]))
_weight_3_4 = ir_kernel("weight_3_4", "pipiiii", _into_filters(winograd_matrices(3, 4)[0]))


@kernel
def gradient_3_4(
    source: int,
    row_step: int,
    step: int,
    target: int,
    point_step: int,
    count: int,
    vector_step: int,
) -> None:
    """G g G^T of F(3x3, 4x4), g being 4 x 4 pixels of an output gradient, to 36 points."""
    _input_3_4(source, row_step, step, target, point_step, count, vector_step)


@kernel
def filter_3_4(
    points: int,
    point_step: int,
    target: int,
    row_step: int,
    step: int,
    lane_step: int,
    lanes: int,
) -> None:
    """A^T M A of F(3x3, 4x4): 36 points to the 3 x 3 taps of a weight gradient."""
    _weight_3_4(points, point_step, target, row_step, step, lane_step, lanes)


_gradient_2_map = ir_kernel("gradient_2_map", "piipiii", _into_points(MAP_2[0].T))
_filter_2_map = ir_kernel("filter_2_map", "pipiiii", _into_filters(MAP_2[1].T))


@kernel
def gradient_2_map(
    source: int,
    row_step: int,
    step: int,
    target: int,
    point_step: int,
    count: int,
    vector_step: int,
) -> None:
    """An output gradient of 2 x 2 pixels to 9 points."""
    _gradient_2_map(source, row_step, step, target, point_step, count, vector_step)


@kernel
def filter_2_map(
    points: int,
    point_step: int,
    target: int,
    row_step: int,
    step: int,
    lane_step: int,
    lanes: int,
) -> None:
    """9 points to the 3 x 3 taps of a weight gradient."""
    _filter_2_map(points, point_step, target, row_step, step, lane_step, lanes)


call_filter: Callable[..., Any] = indirect_call("call_filter", 7)
call_input: Callable[..., Any] = indirect_call("call_input", 7)
call_weight: Callable[..., Any] = indirect_call("call_weight", 10)
call_output: Callable[..., Any] = indirect_call("call_output", 12)


@dataclass(frozen=True)
class Form:
    """One Winograd form of a 3x3 convolution: sides of its tiles, and transforms.

    Attributes
    ----------
    outputs, inputs : int
        Of the pixels that a tile makes and reads.
    size : int
        Of the transformed tile.
    half : Kernel or None
        Transforms weights in one direction only.
    half_products : tuple of Kernel
        Transform them in the other, and multiply: all points of a row of the tile, in equal parts.
    """

    outputs: int
    inputs: int
    size: int
    input: Kernel
    weight: Kernel
    output: Kernel
    half: Kernel | None = None
    half_products: tuple[Kernel, ...] = ()

    @property
    def points(self) -> int:
        """How many products a tile takes."""
        return self.size**2

    @property
    def inset(self) -> int:
        """Pixels at a tile's edge that aren't read, since they are always padding."""
        return (self.outputs + 2 - self.inputs) // 2


F4 = Form(4, 6, 6, input_4_3, weight_4_3, output_4_3, half_4_3, HALF_PRODUCTS_4)
F2 = Form(2, 4, 4, input_2_3, weight_2_3, output_2_3, half_2_3, HALF_PRODUCTS_2)
M2 = Form(2, 2, 3, input_2_map, weight_2_map, output_2_map)


@dataclass(frozen=True)
class WeightForm:
    """One Winograd form of a 3x3 convolution's weight gradient: sides of its tiles, and transforms.

    Attributes
    ----------
    outputs, inputs : int
        Of the pixels of dY and X that make a tile.
    size : int
        Of the transformed tile.
    """

    outputs: int
    inputs: int
    size: int
    input: Kernel
    gradient: Kernel
    filter: Kernel

    @property
    def points(self) -> int:
        """How many products a tile takes."""
        return self.size**2

    @property
    def inset(self) -> int:
        """Pixels at a tile's edge that aren't read, since they are always padding."""
        return (self.outputs + 2 - self.inputs) // 2


GRADIENT_F4 = WeightForm(4, 6, 6, input_4_3, gradient_3_4, filter_3_4)
GRADIENT_M2 = WeightForm(2, 2, 3, input_2_map, gradient_2_map, filter_2_map)
