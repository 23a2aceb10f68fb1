"""Weight-gradient problems of one shape; the counterpart of `problem`."""

from dataclasses import dataclass
from types import ModuleType

import numpy as np

from . import weight_direct as direct
from . import weight_tiny as tiny
from . import weight_winograd as winograd
from .algorithm import mostly_padding
from .memory import ALIGNMENT, align
from .microkernel import gemm_strided
from .parallel import Integers, run, thread_count
from .problem import Floats, address, ceil_div
from .transforms import WeightForm
from .vector import TILE_COLUMNS
from .weight_parts import add_shards, line_bytes, row_bytes, sums_bytes, vector_rows

BLOCK = 128
"""Pixels in a block, images in a group: the depth over which sums stay in registers."""

GROUP_BYTES = 1024 * 1024
"""Both operands of a group, in L2 beside the sums."""

REGION = 64
"""Most output and input channels of a region: its 36 sums take 0.6 MB of L2."""

MIN_ITEMS = 8
"""Items to make of a gradient, by shards if need be; by shape only, so that sums keep order."""


@dataclass(frozen=True)
class Layer:
    """A convolution's shape: what its weight gradient needs to know."""

    channels: int
    out_channels: int
    kernel_size: int
    stride: int
    padding: int
    size: tuple[int, int]
    out_size: tuple[int, int]

    @property
    def weights(self) -> int:
        """How many weights there are."""
        return self.out_channels * self.channels * self.kernel_size**2

    @property
    def mostly_padding(self) -> bool:
        """Whether skipping the taps that see padding pays."""
        taps, first = (self.kernel_size,) * 2, (-self.padding,) * 2
        return mostly_padding(self.size, self.out_size, taps, first, self.stride)

    @property
    def used_taps(self) -> Integers:
        """Numbers of the taps that see more than padding, in order."""
        seen = [
            [
                any(0 <= self.stride * i - self.padding + tap < size for i in range(outputs))
                for tap in range(self.kernel_size)
            ]
            for size, outputs in zip(self.size, self.out_size, strict=True)
        ]
        return np.flatnonzero(np.logical_and.outer(*seen))

    def regions(self, side: int) -> int:
        """Return how many regions of at most `side` x `side` channels cover the filters."""
        return ceil_div(self.out_channels, side) * ceil_div(self.channels, side)


def _table(slots: ModuleType, layer: Layer) -> Integers:
    """Return a table for the kernel of a module (its last slot is GEMM) with the sizes."""
    table = np.zeros(slots.GEMM + 1, dtype=np.int64)
    table[slots.CHANNELS], table[slots.OUT_CHANNELS] = layer.channels, layer.out_channels
    table[slots.HEIGHT], table[slots.WIDTH] = layer.size
    table[slots.OUT_HEIGHT], table[slots.OUT_WIDTH] = layer.out_size
    table[slots.PADDING] = layer.padding
    return table


def _filled(
    slots: ModuleType, table: Integers, x: Floats, grad_y: Floats, grad_w: Floats, scratch: Floats
) -> Integers:
    """Return a copy of the table for one call."""
    table = table.copy()
    table[slots.X], table[slots.GRAD] = address(x), address(grad_y)
    table[slots.WEIGHT] = address(grad_w)
    table[slots.SCRATCH] = align(address(scratch))
    table[slots.GEMM] = gemm_strided.address
    return table


class DirectWeightProblem:
    """The weight gradient of any convolution, as one product over the pixels."""

    def __init__(self, layer: Layer) -> None:
        taps, channels = layer.kernel_size, layer.channels
        flat = channels < TILE_COLUMNS and taps > 1
        self.ranges = 1 if flat else ceil_div(channels, TILE_COLUMNS)
        self.shards = ceil_div(MIN_ITEMS, self.ranges)
        self.partial_bytes = self.shards * layer.weights * 4 if self.shards > 1 else 0
        rows = row_bytes(layer.out_channels) + direct.columns_row(channels, taps, flat)
        sums = sums_bytes(layer.out_channels, direct.column_count(channels, taps, flat))
        self.thread_bytes = align(line_bytes(TILE_COLUMNS, taps**2) + BLOCK * rows + sums)
        self._used = np.arange(taps**2)

        self._table = table = _table(direct, layer)
        table[direct.TAPS], table[direct.STEP] = taps, layer.stride
        table[direct.USED] = address(self._used)
        table[direct.BLOCK] = BLOCK
        table[direct.FLAT] = flat
        table[direct.SHARDS] = self.shards
        table[direct.THREAD_SCRATCH] = self.thread_bytes

    def scratch_floats(self, threads: int) -> int:
        """Return the scratch that `run` needs on so many threads."""
        return (threads * self.thread_bytes + self.partial_bytes + ALIGNMENT) // 4

    def run(self, x: Floats, grad_y: Floats, grad_weight: Floats, scratch: Floats) -> None:
        """Write the gradient of the weights (K, C, R, S)."""
        threads = thread_count()
        table = _filled(direct, self._table, x, grad_y, grad_weight, scratch)
        table[direct.IMAGES] = x.shape[0]
        partial = int(table[direct.SCRATCH]) + threads * self.thread_bytes
        table[direct.PARTIAL] = partial
        run(direct.weight_direct, table, self.ranges * self.shards, threads)
        if self.shards > 1:
            add_shards(partial, self.shards, grad_weight, threads)


