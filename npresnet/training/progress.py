"""The progress bar, and lines of text that don't tear it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

__all__ = ["Progress"]


class Progress:
    """A bar over all steps of a run, on standard error; or none.

    Parameters
    ----------
    total : int
        Steps of the run.
    show : bool or None
        Whether to draw it; None where standard error is a terminal.
    log : callable, optional
        Receives the lines of text.
    """

    def __init__(
        self, total: int, show: bool | None, log: Callable[[str], None] | None = None
    ) -> None:
        self._total = total
        self._show = sys.stderr.isatty() if show is None else show
        self._log = log
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if self._show:
            from tqdm import tqdm

            self._bar = tqdm(total=self._total, unit="batch", leave=False, dynamic_ncols=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, epoch: int, epochs: int, loss: float) -> None:
        """Note that a step is done."""
        if self._bar is not None:
            self._bar.set_description(f"epoch {epoch}/{epochs}", refresh=False)
            self._bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            self._bar.update()

    def say(self, line: str) -> None:
        """Hand a line to the log, with the bar out of its way."""
        if self._log is None:
            return
        if self._bar is not None:
            self._bar.clear()
        self._log(line)
        if self._bar is not None:
            self._bar.refresh()
