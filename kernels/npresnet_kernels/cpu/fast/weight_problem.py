"""Weight-gradient problems of one shape; the counterpart of `problem`."""

import numpy as np

from . import direct, weight_direct
from . import weight_winograd as winograd
from .memory import ALIGNMENT, align
from .microkernel import gemm_strided
from .parallel import run, thread_count
from .problem import Floats, Grid, address, ceil_div
from .transforms import filter_3_4, gradient_3_4, input_4_3
from .vector import LANES, TILE_COLUMNS, TILE_ROWS, VECTOR_BYTES

BLOCK = 128
"""Pixels in a block: the depth over which a gradient's tile stays in registers."""

GROUP_BYTES = 1024 * 1024
"""V and E of a group of tiles, in L2 beside M."""

REGION = 64
"""Most output and input channels of a region: its 36 sums take 0.6 MB of L2."""

MIN_ITEMS = 8
"""Items to make of a gradient, by shards if need be; by shape only, so that sums keep order."""


class DirectWeightProblem:
    """The weight gradient of any convolution, as one product over the pixels.

    Parameters
    ----------
    channels, out_channels : int
    size : tuple of int
        Height and width of the input.
    grid : Grid
        Of the forward convolution.
    """

    def __init__(self, channels: int, out_channels: int, size: tuple[int, int], grid: Grid) -> None:
        self.channels = channels
        self.out_channels = out_channels
        self.grid = grid
        taps = grid.taps[0] * grid.taps[1]
        self.flat = flat = channels < TILE_COLUMNS and taps > 1
        self.tiles = ceil_div(taps * channels, TILE_COLUMNS) if flat else taps
        self.ranges = 1 if flat else ceil_div(channels, TILE_COLUMNS)
        self.shards = ceil_div(MIN_ITEMS, self.ranges)
        self.k_tiles = ceil_div(out_channels, TILE_ROWS)

        table = np.zeros(weight_direct.SLOTS, dtype=np.int64)
        table[direct.HEIGHT], table[direct.WIDTH] = size
        table[direct.CHANNELS] = channels
        table[direct.TOP] = grid.top
        table[direct.LEFT] = grid.left
        table[direct.STEP] = grid.step
        table[direct.TAP_ROWS], table[direct.TAP_COLUMNS] = grid.taps
        table[direct.OUT_CHANNELS] = out_channels
        table[direct.GRID_HEIGHT], table[direct.GRID_WIDTH] = grid.grid
        table[direct.BLOCK] = BLOCK
        table[weight_direct.FLAT] = flat
        table[weight_direct.SHARDS] = self.shards
        self._table = table

    @property
    def _sums_bytes(self) -> int:
        return self.k_tiles * self.tiles * TILE_ROWS * TILE_COLUMNS * 4

    def _thread_bytes(self) -> int:
        """Return the scratch of a thread: A, B, one flat pixel, sums."""
        vectors = self.k_tiles * BLOCK * ceil_div(TILE_ROWS, LANES)
        vectors += self.tiles * BLOCK * 2
        if self.flat:
            vectors += BLOCK * (2 * self.tiles + weight_direct.LINE_SLACK)
        sums = self._sums_bytes if self.shards == 1 else 0
        return align(vectors * VECTOR_BYTES + sums)

    def _partial_bytes(self) -> int:
        return self.shards * self.ranges * self._sums_bytes if self.shards > 1 else 0

    def scratch_floats(self, threads: int) -> int:
        """Return the scratch that `run` needs on so many threads."""
        return (threads * self._thread_bytes() + self._partial_bytes() + ALIGNMENT) // 4

    def run(self, x: Floats, grad_y: Floats, grad_weight: Floats, scratch: Floats) -> None:
        """Write the gradient of the weights (K, C, R, S)."""
        threads = thread_count()
        table = self._table.copy()
        table[direct.X] = address(x)
        table[direct.Y] = address(grad_y)
        table[direct.WEIGHT] = address(grad_weight)
        table[direct.IMAGES] = x.shape[0]
        table[direct.SCRATCH] = align(address(scratch))
        table[direct.THREAD_SCRATCH] = self._thread_bytes()
        table[direct.GEMM] = gemm_strided.address
        table[weight_direct.PARTIAL] = table[direct.SCRATCH] + threads * self._thread_bytes()
        run(weight_direct.weight_direct, table, self.ranges * self.shards, threads)
        if self.shards > 1:
            run(weight_direct.weight_reduce, table, self.ranges, threads)


