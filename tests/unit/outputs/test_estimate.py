from itertools import product

import numpy as np
import pytest

from wsi_pipeline.outputs.estimate import estimate_mean
from wsi_pipeline.tiles.draw import draw_of


def test_all_tiles_give_the_mean_itself():
    rng = np.random.default_rng(0)
    size, amount = rng.random(30), rng.random(30)
    mean, half = estimate_mean(amount, size, np.arange(30) % 4, np.ones(30, bool))
    assert mean == pytest.approx(amount.sum() / size.sum())
    assert half == 0


def test_all_samples_that_there_are_have_the_mean_for_their_mean():
    """Every pair of every stratum, each as likely as the others; sizes are equal."""
    amount = np.array([0.0, 0.1, 0.9, 0.4, 1.0, 0.0, 0.0, 0.2, 0.3])
    stratum = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
    pairs = [(0, 1), (0, 2), (1, 2)]
    means, variances = [], []
    for chosen in product(pairs, repeat=3):
        drawn = np.zeros(9, bool)
        for one, pair in enumerate(chosen):
            drawn[[3 * one + tile for tile in pair]] = True
        means.append(estimate_mean(amount, np.ones(9), stratum, drawn)[0])
        within = [amount[3 * one + np.array(pair)].var(ddof=1) for one, pair in enumerate(chosen)]
        variances.append(sum(3 * (3 - 2) * each / 2 for each in within) / 9**2)
    assert np.mean(means) == pytest.approx(amount.mean())
    assert np.mean(variances) == pytest.approx(np.var(means))  # what the interval is made from


def test_tiles_that_cannot_be_read_count_for_nothing():
    amount, size = np.array([0.5, 0.0, 0.25, 0.25]), np.array([1.0, 0.0, 0.5, 0.5])
    mean, half = estimate_mean(amount, size, np.zeros(4, int), np.array([True, True, True, False]))
    assert mean == pytest.approx(0.5)
    assert half == pytest.approx(0)


@pytest.mark.parametrize("rounds", [2, 4, 8])
def test_intervals_hold_the_mean_as_often_as_they_say(rounds):
    """On a section with cancer in one part and specks of it elsewhere."""
    rng = np.random.default_rng(5)
    x, y = np.divmod(np.arange(900), 30)
    cancer = np.hypot(x - 12, y - 10) < 8
    amount = np.clip(np.where(cancer, 0.7, 0.05) + rng.normal(0, 0.15, 900), 0, 1)
    size = rng.uniform(0.2, 1, 900)
    looks = np.column_stack([cancer + rng.normal(0, 0.7, 900), x / 9, y / 9])
    true = (amount * size).sum() / size.sum()
    held, off = 0, []
    for seed in range(600):
        draw = draw_of(looks, seed)
        mean, half = estimate_mean(amount * size, size, draw.stratum, draw.drawn(rounds))
        held += abs(mean - true) <= half
        off.append(mean - true)
    assert 0.87 <= held / 600 <= 0.93
    assert abs(np.mean(off)) < 3 * np.std(off) / np.sqrt(600)
