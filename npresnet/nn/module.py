"""Module: a piece of a network that holds parameters, buffers and other modules.

Subclass it, call ``super().__init__()`` first, set layers as attributes, write ``forward``. Setting
an attribute is what registers it: that needs the tables which ``Module.__init__`` makes.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np

from npresnet.backend import for_arrays, resolve
from npresnet.errors import ModuleError, WeightsError
from npresnet.nn.state import IncompatibleKeys, LazyArray, check_state
from npresnet.tensor import ArrayLike, Tensor, as_tensor
from npresnet_kernels.contract import Array

__all__ = ["Module", "Parameter", "RemovableHandle", "structure_version"]

Self = TypeVar("Self", bound="Module")


class _Structure:
    """Counts how often any module got, lost or exchanged a part, a hook or a setting."""

    version = 0


def structure_version() -> int:
    """Return a number that grows when a part, hook or plain attribute of any module is another.

    A plan that finds it as it was needn't walk its model to see that it is made of the same.
    """
    return _Structure.version


class Parameter(Tensor):
    """A tensor that a module learns.

    Parameters
    ----------
    data : array_like
        The values; arrays are not copied.
    requires_grad : bool
        Whether it takes part in training.
    """

    __slots__ = ()

    def __init__(self, data: ArrayLike, requires_grad: bool = True) -> None:
        super().__init__(as_tensor(data).data, requires_grad)

    def __repr__(self) -> str:
        return f"Parameter containing:\n{super().__repr__()}"


class RemovableHandle:
    """What registering a hook returns; :meth:`remove` takes the hook away again."""

    def __init__(self, hooks: dict[int, Any], hook: Any) -> None:
        self._hooks = hooks
        self._key = max(hooks, default=0) + 1
        hooks[self._key] = hook
        _Structure.version += 1

    def remove(self) -> None:
        """Take the hook away; a second time does nothing."""
        self._hooks.pop(self._key, None)
        _Structure.version += 1


class Module:
    """Base of all layers and networks.

    Attributes
    ----------
    training : bool
        Whether the module is in training mode (batch norm, dropout).
    """

    training: bool
    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, Tensor | None]
    _modules: dict[str, Module | None]

    def __init__(self) -> None:
        # Past __setattr__, which needs these tables.
        own = self.__dict__
        own["training"] = True
        own["_parameters"] = {}
        own["_buffers"] = {}
        own["_modules"] = {}
        own["_forward_hooks"] = {}
        own["_forward_pre_hooks"] = {}

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """Compute the module's output; every subclass writes its own."""
        raise ModuleError(
            f"{type(self).__name__} has no forward: write def forward(self, x) in the class"
        )

    # ------------------------------------------------------------------ calling

    def __call__(self, *inputs: Any, **kwargs: Any) -> Any:
        """Run the hooks and :meth:`forward`.

        Arrays, of NumPy or another library, go in as tensors.

        Raises
        ------
        ModuleError
            If the class forgot ``super().__init__()``, or ``self`` in ``forward``.
        """
        own = self.__dict__
        if "_modules" not in own:
            raise ModuleError(_no_init(self, f"before {type(self).__name__} is called"))
        _check_forward(type(self))
        inputs = tuple(map(_entering, inputs))
        for hook in own["_forward_pre_hooks"].values():
            changed = hook(self, inputs)
            if changed is not None:
                inputs = changed if isinstance(changed, tuple) else (changed,)
        output = self.forward(*inputs, **kwargs)
        for hook in own["_forward_hooks"].values():
            changed = hook(self, inputs, output)
            output = output if changed is None else changed
        return output

    def register_forward_hook(
        self, hook: Callable[[Module, tuple[Any, ...], Any], Any]
    ) -> RemovableHandle:
        """Call ``hook(module, inputs, output)`` after each forward.

        What it returns, unless None, takes the output's place.
        """
        return RemovableHandle(self.__dict__["_forward_hooks"], hook)

    def register_forward_pre_hook(
        self, hook: Callable[[Module, tuple[Any, ...]], Any]
    ) -> RemovableHandle:
        """Call ``hook(module, inputs)`` before each forward.

        What it returns, unless None, takes the inputs' place.
        """
        return RemovableHandle(self.__dict__["_forward_pre_hooks"], hook)

    # ------------------------------------------------------------------ attributes

    def __setattr__(self, name: str, value: Any) -> None:
        own = self.__dict__
        table = (
            "_parameters"
            if isinstance(value, Parameter)
            else "_modules"
            if isinstance(value, Module)
            else None
        )
        if "_modules" not in own:
            if table is None:
                own[name] = value  # plain attributes may come before super().__init__()
                return
            raise ModuleError(_no_init(self, f"before it sets self.{name}"))
        if table is not None:
            for other in ("_parameters", "_buffers", "_modules"):
                if other != table:
                    own[other].pop(name, None)
            own.pop(name, None)
            own[table][name] = value
            _Structure.version += 1
            return
        for registered in ("_parameters", "_modules", "_buffers"):
            if name in own[registered]:
                if value is not None and not (
                    registered == "_buffers" and isinstance(value, Tensor)
                ):
                    kind = {"_parameters": "Parameter", "_modules": "Module", "_buffers": "Tensor"}
                    raise ModuleError(
                        f"{type(self).__name__}.{name} is a {kind[registered]} and can't become "
                        f"a {type(value).__name__}: delete it first, or assign one of its kind"
                    )
                own[registered][name] = value
                _Structure.version += 1
                return
        if value is not own.get(name):
            _Structure.version += 1
        own[name] = value

    def __getattr__(self, name: str) -> Any:
        # Only called when the attribute isn't in __dict__ or on the class.
        own = self.__dict__
        for table in ("_parameters", "_buffers", "_modules"):
            if table in own and name in own[table]:
                return own[table][name]
        if name in ("_parameters", "_buffers", "_modules", "_forward_hooks", "training"):
            raise ModuleError(_no_init(self, f"before {type(self).__name__} is used"))
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __delattr__(self, name: str) -> None:
        own = self.__dict__
        for table in ("_parameters", "_buffers", "_modules"):
            if name in own.get(table, {}):
                del own[table][name]
                _Structure.version += 1
                return
        super().__delattr__(name)
        _Structure.version += 1

    def __dir__(self) -> list[str]:
        own = self.__dict__
        tables = [own.get(t, {}) for t in ("_parameters", "_buffers", "_modules")]
        return sorted({*super().__dir__(), *(name for table in tables for name in table)})

    def register_buffer(self, name: str, tensor: Tensor | None) -> None:
        """Register a tensor that is saved with the module but not learned.

        Raises
        ------
        ModuleError
            If ``super().__init__()`` hasn't been called yet.
        """
        if "_modules" not in self.__dict__:
            raise ModuleError(_no_init(self, f"before it registers {name}"))
        self._buffers[name] = tensor
        _Structure.version += 1

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Register a parameter; None holds its place.

        Raises
        ------
        ModuleError
            If ``super().__init__()`` hasn't been called yet.
        """
        if "_modules" not in self.__dict__:
            raise ModuleError(_no_init(self, f"before it registers {name}"))
        self._parameters[name] = param
        _Structure.version += 1

    def add_module(self, name: str, module: Module | None) -> None:
        """Register a child module.

        Raises
        ------
        ModuleError
            If ``super().__init__()`` hasn't been called yet, or the name is empty or holds a dot.
        """
        if "_modules" not in self.__dict__:
            raise ModuleError(_no_init(self, f"before it adds {name}"))
        if not name or "." in name:
            raise ModuleError(f"a module's name must not be empty or hold a dot, got {name!r}")
        self._modules[name] = module
        _Structure.version += 1

    # ------------------------------------------------------------------ walking the tree

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Yield (name, module) of the direct children."""
        return ((name, m) for name, m in self._modules.items() if m is not None)

    def children(self) -> Iterator[Module]:
        """Yield the direct children."""
        return (module for _, module in self.named_children())

    def named_modules(
        self, prefix: str = "", _seen: set[int] | None = None
    ) -> Iterator[tuple[str, Module]]:
        """Yield (dotted name, module) of this module and all below it, each once."""
        seen = set() if _seen is None else _seen
        if id(self) in seen:
            return
        seen.add(id(self))
        yield prefix, self
        for name, module in self.named_children():
            yield from module.named_modules(f"{prefix}.{name}" if prefix else name, seen)

    def modules(self) -> Iterator[Module]:
        """Yield this module and all below it, each once."""
        return (module for _, module in self.named_modules())

    def _named_tensors(self, table: str) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        for prefix, module in self.named_modules():
            for name, value in getattr(module, table).items():
                if value is not None and id(value) not in seen:
                    seen.add(id(value))
                    yield f"{prefix}.{name}" if prefix else name, value

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Yield (dotted name, parameter) of the whole tree; a shared one once."""
        return self._named_tensors("_parameters")

    def parameters(self) -> Iterator[Parameter]:
        """Yield the parameters of the whole tree; a shared one once."""
        return (parameter for _, parameter in self.named_parameters())

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (dotted name, buffer) of the whole tree."""
        return self._named_tensors("_buffers")

    def buffers(self) -> Iterator[Tensor]:
        """Yield the buffers of the whole tree."""
        return (buffer for _, buffer in self.named_buffers())

    def get_submodule(self, target: str) -> Module:
        """Return the module with a dotted name, as in ``"layer1.0.conv1"``.

        Raises
        ------
        AttributeError
            If there is none.
        """
        module = self
        for name in filter(None, target.split(".")):
            child = module._modules.get(name)
            if child is None:
                raise AttributeError(f"{type(module).__name__} has no module {name!r} ({target!r})")
            module = child
        return module

    def apply(self: Self, fn: Callable[[Module], Any]) -> Self:
        """Call ``fn`` on every module of the tree, children first; return this one."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    # ------------------------------------------------------------------ mode, place, dtype

    def train(self: Self, mode: bool = True) -> Self:
        """Set training mode in the whole tree."""
        for module in self.modules():
            module.__dict__["training"] = bool(mode)
        return self

    def eval(self: Self) -> Self:
        """Set evaluation mode in the whole tree."""
        return self.train(False)

    def requires_grad_(self: Self, requires_grad: bool = True) -> Self:
        """Set whether the parameters are learned."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients collected so far, or set them to 0."""
        for parameter in self.parameters():
            if set_to_none or parameter.grad is None:
                parameter.grad = None
            else:
                with for_arrays([parameter.grad]).scope():
                    parameter.grad[...] = 0

    def _convert(self: Self, change: Callable[[Array], Array]) -> Self:
        """Replace every array of the tree, gradients included."""
        for module in self.modules():
            for table in (module._parameters, module._buffers):
                for tensor in table.values():
                    if tensor is not None:
                        tensor.data = change(tensor.data)
                        if tensor.grad is not None:
                            tensor.grad = change(tensor.grad)
        return self

    def to(self: Self, target: Any) -> Self:
        """Move the module to a backend (``"gpu"``) or convert its floats to a dtype.

        Raises
        ------
        BackendError
            If there is no such backend, or it can't be used here.
        """
        if isinstance(target, str) and not target.startswith("float"):
            backend = resolve(target)
            return self._convert(lambda a: a if backend.owns(a) else backend.asarray(a))
        dtype = np.dtype(target)

        def cast(array: Array) -> Array:
            with for_arrays([array]).scope():
                return array.astype(dtype, copy=False) if array.dtype.kind == "f" else array

        return self._convert(cast)

    def cpu(self: Self) -> Self:
        """Move the module to main memory."""
        return self.to("cpu")

    def float(self: Self) -> Self:
        """Convert parameters and floating-point buffers to float32."""
        return self.to(np.float32)

    def double(self: Self) -> Self:
        """Convert parameters and floating-point buffers to float64."""
        return self.to(np.float64)

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Array]:
        """Return every parameter and buffer as an array, by dotted name; the memory is shared."""
        return {
            f"{prefix}.{name}" if prefix else name: value.data
            for prefix, module in self.named_modules()
            for table in (module._parameters, module._buffers)
            for name, value in table.items()
            if value is not None
        }

    def load_state_dict(
        self, state_dict: Mapping[str, ArrayLike], strict: bool = True
    ) -> IncompatibleKeys:
        """Copy values into the parameters and buffers.

        Parameters
        ----------
        state_dict : mapping
            Names to arrays, tensors, or anything NumPy can read (torch's tensors included).
        strict : bool
            Whether missing and unexpected names are errors; wrong shapes always are. A missing
            ``num_batches_tracked`` never is.

        Returns
        -------
        IncompatibleKeys
            The lists ``missing_keys`` and ``unexpected_keys``.

        Raises
        ------
        WeightsError
            If names or shapes don't fit; then nothing was changed.
        """
        own = self.state_dict()
        if not isinstance(state_dict, Mapping):
            raise WeightsError(
                f"expected a state dict (names to arrays), got {type(state_dict).__name__}"
            )
        given = {}
        for key, value in state_dict.items():
            try:
                given[key] = value.data if isinstance(value, Tensor) else _as_array(value)
            except (TypeError, ValueError, RuntimeError) as error:
                raise WeightsError(f"the value of {key!r} is no array: {error}") from None
        shapes = {key: array.shape for key, array in own.items()}
        incompatible = check_state(shapes, given, strict, owner=type(self).__name__)
        for key, array in own.items():
            if key in given:
                backend = for_arrays([array])
                with _lent(given[key]) as value, backend.scope():
                    array[...] = backend.asarray(value)
        for tensor in (*self.parameters(), *self.buffers()):
            tensor._version += 1
        return incompatible

    # ------------------------------------------------------------------ looks

    def extra_repr(self) -> str:
        """Return what stands between the parentheses of a layer's line."""
        return ""

    def __repr__(self) -> str:
        if "_modules" not in self.__dict__:
            return f"{type(self).__name__}(without super().__init__())"
        lines = [
            f"({name}): " + repr(module).replace("\n", "\n  ")
            for name, module in self._modules.items()
        ]
        extra = self.extra_repr()
        if not lines:
            return f"{type(self).__name__}({extra})"
        body = "\n  ".join(([extra] if extra else []) + lines)
        return f"{type(self).__name__}(\n  {body}\n)"


