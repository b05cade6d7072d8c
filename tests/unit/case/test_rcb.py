"""Residual cancer burden against published and hand-made values."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.case.rcb import Burden, class_of, spread, with_cellularity


def test_the_worked_example_of_md_anderson():
    """A bed of 24 × 18 mm, 10 % cancer, 5 % of it in situ, 3 nodes, 4 mm: 3.031, RCB-II.

    As the documentation of the ClinicoPath module for jamovi quotes it (sbalci/
    ClinicoPathJamoviModule, `residualcancerburden`), checked there against the calculator of MD
    Anderson.
    """
    burden = Burden(0.10, 0.05, 24, 18, 3, 4)
    assert burden.index == pytest.approx(3.031, abs=5e-4)
    assert class_of(burden.index) == "RCB-II"
    assert burden.primary_term == pytest.approx(1.5717, abs=1e-4)
    assert burden.nodal_term == pytest.approx(1.4596, abs=1e-4)


def test_nothing_left_is_rcb_0_and_any_node_is_not():
    assert class_of(Burden(0, 0, 20, 10, 0, 0).index) == "RCB-0"
    assert class_of(Burden(0.2, 1.0, 20, 10, 0, 0).index) == "RCB-0"  # in situ alone
    assert class_of(Burden(0, 0, 20, 10, 1, 2).index) == "RCB-I"


@given(
    st.floats(0, 1), st.floats(0, 1), st.floats(1, 150), st.floats(1, 150), st.integers(0, 40),
    st.floats(0.1, 60),
)  # fmt: skip
def test_the_formula_written_out_by_logarithms(share, in_situ, longest, across, nodes, metastasis):
    burden = Burden(share, in_situ, longest, across, nodes, metastasis)
    primary = share * (1 - in_situ)
    breast = (
        1.4 * math.exp(0.17 * (math.log(primary) + 0.5 * (math.log(longest) + math.log(across))))
        if primary > 0
        else 0
    )
    spread_to = 4 * (1 - 0.75**nodes) * metastasis
    lymph = math.exp(0.17 * math.log(spread_to)) if nodes else 0
    assert burden.index == pytest.approx(breast + lymph, rel=1e-9, abs=1e-9)


@given(st.floats(0.01, 0.98), st.floats(0.001, 0.3))
def test_the_interval_is_that_of_the_cellularity_moved_through_the_formula(share, deviation):
    burden = Burden(share, 0.1, 30, 20, 1, 3)
    around = spread(burden, deviation)
    low, high = (min(1.0, max(0.0, share + turn * 1.96 * deviation)) for turn in (-1, 1))
    assert around.low == pytest.approx(with_cellularity(burden, low).index, abs=0.02)
    assert around.high == pytest.approx(with_cellularity(burden, high).index, abs=0.02)
    assert around.low <= burden.index <= around.high


def test_a_case_on_the_border_may_as_well_be_the_other_class():
    burden = Burden(0.5, 0, 24, 18, 0, 0)
    border = next(
        share / 1000 for share in range(1, 999)
        if with_cellularity(burden, share / 1000).index > 1.36
    )  # fmt: skip
    at = with_cellularity(burden, border)
    assert spread(at, 0.02).flip_chance == pytest.approx(0.5, abs=0.05)
    assert spread(at, 0.0).flip_chance == 0
    assert spread(with_cellularity(burden, 0.6), 0.02).flip_chance < 0.01
