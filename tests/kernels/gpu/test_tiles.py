"""Tiles, shares and tables of the implicit products: plain Python, no device."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from npresnet_kernels.gpu.convolution import parity_taps, slices_of, window_taps
from npresnet_kernels.gpu.products import Gather
from npresnet_kernels.gpu.tiles import TILES, WANTED_BLOCKS, Tile, choose_tile, share_of


@pytest.mark.parametrize(
    ("rows", "columns", "tile"),
    [
        (256 * 56 * 56, 64, Tile(128, 64)),  # layer1 of ResNet-34
        (256 * 28 * 28, 128, Tile(128, 128)),
        (256 * 7 * 7, 512, Tile(128, 128)),
        (7 * 7, 512, Tile(64, 64)),
        (10**6, 3, Tile(64, 64)),
        (1, 1, Tile(64, 64)),
    ],
)
def test_tile(rows, columns, tile):
    assert choose_tile(rows, columns) == tile
    down, across = tile.grid(rows, columns)
    assert (down - 1) * tile.rows < rows <= down * tile.rows
    assert (across - 1) * tile.columns < columns <= across * tile.columns


def test_every_tile_fits_without_asking():
    for tile in TILES:
        assert tile.shared(3) <= 48 * 1024
        assert tile.threads % 32 == 0


@pytest.mark.parametrize("blocks", [1, 7, 300])
@pytest.mark.parametrize("stages", [1, 8, 100, 5000])
def test_shares_fill_a_device_and_no_more(blocks, stages):
    share = share_of(blocks, stages)
    count = -(-stages // share)
    assert share >= 8
    assert count == 1 or count * blocks <= WANTED_BLOCKS


def test_parities_share_out_every_pair_of_pixel_and_tap():
    kernel, stride, padding, dilation = (3, 2), (2, 3), (1, 2), (2, 1)
    for axis in (0, 1):
        wanted = {
            (p * stride[axis] - padding[axis] + i * dilation[axis], i, p)
            for p, i in itertools.product(range(9), range(kernel[axis]))
        }
        found = set()
        for parity in itertools.product(*map(range, stride)):
            for (place,), delta in parity_taps(parity, kernel, stride, padding, dilation):
                found |= {
                    (h * stride[axis] + parity[axis], divmod(place, 2)[axis], h + delta[axis])
                    for h in range(-9, 20)
                    if 0 <= h + delta[axis] < 9
                }
        assert found == wanted


def test_folded_taps_meet_what_plain_ones_meet():
    kernel, padding, dilation = (2, 7), (1, 3), (2, 1)
    plain = {place: delta for (place,), delta in window_taps(kernel, padding, dilation)}
    folded = {
        place: (dh, dw * 2 + part)
        for places, (dh, dw) in window_taps(kernel, padding, dilation, fold=2)
        for part, place in enumerate(places)
        if place >= 0
    }
    assert folded == plain
    assert len(window_taps(kernel, padding, dilation, fold=2)) == 2 * 4


@pytest.mark.parametrize(
    ("channels", "outs", "groups", "slices"),
    [
        (64, 64, 1, 1),
        (128, 128, 32, 2),  # ResNeXt-50 32x4d: 16 groups of 4 channels fill a tile
        (1024, 1024, 32, 16),
        (512, 512, 512, 8),
        (512, 1024, 4, 4),
        (30, 60, 10, 1),  # a group isn't whole vectors
        (128, 64, 2, 1),
    ],
)
def test_groups_are_multiplied_several_together(channels, outs, groups, slices):
    assert slices_of(channels, outs, groups, 8) == slices


def test_table():
    gather = Gather((5, 10, 8), 8, ((-1, 2), (0, 3)), (1, 1), (1, 1))
    expected = [(-1, 2, -64, 0), (-1, 2, -60, 0), (0, 3, 24, 0), (0, 3, 28, 0)]
    np.testing.assert_array_equal(gather.table(4), expected)
