"""Nights that estimate every slide first, and nights that have an end."""

import time
from datetime import UTC, datetime, timedelta
from datetime import time as clock

import numpy as np
import pyarrow.parquet as pq
import pytest

from training.synthetic import generate_region
from wsi_pipeline import open_result
from wsi_pipeline.errors import ConfigError, ResultError
from wsi_pipeline.night import run as night_run
from wsi_pipeline.night.config import CrewConfig, InboxConfig
from wsi_pipeline.night.plan import Cohort
from wsi_pipeline.night.run import NightRun, night_end
from wsi_pipeline.night.worker_protocol import Progress

PRECISION = 0.2


@pytest.fixture
def config(tiny_config):
    return tiny_config.model_copy(
        update={
            "inbox": InboxConfig(quiet_s=0, look_again_s=0),
            "crew": CrewConfig(slides_at_once=1, retry_after_s=0),
        }
    )


@pytest.fixture
def inbox(tmp_path, make_slide):
    folder = tmp_path / "inbox"
    folder.mkdir()
    for number in range(3):
        rgb = np.ascontiguousarray(generate_region(number, 1024).rgb[200:840, 200:840])
        slide = make_slide(rgb, name=f"{number}.tif")
        slide.rename(folder / slide.name)
    return folder


def cohort_of(inbox, out, bundle, config, **changes):
    return Cohort.prepare(str(inbox), out, str(bundle), config.model_copy(update=changes))


def test_slides_are_estimated_and_then_those_scored_first_that_may_hold_most(
    inbox, tmp_path, tiny_bundle, config
):
    with NightRun(cohort_of(inbox, tmp_path / "direct", tiny_bundle, config)) as night:
        direct = {outcome.name: outcome.summary for outcome in night}
    first = cohort_of(inbox, tmp_path / "out", tiny_bundle, config, estimate_first=PRECISION)
    with NightRun(first) as night:
        ended = list(night)
    assert [outcome.status for outcome in ended] == ["estimated"] * 3 + ["scored"] * 3
    assert [outcome.name for outcome in ended[:3]] == ["0.tif", "1.tif", "2.tif"]
    by_promise = sorted(ended[:3], key=lambda outcome: -outcome.estimate.high)
    assert [outcome.name for outcome in ended[3:]] == [outcome.name for outcome in by_promise]
    for outcome in ended[:3]:
        assert outcome.estimate.scored < outcome.estimate.tiles
    assert {outcome.name: outcome.summary for outcome in ended[3:]} == direct
    assert night.report.is_whole
    assert {o.name: o.status for o in night.report.outcomes} == dict.fromkeys(direct, "scored")


def test_a_night_out_of_time_leaves_estimates_that_the_next_one_takes_up(
    inbox, tmp_path, tiny_bundle, config, monkeypatch
):
    monkeypatch.setattr(night_run, "LOOK_AT_CLOCK_S", 0.1)
    out = tmp_path / "out"
    later = (datetime.now().astimezone() - timedelta(minutes=5)).time()  # so tomorrow's
    first = cohort_of(inbox, out, tiny_bundle, config, estimate_first=PRECISION, until=later)
    best = ""
    with NightRun(first) as night:
        for number, outcome in enumerate(night, start=1):
            if number == 4:  # the first one is scored whole
                night._ends = datetime.now(UTC)
                best = outcome.name
    assert not night.report.is_whole
    status = {outcome.name: outcome.status for outcome in night.report.outcomes}
    assert list(status.values()).count("estimated") >= 1  # what was at work may just have ended
    assert status[best] == "scored"
    page = night.page.read_text()
    assert "ended before it was through" in page
    assert 'id="estimated"' in page
    table = pq.read_table(night.page.parent / "slides.parquet").to_pylist()
    (row,) = [row for row in table if row["status"] == "estimated"][:1]
    assert row["cellularity_mean"] is None
    assert 0 <= row["estimate_low"] <= row["estimate_mean"] <= row["estimate_high"] <= 1
    assert 0 < row["tiles_scored"] < row["tiles_tissue"]

    estimate = out / row["folder"] / "estimate.json"
    was = estimate.stat().st_mtime_ns
    with pytest.raises(ResultError, match="an estimate alone"):
        open_result(estimate.parent)
    again = cohort_of(inbox, out, tiny_bundle, config, estimate_first=PRECISION)
    with NightRun(again) as night:
        kept = [
            estimate.stat().st_mtime_ns
            for outcome in night
            if outcome.status == "estimated" and outcome.folder == row["folder"]
        ]
    assert kept == [was]  # it was not drawn anew
    ends = {outcome.name: (outcome.status, outcome.kind) for outcome in night.report.outcomes}
    assert ends.pop(best) == ("left", "done")
    assert {status for status, _ in ends.values()} <= {"scored", "left"}
    assert not list(out.glob("*/estimate.*"))
    assert len(list(out.glob("*/summary.json"))) == 3


def test_when_time_is_up_the_slide_at_work_is_left_to_the_next_night(
    inbox, tmp_path, tiny_bundle, config, monkeypatch
):
    monkeypatch.setattr(night_run, "LOOK_AT_CLOCK_S", 0.1)
    slow = {"engine": config.engine.model_copy(update={"batch_size": 1})}
    until = (datetime.now().astimezone() - timedelta(minutes=5)).time()
    cohort = cohort_of(inbox, tmp_path / "out", tiny_bundle, config, **slow, until=until)

    def follow(_job, attempt):
        def moved(event):
            if isinstance(event, Progress):
                night._ends = datetime.now(UTC)

        return attempt(moved)

    start = time.monotonic()
    with NightRun(cohort, follow) as night:
        list(night)
    assert time.monotonic() - start < 120
    ends = [(outcome.status, outcome.kind) for outcome in night.report.outcomes]
    assert ("left", "ended") in ends
    assert len(ends) == 3
    assert not night.report.is_whole
    with NightRun(cohort_of(inbox, tmp_path / "out", tiny_bundle, config, **slow)) as night:
        list(night)
    assert len(list((tmp_path / "out").glob("*/summary.json"))) == 3


def test_a_cluster_estimates_nothing(inbox, tmp_path, tiny_bundle, config):
    with pytest.raises(ConfigError, match="cluster scores whole slides"):
        cohort_of(
            inbox, tmp_path, tiny_bundle, config, estimate_first=0.1, cluster="tcp://127.0.0.1:1"
        )


@pytest.mark.parametrize(
    ("now", "until", "hours"),
    [
        ("2026-11-27T00:00+00:00", clock(6), 5),  # 01:00 in Berlin
        ("2026-11-27T06:00+00:00", clock(6), 23),  # 07:00: tomorrow's
        ("2026-11-27T05:00+00:00", clock(6), 24),  # just then
        ("2026-10-24T23:00+00:00", clock(6), 6),  # 01:00, and an hour comes twice
        ("2026-03-28T22:00+00:00", clock(6), 6),  # 23:00, and an hour is left out
    ],
)
def test_a_night_ends_by_the_clock_on_the_wall(monkeypatch, now, until, hours):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        begun = datetime.fromisoformat(now)
        assert (night_end(begun, until) - begun) / timedelta(hours=1) == pytest.approx(hours)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_settings_of_a_file_and_of_the_command(tmp_path, config):
    said = config.model_validate({"estimate_first": 0.02, "until": "06:00"})
    assert said.of_night(None, None) == said
    changed = said.of_night(0.05, clock(5, 30))
    assert (changed.estimate_first, changed.until) == (0.05, clock(5, 30))
    assert np.isclose(said.estimate_first, 0.02)
