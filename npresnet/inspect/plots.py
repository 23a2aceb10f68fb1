"""Pictures of a training run: its curves, and a sheet of images with what the network said.

Drawn with matplotlib's figures alone, never its pyplot, so that nothing that the caller has open
changes and no display is needed. A file is written aside and renamed.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from npresnet.data import ImageLike, to_image
from npresnet.errors import ExtraError, ShapeError
from npresnet.weights import write_aside

__all__ = ["can_plot", "prediction_sheet", "training_curve"]

_INK, _GREY, _GRID = "#222222", "#777777", "#e4e4e4"
_SERIES = ("#8a8a8a", "#1f6fb4", "#d1791f", "#5c4a9c")
_RIGHT, _WRONG = "#237a3b", "#c0282d"
_DPI = 150
_NAME_LENGTH = 14  # letters of a class name that fit over a picture
_SMALL = 64  # pictures with fewer pixels a side are drawn as squares, larger ones smoothed


def can_plot() -> bool:
    """Whether matplotlib is there to draw with."""
    try:
        _figure((1, 1))
    except ExtraError:
        return False
    return True


def training_curve(
    path: str | os.PathLike[str],
    loss: Mapping[str, Sequence[float]],
    accuracy: Mapping[str, Sequence[float]],
    title: str = "",
) -> None:
    """Draw loss and accuracy over the epochs.

    Parameters
    ----------
    path : str or path-like
        The PNG file to replace or create.
    loss, accuracy : mapping of str to sequence of float
        A line for each name (``{"train": [...], "test": [...]}``), a value for each epoch; those
        of accuracy from 0 to 1. The highest accuracy of the last line is marked.
    title : str
        What was trained.

    Raises
    ------
    ExtraError
        matplotlib isn't installed.
    WriteError
        The file can't be written.
    """
    figure = _figure((9, 3.6))
    left, right = figure.subplots(1, 2)
    _draw_lines(left, loss, "loss (cross-entropy)")
    percent = {name: [100 * value for value in values] for name, values in accuracy.items()}
    _draw_lines(right, percent, "accuracy in %")
    if percent:
        _mark_best(right, list(percent.values())[-1])
    for axes in (left, right):
        if axes.lines:
            axes.legend(frameon=False, labelcolor=_INK, loc="best")
    if title:
        figure.suptitle(title, x=0.01, ha="left", color=_INK, fontsize=11, parse_math=False)
    _save(figure, path)


def prediction_sheet(
    path: str | os.PathLike[str],
    images: Sequence[ImageLike],
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    classes: Sequence[str],
    count: int = 40,
    title: str = "",
) -> None:
    """Draw images with their true and predicted classes and the probability of the latter.

    Mistakes come first, the surest one in front, on at most half of the sheet; then right answers,
    taken evenly from all.

    Parameters
    ----------
    path : str or path-like
        The PNG file to replace or create.
    images : sequence of PIL.Image.Image or uint8 array, length N
        What is shown; only `count` of them are asked for.
    labels : sequence of int, length N
        True classes.
    probabilities : array (N, K)
        Rows that sum to 1.
    classes : sequence of str, length K
        Names.
    count : int
        Images on the sheet.
    title : str
        What the network was trained on.

    Raises
    ------
    ExtraError
        matplotlib isn't installed.
    ShapeError
        The lengths differ, or there is no image.
    WriteError
        The file can't be written.
    """
    truth, given = np.asarray(labels), np.asarray(probabilities)
    if given.shape != (len(truth), len(classes)) or len(images) != len(truth) or not len(truth):
        raise ShapeError(
            f"expected N images with N labels and N x {len(classes)} probabilities, N at least 1; "
            f"got {len(images)} images, labels {truth.shape} and probabilities {given.shape}"
        )
    shown = _choose(truth, given, count)
    columns = min(8 if len(shown) > 12 else 4, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = _figure((1.3 * max(columns, 4), 1.65 * rows + 0.6))
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.02, wspace=0.02, hspace=0)
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    for place in places:
        place.set_axis_off()
    for place, index in zip(places, shown, strict=False):
        _draw_image(place, images[index], classes, int(truth[index]), given[index])
    right = int((given.argmax(axis=1) == truth).sum())
    wrong_shown = int((given[shown].argmax(axis=1) != truth[shown]).sum())
    heading = f"{right:,} of {len(truth):,} images right ({100 * right / len(truth):.1f} %)"
    if title:
        heading = f"{title}: {heading}"
    legend = "predicted class · its probability" + ("; mistakes first" if wrong_shown else "")
    figure.suptitle(
        f"{heading}\n{legend}",
        x=0.01,
        ha="left",
        color=_INK,
        fontsize=11,
        parse_math=False,
    )
    _save(figure, path)


def _figure(size: tuple[float, float]) -> Any:
    """Return an empty figure, its size in inches."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ExtraError(
            f"pictures need matplotlib, which can't be imported ({error}): "
            "pip install 'npresnet[plot]'"
        ) from error
    return Figure(figsize=size, layout="constrained", facecolor="white")


