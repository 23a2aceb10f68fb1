"""Convolution problems of one shape: sizes of scratch and weights, tables for the kernels.

A problem maps an NHWC array of `channels` to one of `out_channels`; a forward convolution is one,
a data gradient one or several (see `convolution`). `WinogradProblem` and `DirectProblem` offer the
same four things: `weight_floats`, `scratch_floats`, `pack`, `run`. How work is cut into items may
depend on batch and threads; what is computed, and in which order, never does.
"""

from ctypes import addressof, c_char
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from . import direct, direct_images, half, packing, winograd
from .algorithm import CUT_BYTES, L2_BYTES, mostly_padding, tiles_together, weight_layout
from .finish import finish, finish_summed
from .memory import ALIGNMENT, align, aligned_empty
from .microkernel import WANTED_BYTES, chunk_length, gemm_blocked
from .parallel import Integers, hold, run, thread_count
from .sums import sum_rows
from .transforms import Form
from .vector import LANES, TILE_COLUMNS, TILE_ROWS, VECTOR_BYTES

Floats = npt.NDArray[np.float32]

FLOORS = np.array([-np.inf, 0.0], dtype=np.float32)
"""The smallest value that passes: without and with ReLU."""

BLOCK_FLOATS = 96 * 1024
"""Floats of a block's left operand: well inside an L2 of 1 MB with room for weights."""

ITEMS_PER_THREAD = 3
"""Work items wanted for a thread, so that one that is slowed down doesn't hold up the rest."""


