"""The networks in torch, with torchvision's names, for the peers that start from torch."""

from __future__ import annotations

import networks
import torch
import torch.nn.functional as F
from torch import nn


def _conv(conv: networks.Conv) -> nn.Conv2d:
    size = (conv.channels_in, conv.channels_out, conv.kernel, conv.stride, conv.padding)
    return nn.Conv2d(*size, bias=False)


class BasicBlock(nn.Module):
    def __init__(self, block: networks.Block) -> None:
        super().__init__()
        first, second = block.convs
        self.conv1, self.bn1 = _conv(first), nn.BatchNorm2d(first.channels_out)
        self.conv2, self.bn2 = _conv(second), nn.BatchNorm2d(second.channels_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _downsample(block)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class Bottleneck(nn.Module):
    def __init__(self, block: networks.Block) -> None:
        super().__init__()
        first, second, third = block.convs
        self.conv1, self.bn1 = _conv(first), nn.BatchNorm2d(first.channels_out)
        self.conv2, self.bn2 = _conv(second), nn.BatchNorm2d(second.channels_out)
        self.conv3, self.bn3 = _conv(third), nn.BatchNorm2d(third.channels_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _downsample(block)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


def _downsample(block: networks.Block) -> nn.Sequential | None:
    if block.shortcut is None:
        return None
    return nn.Sequential(_conv(block.shortcut), nn.BatchNorm2d(block.shortcut.channels_out))


class ResNet(nn.Module):
    def __init__(self, model: str, small_input: bool = False, classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = _conv(networks.stem(small_input=small_input))
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small_input else nn.MaxPool2d(3, 2, 1)
        bottleneck = networks.BLOCKS[model][0]
        kind = Bottleneck if bottleneck else BasicBlock
        stages: dict[str, list[nn.Module]] = {}
        for block in networks.blocks(model, small_input=small_input):
            stages.setdefault(block.name.partition(".")[0], []).append(kind(block))
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(*stages[f"layer{i}"]) for i in range(1, 5)
        )
        self.fc = nn.Linear(2048 if bottleneck else 512, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
