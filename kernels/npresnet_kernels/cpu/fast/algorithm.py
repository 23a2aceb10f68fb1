"""Which algorithm a layer shape gets: the least cost in a model of cycles.

The choice must be the same for an image alone and in any batch, on one thread or many: an
inference result would differ in its last bits otherwise. So the model knows the layer's shape, the
host's vector unit and its L2, and asks what an image alone and a fixed batch take; nothing is
timed at run time. What an amount of work costs was fitted to the times that `bench/layers.py`
measured (`bench/calibrate.py` does it, docs/performance.md says how well it fits).
"""

from dataclasses import astuple, dataclass
from math import prod
from pathlib import Path

from . import half
from .transforms import F2, F4, GRADIENT_F4, GRADIENT_M2, M2, Form
from .vector import LANES, TILE_COLUMNS, TILE_ROWS, VECTOR_BYTES

FMAS_PER_CYCLE = 2
"""Vector multiply-adds that a core starts in a cycle."""

ASSUMED_BATCHES = (1, 16)
"""An image alone and many weigh alike: the product of both costs decides."""

TRAINING_BATCHES = (16,)
"""Nobody trains on an image alone."""

CUT_BYTES = 1 << 20
"""Of an L2, what work is cut for; found by trying. On an L2 of 2 MiB, blocks for all of it are no
faster, and an image alone takes longer."""

STORED_BYTES = 16 * 1024 * 1024
"""Larger transformed weights are stored transformed in one direction or, where they change with
each call, made from the plain ones whenever they are needed."""

HALF_TILES = 16
"""Tiles of a call up to which smaller ones, too, are stored transformed in one direction: for more,
the multiply-adds take longer than reading the weights."""

HALF_OPERATIONS = 7 / 6
"""Vector operations for a multiply-add by such weights: 4 more for 24."""

SHARED_BYTES = 4 * 1024 * 1024
"""Transformed input that all threads share at a time."""


CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def _l2_bytes() -> int:
    """Return the size of a core's L2, 1 MiB where the system doesn't tell."""
    for index in CACHES.glob("index*"):
        try:
            level, size = ((index / name).read_text().strip() for name in ("level", "size"))
            if level == "2":
                return int(size.removesuffix("K")) * 1024
        except (OSError, ValueError):
            continue
    return 1 << 20


L2_BYTES = _l2_bytes()


@dataclass(frozen=True)
class Work:
    """What a call does; or, as `COSTS`, the cycles of all cores that one of each takes.

    Attributes
    ----------
    winograd, direct : float
        Vector multiply-adds of the two forms' products, at `FMAS_PER_CYCLE`.
    transform : float
        Vectors that a Winograd form makes of input and output, at `FMAS_PER_CYCLE`.
    gather : float
        Vectors of the direct form's left operand, at `FMAS_PER_CYCLE`.
    weight : float
        Bytes of packed weights beyond what an L2 holds.
    made : float
        Vectors of transformed weights that are made in the call, not before it.
    call : float
        The call itself.
    """

    winograd: float = 0.0
    direct: float = 0.0
    transform: float = 0.0
    gather: float = 0.0
    weight: float = 0.0
    made: float = 0.0
    call: float = 1.0

    def cycles(self, costs: "Work") -> float:
        """Return what the work costs."""
        pairs = zip(astuple(self), astuple(costs), strict=True)
        return float(sum(amount * cost for amount, cost in pairs))


COSTS = Work(
    winograd=1.137,
    direct=1.084,
    transform=14.9,
    gather=9.50,
    weight=0.1106,
    made=9.88,
    call=108.2e3,
)
"""Fitted on two AVX-512 cores with an L2 of 2 MiB each; narrower units scale by their lanes. `made`
is of an earlier fit, when inference made weights on the way, too."""


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


