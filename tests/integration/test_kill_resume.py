"""`wsi score`, killed at random moments and given again, ends as if nothing had happened.

The process is the command's own, killed by SIGKILL: nothing is caught, flushed or tidied. It is
forked from a server that has imported everything, so that the whole of its life is work.
"""

import logging
import random
import sys
from collections import Counter
from pathlib import Path

import cv2
import pytest
import yaml

from tests.helpers.killing import run_and_kill, server_of
from tests.helpers.outputs import MIDDLE, assert_same, stage_of
from wsi_pipeline import cli
from wsi_pipeline.tiles.store import TileStore

log = logging.getLogger(__name__)

KILLS = 12
KILLS_IN_ONE_FOLDER = 5
KILL = "seed %d: killed after %.2f of %.2f s: %s, %d tiles scored"


@pytest.fixture(scope="module")
def server():
    return server_of(
        "wsi_pipeline.scoring.pipeline",
        "wsi_pipeline.engine.torch_engine",
        "wsi_pipeline.model.weights",
    )


@pytest.fixture
def command(make_slide, section, tiny_bundle, tmp_path):
    """The arguments of `wsi score` without --out: a slide of 177 tiles that takes its time."""
    fine = cv2.resize(section.rgb, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    slide = make_slide(fine, mpp=0.25, downsamples=(4, 16), compression="jpeg")
    config = tmp_path / "score.yaml"
    engine = {"device": "cpu", "runtime": "torch", "precision": "float32", "batch_size": 4}
    grid = {"tile_px": 64, "stride_px": 64}
    config.write_text(yaml.safe_dump({"grid": grid, "engine": engine, "workers": 2}))
    return ["score", str(slide), "--bundle", str(tiny_bundle), "--config", str(config)]


@pytest.fixture
def run(server, command, monkeypatch, caplog):
    """Run the command into a folder, and kill it after some seconds; return how long it ran."""
    caplog.set_level(logging.INFO)  # shown if the test fails

    def run(out: Path, *options: str, kill_after: float | None = None) -> float:
        monkeypatch.setattr(sys, "argv", ["wsi", *command, "--out", str(out), *options])
        return run_and_kill(server.Process(target=cli.main), kill_after)

    return run


def test_a_killed_run_goes_on_to_the_same_end(run, tmp_path):
    """Kills spread over the whole of a run, each in a folder of its own."""
    seconds = run(tmp_path / "whole", "--keep-tiles")
    whole = tmp_path / "whole" / "slide"
    tiles = TileStore(whole / "tiles.zarr").n_scored
    seed = random.SystemRandom().randrange(1 << 32)
    rng = random.Random(seed)
    hit: Counter[str] = Counter()
    for number in range(KILLS):
        delay = (number + rng.random()) / KILLS * seconds
        out = tmp_path / f"killed {number}"
        folder = out / "slide"
        run(out, "--keep-tiles", kill_after=delay)
        stage, scored = stage_of(folder)
        hit[stage] += 1
        log.info(KILL, seed, delay, seconds, stage, scored)
        run(out, "--keep-tiles")
        assert_same(folder, whole)
        if scored:
            text = (folder / "run.log").read_text()
            assert text.count(f" {scored} tiles had been scored by an earlier run") == 1
            assert text.count(f" {tiles - scored} tiles scored,") == 1
    log.info("%s", dict(hit))
    assert len(hit) >= 3
    assert sum(hit[stage] for stage in MIDDLE) >= 2


def test_a_run_killed_again_and_again(run, tmp_path):
    """Kills in the same folder, until the run is left alone."""
    seconds = run(tmp_path / "whole")
    seed = random.SystemRandom().randrange(1 << 32)
    rng = random.Random(seed)
    folder = tmp_path / "killed" / "slide"
    hit: Counter[str] = Counter()
    most_scored = 0
    for _ in range(KILLS_IN_ONE_FOLDER):
        delay = rng.uniform(0.25, 0.55) * seconds
        run(tmp_path / "killed", kill_after=delay)
        stage, scored = stage_of(folder)
        hit[stage] += 1
        log.info(KILL, seed, delay, seconds, stage, scored)
        assert scored >= most_scored or stage == "finished"
        most_scored = max(scored, most_scored)
    run(tmp_path / "killed")
    assert sum(hit[stage] for stage in MIDDLE) >= 1
    assert_same(folder, tmp_path / "whole" / "slide")
