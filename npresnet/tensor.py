"""Tensor: an array that remembers how it was computed.

A tensor holds one array (``data``), and, if it wants a gradient, either its place on the tape or
the gradient collected so far (``grad``, an array). Names and meanings are torch's.
"""

from __future__ import annotations

import math
import operator
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from npresnet import elementary
from npresnet.arrays import array_beside, as_array, common_dtype
from npresnet.backend import adopt, for_arrays, resolve
from npresnet.errors import DtypeError, GraphError, RangeError, ShapeError
from npresnet.shapes import axes_of, axis_of, expanded, flattened, order_of, reshaped, sizes_of
from npresnet.tape import Context, Node, Operation, is_grad_enabled, tracer, walk_back
from npresnet_kernels.contract import Array, Shape

__all__ = ["ArrayLike", "Tensor", "apply", "as_tensor", "record", "tensor"]

ArrayLike: TypeAlias = Any  # a Tensor, an array, a number or nested sequences of numbers

Number: TypeAlias = float  # inside the class, `float` is the method


class Tensor:
    """An array of numbers with a gradient.

    Parameters
    ----------
    data : array
        A NumPy or CuPy array; it is not copied.
    requires_grad : bool
        Whether :meth:`backward` shall collect a gradient for it.

    Attributes
    ----------
    data : array
        The values.
    grad : array or None
        The gradient collected so far, of the shape and dtype of ``data``.
    requires_grad : bool
        Whether operations on this tensor are recorded.
    """

    # _version counts what npresnet itself writes into ``data``: plans that prepared the values
    # (packed weights) look at it.
    __slots__ = ("__weakref__", "_hooks", "_node", "_version", "data", "grad", "requires_grad")
    __array_ufunc__ = None  # NumPy arrays leave mixed arithmetic to Tensor

    data: Array
    grad: Array | None

    def __init__(self, data: Array, requires_grad: bool = False) -> None:
        if requires_grad and data.dtype.kind != "f":
            raise DtypeError(
                f"only floating-point tensors can require gradients, got {data.dtype}: "
                "convert it first, as in tensor.float()"
            )
        self.data = data
        self.grad = None
        self.requires_grad = requires_grad
        self._node: Node | None = None
        self._hooks: list[Callable[[Array], Array | None]] | None = None
        self._version = 0

    # ------------------------------------------------------------------ what it is

    @property
    def shape(self) -> Shape:
        """Size of each dimension."""
        return self.data.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy dtype of the values."""
        return self.data.dtype

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self.data.ndim

    @property
    def device(self) -> str:
        """Where the values live: ``"cpu"`` or ``"gpu:N"``."""
        return for_arrays([self.data]).device

    @property
    def is_leaf(self) -> bool:
        """Whether it was made by the user rather than computed."""
        return self._node is None

    @property
    def T(self) -> Tensor:
        """Dimensions in reverse order."""
        return self.permute(*reversed(range(self.ndim)))

    def size(self, dim: int | None = None) -> Any:
        """Return the shape, or one dimension of it."""
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        """Return the number of dimensions."""
        return self.ndim

    def numel(self) -> int:
        """Return the number of elements."""
        return self.data.size

    def element_size(self) -> int:
        """Return the bytes of one element."""
        return self.data.itemsize

    def is_floating_point(self) -> bool:
        """Return whether the elements are floating-point numbers."""
        return self.data.dtype.kind == "f"

    def __len__(self) -> int:
        if not self.shape:
            raise ShapeError("a tensor without dimensions has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        text = np.array2string(self.numpy(), separator=", ", precision=4, prefix="tensor(")
        extra = "" if self.dtype in (np.float32, np.int64, np.bool_) else f", dtype={self.dtype}"
        if self.device != "cpu":
            extra += f", device={self.device!r}"
        if self._node is not None:
            extra += f", grad_fn={self._node}"
        elif self.requires_grad:
            extra += ", requires_grad=True"
        return f"tensor({text}{extra})"

    # ------------------------------------------------------------------ out of the tensor

    def numpy(self) -> Array:
        """Return the values as a NumPy array: the same memory on the CPU, a copy of a GPU's."""
        return for_arrays([self.data]).to_numpy(self.data)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        array = self.numpy()
        if copy is False and array is not self.data:
            raise ValueError(f"the values are on {self.device}: they can't be had without a copy")
        return np.array(array, dtype=dtype, copy=copy)

    # Other libraries' from_dlpack: the same memory, off the tape.
    def __dlpack__(self, **options: Any) -> Any:
        return self.data.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.data.__dlpack_device__()

    def item(self) -> Any:
        """Return the one value of a tensor with one element as a Python number.

        Raises
        ------
        ShapeError
            If there are more elements, or none.
        """
        if self.data.size != 1:
            raise ShapeError(f"item() needs a tensor with one element, got shape {self.shape}")
        return self.numpy().item()

    def tolist(self) -> Any:
        """Return the values as nested lists of Python numbers."""
        return self.numpy().tolist()

    def __bool__(self) -> bool:
        return bool(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __index__(self) -> int:
        if self.dtype.kind not in "iu":
            raise DtypeError(f"only an integer tensor can be an index, got {self.dtype}")
        return int(self.item())

    # ------------------------------------------------------------------ gradients

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Set ``requires_grad`` and return the tensor.

        Raises
        ------
        DtypeError
            If the values aren't floating-point numbers.
        """
        if requires_grad and self.dtype.kind != "f":
            raise DtypeError(f"only floating-point tensors can require gradients: {self.dtype}")
        self.requires_grad = requires_grad
        return self

    def detach(self) -> Tensor:
        """Return the same values, in the same memory, off the tape."""
        return Tensor(self.data)

    def backward(self, grad: ArrayLike = None, retain_graph: bool = False) -> None:
        """Collect gradients in every leaf that this tensor was computed from.

        Parameters
        ----------
        grad : array_like, optional
            Gradient with respect to this tensor, of its shape. May be left out where the tensor
            has one element: then it is 1.
        retain_graph : bool
            Keep what was saved, so that backward can be called again.

        Raises
        ------
        GraphError
            If nothing was recorded, or the graph was freed by an earlier backward.
        ShapeError
            If ``grad`` is missing or has another shape.
        """
        if not self.requires_grad:
            raise GraphError(
                "backward() needs a tensor that was computed from one with requires_grad=True, "
                "outside no_grad()"
            )
        backend = for_arrays([self.data])
        if grad is None and self.data.size != 1:
            raise ShapeError(
                f"backward() of a tensor with shape {self.shape} needs grad, an array of that "
                "shape; only one element can do without"
            )
        with backend.scope():
            if grad is None:
                seed: Array = backend.xp.ones_like(self.data)
            else:
                values = grad.data if isinstance(grad, Tensor) else grad
                seed = backend.asarray(values).astype(self.dtype, copy=False)
            if seed.shape != self.shape:
                raise ShapeError(f"grad has shape {seed.shape}, the tensor {self.shape}")
            if self._node is None:
                self.accumulate(seed, shared=True)
            else:
                walk_back(self._node, seed, retain_graph)

    def accumulate(self, grad: Array, shared: bool) -> None:
        """Add ``grad`` to what was collected; copy it first if it is ``shared``."""
        for hook in self._hooks or ():
            changed = hook(grad)
            grad = grad if changed is None else changed
        grad = grad.astype(self.dtype, copy=False)
        if self.grad is None:
            self.grad = grad.copy(order="K") if shared else grad
        else:
            self.grad = self.grad + grad

    def register_hook(self, hook: Callable[[Array], Array | None]) -> None:
        """Call ``hook(grad)`` when the gradient of this tensor is known.

        What it returns, unless None, takes the gradient's place.

        Raises
        ------
        GraphError
            If the tensor requires no gradient.
        """
        if not self.requires_grad:
            raise GraphError("register_hook() needs a tensor that requires a gradient")
        if self._node is not None:
            self._node.hooks.append(hook)
        elif self._hooks is None:
            self._hooks = [hook]
        else:
            self._hooks.append(hook)

    def retain_grad(self) -> None:
        """Keep the gradient of a computed tensor in its ``grad`` too."""
        if self._node is None:
            return
        place = weakref.ref(self)  # the node must not keep the values alive

        def keep(grad: Array) -> None:
            owner = place()
            if owner is not None:
                owner.grad = grad if owner.grad is None else owner.grad + grad

        self.register_hook(keep)

    # ------------------------------------------------------------------ place and dtype

    def to(self, target: Any) -> Tensor:
        """Move to a backend (``"cpu"``, ``"gpu:1"``) or convert to a dtype.

        Raises
        ------
        BackendError
            If there is no such backend.
        """
        if isinstance(target, str) and not target.startswith(("float", "int", "uint", "bool")):
            backend = resolve(target)
            if backend.owns(self.data):
                return self
            return Tensor(backend.asarray(self.data), requires_grad=self.requires_grad)
        dtype = np.dtype(target)
        return self if dtype == self.dtype else apply(elementary.Cast, self, dtype=dtype)

    def cpu(self) -> Tensor:
        """Return the tensor in main memory."""
        return self.to("cpu")

    def float(self) -> Tensor:
        """Convert to float32."""
        return self.to(np.float32)

    def double(self) -> Tensor:
        """Convert to float64."""
        return self.to(np.float64)

    def long(self) -> Tensor:
        """Convert to int64."""
        return self.to(np.int64)

    def clone(self) -> Tensor:
        """Return a copy that passes gradients on."""
        return apply(elementary.Copy, self)

    def contiguous(self) -> Tensor:
        """Return the tensor: kernels take any memory order."""
        return self

    # ------------------------------------------------------------------ arithmetic

    def __add__(self, other: ArrayLike) -> Tensor:
        return _binary(elementary.Add, self, other)

    def __radd__(self, other: ArrayLike) -> Tensor:
        return _binary(elementary.Add, other, self)

    def __sub__(self, other: ArrayLike) -> Tensor:
        return _binary(elementary.Subtract, self, other)

    def __rsub__(self, other: ArrayLike) -> Tensor:
        return _binary(elementary.Subtract, other, self)

    def __mul__(self, other: ArrayLike) -> Tensor:
        return _binary(elementary.Multiply, self, other)

    def __rmul__(self, other: ArrayLike) -> Tensor:
        return _binary(elementary.Multiply, other, self)

    def __truediv__(self, other: ArrayLike) -> Tensor:
        return _binary(elementary.Divide, self, other)

    def __rtruediv__(self, other: ArrayLike) -> Tensor:
        return _binary(elementary.Divide, other, self)

    def __matmul__(self, other: ArrayLike) -> Tensor:
        return _binary(elementary.MatMul, self, other)

    def __pow__(self, exponent: Number) -> Tensor:
        return apply(elementary.Power, self, exponent=exponent)

    def __neg__(self) -> Tensor:
        return apply(elementary.Negate, self)

    def exp(self) -> Tensor:
        """Return e to the power of each element."""
        return apply(elementary.Exp, self)

    def log(self) -> Tensor:
        """Return the natural logarithm of each element."""
        return apply(elementary.Log, self)

    def sqrt(self) -> Tensor:
        """Return the square root of each element."""
        return self**0.5

    def abs(self) -> Tensor:
        """Return the absolute value of each element."""
        return apply(elementary.Abs, self)

    def clamp(self, min: Number | None = None, max: Number | None = None) -> Tensor:
        """Return each element, kept between ``min`` and ``max``."""
        return apply(elementary.Clamp, self, low=min, high=max)

    def matmul(self, other: ArrayLike) -> Tensor:
        """Return the matrix product ``self @ other``."""
        return _binary(elementary.MatMul, self, other)

    # Comparisons give bool tensors and no gradient.

    def __eq__(self, other: object) -> Tensor:  # type: ignore[override]
        return self._compared(operator.eq, other)

    def __ne__(self, other: object) -> Tensor:  # type: ignore[override]
        return self._compared(operator.ne, other)

    def __lt__(self, other: ArrayLike) -> Tensor:
        return self._compared(operator.lt, other)

    def __le__(self, other: ArrayLike) -> Tensor:
        return self._compared(operator.le, other)

    def __gt__(self, other: ArrayLike) -> Tensor:
        return self._compared(operator.gt, other)

    def __ge__(self, other: ArrayLike) -> Tensor:
        return self._compared(operator.ge, other)

    __hash__ = object.__hash__

    def _compared(self, compare: Callable[[Any, Any], Any], other: object) -> Tensor:
        backend = for_arrays([self.data])
        with backend.scope():
            # asarray: NumPy makes scalars of what has no dimensions
            return Tensor(backend.xp.asarray(compare(self.data, _operand(other, self))))

    # ------------------------------------------------------------------ reductions

    def sum(self, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
        """Return the sum over ``dim`` (all of them if None).

        Raises
        ------
        RangeError
            If there is no such dimension.
        """
        return apply(elementary.Sum, self, axes=axes_of(dim, self.shape), keepdims=keepdim)

    def mean(self, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
        """Return the mean over ``dim`` (all of them if None); NaN over nothing.

        Raises
        ------
        DtypeError
            If the values aren't floating-point numbers.
        RangeError
            If there is no such dimension.
        """
        if self.dtype.kind != "f":
            raise DtypeError(
                f"mean() needs floating-point values, got {self.dtype}: .float() first"
            )
        axes = axes_of(dim, self.shape)
        count = math.prod(self.shape[i] for i in axes)
        if count == 0:
            return self.sum(dim, keepdim) * float("nan")
        return apply(elementary.Sum, self, axes=axes, keepdims=keepdim, divisor=count)

    def amax(self, dim: int | Sequence[int] = (), keepdim: bool = False) -> Tensor:
        """Return the maximum over ``dim`` (all of them if empty).

        Raises
        ------
        ShapeError
            If there is nothing to take it of.
        """
        axes = axes_of(dim, self.shape) if dim != () else tuple(range(self.ndim))
        if any(self.shape[i] == 0 for i in axes):
            raise ShapeError(f"amax over dimensions {axes} of shape {self.shape}: nothing is there")
        return apply(elementary.Amax, self, axes=axes, keepdims=keepdim)

    def argmax(self, dim: int | None = None, keepdim: bool = False) -> Tensor:
        """Return the position of the first maximum, in the flat tensor or along ``dim``."""
        backend = for_arrays([self.data])
        with backend.scope():
            if dim is None:
                return Tensor(backend.xp.asarray(self.data.argmax()))
            return Tensor(self.data.argmax(axis=axis_of(dim, self.shape), keepdims=keepdim))

    def max(self, dim: int | None = None, keepdim: bool = False) -> Any:
        """Return the maximum; with ``dim``, the pair (values, indices) along it."""
        backend = for_arrays([self.data])
        if dim is None:
            return self.reshape(-1)[int(self.argmax())]
        axis = axis_of(dim, self.shape)
        with backend.scope():
            picked = self.data.argmax(axis=axis, keepdims=True)
            sizes = tuple(slice(n) for n in picked.shape)
            grid = list(backend.xp.ogrid[sizes]) if self.ndim > 1 else [None]
        grid[axis] = picked
        values = self[tuple(grid)]
        if keepdim:
            return values, Tensor(picked)
        return values.squeeze(axis), Tensor(picked.squeeze(axis))

    # ------------------------------------------------------------------ shapes

    def reshape(self, *shape: Any) -> Tensor:
        """Return the same elements under another shape; one -1 is worked out.

        Raises
        ------
        ShapeError
            If the number of elements doesn't fit.
        """
        full = reshaped(self.shape, sizes_of(shape))
        return apply(elementary.Reshape, self, shape=full)

    def view(self, *shape: Any) -> Tensor:
        """Return :meth:`reshape`; unlike torch's, it copies where the memory order demands it."""
        return self.reshape(*shape)

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Tensor:
        """Return the tensor with dimensions ``start_dim`` to ``end_dim`` made one.

        Raises
        ------
        RangeError
            If there are no such dimensions, or they stand in the other order.
        """
        return self.reshape(flattened(self.shape, start_dim, end_dim))

    def permute(self, *dims: Any) -> Tensor:
        """Return the dimensions in the order ``dims``.

        Raises
        ------
        RangeError
            If a dimension is missing, comes twice or doesn't exist.
        """
        return apply(elementary.Permute, self, axes=order_of(sizes_of(dims), self.shape))

    def transpose(self, dim0: int, dim1: int) -> Tensor:
        """Return the tensor with two dimensions exchanged."""
        order = list(range(self.ndim))
        i, j = axis_of(dim0, self.shape), axis_of(dim1, self.shape)
        order[i], order[j] = j, i
        return self.permute(*order)

    def t(self) -> Tensor:
        """Return the transpose of a matrix.

        Raises
        ------
        ShapeError
            If there are more than two dimensions.
        """
        if self.ndim > 2:
            raise ShapeError(f"t() needs a matrix, got shape {self.shape}")
        return self.T

    def squeeze(self, dim: int | None = None) -> Tensor:
        """Return the tensor without dimensions of size 1 (or without ``dim``, if that is 1)."""
        if dim is None:
            return self.reshape(tuple(n for n in self.shape if n != 1))
        axis = axis_of(dim, self.shape)
        if self.shape[axis] != 1:
            return self
        return self.reshape(self.shape[:axis] + self.shape[axis + 1 :])

    def unsqueeze(self, dim: int) -> Tensor:
        """Return the tensor with a dimension of size 1 put in at ``dim``.

        Raises
        ------
        RangeError
            If ``dim`` lies beyond the end.
        """
        if not -self.ndim - 1 <= dim <= self.ndim:
            raise RangeError(f"unsqueeze: dimension {dim} of a tensor with shape {self.shape}")
        axis = dim + self.ndim + 1 if dim < 0 else dim
        return self.reshape((*self.shape[:axis], 1, *self.shape[axis:]))

    def expand(self, *shape: Any) -> Tensor:
        """Return the tensor broadcast to ``shape``; -1 keeps a dimension.

        Raises
        ------
        ShapeError
            If it can't be broadcast to it.
        """
        return apply(elementary.Expand, self, shape=expanded(self.shape, sizes_of(shape)))

    def __getitem__(self, index: Any) -> Tensor:
        parts = index if isinstance(index, tuple) else (index,)
        arrays = tuple(p.data if isinstance(p, Tensor) else p for p in parts)
        try:
            return apply(elementary.Index, self, index=arrays)
        except IndexError as error:
            # IndexError ends iteration and is what users catch: keep the type, say the shape.
            raise IndexError(f"{error} (shape {self.shape})") from None


def tensor(data: ArrayLike, requires_grad: bool = False, dtype: Any = None) -> Tensor:
    """Make a tensor on the backend in force; the values are copied.

    Parameters
    ----------
    data : array_like
        A number, nested sequences, a Tensor, or an array of NumPy, PyTorch, JAX or CuPy. Python
        floats become float32, Python integers int64; arrays keep their dtype, and their device if
        that is a GPU.
    requires_grad : bool
        Whether :meth:`Tensor.backward` shall collect a gradient for it.
    dtype : dtype, optional
        Another dtype for the values.

    Raises
    ------
    DtypeError
        If the values aren't numbers, or another library doesn't hand them over.
    BackendError
        If they live on a device that can't be used.
    """
    given = data.data if isinstance(data, Tensor) else adopt(data)
    array = as_array(given, dtype)
    converted = array.dtype != getattr(given, "dtype", array.dtype)
    fresh = converted or isinstance(given, int | float | list | tuple)
    with for_arrays([array]).scope():
        return Tensor(array if fresh else array.copy(order="K"), requires_grad=requires_grad)


def as_tensor(data: ArrayLike) -> Tensor:
    """Return ``data`` if it is a tensor, else a tensor around it, copying only where it must."""
    return data if isinstance(data, Tensor) else Tensor(as_array(data))


def record(
    operation: type[Operation], *inputs: Tensor | None, **attributes: Any
) -> tuple[Tensor, Context]:
    """Run an operation on tensors; put it on the tape if an input wants a gradient.

    Returns
    -------
    output : Tensor
        The result.
    context : Context
        What the operation saved.
    """
    arrays = [None if t is None else t.data for t in inputs]
    backend = for_arrays(arrays)
    enabled = is_grad_enabled()
    needs_grad = tuple(enabled and t is not None and t.requires_grad for t in inputs)
    context = Context(backend, needs_grad)
    with backend.scope():
        # asarray: NumPy makes scalars of what has no dimensions
        output = Tensor(backend.xp.asarray(operation.forward(context, *arrays, **attributes)))
    if True in needs_grad and output.dtype.kind == "f":
        output.requires_grad = True
        parents = tuple(
            (t._node or t) if needed and t is not None else None
            for t, needed in zip(inputs, needs_grad, strict=True)
        )
        output._node = Node(operation, context, parents)
    watcher = tracer.get()
    if watcher is not None:
        watcher.record(operation, inputs, attributes, output)
    return output, context


def apply(operation: type[Operation], *inputs: Tensor | None, **attributes: Any) -> Tensor:
    """Run an operation on tensors and return its result; see :func:`record`."""
    return record(operation, *inputs, **attributes)[0]


def _binary(operation: type[Operation], left: ArrayLike, right: ArrayLike) -> Tensor:
    """Apply a two-sided operation; a number takes the dtype of the tensor beside it."""
    one, other = (left, right) if isinstance(left, Tensor) else (right, left)
    beside = Tensor(_operand(other, one)) if not isinstance(other, Tensor) else other
    x, y = (one, beside) if isinstance(left, Tensor) else (beside, one)
    if operation is not elementary.MatMul:
        try:
            np.broadcast_shapes(x.shape, y.shape)
        except ValueError:
            raise ShapeError(
                f"{operation.name}: shapes {x.shape} and {y.shape} can't be broadcast together"
            ) from None
    elif not x.ndim or not y.ndim or x.shape[-1] != y.shape[-2 if y.ndim > 1 else -1]:
        raise ShapeError(f"matmul: shapes {x.shape} and {y.shape} don't fit")
    if operation is elementary.Divide and x.dtype.kind in "iub" and y.dtype.kind in "iub":
        x, y = x.float(), y.float()
    if x.dtype != y.dtype:
        common = common_dtype(x.dtype, y.dtype)
        x, y = x.to(common), y.to(common)
    return apply(operation, x, y)


def _operand(value: object, beside: Tensor) -> Array:
    """Return what stands beside a tensor in an expression as an array."""
    return value.data if isinstance(value, Tensor) else array_beside(value, beside.data)