class WinogradWeightProblem:
    """The weight gradient of a 3x3 convolution of stride 1, in Winograd form.

    Parameters
    ----------
    channels, out_channels : int
    size, out_size : tuple of int
        Height and width of the input and output.
    padding : int
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        size: tuple[int, int],
        out_size: tuple[int, int],
        padding: int,
    ) -> None:
        self.tiles = tuple(ceil_div(extent, winograd.TILE) for extent in out_size)
        self.region = min(out_channels, REGION), min(channels, REGION)
        self.regions = ceil_div(out_channels, REGION) * ceil_div(channels, REGION)
        self.shards = ceil_div(MIN_ITEMS, self.regions)
        self.weights = out_channels * channels * 9
        tile_bytes = winograd.vector_rows(self.region[1]) + winograd.row_bytes(self.region[0])
        # a multiple of the unrolling
        self.group = GROUP_BYTES // (winograd.POINTS * tile_bytes) // 4 * 4
        self.thread_bytes = align(
            winograd.PATCH_BYTES
            + winograd.POINTS * (self.group * tile_bytes + winograd.region_sums(*self.region))
        )

        table = np.zeros(winograd.GEMM + 1, dtype=np.int64)
        table[winograd.HEIGHT], table[winograd.WIDTH] = size
        table[winograd.CHANNELS] = channels
        table[winograd.OUT_HEIGHT], table[winograd.OUT_WIDTH] = out_size
        table[winograd.OUT_CHANNELS] = out_channels
        table[winograd.PADDING] = padding
        table[winograd.TILE_HEIGHT], table[winograd.TILE_WIDTH] = self.tiles
        table[winograd.GROUP] = self.group
        table[winograd.REGION_ROWS], table[winograd.REGION_COLUMNS] = self.region
        table[winograd.SHARDS] = self.shards
        table[winograd.THREAD_SCRATCH] = self.thread_bytes
        self._table = table

    def scratch_floats(self, threads: int) -> int:
        """Return the scratch that `run` needs on so many threads."""
        partial = self.shards * self.weights * 4 if self.shards > 1 else 0
        return (threads * self.thread_bytes + partial + ALIGNMENT) // 4

    def run(self, x: Floats, grad_y: Floats, grad_weight: Floats, scratch: Floats) -> None:
        """Write the gradient of the weights (K, C, 3, 3)."""
        threads = thread_count()
        table = self._table.copy()
        table[winograd.X] = address(x)
        table[winograd.GRAD] = address(grad_y)
        table[winograd.WEIGHT] = address(grad_weight)
        table[winograd.SCRATCH] = align(address(scratch))
        table[winograd.PARTIAL] = table[winograd.SCRATCH] + threads * self.thread_bytes
        table[winograd.TILES] = x.shape[0] * self.tiles[0] * self.tiles[1]
        table[winograd.INPUT_TRANSFORM] = input_4_3.address
        table[winograd.GRADIENT_TRANSFORM] = gradient_3_4.address
        table[winograd.FILTER_TRANSFORM] = filter_3_4.address
        table[winograd.GEMM] = gemm_strided.address
        run(winograd.weight_winograd, table, self.regions * self.shards, threads)
        if self.shards > 1:
            items = ceil_div(self.weights, winograd.REDUCED)
            run(winograd.weight_winograd_reduce, table, items, threads)
