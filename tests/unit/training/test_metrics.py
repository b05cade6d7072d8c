import itertools

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import assume, given
from hypothesis import strategies as st

from training.data.truth import IGNORED
from training.metrics import (
    bias,
    confusion_matrix,
    intersection_over_union,
    intraclass_correlation,
    kendall_tau_b,
    mean_absolute_error,
    mean_iou,
    mean_squared_error,
    pixel_accuracy,
    prediction_probability,
    spearman,
)
from training.tables.paper import TABLE_1_VALIDATION, TABLES_3_TO_5_CONFUSION

LEVELS = st.integers(0, 6).map(lambda level: level / 6)
PAIRS = st.lists(st.tuples(LEVELS, LEVELS), min_size=2, max_size=25)


@pytest.fixture
def labels():
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 4, (3, 20, 20))
    prediction = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, 4, truth.shape))
    return truth, prediction


def test_confusion_matrix_is_scikit_learns(labels):
    truth, prediction = labels
    expected = sklearn.metrics.confusion_matrix(truth.ravel(), prediction.ravel())
    np.testing.assert_array_equal(confusion_matrix(truth, prediction, 4), expected)


def test_confusion_matrices_add_up_to_that_of_the_whole_set(labels):
    truth, prediction = labels
    parts = sum(confusion_matrix(t, p, 4) for t, p in zip(truth, prediction, strict=True))
    np.testing.assert_array_equal(parts, confusion_matrix(truth, prediction, 4))


def test_a_byte_of_truth_does_not_overflow():
    truth = np.full(3, 200, dtype=np.uint8)
    assert confusion_matrix(truth, truth, 201)[200, 200] == 3


@pytest.mark.parametrize("kind", [np.uint8, np.int64])
def test_pixels_that_nobody_judged_do_not_count(labels, kind):
    truth, prediction = labels
    unjudged = np.random.default_rng(2).random(truth.shape) < 0.3
    expected = sklearn.metrics.confusion_matrix(truth[~unjudged], prediction[~unjudged])
    part = np.where(unjudged, IGNORED, truth).astype(kind)
    np.testing.assert_array_equal(confusion_matrix(part, prediction, 4), expected)
    assert not confusion_matrix(np.full_like(part, IGNORED), prediction, 4).any()


def test_iou_and_accuracy_are_scikit_learns(labels):
    truth, prediction = labels
    confusion = confusion_matrix(truth, prediction, 4)
    flat = truth.ravel(), prediction.ravel()
    jaccard = sklearn.metrics.jaccard_score(*flat, average=None)
    recall = sklearn.metrics.recall_score(*flat, average=None)
    np.testing.assert_allclose(intersection_over_union(confusion), jaccard)
    np.testing.assert_allclose(pixel_accuracy(confusion), recall)
    assert mean_iou(confusion) == pytest.approx(jaccard.mean())


def test_a_class_that_never_occurs_does_not_count():
    confusion = confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 3)
    assert np.isnan(intersection_over_union(confusion)[2])
    assert np.isnan(pixel_accuracy(confusion)[2])
    assert mean_iou(confusion) == pytest.approx(0.5)


def brute_force_pk(truth, prediction):
    points = []
    for (t1, p1), (t2, p2) in itertools.combinations(zip(truth, prediction, strict=True), 2):
        if t1 != t2:
            points.append(0.5 if p1 == p2 else float((t1 < t2) == (p1 < p2)))
    return np.mean(points)


@given(PAIRS)
def test_pk_counts_pairs(pairs):
    truth, prediction = zip(*pairs, strict=True)
    assume(len(set(truth)) > 1)
    expected = brute_force_pk(truth, prediction)
    assert prediction_probability(truth, prediction) == pytest.approx(expected, abs=1e-12)


@given(PAIRS)
def test_pk_is_somers_d_of_the_prediction_given_the_truth(pairs):
    truth, prediction = zip(*pairs, strict=True)
    assume(len(set(truth)) > 1 and len(set(prediction)) > 1)
    somers_d = scipy.stats.somersd(truth, prediction).statistic
    assert prediction_probability(truth, prediction) == pytest.approx((somers_d + 1) / 2, abs=1e-12)


def test_pk_depends_on_the_order_of_its_arguments():
    truth, prediction = [0, 0, 0, 1], [0.1, 0.2, 0.3, 0.4]
    assert prediction_probability(truth, prediction) == pytest.approx(1)
    assert prediction_probability(prediction, truth) == pytest.approx(0.75)


def test_pk_of_extremes():
    truth = np.linspace(0, 1, 7)
    assert prediction_probability(truth, truth**2) == pytest.approx(1)
    assert prediction_probability(truth, -truth) == pytest.approx(0)
    assert prediction_probability(truth, np.full(7, 0.3)) == pytest.approx(0.5)
    assert np.isnan(prediction_probability(np.zeros(3), [1, 2, 3]))


@given(PAIRS)
def test_pk_sees_the_order_of_the_scores_alone(pairs):
    truth, prediction = np.transpose(pairs)
    assume(len(set(truth)) > 1)
    pk = prediction_probability(truth, prediction)
    assert prediction_probability(truth, np.exp(3 * prediction)) == pytest.approx(pk)
    assert prediction_probability(np.sqrt(truth), prediction) == pytest.approx(pk)
    assert prediction_probability(truth, -prediction) == pytest.approx(1 - pk)
    assert prediction_probability(-truth, prediction) == pytest.approx(1 - pk)


