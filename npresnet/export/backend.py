"""npresnet as an ONNX backend: the interface of ``onnx.backend.base``.

With it the ONNX project's own tests run against our operations, and tools that speak the
interface can use npresnet::

    import npresnet.export.backend as backend
    outputs = backend.run_model(onnx.load("resnet34.onnx"), [images])

Needs the package ``onnx`` (``pip install 'npresnet[onnx]'``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from npresnet.backend import resolve
from npresnet.errors import BackendError, ExtraError, OnnxError
from npresnet.export.arrays import BFLOAT16, DTYPES
from npresnet.export.load import model_from_bytes
from npresnet.export.model import OnnxModel
from npresnet.tape import no_grad
from npresnet.tensor import Tensor
from npresnet_kernels.contract import Array

try:
    import onnx
    from onnx.backend.base import Backend, BackendRep, Device, DeviceType, namedtupledict
except ImportError as error:
    raise ExtraError(
        f"the ONNX backend needs the package onnx ({error}): pip install 'npresnet[onnx]'"
    ) from None

__all__ = [
    "NpresnetBackend",
    "NpresnetRep",
    "prepare",
    "run_model",
    "run_node",
    "supports_device",
]


# NumPy has no bfloat16: such outputs come as float32.
_DTYPES = {number: dtype for number, dtype in DTYPES.items() if number != BFLOAT16}


def _place(device: str) -> str:
    """Return our name for an ONNX device: ``CPU`` is cpu, ``CUDA:1`` gpu:1."""
    parsed = Device(device)
    return "cpu" if parsed.type == DeviceType.CPU else f"gpu:{parsed.device_id}"


class NpresnetRep(BackendRep):
    """A model ready to run.

    Attributes
    ----------
    model : OnnxModel
        The network, on its device.
    """

    def __init__(self, model: OnnxModel, outputs: Sequence[Any], place: str) -> None:
        self.model = model
        self._place = resolve(place)
        self._outputs = namedtupledict("Outputs", [value.name for value in outputs])
        self._dtypes = [_DTYPES.get(value.type.tensor_type.elem_type) for value in outputs]

    def run(self, inputs: Any, **kwargs: Any) -> Any:
        """Run the graph.

        Parameters
        ----------
        inputs : sequence of array, or dict of name to array
            The graph's inputs.

        Returns
        -------
        namedtuple of numpy.ndarray
            The outputs, in the dtypes that the graph declares.

        Raises
        ------
        OnnxError
            If the names don't fit, or the graph can't be run on such inputs.
        """
        if isinstance(inputs, dict):
            names = [spec.name for spec in self.model.inputs]
            if set(names) != set(inputs):
                raise OnnxError(f"the graph takes the inputs {names}, got {list(inputs)}")
            inputs = [inputs[name] for name in names]
        arrays = [self._place.asarray(np.asarray(x)) for x in inputs]
        with no_grad():
            found = self.model(*(Tensor(x) for x in arrays))
        tensors = found if isinstance(found, tuple) else (found,)
        return self._outputs(*map(_returned, tensors, self._dtypes))


def _returned(tensor: Tensor, dtype: Any) -> Array:
    """Return an output as a NumPy array of the declared dtype: 16-bit floats are computed wider."""
    array = tensor.numpy()
    return array if dtype is None or array.dtype == dtype else array.astype(dtype)


class NpresnetBackend(Backend):
    """The interface of ``onnx.backend.base.Backend``; the module's functions are its methods."""

    @classmethod
    def prepare(cls, model: Any, device: str = "CPU", **kwargs: Any) -> NpresnetRep:
        """Return a model ready to run.

        Parameters
        ----------
        model : onnx.ModelProto
            Its external data must be loaded.
        device : str
            ``"CPU"``, ``"CUDA"`` or ``"CUDA:1"``.

        Raises
        ------
        OnnxError
            If it isn't valid, or has nodes that npresnet can't run.
        BackendError
            If there is no such device.
        """
        try:
            super().prepare(model, device, **kwargs)  # onnx's checker
        except onnx.checker.ValidationError as error:
            raise OnnxError(" ".join(str(error).split())) from None
        place = _place(device)
        network = model_from_bytes(model.SerializeToString()).to(place)
        return NpresnetRep(network, model.graph.output, place)

    @classmethod
    def run_model(cls, model: Any, inputs: Any, device: str = "CPU", **kwargs: Any) -> Any:
        """Prepare a model and run it once."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: Any,
        inputs: Sequence[Any],
        device: str = "CPU",
        outputs_info: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Run one node.

        Parameters
        ----------
        node : onnx.NodeProto
            The node.
        inputs : sequence of array
            What it takes, but for inputs left out (named ``""``).
        device : str
            As :meth:`prepare`.
        outputs_info : sequence of (dtype, shape), optional
            Not needed.
        **kwargs
            ``opset_version`` of the node; the newest if missing.

        Returns
        -------
        namedtuple of numpy.ndarray
            The outputs.
        """
        names = [name for name in node.input if name]
        arrays = [np.asarray(x) for x in inputs]
        if len(names) != len(arrays):
            raise OnnxError(f"the node takes {len(names)} inputs, got {len(arrays)}")
        make = onnx.helper
        entries = [
            make.make_tensor_value_info(n, make.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in zip(names, arrays, strict=True)
        ]
        results = [make.make_empty_tensor_value_info(name) for name in node.output if name]
        graph = make.make_graph([node], "node", entries, results)
        version = kwargs.get("opset_version", onnx.defs.onnx_opset_version())
        message = make.make_model(graph, opset_imports=[make.make_opsetid("", version)])
        place = _place(device)
        network = model_from_bytes(message.SerializeToString()).to(place)
        return NpresnetRep(network, results, place).run(arrays)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Return whether a device can be used here."""
        try:
            resolve(_place(device))
        except (BackendError, AttributeError, ValueError):
            return False
        return True


prepare = NpresnetBackend.prepare
run_model = NpresnetBackend.run_model
run_node = NpresnetBackend.run_node
supports_device = NpresnetBackend.supports_device
