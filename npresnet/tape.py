"""The tape: what was computed, so that gradients can be walked back.

An :class:`Operation` is a formula: ``forward`` on arrays and, beside it, ``backward``. When one of
its inputs wants a gradient, the operation leaves a :class:`Node` behind, which knows its context
(what backward needs) and the nodes its inputs came from. :func:`walk_back` visits the nodes from
the last to the first and hands every leaf its gradient. This is reverse-mode differentiation
(Griewank and Walther, *Evaluating Derivatives*, 2008, chapter 3).
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import heapq
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, ParamSpec, Protocol, TypeVar

from npresnet.backend import Backend
from npresnet.errors import GraphError
from npresnet_kernels.contract import Array, KernelSet

__all__ = [
    "Context",
    "Leaf",
    "Node",
    "Operation",
    "Tracer",
    "enable_grad",
    "is_grad_enabled",
    "no_grad",
    "tracer",
    "tracing",
    "walk_back",
]

Params = ParamSpec("Params")
Result = TypeVar("Result")


class Context:
    """What one call of an operation hands from its forward to its backward.

    Attributes
    ----------
    backend : Backend
        Where this call computes; ``kernels`` and ``xp`` are its kernel set and array module.
    needs_grad : tuple of bool
        For each input, whether its gradient is asked for.
    saved : tuple
        What :meth:`save` was given.
    """

    __slots__ = ("backend", "needs_grad", "saved")

    def __init__(self, backend: Backend, needs_grad: tuple[bool, ...]) -> None:
        self.backend = backend
        self.needs_grad = needs_grad
        self.saved: tuple[Any, ...] = ()

    @property
    def kernels(self) -> KernelSet:
        """The kernel functions of this call's backend."""
        return self.backend.kernels

    @property
    def xp(self) -> Any:
        """The array module of this call's backend."""
        return self.backend.xp

    def add(self, x: Array, y: Array) -> Array:
        """Return x + y, by the kernel where both are feature maps of one shape."""
        if x.ndim == 4 and x.shape == y.shape and x.dtype == y.dtype and x.dtype.kind == "f":
            return self.kernels.add(x, y)
        total: Array = x + y
        return total

    def save(self, *values: Any) -> None:
        """Keep ``values`` for the backward of this call."""
        self.saved = values


class Operation:
    """A formula and its derivative, on arrays; subclasses are never instantiated.

    ``forward(context, *arrays, **attributes)`` returns one array; ``backward(context,
    grad_output)`` returns a gradient, or None, for each input array in turn.
    """

    name: ClassVar[str]
    #: Whether backward may return its ``grad_output`` (or a view of it) instead of a new array.
    returns_views: ClassVar[bool] = False
    forward: ClassVar[Callable[..., Any]]
    backward: ClassVar[Callable[..., tuple[Any, ...]]]


class Leaf(Protocol):
    """Something that collects a gradient and was not computed: a tensor made by the user."""

    def accumulate(self, grad: Array, shared: bool) -> None:
        """Add ``grad`` to what was collected; copy it first if it is ``shared``."""
        ...


_order = itertools.count()


class Node:
    """One computed value on the tape."""

    __slots__ = ("context", "hooks", "operation", "order", "parents")

    def __init__(
        self,
        operation: type[Operation],
        context: Context,
        parents: tuple[Node | Leaf | None, ...],
    ) -> None:
        self.operation = operation
        self.context: Context | None = context
        self.parents = parents
        self.order = next(_order)  # a value's node is always younger than those it came from
        self.hooks: list[Callable[[Array], Array | None]] = []

    def __repr__(self) -> str:
        return f"<{self.operation.name}>"


def walk_back(root: Node, grad: Array, retain_graph: bool = False) -> None:
    """Hand every leaf that ``root`` was computed from its gradient.

    Parameters
    ----------
    root : Node
        The value to differentiate.
    grad : Array
        Gradient with respect to that value, of its shape.
    retain_graph : bool
        Keep the saved arrays, so that the walk can be done again.

    Raises
    ------
    GraphError
        If the graph was walked before and its saved arrays are gone.
    """
    grads: dict[Node, Array] = {root: grad}
    waiting = [(-root.order, root)]
    while waiting:
        node = heapq.heappop(waiting)[1]
        grad = grads.pop(node)
        for hook in node.hooks:
            changed = hook(grad)
            grad = grad if changed is None else changed
        context = node.context
        if context is None:
            raise GraphError(
                f"backward went through this graph already, and what {node.operation.name} saved "
                "is freed: call backward(retain_graph=True) the first time"
            )
        with context.backend.scope():
            parent_grads: Sequence[Array | None] = node.operation.backward(context, grad)
            if not retain_graph:
                node.context = None
            for parent, parent_grad in zip(node.parents, parent_grads, strict=True):
                if parent is None or parent_grad is None:
                    continue
                parent_grad = context.xp.asarray(parent_grad)  # NumPy makes scalars of 0-d results
                if not isinstance(parent, Node):
                    parent.accumulate(parent_grad, shared=node.operation.returns_views)
                elif parent in grads:
                    grads[parent] = context.add(grads[parent], parent_grad)
                else:
                    grads[parent] = parent_grad
                    heapq.heappush(waiting, (-parent.order, parent))
        # Let go of what this node held before the next one computes.
        del context, parent_grads


_grad_enabled: contextvars.ContextVar[bool] = contextvars.ContextVar("grad_enabled", default=True)


def is_grad_enabled() -> bool:
    """Return whether operations are being recorded in this thread."""
    return _grad_enabled.get()


class _GradMode:
    """Switches recording; a context manager and, as torch's, a decorator."""

    _mode: ClassVar[bool]

    def __init__(self) -> None:
        self._tokens: list[contextvars.Token[bool]] = []

    def __enter__(self) -> None:
        self._tokens.append(_grad_enabled.set(self._mode))

    def __exit__(self, *_: object) -> None:
        _grad_enabled.reset(self._tokens.pop())

    def __call__(self, function: Callable[Params, Result]) -> Callable[Params, Result]:
        @functools.wraps(function)
        def wrapper(*args: Params.args, **kwargs: Params.kwargs) -> Result:
            with type(self)():
                return function(*args, **kwargs)

        return wrapper


class no_grad(_GradMode):
    """Record nothing: ``with nr.no_grad(): ...`` or ``@nr.no_grad()``."""

    _mode = False


class enable_grad(_GradMode):
    """Record again inside a :class:`no_grad` block."""

    _mode = True


class Tracer(Protocol):
    """Something that watches operations go by, to build a graph of them."""

    def record(
        self,
        operation: type[Operation],
        inputs: tuple[Any, ...],
        attributes: dict[str, Any],
        output: Any,
    ) -> None:
        """Note that ``operation`` made ``output`` from ``inputs`` (tensors or None)."""
        ...


tracer: contextvars.ContextVar[Tracer | None] = contextvars.ContextVar("tracer", default=None)


@contextlib.contextmanager
def tracing(watcher: Tracer) -> Iterator[None]:
    """Let ``watcher`` see every operation of a ``with`` block, in this thread."""
    token = tracer.set(watcher)
    try:
        yield
    finally:
        tracer.reset(token)
