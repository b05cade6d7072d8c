"""Workers that die, hang or swell: real processes, killed and stopped by real signals."""

import multiprocessing
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from pydantic import ValidationError

from tests.helpers.outputs import stage_of
from wsi_pipeline.engine.build import build_engine
from wsi_pipeline.engine.execution import EngineConfig
from wsi_pipeline.errors import ModelUnavailableError
from wsi_pipeline.model.bundle import ModelBundle
from wsi_pipeline.night.config import CrewConfig
from wsi_pipeline.night.crew import Crew
from wsi_pipeline.night.worker_protocol import Job, Model, Progress, Setup
from wsi_pipeline.scoring.filing import file_slide
from wsi_pipeline.scoring.pipeline import score_slide


@pytest.fixture
def setup(tmp_path, tiny_bundle, tiny_config):
    out = tmp_path / "out"
    out.mkdir()
    return Setup(
        out=out,
        bundle=tiny_bundle,
        source=str(tiny_bundle),
        digest=ModelBundle.load(tiny_bundle).digest,
        config=tiny_config,
    )


@pytest.fixture
def job(make_slide, section):
    location = str(make_slide(section.rgb, downsamples=(4,), name="Müller & Söhne.tif"))
    return Job(file_slide(location, "file"))


def only_worker():
    (worker,) = (
        child
        for child in psutil.Process().children()
        if "wsi_pipeline.night.worker" in child.cmdline()
    )
    return worker


class Following:
    """Keeps what the worker says."""

    def __init__(self):
        self.seen = []

    def __call__(self, event):
        self.seen.append(event)


class SignalOnce(Following):
    """Sends a signal to the worker when it has scored some of a slide's tiles, and not all.

    A worker says once a second how far it is, in which time a fast machine scores them all: so it
    is let go on for some milliseconds at a time, and its store is looked at in between.
    """

    def __init__(self, which, folder):
        super().__init__()
        self.which = which
        self.folder = folder
        self.scored = 0

    def __call__(self, event):
        super().__call__(event)
        if isinstance(event, Progress) and self.scored == 0:
            worker = only_worker()
            while True:
                worker.suspend()
                self.scored = stage_of(self.folder)[1]
                if self.scored > 0:
                    break
                worker.resume()
                time.sleep(0.005)
            assert self.scored < event.total
            worker.send_signal(self.which)
            if self.which != signal.SIGSTOP:
                worker.resume()


def test_a_worker_that_dies_costs_one_try(setup, job, tmp_path, tiny_bundle, tiny_config):
    bad = tmp_path / "bad.svs"
    bad.write_text("no slide")
    with Crew(setup, CrewConfig(slides_at_once=1)) as crew:
        killer = SignalOnce(signal.SIGSEGV, setup.out / job.slide.folder)
        died = crew.score(job, killer)
        assert (died.status, died.kind, died.retry) == ("failed", "WorkerDied", "now")
        assert died.name == "Müller & Söhne.tif"
        assert died.reason.startswith("Müller & Söhne.tif: ")
        assert "SIGSEGV" in died.reason
        assert "Segmentation fault" in died.traceback  # where it was, by Python's fault handler
        assert died.seconds > 0

        # The next slide has a new worker, and a bad one does not end it.
        failed = crew.score(Job(file_slide(str(bad), "file")))
        first = only_worker().pid
        # Scoring by a kept graph needs no torch, and nothing of whoever runs the night.
        loaded = Path(f"/proc/{first}/maps").read_text()
        assert "openvino" in loaded
        assert "libtorch" not in loaded
        assert (failed.status, failed.kind, failed.retry) == ("failed", "SlideError", "never")

        follower = Following()
        scored = crew.score(job, follower)
        assert only_worker().pid == first
        assert scored.status == "scored"
        assert scored.summary.tiles.scored > 100
        steps = [event.step for event in follower.seen if isinstance(event, Model)]
        assert steps == ["wanted", "taken", "released"]
        log = (setup.out / scored.folder / "run.log").read_text()
        assert f"{killer.scored} tiles had been scored by an earlier run" in log
        assert 0 < scored.model_s <= scored.model_until - scored.model_from < scored.seconds
    assert not [
        p for p in psutil.Process().children() if "wsi_pipeline.night.worker" in p.cmdline()
    ]
    engine = build_engine(ModelBundle.load(tiny_bundle), tiny_config.engine)
    here = score_slide(job.slide.location, tmp_path / "here", engine, tiny_config)
    assert scored.summary == here


