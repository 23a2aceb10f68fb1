"""Which tile an implicit product uses, and how a long sum is shared among blocks.

Sizes alone decide, never the device: one program gives the same bits on every GPU of a kind.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["WANTED_BLOCKS", "Tile", "choose_tile", "share_of", "stage_depth"]

WANTED_BLOCKS = 264
"""Blocks that fill the largest devices: two for each of an H100's 132 multiprocessors."""

STAGE_BYTES = 64
"""Bytes of the summed dimension that a stage holds for each row of a tile."""


class Tile(NamedTuple):
    """Rows and columns of the sums that a block makes."""

    rows: int
    columns: int

    @property
    def threads(self) -> int:
        """Threads a block: 64 sums each."""
        return self.rows * self.columns // 64

    def shared(self, stages: int) -> int:
        """Bytes of shared memory; three stages of the largest tile are 48 KiB, free anywhere."""
        return (self.rows + self.columns) * STAGE_BYTES * stages

    def grid(self, rows: int, columns: int) -> tuple[int, int]:
        """Blocks down and across."""
        return -(-rows // self.rows), -(-columns // self.columns)


TILES = (Tile(128, 128), Tile(128, 64), Tile(64, 64))


def choose_tile(rows: int, columns: int, shares: int = 1) -> Tile:
    """Return the largest tile that wastes no half of its columns and leaves no device idle.

    Parameters
    ----------
    rows, columns : int
        Of the product.
    shares : int
        Blocks that share one tile's sum.
    """
    for tile in TILES[:-1]:
        down, across = tile.grid(rows, columns)
        if columns > tile.columns // 2 and down * across * shares >= WANTED_BLOCKS:
            return tile
    return TILES[-1]


def stage_depth(itemsize: int) -> int:
    """Return how many elements of the sum a stage holds."""
    return STAGE_BYTES // itemsize


def share_of(blocks: int, stages: int) -> int:
    """Return how many stages a share of a sum has, so that all shares fill a device.

    At least eight, so that the sums' traffic stays a small part of the operands'.
    """
    wanted = max(1, WANTED_BLOCKS // max(1, blocks))
    return max(8, -(-stages // wanted))
