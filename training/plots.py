"""Pictures of how well scores and classes agree with the truth.

Drawn without pyplot, so no state is shared with whoever calls, and the same figures give the same
bytes. Truth comes as [N] or, of several raters, as [N, raters].
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike, NDArray

from training.agreement import calibration
from training.metrics import mean_absolute_error, prediction_probability
from wsi_pipeline.files import atomic_path

_INK, _MODEL, _TRUTH, _GUIDE = "#222222", "#22577a", "#d1603d", "#9a9a9a"
# Raters score in steps of 5 %: bins about those steps, not between them.
_STEP = 0.05
_EDGES = np.arange(-_STEP / 2, 1 + _STEP, _STEP)


def scatter_plot(truth: ArrayLike, prediction: ArrayLike, path: Path) -> None:
    """Draw each patch's score against its truth, with the line where both are equal.

    Of several raters the mean is drawn, and a fine line from the lowest to the highest.

    Args:
        truth: cellularity by raters, 0 to 1, [N] or [N, raters].
        prediction: cellularity by the model, [N].
        path: PNG to write.

    """
    by_rater, scores = _by_rater(truth), np.asarray(prediction, dtype=np.float64)
    figure = Figure(figsize=(5, 5.2), layout="constrained")
    axes = figure.add_subplot()
    _unit_square(axes)
    # So faint that crowds show as such, and single patches still do.
    opacity = float(np.clip(12 / np.sqrt(len(scores)), 0.15, 0.8))
    if by_rater.shape[1] > 1:
        axes.hlines(
            scores, by_rater.min(1), by_rater.max(1), _MODEL, linewidth=0.6, alpha=opacity / 2
        )
    axes.scatter(by_rater.mean(1), scores, 16, _MODEL, alpha=opacity, linewidths=0, clip_on=False)
    pk = np.mean([prediction_probability(rater, scores) for rater in by_rater.T])
    l1 = np.mean([mean_absolute_error(rater, scores) for rater in by_rater.T])
    axes.set_title(f"PK {pk:.3f}   L1 {l1:.3f}   {_patches(len(scores))}", color=_INK)
    axes.set_xlabel("Cellularity, truth")
    axes.set_ylabel("Cellularity, model")
    _write(figure, path)


def calibration_plot(
    truth: ArrayLike, prediction: ArrayLike, path: Path, *, groups: ArrayLike | None = None
) -> None:
    """Draw what patches turn out to be that are scored alike, and how many of them there are.

    Above, a mark for each tenth of the scale: mean truth over mean score, with the 95 % interval of
    that mean and the number of patches. Below, how scores and truth are distributed.

    Args:
        truth: cellularity by raters, 0 to 1, [N] or [N, raters].
        prediction: cellularity by the model, [N].
        path: PNG to write.
        groups: patient, slide or source image of each patch, [N], for the intervals; by default
            each patch counts as its own, which makes them too narrow if patches share patients.

    """
    by_rater, scores = _by_rater(truth), np.asarray(prediction, dtype=np.float64)
    groups = np.arange(len(scores)) if groups is None else groups
    bins = [part for part in calibration(by_rater, scores, groups) if part.patches]
    x = np.array([part.prediction for part in bins])
    y, low, high = np.transpose([(b.truth.value, b.truth.low, b.truth.high) for b in bins])

    figure = Figure(figsize=(5, 6.4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3.6, 1))
    _unit_square(above)
    above.vlines(x, low, high, _MODEL, linewidth=1.4)
    above.plot(x, y, color=_MODEL, linewidth=0.8, alpha=0.5)
    above.plot(x, y, "o", color=_MODEL, markersize=6, clip_on=False)
    for part in bins:
        above.annotate(
            f"{part.patches}",
            (part.prediction, part.truth.value),
            xytext=(7, -10 if part.truth.value > 0.05 else 5),
            textcoords="offset points",
            fontsize=8,
            color=_INK,
        )
    above.set_title(f"Calibration   {_patches(len(scores))}", color=_INK)
    above.set_ylabel("Mean cellularity, truth")
    above.tick_params(labelbottom=False)

    below.hist(scores, _EDGES, color=_MODEL, alpha=0.55, label="model")
    share = np.full(by_rater.size, 1 / by_rater.shape[1])
    below.hist(
        by_rater.ravel(), _EDGES, weights=share, histtype="step", color=_TRUTH, label="truth"
    )
    below.legend(frameon=False, fontsize=8)
    below.spines[["top", "right"]].set_visible(False)
    below.set_xlabel("Cellularity, model")
    below.set_ylabel("Patches")
    _write(figure, path)


def confusion_plot(confusion: NDArray[np.int64], classes: Sequence[str], path: Path) -> None:
    """Draw which classes pixels of each true class are taken for.

    Args:
        confusion: pixels by true class (rows) and predicted class (columns), [classes, classes].
        classes: their names.
        path: PNG to write.

    """
    total = confusion.sum(1, keepdims=True)
    share = np.where(total > 0, confusion / np.maximum(total, 1), np.nan)
    figure = Figure(figsize=(5.2, 4.6), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), value in np.ndenumerate(share):
        text = "–" if np.isnan(value) else f"{100 * value:.1f}"
        axes.text(
            column, row, text, ha="center", va="center", color="white" if value > 0.55 else _INK
        )
    ids = range(len(classes))
    axes.set_xticks(ids, classes, rotation=20, ha="right", rotation_mode="anchor")
    axes.set_yticks(ids, classes)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title("Pixels of each true class, %", color=_INK)
    axes.set_xlabel("Predicted class")
    axes.set_ylabel("True class")
    _write(figure, path)


def _unit_square(axes: Axes) -> None:
    axes.plot((0, 1), (0, 1), color=_GUIDE, linewidth=1, zorder=0)
    limits = _EDGES[0], _EDGES[-1]
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
        axis.set_ticks(np.linspace(0, 1, 6))
    axes.grid(color="#ececec", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _by_rater(truth: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(truth, dtype=np.float64)
    return values[:, None] if values.ndim == 1 else values


def _patches(count: int) -> str:
    return "1 patch" if count == 1 else f"{count} patches"


def _write(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    with atomic_path(path) as partial:
        figure.savefig(partial, format="png", dpi=150, metadata={"Software": None})
