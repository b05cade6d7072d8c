import logging
import time

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from training.agreement import MEASURES, Estimate, agreement, calibration, compare
from training.metrics import mean_absolute_error, prediction_probability


def study(groups=20, patches=12, spread=0.1, seed=0):
    """Simulate scores whose error is partly the patient's own."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), patches)
    truth = rng.random(len(group))
    own = rng.normal(0, spread, groups)[group]
    return truth, truth + own + rng.normal(0, 0.05, len(group)), group


def test_values_are_those_of_the_whole_set():
    truth, prediction, groups = study()
    figures = agreement(truth, prediction, groups, resamples=20)
    assert list(figures) == list(MEASURES)
    for name, measure in MEASURES.items():
        assert figures[name].value == pytest.approx(measure(truth, prediction))
        assert figures[name].low < figures[name].value < figures[name].high


def test_intervals_are_percentiles_over_groups_drawn_with_replacement():
    truth, prediction, groups = study(groups=8, patches=5)
    figure = agreement(truth, prediction, groups, resamples=1000)["pk"]
    rng = np.random.default_rng(99)
    draws = []
    for _ in range(1000):
        drawn = rng.choice(8, 8)
        rows = np.concatenate([np.flatnonzero(groups == g) for g in drawn])
        draws.append(prediction_probability(truth[rows], prediction[rows]))
    low, high = np.quantile(draws, [0.025, 0.975])
    assert figure.low == pytest.approx(low, abs=0.01)
    assert figure.high == pytest.approx(high, abs=0.01)


def interval_of_mean(values, groups, resamples):
    """All patches in one bin: the cheapest of the figures."""
    (whole,) = calibration(values, np.full(len(values), 0.5), groups, bins=1, resamples=resamples)
    assert whole.truth.value == pytest.approx(np.mean(values))
    return whole.truth


def test_scipy_agrees_where_every_patch_is_its_own_group():
    values, _, _ = study()
    ours = interval_of_mean(values, np.arange(len(values)), 4000)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(5)
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.003)
    assert ours.high == pytest.approx(theirs.high, abs=0.003)


def test_the_same_seed_gives_the_same_intervals():
    study_ = study()
    assert agreement(*study_, resamples=50) == agreement(*study_, resamples=50)
    assert agreement(*study_, resamples=50) != agreement(*study_, resamples=50, seed=1)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_the_patches_does_not_matter(seed):
    truth, prediction, groups = study(groups=5, patches=4)
    order = np.random.default_rng(seed).permutation(len(truth))
    straight = agreement(truth, prediction, groups, resamples=10)
    shuffled = agreement(truth[order], prediction[order], groups[order], resamples=10)
    for name, figure in straight.items():
        assert vars(shuffled[name]) == pytest.approx(vars(figure)), name


def test_figures_of_several_raters_are_averaged():
    truth, prediction, groups = study()
    raters = np.column_stack([truth, np.round(truth, 1), truth**2])
    together = agreement(raters, prediction, groups, resamples=10)
    alone = [agreement(rater, prediction, groups, resamples=10) for rater in raters.T]
    for name, figure in together.items():
        assert figure.value == pytest.approx(np.mean([one[name].value for one in alone]))


def test_one_column_of_truth_is_one_rater():
    truth, prediction, groups = study()
    column = agreement(truth[:, None], prediction, groups, resamples=10)
    assert column == agreement(truth, prediction, groups, resamples=10)


def test_patches_of_one_patient_say_less_than_as_many_of_many():
    truth, prediction, groups = study(spread=0.2)
    by_patient = agreement(truth, prediction, groups, resamples=100)["bias"]
    by_patch = agreement(truth, prediction, np.arange(len(truth)), resamples=100)["bias"]
    assert by_patient.high - by_patient.low > 2 * (by_patch.high - by_patch.low)


@pytest.mark.parametrize(("groups", "least"), [(40, 0.9), (8, 0.8)])
def test_intervals_hold_the_truth_about_as_often_as_they_say(groups, least):
    held = 0
    for seed in range(200):
        truth, prediction, members = study(groups, patches=3, seed=seed)
        interval = interval_of_mean(prediction - truth, members, 200)
        held += interval.low <= 0 <= interval.high
    assert least <= held / 200 <= 0.99


def test_a_single_group_has_no_interval():
    truth, prediction, _ = study()
    for figure in agreement(truth, prediction, np.zeros(len(truth))).values():
        assert np.isfinite(figure.value)
        assert np.isnan([figure.low, figure.high]).all()
        assert "no interval" in str(figure)


def test_resamples_without_a_figure_are_left_out_and_told(caplog):
    # In a quarter of all resamples of these two groups all truths are 0.
    truth, prediction = np.array([0, 0, 0, 1.0]), np.array([0.1, 0.2, 0.3, 0.4])
    with caplog.at_level(logging.WARNING):
        figures = agreement(truth, prediction, [0, 0, 1, 1], resamples=200)
    assert figures["pk"] == Estimate(1.0, 1.0, 1.0)
    assert np.isfinite(figures["spearman"].low)
    messages = [record.getMessage() for record in caplog.records]
    assert any(m.startswith("pk is undefined in ") and "of 200 resamples" in m for m in messages)
    assert not any(m.startswith("l1") for m in messages)


def test_a_few_such_resamples_are_not_worth_a_word(caplog):
    truth = np.repeat([0, 1.0], 10)
    agreement(truth, truth, np.arange(20), resamples=200)
    assert not caplog.records


@pytest.mark.filterwarnings("error")
def test_equal_truths_have_no_rank_figures():
    figures = agreement(np.full(6, 0.5), np.linspace(0, 1, 6), np.arange(6), resamples=20)
    assert np.isnan([figures["pk"].value, figures["pk"].low, figures["spearman"].value]).all()
    assert figures["l1"].value == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("truth", "prediction", "groups"),
    [
        ([], [], []),
        ([0.1, 0.2], [0.1], [0]),
        ([0.1, 0.2], [0.1, 0.2], [0]),
        ([0.1, 0.2], [0.1, np.nan], [0, 1]),
        ([0.1, np.inf], [0.1, 0.2], [0, 1]),
    ],
)
def test_what_does_not_go_together_is_refused(truth, prediction, groups):
    with pytest.raises(ValueError, match=r"do not go together|not finite"):
        agreement(truth, prediction, groups)


def test_a_large_study_takes_seconds():
    truth, prediction, groups = study(groups=60, patches=40)
    start = time.perf_counter()
    agreement(np.round(truth, 1), prediction, groups, resamples=100)
    assert time.perf_counter() - start < 4


def test_a_comparison_is_of_the_differences():
    truth, better, groups = study(spread=0.02)
    worse = study(spread=0.2, seed=1)[1]
    difference = compare(truth, better, worse, groups, resamples=100)
    assert difference["l1"].value == pytest.approx(
        mean_absolute_error(truth, better) - mean_absolute_error(truth, worse)
    )
    assert difference["pk"].value == pytest.approx(
        prediction_probability(truth, better) - prediction_probability(truth, worse)
    )
    assert difference["l1"].high < 0
    assert difference["pk"].low > 0
    assert compare(truth, better, better, groups, resamples=20)["l1"] == Estimate(0, 0, 0)


def test_a_comparison_is_paired():
    """What both models share, here each patient's own error, does not widen the interval."""
    truth, prediction, groups = study(spread=0.3)
    shifted = truth + (prediction - truth) * 0.95
    paired = compare(truth, shifted, prediction, groups, resamples=100)["l1"]
    alone = agreement(truth, prediction, groups, resamples=100)["l1"]
    assert paired.high < 0
    assert paired.high - paired.low < (alone.high - alone.low) / 5


