"""`Dense`: forward and gradients of one linear layer's shape, as a 1x1 convolution of 1x1 maps.

That rounds a row alike in any batch, and BLAS's threads don't wait for the cores.
"""

from .convolution import Convolution
from .problem import Floats


class Dense:
    """One linear layer; knows its shape, but neither batch nor weights.

    Parameters
    ----------
    in_features, out_features : int
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        self._convolution = Convolution(in_features, out_features, 1, 1, 0, 1, 1, "direct")
        self.packed_size = self._convolution.packed_size
        self.packed_grad_size = self._convolution.packed_grad_size
        self.scratch_floats = self._convolution.scratch_floats

    def pack(self, weight: Floats, out: Floats | None = None) -> Floats:
        """Return weights (O, I) as `forward` reads them; written into `out` if given."""
        return self._convolution.pack(weight[:, :, None, None], out)

    def pack_grad_input(self, weight: Floats, out: Floats | None = None) -> Floats:
        """Return weights (O, I) as `grad_input` reads them; into `out` if given."""
        return self._convolution.pack_grad_input(weight[:, :, None, None], out)

    def forward(
        self, x: Floats, packed: Floats, y: Floats, scratch: Floats, bias: Floats | None = None
    ) -> None:
        """Compute y (N, O) = x (N, I) W^T + bias."""
        self._convolution.forward(x[:, None, None], packed, y[:, None, None], scratch, bias)

    def grad_input(
        self, grad_y: Floats, packed_grad: Floats, grad_x: Floats, scratch: Floats
    ) -> None:
        """Compute the gradient of x (N, I) from that of y (N, O)."""
        maps = grad_y[:, None, None], grad_x[:, None, None]
        self._convolution.grad_input(maps[0], packed_grad, maps[1], scratch)

    def grad_weight(self, x: Floats, grad_y: Floats, grad_weight: Floats, scratch: Floats) -> None:
        """Compute the gradient of the weights (O, I) from x and that of y."""
        self._convolution.grad_weight(
            x[:, None, None], grad_y[:, None, None], grad_weight[:, :, None, None], scratch
        )
