import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.errors import BundleError
from wsi_pipeline.model.bundle import BUNDLED_MODEL, ModelBundle
from wsi_pipeline.model.score_error import (
    LEVEL,
    SCORE_ERROR_NAME,
    ScoreError,
    StainDomain,
    Widened,
    conformal_quantile,
    scale,
    stain_of,
)

DOMAIN = StainDomain(
    mean=(0.2, 0.3, 0.15),
    precision=((100.0, 0.0, 0.0), (0.0, 25.0, 0.0), (0.0, 0.0, 400.0)),
    widened_from=3.0,
    refused_from=12.0,
)
ERRORS = ScoreError(
    bundle="a" * 64, measured_on="patients", patients=21, tiles=21, tile_quantile=0.2,
    patient_deviation=0.1, widened=Widened(stain=1.5, focus=4.0, enlarged=2.0), stain=DOMAIN,
)  # fmt: skip


def test_intervals_hold_nine_tiles_of_ten_of_patients_to_come():
    """Split conformal prediction, over many draws of 30 patients and one to come."""
    rng = np.random.default_rng(0)
    held = []
    for _ in range(4000):
        truth = rng.uniform(0, 1, 31)
        score = np.clip(truth + 0.3 * scale(truth) * rng.standard_t(3, 31), 0, 1)
        units = np.abs(score - truth) / scale(score)
        quantile = conformal_quantile(units[:30])
        held.append(units[30] <= quantile)
    assert 0.88 <= np.mean(held) <= 0.93


@given(st.lists(st.floats(0, 10), min_size=1, max_size=60))
def test_the_quantile_is_the_smallest_that_is_sure(errors):
    errors = np.array(errors)
    quantile = conformal_quantile(errors)
    rank = np.ceil((len(errors) + 1) * LEVEL)
    if rank > len(errors):
        assert np.isinf(quantile)
    else:
        assert (errors <= quantile).sum() >= rank > (errors < quantile).sum()


def test_tile_intervals_are_widest_in_the_middle_and_stay_in_range():
    low, high = ERRORS.tile_interval(np.float32([0, 0.5, 1, np.nan]))
    assert low.tolist()[:3] == pytest.approx([0, 0.398, 0.98], abs=1e-3)
    assert high.tolist()[:3] == pytest.approx([0.02, 0.602, 1], abs=1e-3)
    assert np.isnan([low[3], high[3]]).all()
    wide_low, wide_high = ERRORS.tile_interval(np.float32([0.5]), widen=2)
    assert wide_high - wide_low == pytest.approx(2 * (high[1] - low[1]))


def test_a_stain_is_measured_on_the_tissue_alone():
    rgb = np.full((160, 320, 3), 255, np.uint8)
    rgb[:, :160] = (200, 120, 180)
    mask = np.zeros((10, 20), bool)
    mask[:, :10] = True
    stain = stain_of(rgb, 0.5, mask)
    np.testing.assert_allclose(stain, -np.log10((np.array([200, 120, 180]) + 1) / 256), atol=0.01)
    assert stain_of(rgb, 0.5, mask & False) is None


def test_distances_count_deviations_in_any_direction():
    assert DOMAIN.distance(np.array(DOMAIN.mean)) == 0
    assert DOMAIN.distance(np.array([0.4, 0.3, 0.15])) == pytest.approx(2)
    assert DOMAIN.distance(np.array([0.2, 0.9, 0.15])) == pytest.approx(3)


def test_the_bundled_model_says_how_far_it_is_off():
    errors = ModelBundle.load(BUNDLED_MODEL).score_error
    assert errors.patients >= 20
    assert 0.05 < errors.tile_quantile < 0.5
    assert errors.patient_deviation < errors.tile_quantile
    assert errors.widened.focus > errors.widened.stain >= 1


def test_of_another_bundle_or_damaged_it_is_not_believed(tiny_bundle, tmp_path, caplog):
    folder = tmp_path / "bundle"
    ModelBundle.load(tiny_bundle).save(folder)
    assert ModelBundle.load(folder).score_error is None
    (folder / SCORE_ERROR_NAME).write_text(ERRORS.model_dump_json())
    assert ModelBundle.load(folder).score_error is None
    assert "measured on another bundle" in caplog.text
    own = ERRORS.model_copy(update={"bundle": ModelBundle.load(folder).digest})
    (folder / SCORE_ERROR_NAME).write_text(own.model_dump_json())
    assert ModelBundle.load(folder).score_error == own
    (folder / SCORE_ERROR_NAME).write_text("{")
    with pytest.raises(BundleError, match=r"score-error\.json: this does not say"):
        _ = ModelBundle.load(folder).score_error