def test_a_worker_that_hangs_is_given_up(setup, job):
    with Crew(setup, CrewConfig(slides_at_once=1, stall_s=3)) as crew:
        start = time.monotonic()
        stalled = crew.score(job, SignalOnce(signal.SIGSTOP, setup.out / job.slide.folder))
        assert time.monotonic() - start < 60
        assert (stalled.status, stalled.kind, stalled.retry) == ("failed", "Stalled", "never")
        assert "nothing moved for 3 s" in stalled.reason


def test_a_worker_that_takes_too_much_memory_is_given_up(setup, job):
    with Crew(setup, CrewConfig(slides_at_once=1, memory_gib=0.1)) as crew:
        swollen = crew.score(job)
    assert (swollen.kind, swollen.retry) == ("OutOfMemory", "never")
    assert "more than 0.1 GiB" in swollen.reason


def test_a_model_that_cannot_be_used_is_no_slides_outcome(setup, job, tiny_config):
    there = EngineConfig(device="cuda:77")
    wrong = replace(setup, config=tiny_config.model_copy(update={"engine": there}))
    with (
        Crew(wrong, CrewConfig()) as crew,
        pytest.raises(ModelUnavailableError, match="There is no device 'cuda:77'"),
    ):
        crew.score(job)
    with (
        Crew(replace(setup, digest="0" * 64), CrewConfig()) as crew,
        pytest.raises(ModelUnavailableError, match="no longer the model that the night began with"),
    ):
        crew.score(job)


def test_a_pseudonym_hides_the_name_in_results_and_messages(setup, job, tmp_path):
    """Also where the message is about the file."""
    config = setup.config.model_copy(update={"names": "digest"})
    bad = tmp_path / "Doe John 1950.svs"
    bad.write_bytes(b"II*\0" + bytes(100))
    with Crew(replace(setup, config=config), CrewConfig(slides_at_once=1)) as crew:
        outcomes = [
            crew.score(Job(file_slide(where, "digest"))) for where in (str(bad), job.slide.location)
        ]
    assert [outcome.status for outcome in outcomes] == ["failed", "scored"]
    for outcome in outcomes:
        assert outcome.name == outcome.folder == f"slide-{outcome.slide_digest[:16]}"
        assert (setup.out / outcome.folder).is_dir()
    assert outcomes[0].reason.startswith(outcomes[0].name)
    told = "".join(outcome.model_dump_json() for outcome in outcomes).encode()
    written = [path for path in setup.out.rglob("*") if path.is_file()]
    assert len(written) > 10
    for secret in ("Doe", "Söhne", "Müller", str(tmp_path)):
        assert secret.encode() not in told
        assert [p for p in written if secret.encode() in p.read_bytes()] == []
        assert [p for p in written if secret in str(p.relative_to(setup.out))] == []


def test_a_worker_hears_of_the_end_while_it_is_loading():
    ours, its = multiprocessing.Pipe()
    loading = [
        sys.executable,
        "-X",
        "importtime",
        "-m",
        "wsi_pipeline.night.worker",
        str(its.fileno()),
        "",
    ]
    with its:
        worker = subprocess.Popen(
            loading, stderr=subprocess.PIPE, text=True, pass_fds=[its.fileno()]
        )
    ours.close()
    _, imported = worker.communicate(timeout=60)
    # Libraries are named when they are loaded: it did not come to that.
    assert "wsi_pipeline" in imported
    assert "wsi_pipeline.scoring.pipeline" not in imported


def test_each_device_has_a_model_of_its_own(setup, make_slide, section):
    """Two CPUs stand in for two GPUs: what is counted is who holds which model when."""
    slow = setup.config.engine.model_copy(update={"views": 8, "batch_size": 1})
    setup = replace(setup, config=setup.config.model_copy(update={"engine": slow}))
    rgb = np.ascontiguousarray(section.rgb[:400, :400])
    jobs = [
        Job(file_slide(str(make_slide(rgb, downsamples=(4,), name=name)), "file"))
        for name in ("a.tif", "b.tif")
    ]
    for devices, shared in ((("cpu", "cpu"), False), ((), True)):
        config = CrewConfig(slides_at_once=1 if devices else 2, devices=devices)
        assert config.workers == 2
        out = setup.out / ("one" if shared else "each")
        out.mkdir()
        with Crew(replace(setup, out=out), config) as crew, ThreadPoolExecutor(2) as pool:
            first, second = pool.map(crew.score, jobs)
        assert (first.status, second.status) == ("scored", "scored")
        apart = first.model_until <= second.model_from or second.model_until <= first.model_from
        assert apart == shared


def test_devices_of_two_kinds_are_refused():
    with pytest.raises(ValidationError, match="unlike each other"):
        CrewConfig(devices=("cuda:0", "cpu"))
    assert CrewConfig(devices=("cuda:0", "cuda:1"), slides_at_once=2).workers == 4
