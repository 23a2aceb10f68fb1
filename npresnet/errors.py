"""The exceptions that npresnet raises, one family under `NpresnetError`.

Each member derives also from the built-in exception that callers would expect, so
``except ValueError`` around a call with a wrong shape keeps working. Every message is one line
and says what was expected, what came and what to do about it.
"""

from __future__ import annotations

__all__ = [
    "BackendError",
    "DataError",
    "DeviceMemoryError",
    "DtypeError",
    "ExtraError",
    "GraphError",
    "ModuleError",
    "NpresnetError",
    "OnnxError",
    "RangeError",
    "ShapeError",
    "TrainingError",
    "WeightsError",
    "WriteError",
]


class NpresnetError(Exception):
    """Base of every error that npresnet raises on purpose."""


class ShapeError(NpresnetError, ValueError):
    """An array's shape doesn't fit the operation or layer it was given to."""


class DtypeError(NpresnetError, TypeError):
    """An array's dtype, or an argument's type, isn't one that the operation takes."""


class RangeError(NpresnetError, ValueError):
    """A value lies outside what is allowed: stride 0, a label out of range, a negative size."""


class BackendError(NpresnetError, RuntimeError):
    """A backend is unknown or unavailable, or arrays of two backends were mixed."""


class DeviceMemoryError(BackendError, MemoryError):
    """A GPU has no room for an array; what was computed before is whole."""


class WeightsError(NpresnetError, ValueError):
    """A weight file can't be read or written, or a state dict doesn't fit its model."""


class WriteError(NpresnetError, OSError):
    """A file can't be written: no such folder, no permission, no space left.

    What the file held before is whole.
    """


class OnnxError(NpresnetError, ValueError):
    """An ONNX file can't be read, or a network and ONNX don't fit each other."""


class DataError(NpresnetError, ValueError):
    """A data set, a folder of images or an image can't be read."""


class ExtraError(NpresnetError, ImportError):
    """An optional package is needed that isn't installed; the message names the extra."""


class ModuleError(NpresnetError, RuntimeError):
    """A `Module` was built or used in a way that can't work."""


class GraphError(NpresnetError, RuntimeError):
    """Backward was asked of a tape that isn't there, or was already walked and freed."""


class TrainingError(NpresnetError, ArithmeticError):
    """Training can't go on: the loss is no longer a finite number. What was saved is whole."""
