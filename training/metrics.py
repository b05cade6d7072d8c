"""How good a segmentation or a score is; all over the whole set at once, never per batch.

What a figure says of other patients than these, an interval tells: see ``training.agreement``.
"""

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike, NDArray


def confusion_matrix(
    truth: NDArray[np.integer], prediction: NDArray[np.integer], classes: int
) -> NDArray[np.int64]:
    """Count pixels: int64 [classes, classes], a row per true class, a column per predicted one.

    Matrices of parts of a set add up to that of the set. Pixels whose class is not known
    (see ``training.data.truth``) do not count.
    """
    judged = truth < classes
    pairs = truth[judged].astype(np.int64) * classes + prediction[judged]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def intersection_over_union(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the IoU of each class; NaN for one that is neither there nor predicted."""
    hits = np.diag(confusion).astype(np.float64)
    union = confusion.sum(0) + confusion.sum(1) - hits
    return np.where(union > 0, hits / np.maximum(union, 1), np.nan)


def mean_iou(confusion: NDArray[np.int64]) -> float:
    """Mean IoU over the classes that are there or predicted.

    >>> mean_iou(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]]))
    0.775
    """
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

    >>> round(prediction_probability([0.0, 0.5, 1.0], [0.1, 0.9, 0.4]), 3)
    0.667

    References:
        Smith, Dutton and Smith, Statistics in Medicine 15 (1996), 1199-1215.

    """
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    differ_in_truth, differ_in_prediction = _unequal_pairs(truth), _unequal_pairs(prediction)
    if differ_in_truth == 0:
        return float("nan")
    if differ_in_prediction == 0:
        return 0.5
    somers_d = kendall_tau_b(truth, prediction) * np.sqrt(differ_in_prediction / differ_in_truth)
    return float((somers_d + 1) / 2)


def kendall_tau_b(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Kendall's rank correlation, ties allowed for; NaN if either side is constant."""
    return float(scipy.stats.kendalltau(truth, prediction, variant="b").statistic)


def spearman(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Spearman's rank correlation; NaN if either side is constant."""
    if np.ptp(truth) == 0 or np.ptp(prediction) == 0:
        return float("nan")
    return float(scipy.stats.spearmanr(truth, prediction).statistic)


def mean_absolute_error(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Mean distance between score and truth: the paper's L1."""
    return float(np.mean(np.abs(_errors(truth, prediction))))


def mean_squared_error(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Mean squared distance between score and truth."""
    return float(np.mean(_errors(truth, prediction) ** 2))


def bias(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Mean of score minus truth: above 0 for a model that scores too high.

    >>> bias(truth=[0.25, 0.5], prediction=[0.5, 0.75])
    0.25
    """
    return float(np.mean(_errors(truth, prediction)))


def intraclass_correlation(ratings: ArrayLike) -> float:
    """ICC(2,1): two-way random effects, absolute agreement, single rater.

    A rater who is always off by the same amount lowers it, unlike a rank correlation.

    Args:
        ratings: [N, K], a row for each target and a column for each rater.

    Returns:
        At most 1; NaN for a single target or rater, or if there is no spread to explain.

    >>> intraclass_correlation([[0.1, 0.1], [0.5, 0.5], [0.9, 0.9]])
    1.0
    >>> round(intraclass_correlation([[0.1, 0.3], [0.5, 0.7], [0.9, 1.1]]), 2)
    0.89

    References:
        Shrout and Fleiss, Psychological Bulletin 86 (1979), 420-428.

    """
    ratings = np.asarray(ratings, dtype=np.float64)
    n, k = ratings.shape
    if n < 2 or k < 2:
        return float("nan")
    of_targets = ratings.mean(axis=1, keepdims=True) - ratings.mean()
    of_raters = ratings.mean(axis=0, keepdims=True) - ratings.mean()
    rest = ratings - ratings.mean() - of_targets - of_raters
    between_targets = k * (of_targets**2).sum() / (n - 1)
    between_raters = n * (of_raters**2).sum() / (k - 1)
    residual = (rest**2).sum() / ((n - 1) * (k - 1))
    total = between_targets + (k - 1) * residual + k * (between_raters - residual) / n
    # What rounding leaves of a spread of zero is no spread.
    if total <= 1e-12 * np.mean(ratings**2):
        return float("nan")
    return float((between_targets - residual) / total)


def _errors(truth: ArrayLike, prediction: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(prediction, dtype=np.float64) - np.asarray(truth, dtype=np.float64)


def _unequal_pairs(values: NDArray[np.generic]) -> float:
    _, counts = np.unique(values, return_counts=True)
    total = len(values)
    return float(total * (total - 1) / 2 - (counts * (counts - 1) / 2).sum())
