"""A network that trains in milliseconds, under a name that recipes and checkpoints know."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import npresnet as nr
from npresnet import nn
from npresnet.training.checkpoint import ARCHITECTURES


class Tiny(nn.Module):
    """Has what checkpoints look at, ``conv1`` and ``fc``, and batch norm between."""

    def __init__(self, num_classes: int = 10, in_chans: int = 3, small_input: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, 8, 3 if small_input else 7, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(16, num_classes)

    def forward(self, x: nr.Tensor) -> nr.Tensor:
        x = nr.relu(self.bn1(self.conv1(x)))
        x = nr.relu(self.conv2(x))
        logits: nr.Tensor = self.fc(self.pool(x).flatten(1))
        return logits


@contextmanager
def registered() -> Iterator[None]:
    ARCHITECTURES["tiny"] = Tiny
    try:
        yield
    finally:
        del ARCHITECTURES["tiny"]
