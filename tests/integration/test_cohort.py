"""Nights over a mixed inbox, with real worker processes: what is done, left, and remembered."""

import json
import os
import shutil
import threading

import numpy as np
import pytest

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.night import run as night_run
from wsi_pipeline.night.config import CrewConfig, InboxConfig, NightConfig
from wsi_pipeline.night.plan import Cohort
from wsi_pipeline.night.run import NightRun


@pytest.fixture
def config(tiny_config):
    return tiny_config.model_copy(
        update={
            "inbox": InboxConfig(quiet_s=0, look_again_s=0),
            "crew": CrewConfig(slides_at_once=2, retry_after_s=0),
        }
    )


@pytest.fixture
def inbox(tmp_path, make_slide, section):
    """A good slide, it again by another name, another of its name, and four of no use."""
    folder = tmp_path / "inbox"
    (folder / "second scanner").mkdir(parents=True)
    half = np.ascontiguousarray(section.rgb[:512])
    shutil.move(make_slide(half, name="case 1.tif"), folder)
    shutil.copy(folder / "case 1.tif", folder / "copy of case 1.tif")
    mirrored = make_slide(np.ascontiguousarray(half[:, ::-1]), name="case 1.tif")
    shutil.move(mirrored, folder / "second scanner" / "CASE 1.tif")
    shutil.move(make_slide(half, mpp=None, name="no size.tif"), folder)
    shutil.move(make_slide(np.full_like(half, 244), name="glass.tif"), folder)
    (folder / "letter.svs").write_text("Dear colleague\n" * 100)
    (folder / "empty.svs").touch()
    return folder


def a_night(inbox, out, bundle, config, *, again=False):
    """Run a night; return its outcomes by the slides' names."""
    cohort = Cohort.prepare(str(inbox), out, str(bundle), config, again=again)
    with NightRun(cohort) as night:
        yielded = list(night)
    assert night.page.is_file()
    assert night.report.is_whole
    assert yielded == night.report.outcomes
    assert len({outcome.name for outcome in yielded}) == len(yielded)
    return {outcome.name: outcome for outcome in yielded}


def ends(outcomes):
    return {name: (outcome.status, outcome.kind) for name, outcome in outcomes.items()}


def test_nights_over_a_mixed_inbox(inbox, tmp_path, tiny_bundle, config):
    out = tmp_path / "results"
    first = a_night(inbox, out, tiny_bundle, config)
    assert ends(first) == {
        "case 1.tif": ("scored", ""),
        "copy of case 1.tif": ("left", "duplicate"),
        "CASE 1.tif": ("scored", ""),
        "no size.tif": ("refused", "MppError"),
        "glass.tif": ("refused", "TissueError"),
        "letter.svs": ("failed", "SlideError"),
        "empty.svs": ("failed", "SlideError"),
    }
    assert first["copy of case 1.tif"].reason == "It is the same slide as the one in case 1."
    other = first["CASE 1.tif"]
    assert other.folder == f"CASE 1-{other.slide_digest[:8]}"  # not the other's on any file system
    for name in ("case 1.tif", "CASE 1.tif", "glass.tif"):
        summary = json.loads((out / first[name].folder / "summary.json").read_text())
        assert summary == first[name].summary.model_dump(mode="json")
    for name in ("no size.tif", "letter.svs", "empty.svs"):
        noted = json.loads((out / first[name].folder / "outcome.json").read_text())
        assert noted["outcome"]["reason"] == first[name].reason

    # Nothing has changed: nothing is done, and the table still tells of every slide.
    written = {path: path.stat().st_mtime_ns for path in out.rglob("summary.json")}
    second = a_night(inbox, out, tiny_bundle, config)
    assert ends(second) == {
        "case 1.tif": ("left", "done"),
        "copy of case 1.tif": ("left", "duplicate"),
        "CASE 1.tif": ("left", "done"),
        "no size.tif": ("left", "failed before"),
        "glass.tif": ("left", "done"),
        "letter.svs": ("left", "failed before"),
        "empty.svs": ("left", "failed before"),
    }
    assert second["case 1.tif"].summary == first["case 1.tif"].summary
    assert first["letter.svs"].reason in second["letter.svs"].reason
    assert written == {path: path.stat().st_mtime_ns for path in out.rglob("summary.json")}

    # A slide is known by its bytes. Another setting is other work; what was wrong may be right now.
    (inbox / "case 1.tif").rename(inbox / "renamed.tif")
    (inbox / "copy of case 1.tif").unlink()
    (inbox / "second scanner" / "CASE 1.tif").unlink()
    shutil.copy(inbox / "renamed.tif", inbox / "letter.svs")
    os.utime(inbox / "letter.svs", (1, 1))
    third = a_night(inbox, out, tiny_bundle, config, again=True)
    assert ends(third) == {
        "letter.svs": ("scored", ""),
        "renamed.tif": ("left", "duplicate"),
        "no size.tif": ("refused", "MppError"),
        "glass.tif": ("left", "done"),
        "empty.svs": ("failed", "SlideError"),
    }
    assert third["letter.svs"].folder == f"letter-{first['case 1.tif'].slide_digest[:8]}"
    assert not (out / third["letter.svs"].folder / "outcome.json").exists()
    assert len(list((out / "nights").iterdir())) == 3


