"""The plain 34-layer teaching network: ResNet-34's convolutions without the shortcuts.

It is what the residual network is compared with (the "34-layer plain" column of He et al. 2015,
figure 3). Its author calls it ResNet32; names, biases and pools are kept as written there.
"""

from __future__ import annotations

from npresnet import functional as F
from npresnet import nn
from npresnet.tensor import Tensor

__all__ = ["Block", "ResNet32"]


class Block(nn.Module):
    """Two 3x3 convolutions, each with batch norm and ReLU: no shortcut.

    Parameters
    ----------
    dim, out_dim : int
        Channels in and out.
    stride : int
        Stride of the first convolution.
    """

    def __init__(self, dim: int, out_dim: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, out_dim, 3, stride=stride, padding=1)
        self.bn1 = nn.BatchNorm2d(out_dim)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_dim, out_dim, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(out_dim)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, dim, H, W) to (N, out_dim, H / stride, W / stride)."""
        x = self.relu1(self.bn1(self.conv1(x)))
        y: Tensor = self.relu2(self.bn2(self.conv2(x)))
        return y


class ResNet32(nn.Module):
    """The plain 34-layer network for 224x224 images; its output are probabilities.

    Parameters
    ----------
    in_channel : int
        Channels after the first convolution.
    num_classes : int
        Size of the output.
    """

    def __init__(self, in_channel: int = 64, num_classes: int = 2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, in_channel, 7, stride=2, padding=3)
        self.maxpooling = nn.MaxPool2d(2)
        self.layer1 = self._layer(in_channel, 64, blocks=3, stride=1)
        self.layer2 = self._layer(64, 128, blocks=4, stride=2)
        self.layer3 = self._layer(128, 256, blocks=6, stride=2)
        self.layer4 = self._layer(256, 512, blocks=3, stride=2)
        self.avgpooling = nn.AvgPool2d(2)
        self.classifier = nn.Linear(4608, num_classes)  # 512 channels of 3x3

    @staticmethod
    def _layer(dim: int, out_dim: int, blocks: int, stride: int) -> nn.Sequential:
        rest = [Block(out_dim, out_dim, 1) for _ in range(blocks - 1)]
        return nn.Sequential(Block(dim, out_dim, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, 224, 224) to probabilities (N, num_classes)."""
        x = self.conv1(x)  # (N, 64, 112, 112)
        x = self.maxpooling(x)  # (N, 64, 56, 56)
        x = self.layer1(x)  # (N, 64, 56, 56)
        x = self.layer2(x)  # (N, 128, 28, 28)
        x = self.layer3(x)  # (N, 256, 14, 14)
        x = self.layer4(x)  # (N, 512, 7, 7)
        x = self.avgpooling(x)  # (N, 512, 3, 3)
        x = x.flatten(1)  # (N, 4608)
        x = self.classifier(x)  # (N, num_classes)
        return F.softmax(x, dim=1)
