"""Networks by name: the table of the family, and the way from weights to a network.

Names, depths and options are those of torchvision 0.29 (BSD 3-Clause) and timm 1.0 (Apache-2.0).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from npresnet.errors import RangeError, WeightsError
from npresnet.models.features import FeatureListNet
from npresnet.models.resnet import BasicBlock, Bottleneck, ResNet
from npresnet.nn import init

if TYPE_CHECKING:
    from npresnet.weights.pretrained import Pretrained

__all__ = [
    "create_model",
    "list_models",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "stem_key",
    "structure_of",
    "wide_resnet50_2",
    "wide_resnet101_2",
    "with_weights",
]

# Blocks of the four stages; the numbers in the names count the layers.
_DEPTHS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    10: (BasicBlock, (1, 1, 1, 1)),
    14: (Bottleneck, (1, 1, 1, 1)),
    18: (BasicBlock, (2, 2, 2, 2)),
    26: (Bottleneck, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
    200: (Bottleneck, (3, 24, 36, 3)),
    269: (Bottleneck, (3, 30, 48, 8)),
    270: (Bottleneck, (4, 29, 53, 4)),
    350: (Bottleneck, (4, 36, 72, 4)),
    420: (Bottleneck, (4, 44, 87, 4)),
}

_STEMS: dict[str, dict[str, Any]] = {
    "": {},
    "c": {"stem_type": "deep"},
    "d": {"stem_type": "deep", "avg_down": True},
    "s": {"stem_type": "deep", "stem_width": 64},
    "t": {"stem_type": "deep_tiered", "avg_down": True},
}

_TABLE = """
resnet18 resnet34 resnet50 resnet101 resnet152 resnet200
wide_resnet50_2 wide_resnet101_2
resnext50_32x4d resnext101_32x4d resnext101_32x8d resnext101_32x16d resnext101_32x32d
resnext101_64x4d
resnet26 resnet10t resnet14t resnet26t resnet50t resnet18d resnet26d resnet34d resnet50d resnet101d
resnet152d resnet200d resnet50c resnet101c resnet152c resnet50s resnet101s resnet152s
resnext50d_32x4d
seresnet18 seresnet34 seresnet50 seresnet101 seresnet152 seresnet50t seresnet152d seresnet200d
seresnet269d
seresnext26d_32x4d seresnext26t_32x4d seresnext50_32x4d seresnext101_32x4d seresnext101_32x8d
seresnext101_64x4d seresnext101d_32x8d
resnetrs50 resnetrs101 resnetrs152 resnetrs200 resnetrs270 resnetrs350 resnetrs420
"""
_NAMES = tuple(_TABLE.split())

_HEAD = ("fc.weight", "fc.bias")

_PARTS = re.compile(r"(wide_|se|)resnex?t(rs|)(\d+)([cdst]?)(?:_(\d+)x(\d+)d|_2|)")


def list_models() -> list[str]:
    """Return the names that :func:`create_model` knows."""
    return list(_NAMES)


def no_such_network(name: str) -> str:
    """Return what to say of a name that isn't in :func:`list_models`, with the nearest that are."""
    near = difflib.get_close_matches(name, _NAMES)
    hint = f"did you mean {', '.join(near)}? " if near else ""
    return f"there is no network {name!r}: {hint}npresnet.list_models() has all {len(_NAMES)} names"


@overload
def create_model(
    name: str, weights: Any = None, *, features_only: Literal[False] = False, **options: Any
) -> ResNet: ...


@overload
def create_model(
    name: str,
    weights: Any = None,
    *,
    features_only: Literal[True],
    out_indices: Sequence[int] = ...,
    **options: Any,
) -> FeatureListNet: ...


def create_model(
    name: str,
    weights: Any = None,
    *,
    features_only: bool = False,
    out_indices: Sequence[int] = (0, 1, 2, 3, 4),
    **options: Any,
) -> ResNet | FeatureListNet:
    """Make a network by its name: ``create_model("resnet50d", num_classes=10)``.

    Parameters
    ----------
    name : str
        One of :func:`list_models`, timm's and torchvision's names.
    weights : str or path, optional
        A weight file, or the name of weights to fetch: ``"timm/resnet34.a1_in1k"`` on the Hugging
        Face Hub, ``"IMAGENET1K_V1"`` of torchvision, ``"https://...#sha256=..."``; see
        :func:`npresnet.weights.load_pretrained`. Random values if None.
    features_only : bool
        Return a :class:`~npresnet.models.FeatureListNet`, whose output is the list of feature maps.
    out_indices : sequence of int
        Which maps that one returns: 0 the stem's, 1 to 4 the stages'.
    **options
        ``num_classes``, ``in_chans``, ``small_input``, ``zero_init_residual`` and ``global_pool``
        of :class:`ResNet`; by default those of the weights, where they say so. Where the weights
        have another `num_classes`, all but the last layer is loaded, which stays random. Where they
        have another `in_chans`, the first convolution's weight is adapted as timm does: summed for
        one channel; for others repeated, and rescaled so that activations keep their size.

    Returns
    -------
    ResNet or FeatureListNet
        In training mode.

    Raises
    ------
    RangeError
        There is no such network.
    WeightsError
        The weights can't be read or don't fit.
    """
    structure = structure_of(name)
    if features_only:
        options["num_classes"] = 0
    if weights is None:
        model = ResNet(**{**structure, **options})
        model.architecture = name
    else:
        from npresnet.weights import load_pretrained  # brings safetensors

        model = with_weights(name, load_pretrained(weights, name), options)
    return FeatureListNet(model, out_indices) if features_only else model