def test_a_comparison_is_of_models_and_not_of_their_order():
    truth, one, groups = study()
    two = study(seed=3)[1]
    there = compare(truth, one, two, groups, resamples=50)["pk"]
    back = compare(truth, two, one, groups, resamples=50)["pk"]
    assert [there.value, there.low, there.high] == pytest.approx(
        [-back.value, -back.high, -back.low]
    )


def test_calibration_is_by_equal_parts_of_the_scale():
    truth = [[0.0, 0.2], [0.2, 0.4], [1.0, 0.8], [0.6, 0.6]]
    prediction = [0.0, 0.19, 1.0, 0.2]
    bins = calibration(truth, prediction, ["a", "b", "c", "c"], bins=5, resamples=50)
    assert [b.patches for b in bins] == [2, 1, 0, 0, 1]
    assert bins[0].prediction == pytest.approx(0.095)
    assert bins[0].truth.value == pytest.approx(0.2)
    assert (bins[0].truth.low, bins[0].truth.high) == pytest.approx((0.1, 0.3))
    assert bins[4].truth.value == pytest.approx(0.9)
    assert np.isnan([bins[2].prediction, bins[2].truth.value, bins[2].truth.low]).all()


def test_a_bin_of_one_patient_is_not_certain():
    truth, prediction, groups = study(groups=2, patches=30, spread=0)
    prediction = prediction.clip(0, 0.999)
    groups = np.where(prediction < 0.5, 0, 1)
    for part in calibration(truth, prediction, groups, resamples=30):
        assert np.isfinite(part.truth.value)
        assert np.isnan(part.truth.low)


def test_calibration_agrees_with_scipy():
    truth, prediction, groups = study()
    prediction = prediction.clip(0, 1)
    bins = calibration(truth, prediction, groups, resamples=10)
    means = scipy.stats.binned_statistic(
        prediction, [truth, prediction], "mean", bins=10, range=(0, 1)
    ).statistic
    np.testing.assert_allclose([b.truth.value for b in bins], means[0])
    np.testing.assert_allclose([b.prediction for b in bins], means[1])
