import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.accept.agreement import agreement, icc

# Shrout and Fleiss 1979, table 2: six targets by four judges; ICC(2,1) of the first two columns is
# worked out below by the mean squares themselves.
JUDGES = np.array([[9, 2], [6, 1], [8, 4], [7, 1], [10, 5], [6, 2]], float)


def by_mean_squares(readings):
    """ICC(2,1) from a two-way table, term by term."""
    n, k = readings.shape
    rows, columns, grand = readings.mean(1), readings.mean(0), readings.mean()
    bms = k * sum((row - grand) ** 2 for row in rows) / (n - 1)
    jms = n * sum((column - grand) ** 2 for column in columns) / (k - 1)
    ems = sum(
        (readings[i, j] - rows[i] - columns[j] + grand) ** 2 for i in range(n) for j in range(k)
    ) / ((n - 1) * (k - 1))
    return (bms - ems) / (bms + (k - 1) * ems + k * (jms - ems) / n)


def test_the_judges_of_shrout_and_fleiss():
    assert icc(JUDGES[:, 0], JUDGES[:, 1]) == pytest.approx(by_mean_squares(JUDGES))


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=4, max_size=30))
def test_the_correlation_is_that_of_the_mean_squares(pairs):
    readings = np.array(pairs)
    if readings.std() < 1e-3:
        return
    assert icc(readings[:, 0], readings[:, 1]) == pytest.approx(by_mean_squares(readings), abs=1e-6)


def test_bias_and_limits_are_those_that_were_put_in():
    rng = np.random.default_rng(0)
    read = rng.uniform(0, 1, 4000)
    found = agreement(read + 0.05 + rng.normal(0, 0.1, 4000), read)
    assert found.bias == pytest.approx(0.05, abs=0.01)
    assert found.limits == pytest.approx((0.05 - 0.196, 0.05 + 0.196), abs=0.015)
    assert found.icc_95[0] < found.icc < found.icc_95[1]
    assert found.icc == pytest.approx(0.083 / (0.083 + 0.005 + 0.00125), abs=0.01)