@given(PAIRS)
def test_rank_correlations_are_what_their_definitions_say(pairs):
    truth, prediction = np.transpose(pairs)
    assume(len(set(truth)) > 1 and len(set(prediction)) > 1)
    first, second = np.triu_indices(len(truth), 1)
    signs = np.sign(truth[first] - truth[second]), np.sign(prediction[first] - prediction[second])
    tau = (signs[0] * signs[1]).sum() / np.sqrt((signs[0] ** 2).sum() * (signs[1] ** 2).sum())
    assert kendall_tau_b(truth, prediction) == pytest.approx(tau, abs=1e-12)
    ranks = scipy.stats.rankdata(truth), scipy.stats.rankdata(prediction)
    assert spearman(truth, prediction) == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-12)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("correlation", [kendall_tau_b, spearman])
def test_a_constant_has_no_rank_correlation(correlation):
    assert np.isnan(correlation([0.5, 0.5, 0.5], [1, 2, 3]))
    assert np.isnan(correlation([1, 2, 3], [0.5, 0.5, 0.5]))


def test_errors_are_scikit_learns():
    rng = np.random.default_rng(2)
    truth, prediction = rng.random(50), rng.random(50)
    l1 = sklearn.metrics.mean_absolute_error(truth, prediction)
    mse = sklearn.metrics.mean_squared_error(truth, prediction)
    assert mean_absolute_error(truth, prediction) == pytest.approx(l1)
    assert mean_squared_error(truth, prediction) == pytest.approx(mse)


def test_a_model_that_scores_too_high_has_a_bias_above_0():
    assert bias([0.2, 0.4], [0.3, 0.6]) == pytest.approx(0.15)
    assert bias([0.3, 0.6], [0.2, 0.4]) == pytest.approx(-0.15)


SHROUT_AND_FLEISS = [
    [9, 2, 5, 8],
    [6, 1, 3, 2],
    [8, 4, 6, 8],
    [7, 1, 2, 6],
    [10, 5, 6, 9],
    [6, 2, 4, 7],
]
"""Table 2 of Psychological Bulletin 86, page 423: six targets by four judges."""


def test_icc_of_the_published_table():
    # Their table 3 gives the mean squares 11.24, 32.49 and 1.02; table 4 gives ICC(2,1) as .29.
    assert intraclass_correlation(SHROUT_AND_FLEISS) == pytest.approx(0.29, abs=0.005)
    between_targets, between_judges, residual = 11.24, 32.49, 1.02
    expected = (between_targets - residual) / (
        between_targets + 3 * residual + 4 * (between_judges - residual) / 6
    )
    assert intraclass_correlation(SHROUT_AND_FLEISS) == pytest.approx(expected, abs=5e-4)


RATINGS = st.lists(st.tuples(LEVELS, LEVELS, LEVELS), min_size=3, max_size=12).filter(
    lambda rows: len(set(rows)) > 1
)


@given(RATINGS)
def test_icc_is_that_of_an_analysis_of_variance(rows):
    ratings = np.array(rows)
    n, k = ratings.shape
    assume(np.ptp(ratings) > 0)
    total = ((ratings - ratings.mean()) ** 2).sum()
    targets = k * ((ratings.mean(1) - ratings.mean()) ** 2).sum()
    raters = n * ((ratings.mean(0) - ratings.mean()) ** 2).sum()
    residual = (total - targets - raters) / ((n - 1) * (k - 1))
    targets, raters = targets / (n - 1), raters / (k - 1)
    expected = (targets - residual) / (targets + (k - 1) * residual + k * (raters - residual) / n)
    assert intraclass_correlation(ratings) == pytest.approx(expected, abs=1e-9)


@given(RATINGS, st.permutations(range(3)))
def test_icc_knows_no_order_and_no_unit(rows, order):
    ratings = np.array(rows)
    icc = intraclass_correlation(ratings)
    assert intraclass_correlation(ratings[::-1, order]) == pytest.approx(icc, nan_ok=True)
    assert intraclass_correlation(1 - 0.5 * ratings) == pytest.approx(icc, abs=1e-9, nan_ok=True)


def test_icc_asks_for_the_same_scores_and_not_only_the_same_order():
    truth = np.linspace(0, 1, 11)
    assert intraclass_correlation(np.column_stack([truth, truth])) == pytest.approx(1)
    assert intraclass_correlation(np.column_stack([truth, truth + 0.3])) < 0.8


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "ratings", [[[0.3, 0.3]] * 4, [[0.1, 0.2]], [[0.1], [0.2]], np.zeros((3, 2))]
)
def test_icc_of_too_little_is_unknown(ratings):
    assert np.isnan(intraclass_correlation(ratings))


def test_the_papers_confusion_matrix_gives_another_mean_iou_than_its_table():
    assert mean_iou(np.array(TABLES_3_TO_5_CONFUSION[1])) == pytest.approx(0.761, abs=5e-4)
    assert TABLE_1_VALIDATION[0].mean_iou == pytest.approx(0.6449)
