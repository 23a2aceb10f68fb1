"""(N, C, H, W) as (N, H, W, C): how images come in."""

from __future__ import annotations

import numpy as np

from .parallel import FIRST, kernel, next_item, run, thread_count
from .problem import Floats, address, ceil_div
from .vector import load_float, load_int, store_float

SOURCE, TARGET, CHANNELS, PIXELS, PARTS = range(FIRST, FIRST + 5)

PART = 4096
"""Pixels of an item."""


@kernel
def channels_last(table: int, thread: int, threads: int) -> None:
    """Interleave the channels: an item is a part of an image."""
    channels = load_int(table, CHANNELS)
    pixels = load_int(table, PIXELS)
    parts = load_int(table, PARTS)
    item = next_item(table)
    while item >= 0:
        image = item // parts * pixels * channels * 4
        start = item % parts * PART
        count = min(PART, pixels - start)
        for c in range(channels):
            source = load_int(table, SOURCE) + image + (c * pixels + start) * 4
            target = load_int(table, TARGET) + image + (start * channels + c) * 4
            for pixel in range(count):
                store_float(target, pixel * channels, load_float(source, pixel))
        item = next_item(table)


def to_channels_last(x: Floats, out: Floats) -> None:
    """Write (N, C, H, W), C-contiguous, as (N, H, W, C)."""
    images, channels, height, width = x.shape
    parts = ceil_div(height * width, PART)
    table = np.zeros(PARTS + 1, dtype=np.int64)
    table[SOURCE], table[TARGET] = address(x), address(out)
    table[CHANNELS], table[PIXELS], table[PARTS] = channels, height * width, parts
    run(channels_last, table, images * parts, thread_count())