def ceil_div(a: int, b: int) -> int:
    """Return a / b rounded up."""
    return -(-a // b)


def address(array: npt.NDArray[np.generic]) -> int:
    """Return where an array's data begin; who notes down calls keeps it alive."""
    hold(array)
    try:
        return addressof(c_char.from_buffer(array))  # type: ignore[arg-type]
    except (TypeError, ValueError, BufferError):  # read-only, empty or with gaps: six times slower
        return int(array.__array_interface__["data"][0])


def _aligned_bytes(count: int) -> int:
    return align(int(count))


@cache
def even_block(tiles: int, most: int, threads: int) -> int:
    """Return the tiles of a block, at most `most`, that let all threads end at about one time.

    A thread's time is its rounds of blocks; each tile counts, and what goes with every block and
    every tile of the microkernel counts as some tiles more.
    """

    def time(block: int) -> int:
        rounds = ceil_div(ceil_div(tiles, block), threads)
        return rounds * (block + 2 * ceil_div(block, TILE_ROWS) + 4)

    return min(range(most, 0, -1), key=time)


@dataclass(frozen=True)
class WeightView:
    """How a problem reads an array of weights: byte steps between lanes, depth and taps.

    `offset` leads to the first tap; lanes are the problem's output channels, depth its input's.
    """

    offset: int
    lane_step: int
    depth_step: int
    row_step: int
    tap_step: int


@dataclass(frozen=True)
class Epilogue:
    """What is done to a finished output: + bias, + residual, ReLU; sums, if asked.

    `sums` (bands, 2, K) of float64 receives each channel's sum and sum of squares over parts of
    the output, `bands(images)` of the problem.
    """

    bias: Floats | None = None
    residual: Floats | None = None
    relu: bool = False
    sums: npt.NDArray[np.float64] | None = None


NO_EPILOGUE = Epilogue()


def _fill_epilogue(
    table: Integers,
    slots: tuple[int, int, int, int],
    epilogue: Epilogue,
    zeros: Floats,
    out_channels: int,
) -> Floats:
    """Set bias, residual, has_residual and floor; return what must stay alive."""
    bias_slot, residual_slot, has_residual_slot, floor_slot = slots
    bias = zeros
    if epilogue.bias is not None:
        bias = epilogue.bias
        if out_channels % TILE_COLUMNS:
            # kernels read whole tiles of columns
            bias = np.zeros_like(zeros)
            copy = np.zeros(packing.SLOTS, dtype=np.int64)
            copy[packing.SOURCE], copy[packing.TARGET] = address(epilogue.bias), address(bias)
            copy[packing.COLUMNS] = out_channels
            run(packing.pad_vector, copy, 1, 1)
    table[bias_slot] = address(bias)
    table[residual_slot] = address(zeros if epilogue.residual is None else epilogue.residual)
    table[has_residual_slot] = epilogue.residual is not None
    table[floor_slot] = address(FLOORS) + 4 * epilogue.relu
    return bias


def _packing_table(
    weight: Floats, view: WeightView, out: Floats, channels: int, out_channels: int
) -> Integers:
    """Return what both ways of packing are told."""
    table = np.zeros(packing.SLOTS, dtype=np.int64)
    table[packing.SOURCE] = address(weight) + view.offset
    table[packing.TARGET] = address(out)
    table[packing.DEPTH] = channels
    table[packing.COLUMNS] = out_channels
    table[packing.LANE_STEP] = view.lane_step
    table[packing.DEPTH_STEP] = view.depth_step
    table[packing.ROW_STEP] = view.row_step
    table[packing.TAP_STEP] = view.tap_step
    return table


class WinogradProblem:
    """A 3x3 convolution of stride 1 in a Winograd form.

    Parameters
    ----------
    form : Form
        F4, F2, or M2 for maps of 2x2.
    channels, out_channels, height, width : int
        Of the input and output.
    padding : int
        0, 1 or 2.
    view : WeightView
        How it reads the weights.
    images : int
        The most in a call, by weights that are laid out once; 0 where they change with each call.

    Attributes
    ----------
    plain : bool
        Whether `run` takes the weights as they are; else `pack` makes U of them, or H.
    half : bool
        Whether it makes H, see the module `half`.
    """

    def __init__(
        self,
        form: Form,
        channels: int,
        out_channels: int,
        height: int,
        width: int,
        padding: int,
        view: WeightView,
        images: int = 0,
    ) -> None:
        self.form = form
        self.view = view
        self.channels = channels
        self.out_channels = out_channels
        self.columns = ceil_div(out_channels, TILE_COLUMNS)
        self.out_height = height + 2 * padding - 2
        self.out_width = width + 2 * padding - 2
        self.tile_height = ceil_div(self.out_height, form.outputs)
        self.tile_width = ceil_div(self.out_width, form.outputs)
        self.zeros = np.zeros(self.columns * TILE_COLUMNS, dtype=np.float32)
        vectors = ceil_div(channels, LANES)
        depth = packing.padded_depth(channels)
        transformed = int(form.points * self.columns * depth * TILE_COLUMNS)
        tiles = images * self.tile_height * self.tile_width
        stored = self.columns * TILE_COLUMNS
        layout = weight_layout(form, channels, stored, tiles, images > 0)
        self.half, self.plain = layout == "half", layout == "plain"
        self.weight_floats = 0 if self.plain else transformed
        if self.half:
            self.weight_floats = transformed // form.size * half.TAPS
        self._choose_blocks(form.points * vectors * VECTOR_BYTES)

        table = np.zeros(winograd.SLOTS, dtype=np.int64)
        table[winograd.HEIGHT] = height
        table[winograd.WIDTH] = width
        table[winograd.CHANNELS] = channels
        table[winograd.OUT_HEIGHT] = self.out_height
        table[winograd.OUT_WIDTH] = self.out_width
        table[winograd.OUT_CHANNELS] = out_channels
        table[winograd.PADDING] = padding - form.inset
        table[winograd.OUTPUTS] = form.outputs
        table[winograd.SIDE] = form.inputs
        table[winograd.POINTS] = form.points
        table[winograd.TILE_HEIGHT] = self.tile_height
        table[winograd.TILE_WIDTH] = self.tile_width
        if self.plain:
            table[winograd.LANE_STEP] = view.lane_step
            table[winograd.DEPTH_STEP] = view.depth_step
            table[winograd.ROW_STEP] = view.row_step
            table[winograd.TAP_STEP] = view.tap_step
        self._table = table

    def _choose_blocks(self, tile_bytes: int) -> None:
        """Choose tiles in a block and columns in a group for both schedules; size their scratch."""
        # V takes at most 0.6 of L2; beside it are M and, while they pass, the weights. All of a
        # layer's weights pass by each block: two threads that read them more often wait for memory
        most = max(L2_BYTES * 6 // 10 // tile_bytes, TILE_ROWS)
        self.block = min(most, 2 * TILE_ROWS + 4)
        # more columns at a time read V less often, fewer keep M small
        self.group = min(2 if 4 * self.weight_floats <= CUT_BYTES * 2 else 4, self.columns)
        self.shared_block = tiles_together(self.form, self.channels)
        self.shared_group = min(2, self.columns)
        self._bytes = self._thread_bytes(self.block, self.group, True)
        self._shared_bytes = self._thread_bytes(self.shared_block, self.shared_group, False)

    def _v_bytes(self, tiles: int) -> int:
        return int(self.form.points * winograd.point_step(self.channels, tiles))

    def _thread_bytes(self, block: int, group: int, own_v: bool) -> int:
        """Return the scratch of a thread: V, a padded copy of an edge tile, M."""
        points = self.form.points
        patch = max(points * winograd.PATCH_VECTORS, 2 * self.form.outputs**2 * group * 2)
        products = block * points * group * TILE_COLUMNS * 4
        v = self._v_bytes(block) if own_v else 0
        panel = 0
        if self.plain:
            panel = points * winograd.panel_step(chunk_length(self.channels), group)
        return _aligned_bytes(v + patch * VECTOR_BYTES + products + panel)

    def scratch_floats(self, threads: int) -> int:
        """Return the scratch that `run` needs on so many threads."""
        by_block = threads * self._bytes
        by_group = threads * self._shared_bytes + self._v_bytes(self.shared_block)
        return (max(by_block, by_group) + ALIGNMENT) // 4

    def bands(self, images: int) -> int:
        """Return how many parts of the output are summed up by themselves: rows of tiles."""
        return images * self.tile_height

    def pack(self, weight: Floats, out: Floats) -> None:
        """Transform weights into `out`, which starts at a cache line."""
        table = _packing_table(weight, self.view, out, self.channels, self.out_channels)
        items = self.columns * 2 * ceil_div(self.channels, packing.CHUNK)
        if self.half and self.form.half is not None:
            table[packing.POINTS] = self.form.size
            table[packing.WEIGHT_TRANSFORM] = self.form.half.address
            run(packing.pack_half, table, items, thread_count())
        else:
            table[packing.POINTS] = self.form.points
            table[packing.WEIGHT_TRANSFORM] = self.form.weight.address
            run(packing.pack_winograd, table, items, thread_count())

    def run(
        self, x: Floats, packed: Floats, y: Floats, scratch: Floats, epilogue: Epilogue
    ) -> None:
        """Convolve x (N, H, W, C) into y (N, P, Q, K); plain weights are their own `packed`."""
        threads = thread_count()
        tiles = x.shape[0] * self.tile_height * self.tile_width
        table = self._table.copy()
        table[winograd.X] = address(x)
        table[winograd.WEIGHT] = address(packed)
        table[winograd.Y] = address(y)
        slots = (winograd.BIAS, winograd.RESIDUAL, winograd.HAS_RESIDUAL, winograd.FLOOR)
        bias = _fill_epilogue(table, slots, epilogue, self.zeros, self.out_channels)
        table[winograd.SCRATCH] = align(address(scratch))
        table[winograd.TILES] = tiles
        table[winograd.INPUT_TRANSFORM] = self.form.input.address
        table[winograd.OUTPUT_TRANSFORM] = self.form.output.address
        table[winograd.GEMM] = gemm_blocked.address
        if self.plain:
            table[winograd.WEIGHT] += self.view.offset
            table[winograd.WEIGHT_TRANSFORM] = self.form.weight.address
        if self.half:
            table[winograd.LOW] = self.form.half_products[0].address
            if len(self.form.half_products) > 1:
                table[winograd.HIGH] = self.form.half_products[1].address
        remaining = np.empty(0, np.int64)
        if epilogue.sums is not None:
            bands = self.bands(x.shape[0])
            remaining = np.full(bands, self.tile_width * self.columns, np.int64)
            table[winograd.REMAINING] = address(remaining)
            table[winograd.PARTIAL] = address(epilogue.sums)
            table[winograd.SUMS] = sum_rows.address

        block = even_block(tiles, self.block, threads)
        blocks = ceil_div(tiles, block)
        if tiles <= self.block and (self.half or 4 * self.weight_floats > CUT_BYTES):
            table[winograd.BLOCK] = tiles
            table[winograd.GROUP] = self.shared_group
            table[winograd.THREAD_SCRATCH] = self._bytes
            groups = ceil_div(self.columns, self.shared_group)
            run(winograd.winograd_channels, table, groups, threads)
        elif blocks >= threads and not self.plain:
            table[winograd.BLOCK] = block
            table[winograd.GROUP] = self.group
            table[winograd.THREAD_SCRATCH] = self._bytes
            run(winograd.winograd_blocks, table, blocks, threads)
        else:
            # tiles in equal shares, so that a group's products split into tiles of even heights
            rounds = ceil_div(tiles, self.shared_block)
            block = ceil_div(tiles, rounds) if rounds else 0
            own = self._shared_bytes
            table[winograd.BLOCK] = block
            table[winograd.GROUP] = self.shared_group
            table[winograd.THREAD_SCRATCH] = own
            table[winograd.SHARED] = table[winograd.SCRATCH] + threads * own
            for first in range(0, tiles, block or 1):
                table[winograd.FIRST_TILE] = first
                run(winograd.winograd_inputs, table, min(block, tiles - first), threads)
                groups = ceil_div(self.columns, self.shared_group)
                run(winograd.winograd_groups, table, groups, threads)
        del bias, remaining


@dataclass(frozen=True)
class Grid:
    """Which outputs a direct problem computes, from which inputs.

    y[out_top + out_step * i, out_left + out_step * j] for i < grid[0], j < grid[1], from
    x[top + step * i + r, left + step * j + s] for r < taps[0], s < taps[1].
    """

    grid: tuple[int, int]
    taps: tuple[int, int]
    top: int
    left: int
    step: int
    out_top: int = 0
    out_left: int = 0
    out_step: int = 1


class DirectProblem:
    """A convolution of any kernel, stride and padding, by blocks of gathered pixels.

    Parameters
    ----------
    channels, out_channels : int
    size, out_size : tuple of int
        Height and width of the whole input and output.
    grid : Grid
    view : WeightView
        How it reads the weights.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        size: tuple[int, int],
        out_size: tuple[int, int],
        grid: Grid,
        view: WeightView,
    ) -> None:
        self.view = view
        self.channels = channels
        self.out_channels = out_channels
        self.grid = grid
        self.columns = ceil_div(out_channels, TILE_COLUMNS)
        self.zeros = np.zeros(self.columns * TILE_COLUMNS, dtype=np.float32)
        self.depth = int(packing.padded_depth(grid.taps[0] * grid.taps[1] * channels))
        rows = BLOCK_FLOATS // max(self.depth, 1) // TILE_ROWS
        self.block = max(TILE_ROWS * 2, min(rows, 8) * TILE_ROWS)
        first = (grid.top, grid.left)
        self.by_pixel = (
            channels % LANES == 0
            and min(grid.taps) > 0
            and mostly_padding(size, grid.grid, grid.taps, first, grid.step)
        )

        self.rows = 1  # of the output, in a block of an image problem
        self.images = (
            channels == direct_images.CHANNELS
            and grid.step in direct_images.PIXELS
            and min(grid.taps) > 0
        )
        if self.images:
            segments = ceil_div(grid.grid[1], direct_images.SEGMENT)
            self.block = ceil_div(grid.grid[1], max(segments, 1))
            self.rows = max(direct_images.SEGMENT // max(grid.grid[1], 1), 1)

        table = np.zeros(direct.SLOTS, dtype=np.int64)
        table[direct.HEIGHT], table[direct.WIDTH] = size
        table[direct.CHANNELS] = channels
        table[direct.TOP] = grid.top
        table[direct.LEFT] = grid.left
        table[direct.STEP] = grid.step
        table[direct.TAP_ROWS], table[direct.TAP_COLUMNS] = grid.taps
        table[direct.OUT_HEIGHT], table[direct.OUT_WIDTH] = out_size
        table[direct.OUT_CHANNELS] = out_channels
        table[direct.OUT_TOP] = grid.out_top
        table[direct.OUT_LEFT] = grid.out_left
        table[direct.OUT_STEP] = grid.out_step
        table[direct.GRID_HEIGHT], table[direct.GRID_WIDTH] = grid.grid
        table[direct.BLOCK] = self.block
        table[direct.BY_PIXEL] = self.by_pixel
        table[direct.ROWS] = self.rows
        self._table = table

    @property
    def weight_floats(self) -> int:
        """Floats of the packed weights."""
        return self.columns * self.depth * TILE_COLUMNS

    def _thread_bytes(self) -> int:
        """Return the scratch of a thread: A, one pixel's depth, M."""
        if self.images:
            taps = self.grid.taps
            row = direct_images.row_vectors(self.block, self.grid.step, taps[1])
            products = self.rows * self.block * self.columns * 2
            return _aligned_bytes((taps[0] * row + products) * VECTOR_BYTES)
        left = (self.depth + LANES) // LANES * self.block
        flat = self.block * direct.flat_bytes(*self.grid.taps, self.channels)
        products = self.block * self.columns * 2
        return _aligned_bytes(WANTED_BYTES + (left + products) * VECTOR_BYTES + flat)

    def scratch_floats(self, threads: int) -> int:
        """Return the scratch that `run` needs on so many threads."""
        return (threads * self._thread_bytes() + ALIGNMENT) // 4

    def bands(self, images: int) -> int:
        """Return how many blocks of pixels there are: each makes sums of its own."""
        height, width = self.grid.grid
        if self.images:
            return ceil_div(images * height, self.rows) * ceil_div(width, self.block)
        if self.by_pixel:
            return height * width * ceil_div(images, self.block)
        return ceil_div(images * height * width, self.block)

    def pack(self, weight: Floats, out: Floats) -> None:
        """Lay out weights in `out`."""
        table = _packing_table(weight, self.view, out, self.channels, self.out_channels)
        table[packing.TAP_ROWS], table[packing.TAP_COLUMNS] = self.grid.taps
        items = self.columns * 2 * ceil_div(self.channels, packing.CHUNK)
        run(packing.pack_direct, table, items, thread_count())

    def run(
        self, x: Floats, packed: Floats, y: Floats, scratch: Floats, epilogue: Epilogue
    ) -> None:
        """Compute the grid of outputs in y (N, P, Q, K) from x (N, H, W, C)."""
        threads = thread_count()
        images = x.shape[0]
        blocks = self.bands(images)
        table = self._table.copy()
        table[direct.X] = address(x)
        table[direct.WEIGHT] = address(packed)
        table[direct.Y] = address(y)
        slots = (direct.BIAS, direct.RESIDUAL, direct.HAS_RESIDUAL, direct.FLOOR)
        bias = _fill_epilogue(table, slots, epilogue, self.zeros, self.out_channels)
        table[direct.SCRATCH] = align(address(scratch))
        table[direct.THREAD_SCRATCH] = self._thread_bytes()
        table[direct.IMAGES] = images
        table[direct.FINISH] = finish.address
        if epilogue.sums is not None:
            table[direct.FINISH] = finish_summed.address
            table[direct.PARTIAL] = address(epilogue.sums)
        if self.images:
            table[direct.GEMM] = direct_images.PIXELS[self.grid.step].address
            run(direct_images.image_rows, table, blocks, threads)
            return
        table[direct.GEMM] = gemm_blocked.address
        # few blocks: several threads gather the same one, each for a part of the columns
        parts = max(1, min(self.columns, ceil_div(ITEMS_PER_THREAD * threads, max(blocks, 1))))
        table[direct.PARTS] = parts
        # weights that stay in L2 leave the memory to what blocks read and write
        small = 4 * self.weight_floats <= CUT_BYTES // 2
        table[direct.FETCH] = small and parts == 1 and not self.by_pixel
        run(direct.direct_blocks, table, blocks * parts, threads)
        del bias


Problem = WinogradProblem | DirectProblem

__all__ = [
    "NO_EPILOGUE",
    "DirectProblem",
    "Epilogue",
    "Floats",
    "Grid",
    "Problem",
    "WeightView",
    "WinogradProblem",
    "address",
    "aligned_empty",
    "ceil_div",
]