def tiles_together(form: Form, channels: int) -> int:
    """Return the most tiles that all threads work on together, where they share them."""
    tile_bytes = form.points * -(-channels // LANES) * VECTOR_BYTES
    return max(TILE_ROWS, min(128, SHARED_BYTES // tile_bytes))


def weight_layout(form: Form, channels: int, columns: int, tiles: int, kept: bool) -> str:
    """Return how a Winograd form's weights are stored.

    Parameters
    ----------
    form : Form
    channels, columns : int
        Of input and output, the latter as stored.
    tiles : int
        The most in a call.
    kept : bool
        Whether they are laid out once for many calls.

    Returns
    -------
    str
        "whole", "half" (transformed in one direction), or "plain".
    """
    weights = form.points * ceil_to(channels, 4) * columns * 4
    if channels % LANES:
        return "whole"
    large = weights > STORED_BYTES
    few = tiles <= HALF_TILES and weights > CUT_BYTES
    if kept and (large or few) and half.FITS and form.half is not None:
        return "half"
    return "plain" if large else "whole"


def winograd_work(
    form: Form,
    channels: int,
    out_channels: int,
    out_size: tuple[int, int],
    images: int,
    training: bool,
) -> Work:
    """Return what a Winograd form does for some images."""
    depth, columns = ceil_to(channels, 4), ceil_to(out_channels, TILE_COLUMNS)
    tiles = images * prod(-(-size // form.outputs) for size in out_size)
    turns = tiles * form.points / (LANES * FMAS_PER_CYCLE)
    weights = form.points * depth * columns * 4
    layout = weight_layout(form, channels, columns, tiles, not training)
    times = -(-tiles // tiles_together(form, channels)) if layout == "plain" else int(training)
    stored = {"whole": weights, "half": weights // form.size * half.TAPS, "plain": 0}[layout]
    return Work(
        winograd=turns * depth * columns * (HALF_OPERATIONS if layout == "half" else 1),
        transform=turns * (ceil_to(channels, LANES) + columns),
        weight=max(stored - L2_BYTES, 0),
        made=times * weights / VECTOR_BYTES,
    )


def direct_work(
    channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int,
    padding: int,
    size: tuple[int, int],
    out_size: tuple[int, int],
    images: int,
    training: bool,
) -> Work:
    """Return what direct convolution does for some images."""
    columns = ceil_to(out_channels, TILE_COLUMNS)
    weights = kernel_size**2 * channels * columns * 4
    all_pairs = pairs = out_size[0] * out_size[1] * kernel_size**2
    taps, first = (kernel_size, kernel_size), (-padding, -padding)
    if channels % LANES == 0 and mostly_padding(size, out_size, taps, first, stride):
        pairs = prod(
            inside_taps(size[axis], out_size[axis], kernel_size, -padding, stride)
            for axis in range(2)
        )
    turns = images * pairs * channels / (LANES * FMAS_PER_CYCLE)
    return Work(
        direct=turns * columns,
        gather=turns,
        weight=max(weights * pairs / all_pairs - L2_BYTES, 0),
        made=training * weights / VECTOR_BYTES,
    )


def work_of(
    algorithm: str,
    channels_in: int,
    channels_out: int,
    kernel_size: int,
    stride: int,
    padding: int,
    height: int,
    width: int,
    images: int,
    training: bool = False,
) -> Work:
    """Return what an algorithm, as `choose_algorithm` names it, does for some images.

    In training each call lays out its weights anew.
    """
    out_size = (
        (height + 2 * padding - kernel_size) // stride + 1,
        (width + 2 * padding - kernel_size) // stride + 1,
    )
    if algorithm == "direct":
        shape = (channels_in, channels_out, kernel_size, stride, padding)
        return direct_work(*shape, (height, width), out_size, images, training)
    form = FORMS[algorithm]
    return winograd_work(form, channels_in, channels_out, out_size, images, training)


FORMS = {"winograd4": F4, "winograd2": F2, "winograd2x2": M2}

WEIGHT_FORMS = {"winograd4": GRADIENT_F4, "winograd2": GRADIENT_F4, "winograd2x2": GRADIENT_M2}


def fits_map(size: tuple[int, int], padding: int) -> bool:
    """Return whether "winograd2x2" can do 3x3 convolutions of stride 1 on such maps."""
    return size == (2, 2) and padding == 1


def choose_algorithm(
    channels_in: int,
    channels_out: int,
    kernel_size: int,
    stride: int,
    padding: int,
    height: int,
    width: int,
    training: bool = False,
) -> str:
    """Choose by a layer's shape alone.

    Parameters
    ----------
    channels_in, channels_out, kernel_size, stride, padding : int
    height, width : int
        Of the input.
    training : bool
        Whether weights are laid out anew in each call, and images never come alone.

    Returns
    -------
    str
        "winograd4", "winograd2", "winograd2x2" or "direct".
    """
    if kernel_size != 3 or stride != 1 or padding > 2:
        return "direct"
    if fits_map((height, width), padding):
        return "winograd2x2"
    shape = (channels_in, channels_out, kernel_size, stride, padding, height, width)

    def cost(algorithm: str) -> float:
        batches = TRAINING_BATCHES if training else ASSUMED_BATCHES
        return prod(work_of(algorithm, *shape, n, training).cycles(COSTS) for n in batches)

    return min(("direct", "winograd4", "winograd2"), key=cost)
