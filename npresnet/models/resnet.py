"""Residual networks (He, Zhang, Ren and Sun 2015, https://arxiv.org/abs/1512.03385) and their kin.

Names and shapes of the state dict are torchvision's, and timm's for what torchvision lacks. As in
both, a bottleneck strides in its 3x3 convolution ("ResNet v1.5") rather than in its first 1x1. The
variants, with timm's letters for the stems:

- wide (arXiv:1605.07146) and ResNeXt (arXiv:1611.05431): wider or grouped 3x3 convolutions;
- C, D, S, T (arXiv:1812.01187): three 3x3 convolutions in place of the 7x7; in D and T the shortcut
  takes the mean of 2x2 pixels where it would skip three of four;
- SE (arXiv:1709.01507): each block weighs its channels; RS (arXiv:2103.07579): that, D, and a
  convolution in place of the max pool.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from npresnet import functional as F
from npresnet import nn
from npresnet.backend import for_arrays, use_backend
from npresnet.creation import cat
from npresnet.errors import RangeError, WeightsError
from npresnet.models.sharing import Shareable
from npresnet.tensor import Tensor

if TYPE_CHECKING:
    from npresnet.weights.hub import HubOptions
    from npresnet.weights.settings import ModelSettings

__all__ = ["GLOBAL_POOLS", "BasicBlock", "Bottleneck", "GlobalPool", "ResNet", "SqueezeExcite"]

GLOBAL_POOLS = ("avg", "max", "avgmax", "catavgmax", "")
STEM_TYPES = ("", "deep", "deep_tiered")


def _conv(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Return a convolution that keeps the map's size, but for its stride; batch norm follows it."""
    padding = size // 2
    with nn.init.pass_uniform():  # the network draws its weights by a rule of its own
        return nn.Conv2d(inputs, outputs, size, stride, padding, groups=groups, bias=False)


