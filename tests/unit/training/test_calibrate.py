import numpy as np
import pytest

from training.calibrate import (
    Errors,
    halves_coverage,
    left_out_coverage,
    quarters,
    shared_deviation,
    stained_otherwise,
)
from training.data.picture import Picture
from wsi_pipeline.model.score_error import scale


def errors_of(own, each, patients=400, tiles=4, seed=0) -> Errors:
    """Patients with an error of their own, and tiles with one more each; in units of `scale`."""
    rng = np.random.default_rng(seed)
    score = rng.uniform(0.2, 0.8, patients * tiles)
    patient = np.repeat([f"p{number:03}" for number in range(patients)], tiles)
    units = np.repeat(rng.normal(0, own, patients), tiles) + rng.normal(0, each, patients * tiles)
    return Errors(score - units * scale(score), score, patient)


@pytest.mark.parametrize(("own", "each"), [(0.2, 0.1), (0.05, 0.3), (0.0, 0.2)])
def test_what_a_patients_errors_share_is_told_from_what_they_do_not(own, each):
    assert shared_deviation(errors_of(own, each)) == pytest.approx(own, abs=0.035)


def test_an_error_that_all_patients_share_counts_too():
    errors = errors_of(0.0, 0.1)
    moved = Errors(errors.truth - 0.2 * scale(errors.score), errors.score, errors.patient)
    assert shared_deviation(moved) == pytest.approx(0.2, abs=0.02)


def test_coverage_is_what_it_is_meant_to_be():
    errors = errors_of(0.2, 0.0, patients=60, tiles=1)
    assert 0.86 <= left_out_coverage(errors) <= 0.95
    assert 0.87 <= halves_coverage(errors) <= 0.95


def test_quarters_cover_a_field_and_their_sides_suit_the_network():
    for side in (496, 465, 512, 250):
        rgb = np.zeros((side, side, 4), np.uint8)
        parts = quarters(Picture("a", "p", rgb))
        assert len(parts) == 4
        assert {part.group for part in parts} == {"p"}
        assert all(part.sample.shape[0] % 64 == 0 or side < 256 for part in parts)


def test_a_stain_is_made_stronger_and_paler():
    rgb = np.full((4, 4, 3), (180, 110, 170), np.uint8)
    np.testing.assert_allclose(stained_otherwise(rgb, 1, 1), rgb, atol=3)
    assert (
        stained_otherwise(rgb, 1.6, 1.3).mean()
        < rgb.mean()
        < stained_otherwise(rgb, 0.5, 0.6).mean()
    )
