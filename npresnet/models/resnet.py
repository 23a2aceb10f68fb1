"""Residual networks (He, Zhang, Ren and Sun 2015, https://arxiv.org/abs/1512.03385).

Names and shapes of the state dict are torchvision's. As there, a bottleneck strides in its 3x3
convolution ("ResNet v1.5") rather than in its first 1x1.
"""

from __future__ import annotations

from typing import Any

from npresnet import nn
from npresnet.errors import RangeError
from npresnet.tensor import Tensor

__all__ = [
    "BasicBlock",
    "Bottleneck",
    "ResNet",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
]


def _conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    """Return a convolution that keeps the map's size, but for its stride; batch norm follows it."""
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the shortcut around them."""

    expansion = 1

    def __init__(
        self, inputs: int, channels: int, stride: int = 1, downsample: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, channels, 3, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv(channels, channels, 3)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = downsample

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The batch norm before the addition."""
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, channels, H / stride, W / stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        shortcut = x if self.downsample is None else self.downsample(x)
        y: Tensor = self.relu(out + shortcut)
        return y


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, the middle ones four times narrower, and the shortcut."""

    expansion = 4

    def __init__(
        self, inputs: int, channels: int, stride: int = 1, downsample: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, channels, 1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv(channels, channels, 3, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = _conv(channels, channels * self.expansion, 1)
        self.bn3 = nn.BatchNorm2d(channels * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The batch norm before the addition."""
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, 4 * channels, H / stride, W / stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        shortcut = x if self.downsample is None else self.downsample(x)
        y: Tensor = self.relu(out + shortcut)
        return y


class ResNet(nn.Module):
    """A residual network for images.

    Parameters
    ----------
    block : type
        :class:`BasicBlock` or :class:`Bottleneck`.
    layers : sequence of int
        Blocks in each of the four stages, whose maps are 1/4, 1/8, 1/16 and 1/32 of the image.
    num_classes : int
        Size of the output.
    in_chans : int
        Channels of the images.
    small_input : bool
        For images of about 32x32: a 3x3 stem with stride 1 and no max pool, so that the maps stay
        four times larger.
    zero_init_residual : bool
        Begin with blocks that are the identity: the weight of each block's last batch norm is 0
        (Goyal et al. 2017, https://arxiv.org/abs/1706.02677).

    Raises
    ------
    RangeError
        If there are no classes or channels.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        layers: tuple[int, int, int, int],
        num_classes: int = 1000,
        in_chans: int = 3,
        small_input: bool = False,
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__()
        if num_classes < 1 or in_chans < 1:
            raise RangeError(
                "a ResNet needs at least one class and one input channel, got "
                f"num_classes={num_classes}, in_chans={in_chans}"
            )
        if small_input:
            self.conv1 = _conv(in_chans, 64, 3)
        else:
            self.conv1 = _conv(in_chans, 64, 7, stride=2)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small_input else nn.MaxPool2d(3, stride=2, padding=1)
        inputs = 64
        for stage, (blocks, channels) in enumerate(zip(layers, (64, 128, 256, 512), strict=True)):
            stride = 1 if stage == 0 else 2
            setattr(self, f"layer{stage + 1}", _stage(block, inputs, channels, blocks, stride))
            inputs = channels * block.expansion
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init_residual and isinstance(module, BasicBlock | Bottleneck):
                nn.init.zeros_(module.last_norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_chans, H, W) to logits (N, num_classes)."""
        x = self.relu(self.bn1(self.conv1(x)))  # (N, 64, H / 2, W / 2)
        x = self.maxpool(x)  # (N, 64, H / 4, W / 4)
        x = self.layer1(x)
        x = self.layer2(x)  # (N, 128, H / 8, W / 8), channels 4 times as many with bottlenecks
        x = self.layer3(x)  # (N, 256, H / 16, W / 16)
        x = self.layer4(x)  # (N, 512, H / 32, W / 32)
        x = self.avgpool(x).flatten(1)  # (N, 512)
        logits: Tensor = self.fc(x)
        return logits


def _stage(
    block: type[BasicBlock] | type[Bottleneck], inputs: int, channels: int, blocks: int, stride: int
) -> nn.Sequential:
    """Return blocks in a row; the first strides, its shortcut with it."""
    outputs = channels * block.expansion
    downsample = None
    if stride != 1 or inputs != outputs:
        downsample = nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
    rest = [block(outputs, channels) for _ in range(blocks - 1)]
    return nn.Sequential(block(inputs, channels, stride, downsample), *rest)


_DEPTHS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


def _resnet(depth: int, weights: Any, options: dict[str, Any]) -> ResNet:
    block, layers = _DEPTHS[depth]
    if weights is None:
        return ResNet(block, layers, **options)
    from npresnet.weights import load_pretrained

    state, settings = load_pretrained(weights, f"resnet{depth}")
    with nn.init.skip_random():
        model = ResNet(block, layers, **{**(settings.options if settings else {}), **options})
    model.load_state_dict(state)
    return model


def resnet18(weights: Any = None, **options: Any) -> ResNet:
    """ResNet-18: 11,689,512 parameters; see :func:`resnet34` for the arguments."""
    return _resnet(18, weights, options)


def resnet34(weights: Any = None, **options: Any) -> ResNet:
    """ResNet-34: 21,797,672 parameters.

    Parameters
    ----------
    weights : str or path, optional
        A weight file, or the name of weights to fetch: ``"timm/resnet34.a1_in1k"`` on the Hugging
        Face Hub, ``"IMAGENET1K_V1"`` of torchvision, ``"https://...#sha256=..."``; see
        :func:`npresnet.weights.load_pretrained`. Random values if None.
    **options
        ``num_classes``, ``in_chans``, ``small_input`` and ``zero_init_residual`` of
        :class:`ResNet`; by default those of the weights, where they say so.

    Raises
    ------
    WeightsError
        If the file can't be read or doesn't fit.
    """
    return _resnet(34, weights, options)


def resnet50(weights: Any = None, **options: Any) -> ResNet:
    """ResNet-50: 25,557,032 parameters; see :func:`resnet34` for the arguments."""
    return _resnet(50, weights, options)


def resnet101(weights: Any = None, **options: Any) -> ResNet:
    """ResNet-101: 44,549,160 parameters; see :func:`resnet34` for the arguments."""
    return _resnet(101, weights, options)


def resnet152(weights: Any = None, **options: Any) -> ResNet:
    """ResNet-152: 60,192,808 parameters; see :func:`resnet34` for the arguments."""
    return _resnet(152, weights, options)
