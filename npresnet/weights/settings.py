"""What a set of weights is: its network, its classes and what it expects of its images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from npresnet.errors import WeightsError
from npresnet.weights.preprocessing import Preprocessing

__all__ = ["ClassName", "ModelSettings"]

ClassName: TypeAlias = str | int | float | bool

_OPTIONS = ("num_classes", "in_chans", "small_input")
_VERSION = 1
_LONGEST_NAME = 100


@dataclass(frozen=True)
class ModelSettings:
    """All that is needed beside the weights to build a model and to classify with it.

    Attributes
    ----------
    architecture : str
        A name of `ARCHITECTURES`.
    options : dict
        ``num_classes``, ``in_chans`` and ``small_input`` of the architecture.
    classes : tuple of str, int, float or bool
        What each output stands for.
    preprocessing : Preprocessing
        The way from an image to the model's input.
    """

    architecture: str
    options: dict[str, Any]
    classes: tuple[ClassName, ...]
    preprocessing: Preprocessing

    @classmethod
    def new(
        cls,
        architecture: str,
        classes: tuple[ClassName, ...],
        preprocessing: Preprocessing,
        small_input: bool = False,
    ) -> ModelSettings:
        """Settings whose options follow from the classes and the preprocessing."""
        options = {
            "num_classes": len(classes),
            "in_chans": preprocessing.channels,
            "small_input": bool(small_input),
        }
        return cls(architecture, options, tuple(classes), preprocessing)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON can hold them."""
        return {
            "version": _VERSION,
            "architecture": self.architecture,
            "options": dict(self.options),
            "classes": list(self.classes),
            "preprocessing": self.preprocessing.to_dict(),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> ModelSettings:
        """Make settings from :meth:`to_dict`.

        Raises
        ------
        WeightsError
            Something is missing or of another kind.
        """
        try:
            if fields["version"] != _VERSION:
                raise ValueError(f"version {fields['version']!r}, expected {_VERSION}")
            settings = cls(
                fields["architecture"],
                dict(fields["options"]),
                tuple(fields["classes"]),
                Preprocessing.from_dict(fields["preprocessing"]),
            )
            settings.check()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            reason = " ".join(reason.split())[:400]  # it may quote the file
            raise WeightsError(f"the npresnet settings don't make sense: {reason}") from None
        return settings

    def check(self) -> None:
        """Raise a ValueError if the parts contradict each other."""
        if not isinstance(self.architecture, str) or len(self.architecture) > _LONGEST_NAME:
            raise ValueError(f"architecture expected a name, got {self.architecture!r:.60}")
        unknown = set(self.options) - set(_OPTIONS)
        if unknown:
            named = ", ".join(sorted(map(repr, unknown)))
            raise ValueError(f"unknown options {named:.200}")
        if not isinstance(self.options.get("small_input", False), bool):
            raise ValueError(f"small_input expected true or false, got {self.options!r:.80}")
        if not all(isinstance(name, ClassName) for name in self.classes):
            raise ValueError("classes expected names or numbers")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("a class comes twice")
        if self.options.get("num_classes") != len(self.classes):
            raise ValueError(
                f"{len(self.classes)} classes for {self.options.get('num_classes')} outputs"
            )
        if self.options.get("in_chans") != self.preprocessing.channels:
            raise ValueError(
                f"images of {self.preprocessing.channels} channels for a model of "
                f"{self.options.get('in_chans')}"
            )