def _entering(value: Any) -> Any:
    """Return an array of any library as a tensor, anything else as it is."""
    if isinstance(value, Tensor) or not hasattr(value, "__dlpack_device__"):
        return value
    return as_tensor(value)


def _as_array(value: Any) -> Any:
    """Return a CuPy array, or one that is to be read later, as it is; all else through NumPy."""
    if isinstance(value, LazyArray) or (hasattr(value, "get") and hasattr(value, "dtype")):
        return value
    return np.asarray(value)


def _lent(value: Any) -> contextlib.AbstractContextManager[Any]:
    return value.borrowed() if isinstance(value, LazyArray) else contextlib.nullcontext(value)


def _no_init(module: Module, when: str) -> str:
    name = type(module).__name__
    return f"{name}.__init__ must call super().__init__() {when}: make it the first line"


_checked: set[type[Module]] = set()


def _check_forward(kind: type[Module]) -> None:
    """Raise if ``forward`` was written without ``self``; looked at once a class."""
    if kind in _checked:
        return
    if inspect.isfunction(kind.forward):
        names = list(inspect.signature(kind.forward).parameters)
        if not names or names[0] != "self":
            written = ", ".join(names)
            raise ModuleError(
                f"{kind.__name__}.forward must take self first: write def forward"
                f"(self{', ' + written if written else ''}) instead of def forward({written})"
            )
    _checked.add(kind)
