"""Which algorithm a layer shape gets: a cost in cycles, from arithmetic and weights' traffic.

The choice must be the same for an image alone and in any batch, on one thread or many: an
inference result would differ in its last bits otherwise. So the cost knows the layer's shape and
the vector unit, nothing else, and nothing is timed at run time. The constants come from timings
on two AVX-512 cores (docs/performance.md); narrower units scale by their lanes.
"""

from .transforms import F2, F4, Form
from .vector import LANES, TILE_COLUMNS

FMAS_PER_CYCLE = 2
"""Vector multiply-adds that a core starts in a cycle."""

TRANSFORM_OPERATIONS = (4.0, 5.0)
"""Vector operations a point of the input and of the output transform, loads and stores with it."""

GATHER_OPERATIONS = 2.0
"""Vector operations an element of the direct form's left operand."""

WEIGHT_BYTES_PER_CYCLE = 8.0
"""What a core reads of weights that no L2 holds."""

ASSUMED_BATCH = 16
"""Images that share one reading of the weights; a compromise, and fixed: see above."""

STORED_BYTES = 16 * 1024 * 1024
"""Transformed weights larger than this are made from the plain ones whenever they are needed."""

MADE_CYCLES = 6.0
"""Cycles for each vector of transformed weights that is made when needed."""

MADE_BATCH = 2
"""Images that share one making of them. Few: at 512 channels of 7x7, F(2x2, 3x3) takes half of
F(4x4, 3x3)'s time for an image alone, and as much for eight."""


def ceil_to(count: int, multiple: int) -> int:
    """Return the next multiple."""
    return -(-count // multiple) * multiple


def inside_taps(size: int, outputs: int, taps: int, first: int, step: int) -> int:
    """Count the pairs (output, tap) along one axis that see the map, not padding."""
    places = (first + step * i + tap for i in range(outputs) for tap in range(taps))
    return sum(0 <= place < size for place in places)


def mostly_padding(
    size: tuple[int, int],
    outputs: tuple[int, int],
    taps: tuple[int, int],
    first: tuple[int, int],
    step: int,
) -> bool:
    """Tell whether more than a third of all taps see padding: then skipping them pays."""
    inside, all_taps = 1, 1
    for axis in range(2):
        inside *= inside_taps(size[axis], outputs[axis], taps[axis], first[axis], step)
        all_taps *= outputs[axis] * taps[axis]
    return 3 * inside < 2 * all_taps


def winograd_cost(form: Form, channels: int, out_channels: int, out_size: tuple[int, int]) -> float:
    """Return the cycles an image takes in a Winograd form."""
    depth, columns = ceil_to(channels, 4), ceil_to(out_channels, TILE_COLUMNS)
    tiles = ceil_to(out_size[0], form.outputs) * ceil_to(out_size[1], form.outputs)
    tiles //= form.outputs**2
    into, back = TRANSFORM_OPERATIONS
    operations = depth * columns + into * ceil_to(channels, LANES) + back * columns
    cycles = tiles * form.points * operations / (LANES * FMAS_PER_CYCLE)
    weights = form.points * depth * columns * 4
    if weights > STORED_BYTES:
        return cycles + MADE_CYCLES * weights / (4 * LANES * MADE_BATCH)
    return cycles + weights / (WEIGHT_BYTES_PER_CYCLE * ASSUMED_BATCH)


def direct_cost(
    channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int,
    padding: int,
    size: tuple[int, int],
    out_size: tuple[int, int],
) -> float:
    """Return the cycles an image takes by direct convolution."""
    columns = ceil_to(out_channels, TILE_COLUMNS)
    pairs = out_size[0] * out_size[1] * kernel_size**2
    taps, first = (kernel_size, kernel_size), (-padding, -padding)
    if channels % LANES == 0 and mostly_padding(size, out_size, taps, first, stride):
        pairs = 1
        for axis in range(2):
            pairs *= inside_taps(size[axis], out_size[axis], kernel_size, -padding, stride)
    operations = pairs * channels * (columns + GATHER_OPERATIONS)
    weights = kernel_size**2 * channels * columns * 4
    cycles = operations / (LANES * FMAS_PER_CYCLE)
    return cycles + weights / (WEIGHT_BYTES_PER_CYCLE * ASSUMED_BATCH)


def choose_algorithm(
    channels_in: int,
    channels_out: int,
    kernel_size: int,
    stride: int,
    padding: int,
    height: int,
    width: int,
) -> str:
    """Choose by a layer's shape alone.

    Parameters
    ----------
    channels_in, channels_out, kernel_size, stride, padding : int
    height, width : int
        Of the input.

    Returns
    -------
    str
        "winograd4", "winograd2" or "direct".
    """
    if kernel_size != 3 or stride != 1 or padding > 2:
        return "direct"
    out_size = (height + 2 * padding - 2, width + 2 * padding - 2)
    costs = {
        "direct": direct_cost(
            channels_in, channels_out, kernel_size, stride, padding, (height, width), out_size
        ),
        "winograd2": winograd_cost(F2, channels_in, channels_out, out_size),
        "winograd4": winograd_cost(F4, channels_in, channels_out, out_size),
    }
    return min(costs, key=lambda name: costs[name])