def with_weights(name: str, pretrained: Pretrained, options: dict[str, Any]) -> ResNet:
    """Return a network with weights, their last layer and first convolution made to fit.

    Parameters
    ----------
    name, options
        As for :func:`create_model`.
    pretrained : Pretrained
        As `npresnet.weights.load_pretrained` gives it.

    Raises
    ------
    WeightsError
        If they contradict their settings, or don't fit the network.
    """
    structure = structure_of(name)
    state, settings = pretrained
    told = settings.options if settings else {}
    outputs = next(iter(state["fc.weight"].shape), 0) if "fc.weight" in state else 0
    if told.get("num_classes", outputs) != outputs:  # before a network of so many is made
        raise WeightsError(
            f"{state.path!r}: its settings say {told['num_classes']} classes, its fc.weight has "
            f"{outputs}"
        )
    with init.skip_random():
        model = ResNet(**{**structure, **told, **options})
    fitting: dict[str, Any] = dict(state)
    own = model.state_dict()
    key = stem_key(state)
    if key in state and key in own and len(state[key].shape) == 4:
        fitting[key] = _with_channels(state[key], own[key].shape[1])
    if "num_classes" in options and outputs != model.num_classes:
        model.reset_classifier(model.num_classes)  # random, where the rest was left empty
        fitting = {name: array for name, array in fitting.items() if name not in _HEAD}
        own = model.state_dict()
        fitting.update({name: own[name] for name in _HEAD if name in own})
    model.load_state_dict(fitting)
    model.architecture, model.settings = name, settings
    return model


def structure_of(name: str) -> dict[str, Any]:
    """Return the arguments of ResNet that a name stands for.

    Raises
    ------
    RangeError
        If there is no such network.
    """
    if name not in _NAMES:
        raise RangeError(no_such_network(name))
    found = _PARTS.fullmatch(name)
    assert found is not None
    kind, scaled, depth, stem, groups, width = found.groups()
    block, layers = _DEPTHS[int(depth)]
    structure: dict[str, Any] = {"block": block, "layers": layers, **_STEMS[stem]}
    if groups:
        structure.update(cardinality=int(groups), base_width=int(width))
    if kind == "wide_":
        structure.update(base_width=128)
    if kind == "se":
        structure.update(rd_ratio=1 / 16)
    if scaled:
        structure.update(_STEMS["d"], replace_stem_pool=True, rd_ratio=0.25)
    return structure


def stem_key(state: Mapping[str, Any]) -> str:
    """Return the name that the first convolution's weight has in a state dict."""
    return "conv1.0.weight" if "conv1.0.weight" in state else "conv1.weight"


def _with_channels(weight: Any, channels: int) -> Any:
    """Return a first convolution (O, I, kH, kW) for images of another number of channels."""
    inputs = weight.shape[1]
    if channels == inputs:
        return weight
    if channels == 1:
        return np.asarray(weight).sum(axis=1, keepdims=True)
    if inputs != 3:
        raise WeightsError(
            f"weights for images of {inputs} channels can't be adapted to {channels}: only those "
            f"for 3 can; use in_chans={inputs} or 1"
        )
    repeated = np.tile(weight, (1, -(-channels // 3), 1, 1))[:, :channels]
    return repeated * (3 / channels)


def _named(name: str, weights: Any, options: dict[str, Any]) -> ResNet:
    model: ResNet = create_model(name, weights, **options)
    return model


def resnet18(weights: Any = None, **options: Any) -> ResNet:
    """ResNet-18: 11,689,512 parameters; see :func:`create_model` for the arguments."""
    return _named("resnet18", weights, options)


def resnet34(weights: Any = None, **options: Any) -> ResNet:
    """ResNet-34: 21,797,672 parameters; see :func:`create_model` for the arguments."""
    return _named("resnet34", weights, options)


def resnet50(weights: Any = None, **options: Any) -> ResNet:
    """ResNet-50: 25,557,032 parameters; see :func:`create_model` for the arguments."""
    return _named("resnet50", weights, options)


def resnet101(weights: Any = None, **options: Any) -> ResNet:
    """ResNet-101: 44,549,160 parameters; see :func:`create_model` for the arguments."""
    return _named("resnet101", weights, options)


def resnet152(weights: Any = None, **options: Any) -> ResNet:
    """ResNet-152: 60,192,808 parameters; see :func:`create_model` for the arguments."""
    return _named("resnet152", weights, options)


def resnext50_32x4d(weights: Any = None, **options: Any) -> ResNet:
    """ResNeXt-50 32x4d: 25,028,904 parameters; see :func:`create_model` for the arguments."""
    return _named("resnext50_32x4d", weights, options)


def resnext101_32x8d(weights: Any = None, **options: Any) -> ResNet:
    """ResNeXt-101 32x8d: 88,791,336 parameters; see :func:`create_model` for the arguments."""
    return _named("resnext101_32x8d", weights, options)


def resnext101_64x4d(weights: Any = None, **options: Any) -> ResNet:
    """ResNeXt-101 64x4d: 83,455,272 parameters; see :func:`create_model` for the arguments."""
    return _named("resnext101_64x4d", weights, options)


def wide_resnet50_2(weights: Any = None, **options: Any) -> ResNet:
    """Wide ResNet-50-2: 68,883,240 parameters; see :func:`create_model` for the arguments."""
    return _named("wide_resnet50_2", weights, options)


def wide_resnet101_2(weights: Any = None, **options: Any) -> ResNet:
    """Wide ResNet-101-2: 126,886,696 parameters; see :func:`create_model` for the arguments."""
    return _named("wide_resnet101_2", weights, options)
