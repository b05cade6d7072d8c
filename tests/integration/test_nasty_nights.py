"""Nights in which much is wrong at once: each fault costs its slide at most, and the page is there.

Real processes throughout; what dies is killed, what is in the way lies there.
"""

import csv
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from tests.helpers.made import save_tiny_bundle, write_slide
from wsi_pipeline.errors import OutputError
from wsi_pipeline.night import crew as crew_module
from wsi_pipeline.night import digest_cache
from wsi_pipeline.night.config import CrewConfig, InboxConfig
from wsi_pipeline.night.plan import Cohort, plan
from wsi_pipeline.night.run import NightRun
from wsi_pipeline.night.worker_protocol import Job, Model


@pytest.fixture
def config(tiny_config):
    return tiny_config.model_copy(
        update={
            "inbox": InboxConfig(quiet_s=0, look_again_s=0),
            "crew": CrewConfig(slides_at_once=1, retries=1, retry_after_s=0),
        }
    )


@pytest.fixture
def inbox(tmp_path):
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


@pytest.fixture
def slides(inbox, section):
    """Write small slides that are told apart."""
    made = []

    def make(*names: str) -> None:
        for name in names:
            made.append(name)
            rgb = np.roll(section.rgb[:320, :320], 7 * len(made), axis=1)
            write_slide(inbox / name, np.ascontiguousarray(rgb))

    return make


def rows(page: Path) -> dict[str, dict[str, str]]:
    with (page.parent / "slides.csv").open(encoding="utf-8-sig", newline="") as file:
        return {row["slide"]: row for row in csv.DictReader(file)}


def a_night(inbox, out, bundle, config, follow=None, **options):
    run = (Cohort.prepare(str(inbox), out, str(bundle), config, **options),)
    with NightRun(*run) if follow is None else NightRun(*run, follow) as night:
        for _ in night:
            pass
    return night


def workers(of: psutil.Process | None = None) -> list[psutil.Process]:
    found = []
    for child in (of or psutil.Process()).children(recursive=True):
        with suppress(psutil.Error):  # it is dying
            if "wsi_pipeline.night.worker" in child.cmdline():
                found.append(child)
    return found


def test_whatever_lies_in_the_way_costs_its_slide_at_most(
    inbox, slides, tmp_path, tiny_bundle, config
):
    out = inbox / "results"  # within the inbox, and no part of it
    slides("good.tif", "nights.tif", "garbage.tif", "attributes.tif", "piped store.tif")
    for name in (" .svs", "file.svs", "summary.svs", "outcome.svs", "loop.svs", "pipe.svs"):
        (inbox / name).write_text(f"no slide, but it has a digest: {name}")
    (inbox / "a folder.svs").mkdir()
    os.mkfifo(inbox / "fifo.svs")
    (inbox / "circle.svs").symlink_to("circle.svs")
    (inbox / "gone.svs").symlink_to("nowhere.svs")

    for name in ("summary/summary.json", "outcome/outcome.json", ".model.lock"):
        (out / name).mkdir(parents=True)
    (out / "file").write_text("where a folder should be")
    (out / "loop").symlink_to("loop")
    for name in ("pipe/summary.json", "piped store/tiles.zarr/zarr.json"):
        (out / name).parent.mkdir(parents=True)
        os.mkfifo(out / name)
    (out / "garbage").mkdir()
    (out / "garbage" / "summary.json").write_bytes(b"\x00\xff garbage")
    (out / "garbage" / "outcome.json").write_bytes(b"{}")
    (out / "attributes" / "tiles.zarr").mkdir(parents=True)
    (out / "attributes" / "tiles.zarr" / "zarr.json").write_text(
        '{"zarr_format": 3, "node_type": "group", "attributes": {"schema_version": "x"}}'
    )
    (out / "nights").write_text("where a folder should be")
    (out / ".digests").write_bytes(b"damaged\n" * 100)

    night = a_night(inbox, out, tiny_bundle, config)

    ends = {name: (row["status"], row["kind"]) for name, row in rows(night.page).items()}
    assert ends.pop("attributes.tif") in {("scored", ""), ("failed", "StoreError")}
    assert ends == {
        "good.tif": ("scored", ""),
        "nights.tif": ("scored", ""),
        "garbage.tif": ("scored", ""),
        "piped store.tif": ("failed", "OutputError"),
        " .svs": ("failed", "SlideError"),
        "file.svs": ("failed", "OutputError"),
        "summary.svs": ("failed", "OutputError"),
        "outcome.svs": ("failed", "OutputError"),
        "loop.svs": ("failed", "OutputError"),
        "pipe.svs": ("failed", "OutputError"),
        "fifo.svs": ("failed", "SlideError"),
        "circle.svs": ("failed", "SlideError"),
        "gone.svs": ("failed", "SlideError"),
    }
    for name, row in rows(night.page).items():
        if row["status"] == "failed":
            assert name in row["reason"] or row["folder"] in row["reason"], row
            assert "Traceback" not in row["reason"]
    assert "named pipe" in rows(night.page)["fifo.svs"]["reason"]
    assert night.page.parent.parent.name == "nights-2"

    again = a_night(inbox, out, tiny_bundle, config)

    assert again.page != night.page
    assert rows(again.page)["good.tif"]["kind"] == "done"
    assert rows(again.page)["nights.tif"]["kind"] == "done"
    assert len(rows(again.page)) == len(rows(night.page))