def test_other_settings_are_other_work(inbox, tmp_path, tiny_bundle, config):
    for path in inbox.iterdir():
        if path.name not in ("case 1.tif", "no size.tif"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    out = tmp_path / "results"
    a_night(inbox, out, tiny_bundle, config)
    sized = config.model_copy(update={"slide": config.slide.model_copy(update={"mpp": 0.5})})
    outcomes = a_night(inbox, out, tiny_bundle, sized)
    # The very same pixels, by the header or not: two files, since the bytes differ.
    assert ends(outcomes) == {"case 1.tif": ("scored", ""), "no size.tif": ("scored", "")}
    assert not (out / "no size" / "outcome.json").exists()
    workers = config.model_copy(
        update={"slide": sized.slide, "workers": 1, "crew": CrewConfig(slides_at_once=1)}
    )
    again = a_night(inbox, out, tiny_bundle, workers)
    assert set(ends(again).values()) == {("left", "done")}


def test_what_was_away_is_tried_again_after_the_others(inbox, tmp_path, tiny_bundle, config):
    """As when a network drive comes back: the file is there at the second look at it."""
    slide, hidden = inbox / "case 1.tif", tmp_path / "hidden.tif"
    tries = []

    def follow(job, attempt):
        tries.append(job.slide.name)
        first = tries.count("case 1.tif") == 1
        if job.slide.location == str(slide):
            slide.rename(hidden) if first else hidden.rename(slide)
        return attempt(lambda _event: None)

    config = config.model_copy(update={"crew": CrewConfig(slides_at_once=1, retry_after_s=0)})
    with NightRun(
        Cohort.prepare(str(inbox), tmp_path / "results", str(tiny_bundle), config), follow
    ) as night:
        order = [outcome.name for outcome in night]
    assert tries.count("case 1.tif") == 2
    outcomes = {outcome.name: outcome for outcome in night.report.outcomes}
    assert outcomes["case 1.tif"].status == "scored"
    assert order[-1] == "case 1.tif"


def test_no_inbox(tmp_path, tiny_bundle, config, monkeypatch):
    monkeypatch.setattr(night_run, "LOOKED_WITHIN_S", 0.1)
    hangs = Cohort.prepare(str(tmp_path), tmp_path, str(tiny_bundle), config)
    monkeypatch.setattr(Cohort, "look", lambda _cohort: threading.Event().wait())
    with pytest.raises(ConfigError, match="not be listed within"), NightRun(hangs) as night:
        list(night)
    monkeypatch.undo()
    with (
        pytest.raises(ConfigError, match="missing"),
        NightRun(
            Cohort.prepare(str(tmp_path / "missing"), tmp_path, str(tiny_bundle), config)
        ) as night,
    ):
        list(night)
    assert not (tmp_path / "nights").exists()


def test_what_a_table_says_of_single_slides(
    make_slide, section, tmp_path, tiny_bundle, config, caplog
):
    """And what changes no figure scores nothing again, but for what was damaged."""
    inbox, out = tmp_path / "inbox", tmp_path / "results"
    inbox.mkdir()
    part = section.rgb[256:512, 256:512]
    for name, rgb, mpp in (
        ("plain", part, 0.5),
        ("coarse", part[::-1], 1.0),
        ("no size", part[:, ::-1], None),
        ("misspelt", part[::-1, ::-1], 0.5),
    ):
        made = make_slide(np.ascontiguousarray(rgb), mpp=mpp, name=f"{name}.tif")
        shutil.move(made, inbox)
    first = a_night(inbox, out, tiny_bundle, config)
    assert ends(first) == {
        "plain.tif": ("scored", ""),
        "coarse.tif": ("refused", "MppError"),
        "no size.tif": ("refused", "MppError"),
        "misspelt.tif": ("scored", ""),
    }
    for name in ("coarse.tif", "no size.tif"):
        assert "Add a row for it to slides.csv in the inbox" in first[name].reason
        assert "--" not in first[name].reason

    (inbox / "slides.csv").write_text(
        "slide;mpp;allow_upsampling;Fall\r\n"
        "plain;;;A 7\r\n"
        "coarse.tif;;ja;A 8\r\n"
        "no size;0,5;;\r\n"
        "misspelt.tif;ein Viertel;;\r\n"
        "gone.svs;;;\r\n",
        encoding="utf-8-sig",
    )
    figures = files_in(out / "plain")
    second = a_night(inbox, out, tiny_bundle, config)
    assert ends(second) == {
        "plain.tif": ("left", "done"),
        "coarse.tif": ("scored", ""),
        "no size.tif": ("scored", ""),
        "misspelt.tif": ("failed", "ConfigError"),
    }
    assert files_in(out / "plain") == figures
    assert second["coarse.tif"].summary.quality.upsampled
    assert second["no size.tif"].summary.provenance.slide.mpp == 0.5
    assert "slides.csv, line 5: 'ein Viertel' is no mpp" in second["misspelt.tif"].reason
    assert "slides.csv, line 6: no slide of this name" in caplog.text
    assert (out / "misspelt" / "summary.json").exists()
    labels = {name: outcome.labels for name, outcome in second.items() if outcome.labels}
    assert labels == {"plain.tif": {"fall": "A 7"}, "coarse.tif": {"fall": "A 8"}}
    [page] = [page for page in out.glob("nights/*/index.html") if "fall: A 7" in page.read_text()]
    assert "A 8" in (page.parent / "slides.csv").read_text()

    # None of these moves a figure. A file that is gone is written again, as it was.
    (inbox / "slides.csv").write_text("slide,mpp,Fall\nno size.tif,0.5,B\nplain,,B\n")
    (out / "plain" / "tiles.parquet").unlink()
    other = NightConfig.model_validate(
        config.model_dump()
        | {
            "slide": {"backend": "openslide"},
            "grid": config.grid.model_dump() | {"allow_upsampling": True},
            "engine": config.engine.model_dump() | {"batch_size": 2},
            "workers": 1,
        }
    )
    third = a_night(inbox, out, tiny_bundle, other)
    assert ends(third) == {
        "plain.tif": ("scored", ""),
        "coarse.tif": ("left", "done"),
        "no size.tif": ("left", "done"),
        "misspelt.tif": ("left", "done"),
    }
    assert third["plain.tif"].labels == {"fall": "B"}
    assert files_in(out / "plain") == figures

    (inbox / "slides.csv").write_text("slide,mmp\nplain.tif,0.5\n")
    fourth = a_night(inbox, out, tiny_bundle, config)
    assert set(ends(fourth).values()) == {("failed", "ConfigError")}
    assert files_in(out / "plain") == figures


def files_in(folder):
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name not in {".lock", "run.log", "outcome.json"}
    }
