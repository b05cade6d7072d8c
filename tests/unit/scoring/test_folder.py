"""Results of earlier versions, and beds that were drawn since."""

import shutil
from pathlib import Path

import pytest

from wsi_pipeline.model.bundle import BUNDLED_MODEL, ModelBundle
from wsi_pipeline.scoring.config import ScoreConfig
from wsi_pipeline.scoring.folder import SUMMARY, holds, read_summary

BEFORE = Path(__file__).parents[2] / "data" / "results" / "summary-before-beds.json"
"""Of her2st-b4.tif, as the version before beds and fine maps wrote it."""


@pytest.fixture
def summary(tmp_path):
    shutil.copy(BEFORE, tmp_path / SUMMARY)
    return read_summary(tmp_path)


def test_a_result_from_before_there_were_beds_is_read_and_still_holds(summary):
    assert summary is not None
    assert summary.bed is None
    assert summary.provenance.score_error is None
    settings = ScoreConfig().settings(ModelBundle.load(BUNDLED_MODEL))
    asked = settings.model_copy(update={"bundle": summary.provenance.bundle.digest})
    assert holds(summary, summary.provenance.slide.digest, asked)


def test_a_bed_that_was_drawn_since_makes_no_night_score_again(summary):
    made = summary.provenance
    drawn = made.config.model_copy(update={"bed": "ab" * 32})
    summary = summary.model_copy(update={"provenance": made.model_copy(update={"config": drawn})})
    assert holds(summary, made.slide.digest, made.config)
    assert holds(summary, made.slide.digest, drawn)
    another = drawn.model_copy(update={"bed": "cd" * 32})
    assert not holds(summary, made.slide.digest, another)
