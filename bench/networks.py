"""ResNets as a table of convolutions, which the peers' networks are written from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

BLOCKS = {
    "resnet18": (False, (2, 2, 2, 2)),
    "resnet34": (False, (3, 4, 6, 3)),
    "resnet50": (True, (3, 4, 6, 3)),
    "resnet101": (True, (3, 4, 23, 3)),
    "resnet152": (True, (3, 8, 36, 3)),
}
"""Whether blocks are bottlenecks, and how many there are in each stage."""


@dataclass(frozen=True)
class Conv:
    """A convolution with square kernel and square input.

    `size` is the input's height and width; `name` its prefix in the state dict.
    """

    name: str
    channels_in: int
    channels_out: int
    kernel: int
    stride: int
    padding: int
    size: int

    @property
    def out_size(self) -> int:
        """Height and width of the output."""
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1

    def flop(self, batch: int) -> int:
        """Return the multiplications and additions of the direct form."""
        depth = self.channels_in * self.kernel**2
        return 2 * batch * self.out_size**2 * self.channels_out * depth

    @property
    def shape(self) -> str:
        """What it is, in words."""
        stride = f"/{self.stride}" if self.stride > 1 else ""
        channels = f"{self.channels_in}->{self.channels_out}"
        return f"{self.kernel}x{self.kernel}{stride} {channels} @{self.size}"


@dataclass(frozen=True)
class Block:
    """A residual block: its convolutions in order, and the shortcut's if there is one."""

    name: str
    convs: tuple[Conv, ...]
    shortcut: Conv | None


def stem(size: int = 224, small_input: bool = False) -> Conv:
    """Return the first convolution."""
    kernel, stride, padding = (3, 1, 1) if small_input else (7, 2, 3)
    return Conv("conv1", 3, 64, kernel, stride, padding, size)


def blocks(model: str, size: int = 224, small_input: bool = False) -> Iterator[Block]:
    """Yield a network's residual blocks in order."""
    bottleneck, counts = BLOCKS[model]
    size = stem(size, small_input).out_size
    if not small_input:
        size = (size + 2 - 3) // 2 + 1  # max pool 3x3, stride 2, padding 1
    inputs = 64
    for stage, count in enumerate(counts):
        channels = 64 * 2**stage
        outputs = channels * (4 if bottleneck else 1)
        for number in range(count):
            name = f"layer{stage + 1}.{number}"
            stride = 2 if stage and not number else 1
            if bottleneck:
                # (channels out, kernel, stride)
                plan = ((channels, 1, 1), (channels, 3, stride), (outputs, 1, 1))
            else:
                plan = ((channels, 3, stride), (outputs, 3, 1))
            convs: list[Conv] = []
            width, here = inputs, size
            for i, (out, kernel, step) in enumerate(plan):
                conv = Conv(f"{name}.conv{i + 1}", width, out, kernel, step, kernel // 2, here)
                convs.append(conv)
                width, here = out, conv.out_size
            shortcut = None
            if stride != 1 or inputs != outputs:
                shortcut = Conv(f"{name}.downsample.0", inputs, outputs, 1, stride, 0, size)
            yield Block(name, tuple(convs), shortcut)
            inputs, size = outputs, here


def convolutions(model: str, size: int = 224, small_input: bool = False) -> Iterator[Conv]:
    """Yield every convolution of a network in order."""
    yield stem(size, small_input)
    for block in blocks(model, size, small_input):
        yield from block.convs
        if block.shortcut:
            yield block.shortcut


def distinct(convs: Iterator[Conv]) -> list[tuple[Conv, int]]:
    """Return the convolutions of different shape, each with how often it occurs."""
    found: dict[Conv, tuple[Conv, int]] = {}
    for conv in convs:
        key = replace(conv, name="")
        first, count = found.get(key, (conv, 0))
        found[key] = first, count + 1
    return list(found.values())


def flop(model: str, size: int, batch: int, small_input: bool = False, classes: int = 1000) -> int:
    """Return the arithmetic of a forward pass: convolutions and the last layer."""
    features = 2048 if BLOCKS[model][0] else 512
    convs = sum(conv.flop(batch) for conv in convolutions(model, size, small_input))
    return convs + 2 * batch * features * classes