def test_a_folder_for_results_that_cannot_be(inbox, tmp_path, tiny_bundle, config):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="choose another --out"):
        a_night(inbox, tmp_path / "file" / "out", tiny_bundle, config)


def test_a_night_has_one_model_and_goes_on_without_it(inbox, slides, tmp_path, tiny_bundle, config):
    first, second = tmp_path / "models" / "1", tmp_path / "models" / "2"
    shutil.copytree(tiny_bundle, first)
    save_tiny_bundle(second, seed=1)
    current = tmp_path / "models" / "current"
    current.symlink_to("1")
    slides("a.tif", "b.tif", "c.tif", "d.tif")

    def follow(job, attempt):
        name = job.slide.name
        if name == "b.tif":  # another one is promoted, and a new worker is needed
            current.unlink()
            current.symlink_to("2")
        if name == "c.tif":
            shutil.rmtree(first, ignore_errors=True)
        for worker in workers():
            worker.kill()
            worker.wait()
        return attempt(lambda _event: None)

    night = a_night(inbox, tmp_path / "out", current, config, follow)

    ends = {outcome.name: outcome for outcome in night.report.outcomes}
    digests = {ends[name].summary.provenance.bundle.digest for name in ("a.tif", "b.tif")}
    assert len(digests) == 1
    for name in ("c.tif", "d.tif"):
        assert (ends[name].status, ends[name].kind) == ("failed", "ModelUnavailableError")
        assert "there is no such folder" in ends[name].reason
        assert ends[name].retry != "never"  # nothing was said of the slide
    assert night.report.is_whole
    assert not workers()


def test_a_model_that_does_not_load_is_given_up(
    inbox, slides, tmp_path, tiny_bundle, config, monkeypatch
):
    slides("a.tif", "b.tif")
    monkeypatch.setattr(crew_module, "LOADED_WITHIN_S", 0.01)
    night = a_night(inbox, tmp_path / "out", tiny_bundle, config)
    for outcome in night.report.outcomes:
        assert (outcome.status, outcome.kind) == ("failed", "ModelUnavailableError")
        assert "not loaded within" in outcome.reason
    assert set(rows(night.page)) == {"a.tif", "b.tif"}
    assert not workers()


def test_a_slide_that_cannot_be_read_to_its_end_holds_nothing_up(
    inbox, tmp_path, tiny_bundle, config, monkeypatch
):
    """As where a network drive hangs: the night is told, and goes on to the next slide."""
    (inbox / "stuck.svs").write_text("a drive hangs in the middle of it")
    (inbox / "text.svs").write_text("no slide")
    digest_of = digest_cache.content_digest

    def hang(files, moved):
        if "stuck" in files[0]:
            threading.Event().wait()
        return digest_of(files, moved)

    monkeypatch.setattr(digest_cache, "content_digest", hang)
    soon = config.model_copy(update={"crew": CrewConfig(stall_s=0.2)})
    cohort = Cohort.prepare(str(inbox), tmp_path / "out", str(tiny_bundle), soon)
    steps = {Path(location).name: step for location, step in plan(cohort, cohort.look())}
    stuck = steps["stuck.svs"]
    assert (stuck.status, stuck.kind) == ("failed", "SlideUnavailableError")
    assert "nothing moved for 0.2 s" in stuck.reason
    assert isinstance(steps["text.svs"], Job)