class TinyWeightProblem:
    """The weight gradient of a convolution many of whose taps see only padding."""

    def __init__(self, layer: Layer) -> None:
        side = REGION if layer.regions(REGION) >= MIN_ITEMS else TILE_COLUMNS
        self.regions = layer.regions(side)
        rows, columns = min(layer.out_channels, side), min(layer.channels, side)
        out_places, places = layer.out_size[0] * layer.out_size[1], layer.size[0] * layer.size[1]
        image = out_places * row_bytes(rows) + places * vector_rows(columns)
        group = max(4, min(GROUP_BYTES // image // 4 * 4, BLOCK))
        taps = layer.kernel_size
        self._used = layer.used_taps
        sums = self._used.size * sums_bytes(rows, columns)
        self.thread_bytes = align(line_bytes(columns, taps**2) + group * image + sums)

        self._table = table = _table(tiny, layer)
        table[tiny.TAPS], table[tiny.STEP] = taps, layer.stride
        table[tiny.USED], table[tiny.USED_COUNT] = address(self._used), self._used.size
        table[tiny.GROUP] = group
        table[tiny.REGION_ROWS], table[tiny.REGION_COLUMNS] = rows, columns
        table[tiny.THREAD_SCRATCH] = self.thread_bytes

    def scratch_floats(self, threads: int) -> int:
        """Return the scratch that `run` needs on so many threads."""
        return (threads * self.thread_bytes + ALIGNMENT) // 4

    def run(self, x: Floats, grad_y: Floats, grad_weight: Floats, scratch: Floats) -> None:
        """Write the gradient of the weights (K, C, R, S)."""
        table = _filled(tiny, self._table, x, grad_y, grad_weight, scratch)
        table[tiny.IMAGES] = x.shape[0]
        run(tiny.weight_tiny, table, self.regions, thread_count())


class WinogradWeightProblem:
    """The weight gradient of a 3x3 convolution of stride 1, in a Winograd form."""

    def __init__(self, layer: Layer, form: WeightForm) -> None:
        self.form = form
        self.tiles = tuple(ceil_div(extent, form.outputs) for extent in layer.out_size)
        self.regions = layer.regions(REGION)
        self.shards = ceil_div(MIN_ITEMS, self.regions)
        self.partial_bytes = self.shards * layer.weights * 4 if self.shards > 1 else 0
        rows, columns = min(layer.out_channels, REGION), min(layer.channels, REGION)
        tile = row_bytes(rows) + vector_rows(columns)
        # a multiple of the unrolling
        group = min(GROUP_BYTES // (form.points * tile) // 4 * 4, BLOCK)
        points = form.points * (group * tile + sums_bytes(rows, columns))
        self.thread_bytes = align(winograd.PATCH_BYTES + line_bytes(columns, 9) + points)

        self._table = table = _table(winograd, layer)
        table[winograd.PADDING] -= form.inset
        table[winograd.OUTPUTS], table[winograd.SIDE] = form.outputs, form.inputs
        table[winograd.POINTS] = form.points
        table[winograd.TILE_HEIGHT], table[winograd.TILE_WIDTH] = self.tiles
        table[winograd.GROUP] = group
        table[winograd.REGION_ROWS], table[winograd.REGION_COLUMNS] = rows, columns
        table[winograd.SHARDS] = self.shards
        table[winograd.THREAD_SCRATCH] = self.thread_bytes

    def scratch_floats(self, threads: int) -> int:
        """Return the scratch that `run` needs on so many threads."""
        return (threads * self.thread_bytes + self.partial_bytes + ALIGNMENT) // 4

    def run(self, x: Floats, grad_y: Floats, grad_weight: Floats, scratch: Floats) -> None:
        """Write the gradient of the weights (K, C, 3, 3)."""
        threads = thread_count()
        table = _filled(winograd, self._table, x, grad_y, grad_weight, scratch)
        partial = int(table[winograd.SCRATCH]) + threads * self.thread_bytes
        table[winograd.PARTIAL] = partial
        table[winograd.TILES] = x.shape[0] * self.tiles[0] * self.tiles[1]
        table[winograd.INPUT_TRANSFORM] = self.form.input.address
        table[winograd.GRADIENT_TRANSFORM] = self.form.gradient.address
        table[winograd.FILTER_TRANSFORM] = self.form.filter.address
        run(winograd.weight_winograd, table, self.regions * self.shards, threads)
        if self.shards > 1:
            add_shards(partial, self.shards, grad_weight, threads)


WeightProblem = DirectWeightProblem | TinyWeightProblem | WinogradWeightProblem


def weight_problem(layer: Layer, form: WeightForm | None) -> WeightProblem:
    """Return the problem of a layer's weight gradient, in a Winograd form or as suits its shape."""
    if form is not None:
        return WinogradWeightProblem(layer, form)
    return (TinyWeightProblem if layer.mostly_padding else DirectWeightProblem)(layer)
