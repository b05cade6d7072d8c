import json

import numpy as np
import pytest

import wsi_pipeline as wsi
from tests.helpers.real_slides import SAMPLE
from tests.unit.model.test_score_error import ERRORS
from wsi_pipeline.outputs.interval import Interval
from wsi_pipeline.outputs.reliability import Reliability, judged, reliability_of
from wsi_pipeline.outputs.summary import Quality

SAMPLING = Interval(low=0.3, high=0.5, level=0.95, method="blocks")


def quality(blurred=0.0, upsampled=False) -> Quality:
    return Quality(blurred_fraction=blurred, pen_fraction=0, upsampled=upsampled, flags=())


def picture(colour) -> np.ndarray:
    return np.full((64, 64, 3), colour, np.uint8)


OF_THE_TRAINING = tuple(round(256 * 10**-density - 1) for density in ERRORS.stain.mean)
MASK = np.ones((8, 8), bool)


def test_two_errors_are_joined_and_neither_is_averaged_away():
    joined = Reliability(ERRORS).joined(0.4, SAMPLING)
    of_model = 0.1 * np.sqrt(0.4 * 0.6 + 0.01)
    of_tissue = 0.1 / 1.959964
    half = 1.644854 * np.hypot(of_model, of_tissue)
    assert (joined.low, joined.high) == pytest.approx((0.4 - half, 0.4 + half), abs=1e-5)
    assert joined.level == 0.9
    alone = Reliability(ERRORS).joined(0.4, None)
    assert alone.high - alone.low == pytest.approx(2 * 1.644854 * of_model, abs=1e-5)
    assert "too little tissue" in alone.method
    assert Reliability().joined(0.4, SAMPLING) is None


def test_of_simulated_patients_nine_means_of_ten_are_held():
    """Each patient has an error of his own, and each slide another sample of his tissue."""
    rng = np.random.default_rng(1)
    held = []
    for _ in range(3000):
        truth = rng.uniform(0.1, 0.8)
        unit = np.sqrt(truth * (1 - truth) + 0.01)
        own = rng.normal(0, 0.1 * unit)
        fields = truth + own + rng.normal(0, 0.2, 16)
        mean, deviation = fields.mean(), fields.std(ddof=1) / 4
        interval = Interval(
            low=np.clip(mean - 1.96 * deviation, 0, 1), high=np.clip(mean + 1.96 * deviation, 0, 1),
            level=0.95, method="",
        )  # fmt: skip
        joined = Reliability(ERRORS).joined(float(np.clip(mean, 0, 1)), interval)
        held.append(joined.low <= truth <= joined.high)
    assert 0.87 <= np.mean(held) <= 0.93


@pytest.mark.parametrize(
    ("colour", "about", "unlike", "factor"),
    [
        (OF_THE_TRAINING, {}, (), 1.0),
        ((60, 120, 180), {}, ("stain",), 1.5),
        (OF_THE_TRAINING, {"blurred": 0.6}, ("focus",), 4.0),
        (OF_THE_TRAINING, {"upsampled": True}, ("enlarged",), 2.0),
        (OF_THE_TRAINING, {"blurred": 0.6, "upsampled": True}, ("focus", "enlarged"), 4.0),
    ],
)
def test_a_slide_unlike_the_training_gets_wider_intervals(colour, about, unlike, factor):
    found = reliability_of(ERRORS, picture(colour), 8.0, MASK, quality(**about))
    assert found.unlike == unlike
    assert found.widen == factor
    assert found.refusal is None
    near = Reliability(ERRORS).joined(0.5, None)
    far = found.joined(0.5, None)
    assert far.high - far.low == pytest.approx(factor * (near.high - near.low), abs=1e-5)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    with pytest.warns(UserWarning, match="demonstration"):
        return wsi.score(SAMPLE, tmp_path_factory.mktemp("out"), progress=lambda *_: None)


def test_a_stain_that_is_no_haematoxylin_and_eosin_is_refused(result):
    found = reliability_of(ERRORS, picture((30, 200, 30)), 8.0, MASK, quality())
    assert "standard deviations from what the model has seen" in found.refusal
    refused = judged(result.summary, found)
    assert refused.status == "refused"
    assert refused.reason == found.refusal
    assert (refused.cellularity, refused.bed) == (None, None)


def test_the_sample_has_an_interval_though_it_is_small(result):
    summary = json.loads((result.folder / "summary.json").read_text())
    figures = summary["cellularity"]
    assert figures["mean_95_interval"] is None
    interval = figures["mean_90_interval"]
    assert interval["low"] < figures["mean"] < interval["high"]
    assert "BRCA-M2C" in interval["method"]
    assert summary["bed"]["interval"]["level"] == 0.9
    assert summary["quality"]["stain_distance"] > 0


def test_each_tile_has_an_interval(result):
    tiles = result.tiles
    assert (tiles.cellularity_low <= tiles.cellularity).all()
    assert (tiles.cellularity <= tiles.cellularity_high).all()
    assert (tiles.cellularity_high - tiles.cellularity_low).between(0.001, 0.4).all()
