"""What can go wrong on a device, in words that name the cure."""

from __future__ import annotations

__all__ = ["DeviceError", "DeviceMemoryError"]


class DeviceError(RuntimeError):
    """A kernel could not be compiled or launched, or failed on the device."""


class DeviceMemoryError(DeviceError, MemoryError):
    """The device has no room for an array."""
