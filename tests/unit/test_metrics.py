import itertools

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import assume, given
from hypothesis import strategies as st

from training.metrics import (
    confusion_matrix,
    intersection_over_union,
    mean_absolute_error,
    mean_iou,
    pixel_accuracy,
    prediction_probability,
)

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


def test_l1_is_scikit_learns():
    rng = np.random.default_rng(2)
    truth, prediction = rng.random(50), rng.random(50)
    expected = sklearn.metrics.mean_absolute_error(truth, prediction)
    assert mean_absolute_error(truth, prediction) == pytest.approx(expected)
