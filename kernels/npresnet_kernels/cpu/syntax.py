"""The syntax tree of a function, if the tree alone tells what the function does."""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import Any

__all__ = ["syntax_tree"]


def syntax_tree(function: Any) -> ast.FunctionDef:
    """Return the syntax tree of a function, its lines counted as in the file.

    Parameters
    ----------
    function : callable
        Made by ``def``, with plain parameters: what a wrapper, a default value or an enclosing
        function adds is in no tree.

    Raises
    ------
    TypeError
        If it isn't.
    OSError
        If its source can't be read.
    """
    if not inspect.isfunction(function) or hasattr(function, "__wrapped__"):
        raise TypeError(f"{function.__qualname__}, which is no plain function")
    code = function.__code__
    try:
        lines, first = inspect.getsourcelines(function)
    except OSError as error:
        raise OSError(
            f"{error}: kernels are compiled from their source; keep npresnet_kernels' .py files "
            f"where {code.co_filename} was"
        ) from error
    (tree,) = ast.parse(textwrap.dedent("".join(lines))).body
    if not isinstance(tree, ast.FunctionDef):
        raise TypeError(f"{function.__qualname__}, which is no plain function")
    if any(getattr(tree.args, kind) for kind in tree.args._fields if kind != "args"):
        raise TypeError(f"the parameters {ast.unparse(tree.args)}, only plain ones")
    if code.co_freevars:
        raise TypeError(f"see the enclosing function's {', '.join(code.co_freevars)}")
    ast.increment_lineno(tree, first - 1)
    return tree