def _save(figure: Any, path: str | os.PathLike[str]) -> None:
    with write_aside(path) as aside, warnings.catch_warnings():
        # a class name in letters that the font lacks is drawn as boxes, which is no one's fault
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(aside, format="png", dpi=_DPI)


def _draw_lines(axes: Any, lines: Mapping[str, Sequence[float]], label: str) -> None:
    """Draw a line a name over the epochs 1, 2, ..."""
    from matplotlib.ticker import MaxNLocator

    for (name, values), colour in zip(lines.items(), _SERIES, strict=False):
        epochs = range(1, len(values) + 1)
        marker = "o" if len(values) < 3 else None  # a line through one point is no line
        axes.plot(epochs, values, color=colour, linewidth=1.8, marker=marker, label=name)
    axes.set_xlabel("epoch", color=_INK)
    axes.set_ylabel(label, color=_INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    last = max(map(len, lines.values()), default=1)
    axes.set_xlim(0.9, last + 0.1 * max(last**0.5, 1))
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_GREY, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_GREY)


def _mark_best(axes: Any, values: Sequence[float]) -> None:
    """Put a dot at the first highest point of a line, its value into the legend."""
    finite = [value if math.isfinite(value) else -math.inf for value in values]
    if not finite or max(finite) == -math.inf:
        return
    best = max(range(len(finite)), key=finite.__getitem__)
    axes.plot(
        best + 1,
        finite[best],
        "o",
        color=axes.lines[-1].get_color(),
        markersize=7,
        label=f"best: {finite[best]:.1f} % after epoch {best + 1}",
    )


def _choose(truth: npt.NDArray[Any], given: npt.NDArray[Any], count: int) -> list[int]:
    """Mistakes by falling confidence, at most half of `count`, then right answers evenly."""
    count = max(1, min(count, len(truth)))
    said = given.argmax(axis=1)
    wrong = np.flatnonzero(said != truth)
    right = np.flatnonzero(said == truth)
    sure = given[wrong, said[wrong]]
    wrong = wrong[np.argsort(-sure, kind="stable")]
    mistakes = wrong[: max(count // 2, count - len(right))]
    rest = count - len(mistakes)
    # the middles of `rest` equal parts of all right answers
    evenly = right[((np.arange(rest) + 0.5) * len(right) / max(rest, 1)).astype(int)]
    return [int(index) for index in (*mistakes, *evenly)]


def _draw_image(
    axes: Any, image: ImageLike, classes: Sequence[str], truth: int, given: npt.NDArray[Any]
) -> None:
    picture = to_image(image).convert("RGB")
    axes.set_anchor("N")  # so that what stands over the images of a row is in line
    small = max(picture.size) < _SMALL
    axes.imshow(np.asarray(picture), interpolation="nearest" if small else "antialiased")
    said = int(given.argmax())
    right = said == truth
    colour = _RIGHT if right else _WRONG
    text = f"{_name(classes[said])} · {_percent(given[said])}"
    if not right:
        text += f"\ntrue: {_name(classes[truth])}"
    axes.set_title(
        text,
        color=colour,
        fontsize=9 if len(max(text.split("\n"), key=len)) < 13 else 6.5,
        fontweight="normal" if right else "bold",
        pad=4,
        parse_math=False,
    )
    if not right:
        width, height = picture.size
        axes.add_patch(_frame(width, height))


def _frame(width: int, height: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(
        (-0.5, -0.5), width, height, fill=False, edgecolor=_WRONG, linewidth=2.5, clip_on=False
    )


def _name(text: str) -> str:
    return text if len(text) <= _NAME_LENGTH else text[: _NAME_LENGTH - 1] + "…"


def _percent(probability: float) -> str:
    """Whole percent, but never 100 for what isn't certain."""
    return f"{math.floor(100 * float(probability))} %"