def test_a_slide_that_kills_its_reader_is_left_alone_afterwards(
    inbox, slides, tmp_path, tiny_bundle, config
):
    slides("deadly.tif", "ended.tif")
    tries = []

    def follow(job, attempt):
        name = job.slide.name
        # What somebody else ends says nothing of the slide.
        number = {"deadly.tif": signal.SIGSEGV, "ended.tif": signal.SIGTERM}[name]

        def on_event(event):
            if isinstance(event, Model) and (name == "deadly.tif" or tries.count(name) == 1):
                for worker in workers():
                    worker.send_signal(number)

        tries.append(name)
        return attempt(on_event)

    def ends(**options):
        night = a_night(inbox, tmp_path / "out", tiny_bundle, config, follow, **options)
        return {o.name: (o.status, o.kind, o.retry) for o in night.report.outcomes}

    first = ends()
    assert first["deadly.tif"] == ("failed", "WorkerDied", "never")
    assert first["ended.tif"][0] == "scored"
    assert tries == ["deadly.tif", "ended.tif"] * 2
    tries.clear()
    assert ends()["deadly.tif"][:2] == ("left", "failed before")
    assert tries == []
    assert ends(again=True)["deadly.tif"][:2] == ("failed", "WorkerDied")
    assert tries == ["deadly.tif", "deadly.tif"]


def test_ctrl_c_and_a_stopping_service_end_a_night_with_its_page(
    inbox, section, tmp_path, tiny_bundle, config
):
    write_slide(inbox / "large.tif", np.tile(section.rgb, (2, 2, 1)))
    (inbox / "later.svs").write_text("its turn does not come")
    out = tmp_path / "out"
    slow = config.model_copy(update={"grid": config.grid.model_copy(update={"stride_px": 16})})
    file = tmp_path / "score.yaml"
    file.write_text(yaml.safe_dump(slow.model_dump(mode="json")))
    command = [sys.executable, "-c", "from wsi_pipeline.cli import main; main()", "cohort"]
    options = [str(inbox), "--out", str(out), "--bundle", str(tiny_bundle), "--config", str(file)]

    for number in (signal.SIGINT, signal.SIGTERM):
        before = scored_at(out)
        night = subprocess.Popen(
            [*command, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        while scored_at(out) == before:
            assert night.poll() is None, night.communicate()[0]
            time.sleep(0.1)
        at_work = workers(psutil.Process(night.pid))
        assert at_work
        start = time.monotonic()
        # A terminal's Ctrl-C goes to all processes of its group.
        os.killpg(night.pid, number) if number == signal.SIGINT else night.send_signal(number)
        said, _ = night.communicate(timeout=120)
        # A second, on a machine with nothing else to do; the page waits for the disk.
        assert time.monotonic() - start < 100
        assert night.returncode == 128 + number, said
        assert "Traceback" not in said
        assert not psutil.wait_procs(at_work, timeout=5)[1]
        page = max((out / "nights").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        found = rows(page / "index.html")
        assert {name: (row["status"], row["kind"]) for name, row in found.items()} == {
            "large.tif": ("left", "ended"),
            "later.svs": ("left", "ended"),
        }
        assert "The night was ended" in found["large.tif"]["reason"]
        assert "This night was ended before it was through" in (page / "index.html").read_text()
        assert not list(out.rglob("outcome.json"))


def scored_at(out: Path) -> int:
    """When the last scores were committed."""
    states = out.glob("large/tiles.zarr/cellularity/c/*")
    return max((path.stat().st_mtime_ns for path in states), default=0)
