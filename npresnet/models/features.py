"""A network cut to its feature maps, for detection, segmentation and other heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from npresnet import nn
from npresnet.models.resnet import ResNet, feature_indices
from npresnet.tensor import Tensor

__all__ = ["FeatureInfo", "FeatureListNet"]


class FeatureInfo:
    """What a :class:`FeatureListNet` returns, map by map.

    Attributes
    ----------
    info : list of dict
        Of every map that the network has: ``num_chs``, ``reduction``, ``module`` and ``index``.
    out_indices : tuple of int
        Those that are returned.
    """

    def __init__(self, info: Sequence[dict[str, Any]], out_indices: tuple[int, ...]) -> None:
        self.info = [{**entry, "index": index} for index, entry in enumerate(info)]
        self.out_indices = out_indices

    def get(self, key: str) -> list[Any]:
        """Return one of the entries of `info` for each map that is returned."""
        return [self.info[index][key] for index in self.out_indices]

    def channels(self) -> list[int]:
        """Return the channels of each map."""
        return self.get("num_chs")

    def reduction(self) -> list[int]:
        """Return how many times smaller than the image each map is."""
        return self.get("reduction")

    def module_name(self) -> list[str]:
        """Return the name of the module that each map comes out of."""
        return self.get("module")


class FeatureListNet(nn.Module):
    """The stem and the stages of a network, as far as they are needed; returns their maps.

    The modules are the network's own, under the same names: its state dict fits but for the parts
    that are missing here.

    Parameters
    ----------
    model : ResNet
        Whose modules are taken.
    out_indices : sequence of int
        Which maps are returned: 0 the stem's, 1 to 4 the stages', negative ones from the end.

    Attributes
    ----------
    feature_info : FeatureInfo
        Channels and sizes of the maps.

    Raises
    ------
    RangeError
        If there is no such map.
    """

    def __init__(self, model: ResNet, out_indices: Sequence[int] = (0, 1, 2, 3, 4)) -> None:
        super().__init__()
        taken = feature_indices(out_indices, len(model.feature_info))
        self.feature_info = FeatureInfo(model.feature_info, taken)
        self._returned = self.feature_info.module_name()
        for name, module in model.named_children():  # they stand in the order in which they run
            self.add_module(name, module)
            if name == self._returned[-1]:
                break

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map images (N, C, H, W) to the list of feature maps."""
        maps = []
        for name, module in self.named_children():
            x = module(x)
            if name in self._returned:
                maps.append(x)
        return maps
