"""How good a segmentation or a score is; all over the whole set at once, never per batch."""

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike, NDArray


def confusion_matrix(
    truth: NDArray[np.integer], prediction: NDArray[np.integer], classes: int
) -> NDArray[np.int64]:
    """Count pixels: int64 [classes, classes], a row per true class, a column per predicted one.

    Matrices of parts of a set add up to that of the set.
    """
    pairs = truth.ravel().astype(np.int64) * classes + prediction.ravel()
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def intersection_over_union(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the IoU of each class; NaN for one that is neither there nor predicted."""
    hits = np.diag(confusion).astype(np.float64)
    union = confusion.sum(0) + confusion.sum(1) - hits
    return np.where(union > 0, hits / np.maximum(union, 1), np.nan)


def mean_iou(confusion: NDArray[np.int64]) -> float:
    """Mean IoU over the classes that are there or predicted."""
    return float(np.nanmean(intersection_over_union(confusion)))


def pixel_accuracy(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share of each class's pixels that are found; NaN for a class that is not there."""
    hits = np.diag(confusion).astype(np.float64)
    total = confusion.sum(1)
    return np.where(total > 0, hits / np.maximum(total, 1), np.nan)


def prediction_probability(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Smith's PK: the chance that of two patches with unequal truth the higher is scored higher.

    Equal scores count one half. It is (D + 1) / 2 with Somers' D of the prediction given the truth,
    so pairs of equal truth are left out: exchanging the arguments gives another number. D comes by
    way of Kendall's tau-b, which has the same numerator and takes n log n where
    ``scipy.stats.somersd`` fills a table of n² cells.

    Args:
        truth: [N]
        prediction: [N]

    Returns:
        PK in 0..1; NaN if all truths are equal.

    References:
        Smith, Dutton and Smith, Statistics in Medicine 15 (1996), 1199-1215.

    """
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    differ_in_truth, differ_in_prediction = _unequal_pairs(truth), _unequal_pairs(prediction)
    if differ_in_truth == 0:
        return float("nan")
    if differ_in_prediction == 0:
        return 0.5
    tau = float(scipy.stats.kendalltau(truth, prediction, variant="b").statistic)
    somers_d = tau * np.sqrt(differ_in_prediction / differ_in_truth)
    return float((somers_d + 1) / 2)


def mean_absolute_error(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Mean distance between score and truth: the paper's L1."""
    return float(np.mean(np.abs(np.asarray(truth, float) - np.asarray(prediction, float))))


def _unequal_pairs(values: NDArray[np.generic]) -> float:
    _, counts = np.unique(values, return_counts=True)
    total = len(values)
    return float(total * (total - 1) / 2 - (counts * (counts - 1) / 2).sum())
