"""Layers without parameters that act element by element or along one dimension."""

from __future__ import annotations

from npresnet import functional as F
from npresnet.errors import RangeError
from npresnet.nn.module import Module
from npresnet.tensor import Tensor

__all__ = ["Dropout", "LogSoftmax", "ReLU", "Sigmoid", "Softmax"]


class ReLU(Module):
    """max(x, 0); ``inplace`` is accepted for torch's sake and changes nothing."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """Replace negative values by 0."""
        return F.relu(input)

    def extra_repr(self) -> str:
        """Return the argument, as torch prints it."""
        return "inplace=True" if self.inplace else ""


class Sigmoid(Module):
    """1 / (1 + exp(-x))."""

    def forward(self, input: Tensor) -> Tensor:
        """Map each number to one between 0 and 1."""
        return F.sigmoid(input)


class Softmax(Module):
    """Probabilities from logits, along ``dim``."""

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        """Return probabilities."""
        return F.softmax(input, self.dim)

    def extra_repr(self) -> str:
        """Return the argument."""
        return f"dim={self.dim}"


class LogSoftmax(Softmax):
    """Logarithms of the probabilities, along ``dim``."""

    def forward(self, input: Tensor) -> Tensor:
        """Return log-probabilities."""
        return F.log_softmax(input, self.dim)


class Dropout(Module):
    """In training, set elements to 0 with probability ``p`` and scale the rest by 1 / (1 - p)."""

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise RangeError(f"Dropout: p must be a probability from 0 to 1, got {p}")
        self.p = p
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """Drop elements in training; hand the input through in evaluation."""
        return F.dropout(input, self.p, self.training)

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"p={self.p}, inplace={self.inplace}"
