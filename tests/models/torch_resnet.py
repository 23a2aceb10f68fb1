"""The networks again, in torch: an independent second writing to compare with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class TorchSqueeze(nn.Module):
    """Weighs channels; the hidden layer has `ratio` of them, in eights."""

    def __init__(self, channels, ratio):
        super().__init__()
        hidden = max(8, 8 * int(channels * ratio / 8 + 0.5))
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x):
        gate = x.mean((2, 3), keepdim=True)
        return x * self.fc2(self.fc1(gate).clamp(min=0)).sigmoid()


class TorchBlock(nn.Module):
    """One residual block; ``sizes`` are its kernels: (3, 3) basic, (1, 3, 1) bottleneck."""

    def __init__(
        self, inputs, channels, outputs, stride, sizes, groups=1, avg_down=False, squeeze=0
    ):
        super().__init__()
        widths = [inputs, *[channels] * (len(sizes) - 1), outputs]
        strided = sizes.index(3)  # the first 3x3 strides
        for i, size in enumerate(sizes):
            conv = nn.Conv2d(
                widths[i],
                widths[i + 1],
                size,
                stride if i == strided else 1,
                size // 2,
                groups=groups if size == 3 else 1,
                bias=False,
            )
            setattr(self, f"conv{i + 1}", conv)
            setattr(self, f"bn{i + 1}", nn.BatchNorm2d(widths[i + 1]))
        self.count = len(sizes)
        self.se = TorchSqueeze(outputs, squeeze) if squeeze else nn.Identity()
        self.downsample = None
        if stride != 1 or inputs != outputs:
            layers = [
                nn.Conv2d(inputs, outputs, 1, 1 if avg_down else stride, bias=False),
                nn.BatchNorm2d(outputs),
            ]
            if avg_down:
                pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)
                layers.insert(0, pool if stride == 2 else nn.Identity())
            self.downsample = nn.Sequential(*layers)

    def forward(self, x):
        out = x
        for i in range(1, self.count + 1):
            out = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(out))
            if i < self.count:
                out = F.relu(out)
        return F.relu(self.se(out) + (x if self.downsample is None else self.downsample(x)))


class TorchResNet(nn.Module):
    """``groups`` and ``width`` (of a group, for 64 channels) are a bottleneck's; ``deep`` are the
    widths of the three convolutions of a deep stem; ``squeeze`` is the ratio of squeeze-excite."""

    def __init__(
        self,
        blocks,
        bottleneck=False,
        num_classes=1000,
        in_chans=3,
        small_input=False,
        groups=1,
        width=64,
        deep=(),
        conv_pool=False,
        avg_down=False,
        squeeze=0,
    ):
        super().__init__()
        sizes, expansion = ((1, 3, 1), 4) if bottleneck else ((3, 3), 1)
        stem = (3, 1, 1) if small_input else (7, 2, 3)
        inputs = 64
        self.conv1 = nn.Conv2d(in_chans, 64, *stem, bias=False)
        if deep:
            layers, inputs = [], in_chans
            for i, outputs in enumerate(deep):
                layers.append(nn.Conv2d(inputs, outputs, 3, 1 if i else 2, 1, bias=False))
                if i < 2:
                    layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
                inputs = outputs
            self.conv1 = nn.Sequential(*layers)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.small_input = small_input
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        if conv_pool:
            conv = nn.Conv2d(inputs, inputs, 3, 2, 1, bias=False)
            self.maxpool = nn.Sequential(conv, nn.BatchNorm2d(inputs), nn.ReLU())
        for stage, count in enumerate(blocks):
            channels = 64 * 2**stage
            middle = channels * width * groups // 64
            layers = []
            for i in range(count):
                stride = 2 if stage and not i else 1
                outputs = channels * expansion
                layers.append(
                    TorchBlock(inputs, middle, outputs, stride, sizes, groups, avg_down, squeeze)
                )
                inputs = outputs
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(inputs, num_classes)

    def maps(self, x):
        """The stem's maps and those of the four stages."""
        x = F.relu(self.bn1(self.conv1(x)))
        found = [x]
        x = x if self.small_input else self.maxpool(x)
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
            found.append(x)
        return found

    def forward(self, x):
        return self.fc(F.adaptive_avg_pool2d(self.maps(x)[-1], 1).flatten(1))


class TorchPlain(nn.Module):
    """ResNet32, the plain teaching network."""

    def __init__(self, in_channel=64, num_classes=2):
        super().__init__()
        self.conv1 = nn.Conv2d(3, in_channel, 7, stride=2, padding=3)
        inputs = in_channel
        for stage, (count, channels) in enumerate(
            zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True)
        ):
            layers = []
            for i in range(count):
                layer = nn.Module()
                layer.conv1 = nn.Conv2d(inputs, channels, 3, 2 if stage and not i else 1, 1)
                layer.bn1 = nn.BatchNorm2d(channels)
                layer.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
                layer.bn2 = nn.BatchNorm2d(channels)
                layers.append(layer)
                inputs = channels
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.classifier = nn.Linear(4608, num_classes)

    def forward(self, x):
        x = F.max_pool2d(self.conv1(x), 2)
        for stage in range(1, 5):
            for block in getattr(self, f"layer{stage}"):
                x = F.relu(block.bn1(block.conv1(x)))
                x = F.relu(block.bn2(block.conv2(x)))
        x = F.avg_pool2d(x, 2).flatten(1)
        return torch.softmax(self.classifier(x), 1)