class SqueezeExcite(nn.Module):
    """Weigh each channel by a number from 0 to 1 that the means of all channels decide.

    Hu, Shen and Sun 2017, https://arxiv.org/abs/1709.01507.

    Parameters
    ----------
    channels : int
        C of the maps.
    rd_ratio : float
        Width of the hidden layer over `channels`; rounded to a multiple of 8, at least 8.
    """

    def __init__(self, channels: int, rd_ratio: float = 1 / 16) -> None:
        super().__init__()
        hidden = max(8, int(channels * rd_ratio + 4) // 8 * 8)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        means = F.adaptive_avg_pool2d(x, 1)  # (N, C, 1, 1)
        return x * F.sigmoid(self.fc2(F.relu(self.fc1(means))))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the shortcut around them; `rd_ratio` 0 means no squeeze-excite."""

    expansion = 1

    def __init__(
        self,
        inputs: int,
        channels: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        cardinality: int = 1,
        base_width: int = 64,
        rd_ratio: float = 0.0,
    ) -> None:
        super().__init__()
        if (cardinality, base_width) != (1, 64):
            raise RangeError(
                "a BasicBlock has neither groups nor another width, got "
                f"cardinality={cardinality}, base_width={base_width}: use Bottleneck"
            )
        self.conv1 = _conv(inputs, channels, 3, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv(channels, channels, 3)
        self.bn2 = nn.BatchNorm2d(channels)
        self.se = SqueezeExcite(channels, rd_ratio) if rd_ratio else None
        self.downsample = downsample

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The batch norm before the addition."""
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, channels, H / stride, W / stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.se is not None:
            out = self.se(out)
        shortcut = x if self.downsample is None else self.downsample(x)
        y: Tensor = self.relu(out + shortcut)
        return y


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, the middle one narrower, and the shortcut.

    The 3x3 has ``channels * base_width / 64 * cardinality`` channels in `cardinality` groups;
    `rd_ratio` 0 means no squeeze-excite.
    """

    expansion = 4

    def __init__(
        self,
        inputs: int,
        channels: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        cardinality: int = 1,
        base_width: int = 64,
        rd_ratio: float = 0.0,
    ) -> None:
        super().__init__()
        width = channels * base_width // 64 * cardinality
        outputs = channels * self.expansion
        self.conv1 = _conv(inputs, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3, stride, cardinality)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv(width, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.se = SqueezeExcite(outputs, rd_ratio) if rd_ratio else None
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
        if self.se is not None:
            out = self.se(out)
        shortcut = x if self.downsample is None else self.downsample(x)
        y: Tensor = self.relu(out + shortcut)
        return y


class GlobalPool(nn.Module):
    """One vector of the last maps: the means, the maxima, half their sum, or both in a row.

    Parameters
    ----------
    kind : {"avg", "max", "avgmax", "catavgmax", ""}
        ``""`` hands the maps through.
    """

    def __init__(self, kind: str = "avg") -> None:
        super().__init__()
        if kind not in GLOBAL_POOLS:
            raise RangeError(
                f"global_pool expected one of {', '.join(map(repr, GLOBAL_POOLS))}, got {kind!r}"
            )
        self.kind = kind

    @property
    def multiple(self) -> int:
        """Numbers that come out for each channel."""
        return 2 if self.kind == "catavgmax" else 1

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C), to (N, 2 * C) for ``"catavgmax"``."""
        if not self.kind:
            return x
        if self.kind == "avg":
            return F.adaptive_avg_pool2d(x, 1).flatten(1)
        most: Tensor = F.max_pool2d(x, x.shape[2:]).flatten(1)
        if self.kind == "max":
            return most
        mean = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return (mean + most) * 0.5 if self.kind == "avgmax" else cat([mean, most], 1)

    def extra_repr(self) -> str:
        """Return the kind."""
        return repr(self.kind)


class ResNet(Shareable, nn.Module):
    """A residual network for images; its arguments have timm's names.

    Parameters
    ----------
    block : type
        :class:`BasicBlock` or :class:`Bottleneck`.
    layers : sequence of int
        Blocks in each of the four stages, whose maps are 1/4, 1/8, 1/16 and 1/32 of the image.
    num_classes : int
        Size of the output; 0 for the pooled features themselves.
    in_chans : int
        Channels of the images.
    small_input : bool
        For images of about 32x32: a 3x3 stem with stride 1 and no max pool, so that the maps stay
        four times larger.
    zero_init_residual : bool
        Begin with blocks that are the identity: the weight of each block's last batch norm is 0
        (Goyal et al. 2017, https://arxiv.org/abs/1706.02677).
    global_pool : {"avg", "max", "avgmax", "catavgmax", ""}
        How the last maps become one vector; see :class:`GlobalPool`.
    cardinality, base_width : int
        Groups of a bottleneck's 3x3 convolution, and the width of each for 64 channels.
    stem_type : {"", "deep", "deep_tiered"}
        A 7x7 convolution, or three of 3x3; the tiered ones grow wider by steps.
    stem_width : int
        Channels within a deep stem; twice as many leave it.
    replace_stem_pool : bool
        A 3x3 convolution with stride 2 in place of the max pool.
    avg_down : bool
        Shortcuts take the mean of 2x2 pixels before their 1x1 convolution, which then doesn't
        stride.
    rd_ratio : float
        Squeeze-excite in each block, see :class:`SqueezeExcite`; 0 for none.

    Attributes
    ----------
    num_features : int
        Channels of the last maps.
    feature_info : list of dict
        Of the stem and of each stage: its channels ``num_chs``, the ``reduction`` of its maps and
        the name of its last ``module``.
    architecture : str or None
        The name that the network was made by, ``"resnet34"`` for instance.
    settings : ModelSettings or None
        What came with the weights that it was made with: classes, preprocessing.

    Raises
    ------
    RangeError
        If there are fewer than 0 classes or no channels, or an argument is none of those listed.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        layers: Sequence[int],
        num_classes: int = 1000,
        in_chans: int = 3,
        small_input: bool = False,
        zero_init_residual: bool = False,
        *,
        global_pool: str = "avg",
        cardinality: int = 1,
        base_width: int = 64,
        stem_type: str = "",
        stem_width: int = 32,
        replace_stem_pool: bool = False,
        avg_down: bool = False,
        rd_ratio: float = 0.0,
    ) -> None:
        super().__init__()
        self.architecture: str | None = None
        self.settings: ModelSettings | None = None
        if in_chans < 1:
            raise RangeError(f"a ResNet needs at least one input channel, got in_chans={in_chans}")
        if stem_type not in STEM_TYPES:
            raise RangeError(
                f"stem_type expected one of {', '.join(map(repr, STEM_TYPES))}, got {stem_type!r}"
            )
        inputs = 2 * stem_width if stem_type else 64
        self.conv1 = _stem(in_chans, stem_type, stem_width, small_input)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = _stem_pool(inputs, small_input, replace_stem_pool)
        reduction = 1 if small_input else 2
        self.feature_info: list[dict[str, Any]] = [
            {"num_chs": inputs, "reduction": reduction, "module": "relu"}
        ]
        reduction *= 1 if small_input else 2
        for stage, (blocks, channels) in enumerate(zip(layers, (64, 128, 256, 512), strict=True)):
            name, stride, outputs = (
                f"layer{stage + 1}",
                min(stage, 1) + 1,
                channels * block.expansion,
            )
            rest = (cardinality, base_width, rd_ratio)
            shortcut = _shortcut(inputs, outputs, stride, avg_down)
            first = block(inputs, channels, stride, shortcut, *rest)
            others = [block(outputs, channels, 1, None, *rest) for _ in range(blocks - 1)]
            setattr(self, name, nn.Sequential(first, *others))
            inputs, reduction = outputs, reduction * stride
            info = {"num_chs": outputs, "reduction": reduction, "module": name}
            self.feature_info.append(info)
        self.num_features = inputs
        self.avgpool = GlobalPool(global_pool)
        self.reset_classifier(num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init_residual and isinstance(module, BasicBlock | Bottleneck):
                nn.init.zeros_(module.last_norm.weight)

    def _shared(self) -> tuple[Mapping[str, Any], ModelSettings]:
        from npresnet.models.describe import describe

        if self.architecture is None or self.avgpool.kind != "avg":
            raise WeightsError(
                "a file describes networks made by a name of npresnet.models.list_models(), with "
                "global_pool='avg': save the state_dict() of another"
            )
        state = self.state_dict()
        settings = describe(self.architecture, state)
        known = self.settings  # of weights that it may have been made to differ from
        return state, known if known and known.options == settings.options else settings

    @classmethod
    def _from_shared(cls, name: str, hub: HubOptions, options: dict[str, Any]) -> Any:
        from npresnet.models.create import with_weights
        from npresnet.weights import load_pretrained

        pretrained = load_pretrained(name, hub=hub)
        if pretrained.settings is None:
            raise WeightsError(
                f"{name!r} doesn't say which network it holds: use its name, as in "
                "nr.resnet34(weights=...)"
            )
        return with_weights(pretrained.settings.architecture, pretrained, options)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Give the network a fresh last layer, where and in the dtype that the others are.

        Parameters
        ----------
        num_classes : int
            Size of the output; 0 for the pooled features themselves.
        global_pool : str, optional
            How the last maps become one vector, from now on.

        Raises
        ------
        RangeError
            If there are fewer than 0 classes, no such pool, or classes without a pool.
        """
        pool: GlobalPool = self.avgpool if global_pool is None else GlobalPool(global_pool)
        if num_classes < 0 or (num_classes and not pool.kind):
            raise RangeError(
                "a ResNet needs no classes (0) or some, and these a global_pool, got "
                f"num_classes={num_classes}, global_pool={pool.kind!r}"
            )
        self.num_classes = num_classes
        self.avgpool = pool
        self.fc: nn.Module = nn.Identity()
        if num_classes:
            array = self.bn1.weight.data
            with use_backend(for_arrays([array])):
                self.fc = nn.Linear(self.num_features * pool.multiple, num_classes)
            self.fc.to(array.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_chans, H, W) to logits (N, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images to the last maps: (N, 512, H / 32, W / 32), 2048 channels with bottlenecks."""
        x = self.maxpool(self._stem(x))  # (N, 64, H / 4, W / 4)
        for stage in self._stages():
            x = stage(x)  # (N, 64, H / 4, W / 4), then (N, 128, H / 8, W / 8) and so on
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map the last maps to logits; with `pre_logits` to what goes into the last layer."""
        x = self.avgpool(x)  # (N, 512)
        return x if pre_logits else self.fc(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Return the last maps, and those of the stem (0) and stages (1 to 4) on the way.

        Parameters
        ----------
        x : Tensor
            Images (N, in_chans, H, W).
        indices : int or sequence of int, optional
            Which maps, negative ones from the end; a number: the last so many; None: all.
        norm : bool
            Makes no difference: each stage ends in norms of its own.
        stop_early : bool
            Leave out the stages behind the last that is asked for.
        output_fmt : {"NCHW"}
            The order of dimensions.
        intermediates_only : bool
            Return only the list.

        Returns
        -------
        last : Tensor
            What `forward_features` gives; if it stopped early, what the next stage would take.
        intermediates : list of Tensor
            In the order of the network.

        Raises
        ------
        RangeError
            If there are no such maps, or another order of dimensions is asked for.
        """
        if output_fmt != "NCHW":
            raise RangeError(f"output_fmt expected 'NCHW', got {output_fmt!r}: permute the maps")
        taken = feature_indices(indices, len(self.feature_info))
        x = self._stem(x)
        found = [x] if 0 in taken else []
        stages = self._stages()[: max(taken) if stop_early else None]
        x = self.maxpool(x)
        for index, stage in enumerate(stages, 1):
            x = stage(x)
            if index in taken:
                found.append(x)
        return found if intermediates_only else (x, found)

    def _stem(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu(self.bn1(self.conv1(x)))  # (N, 64, H / 2, W / 2)
        return y

    def _stages(self) -> list[nn.Module]:
        return [self.layer1, self.layer2, self.layer3, self.layer4]


def feature_indices(indices: int | Sequence[int] | None, count: int) -> tuple[int, ...]:
    """Return which of `count` maps are meant, from 0, sorted; see `forward_intermediates`."""
    if indices is None:
        return tuple(range(count))
    asked = range(-indices, 0) if isinstance(indices, int) else indices
    if not asked or not all(isinstance(i, int) and -count <= i < count for i in asked):
        raise RangeError(
            f"a network with {count} feature maps has indices {-count} to {count - 1}, got "
            f"{indices!r}"
        )
    return tuple(sorted({i % count for i in asked}))


def _stem(in_chans: int, stem_type: str, width: int, small_input: bool) -> nn.Module:
    """Return what sees the image; batch norm and ReLU follow it."""
    stride = 1 if small_input else 2
    if not stem_type:
        return _conv(in_chans, 64, 3 if small_input else 7, stride)
    first, second = (width // 4 * 3 if stem_type == "deep_tiered" else width), width
    return nn.Sequential(
        _conv(in_chans, first, 3, stride),
        nn.BatchNorm2d(first),
        nn.ReLU(inplace=True),
        _conv(first, second, 3),
        nn.BatchNorm2d(second),
        nn.ReLU(inplace=True),
        _conv(second, 2 * width, 3),
    )


def _stem_pool(channels: int, small_input: bool, replaced: bool) -> nn.Module:
    """Return what halves the stem's maps, if anything does."""
    if small_input:
        return nn.Identity()
    if not replaced:
        return nn.MaxPool2d(3, stride=2, padding=1)
    conv = _conv(channels, channels, 3, stride=2)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def _shortcut(inputs: int, outputs: int, stride: int, avg_down: bool) -> nn.Module | None:
    """Return what brings a block's input to the shape of its output; None if it has it."""
    if stride == 1 and inputs == outputs:
        return None
    if not avg_down:
        return nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
    pool: nn.Module = nn.Identity()
    if stride != 1:
        # odd sizes: the windows at the edge hold fewer pixels
        pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False)
    return nn.Sequential(pool, _conv(inputs, outputs, 1), nn.BatchNorm2d(outputs))
