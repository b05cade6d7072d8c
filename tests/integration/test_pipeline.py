"""One slide through the whole pipeline, on generated tissue with a small model."""

import json
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import openslide
import pytest
import tifffile
import zarr
from PIL import Image

from tests.helpers.made import damage
from wsi_pipeline.engine.build import build_engine
from wsi_pipeline.errors import (
    ConfigError,
    InUseError,
    MppError,
    OutputError,
    SlideError,
)
from wsi_pipeline.geometry import Mpp
from wsi_pipeline.model.bundle import ModelBundle
from wsi_pipeline.outputs.cellularity_tiff import read_cellularity
from wsi_pipeline.outputs.tile_table import read_parquet
from wsi_pipeline.scoring import folder as folder_of
from wsi_pipeline.scoring.filing import slide_folder
from wsi_pipeline.scoring.pipeline import score_slide, tile_slide
from wsi_pipeline.scoring.rewrite import write_again
from wsi_pipeline.slide.slide import Slide
from wsi_pipeline.tiles.store import TileStore

OUTPUTS = {
    "cellularity-fine.ome.tiff", "cellularity.ome.tiff", "legend.png", "overlay.png",
    "overlay.tif", "report.html", "run.log", "summary.json", "thumbnail.png", "tiles.geojson",
    "tiles.parquet", "tiles.zarr", "tissue-outline.png", "tissue.png",
}  # fmt: skip


@pytest.fixture(scope="module")
def engine(tiny_bundle):
    from wsi_pipeline.engine.execution import EngineConfig

    config = EngineConfig(device="cpu", runtime="torch", precision="float32", batch_size=4)
    return build_engine(ModelBundle.load(tiny_bundle), config)


@pytest.fixture
def slide_path(make_slide, section):
    return make_slide(section.rgb, downsamples=(4,), name="block A1.tif")


def test_from_slide_to_outputs(slide_path, tmp_path, engine, tiny_config):
    seen = []
    summary = score_slide(
        slide_path, tmp_path / "out", engine, tiny_config, lambda *at: seen.append(at)
    )
    folder = tmp_path / "out" / "block A1"
    assert {path.name for path in folder.iterdir() if path.name[0] != "."} == OUTPUTS
    assert json.loads((folder / "summary.json").read_text()) == summary.model_dump(mode="json")

    # Each tile's score is the network's own for the pixels at its place on the slide.
    table, _ = read_parquet(folder / "tiles.parquet")
    network = ModelBundle.load(engine.bundle.source).network()
    import torch

    with Slide.open(slide_path) as slide:
        level_0 = np.asarray(tifffile.imread(slide_path, level=0))
        assert slide.mpp == pytest.approx(0.5)
    for index in range(0, len(table), len(table) // 5):
        x, y = table.l0_xy[index]
        pixels = torch.from_numpy(level_0[y : y + 64, x : x + 64][None])
        with torch.inference_mode():
            assert table.cellularity[index] == pytest.approx(network(pixels).score.item(), abs=1e-5)

    # The map, the table, the store and the summary tell the same story.
    score_map = read_cellularity(folder / "cellularity.ome.tiff")
    assert score_map.cellularity.shape == (16, 16)
    np.testing.assert_array_equal(
        score_map.cellularity[table.m_xy[:, 1], table.m_xy[:, 0]], table.cellularity
    )
    assert np.isfinite(score_map.cellularity).sum() == len(table) == summary.tiles.scored
    assert summary.cellularity.mean == pytest.approx(
        np.average(table.cellularity, weights=table.tissue), abs=1e-5
    )
    store = zarr.open_group(folder / "tiles.zarr", mode="r")
    np.testing.assert_array_equal(store["cellularity"][:], table.cellularity)
    assert not (folder / "tiles.zarr" / "rgb" / "c").exists()  # dropped by default
    assert seen[0] == (0, len(table))
    assert seen[-1] == (len(table), len(table))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)

    mask = np.asarray(Image.open(folder / "tissue.png"))
    assert set(np.unique(mask)) == {0, 255}
    assert mask.shape == (64, 64)
    expected_mm2 = (mask > 0).mean() * (1024 * 0.5 / 1000) ** 2
    assert summary.tissue_area_mm2 == pytest.approx(expected_mm2, abs=1e-4)
    with openslide.OpenSlide(folder / "overlay.tif") as overlay:
        assert float(overlay.properties["openslide.mpp-x"]) >= 0.5
    log = (folder / "run.log").read_text()
    for word in ("tissue", "tiling and scoring", "outputs", "tiles/s", "peak memory"):
        assert word in log


def test_a_finished_slide_is_left_alone_and_another_model_is_not_mixed_in(
    slide_path, tmp_path, engine, tiny_config
):
    out = tmp_path / "out"
    first = score_slide(slide_path, out, engine, tiny_config)
    folder = slide_folder(slide_path, out)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert score_slide(slide_path, out, engine, tiny_config) == first
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {name for name in after if after[name] != before.get(name)} <= {"run.log", ".lock"}

    coarser = tiny_config.model_copy(
        update={"grid": tiny_config.grid.model_copy(update={"stride_px": 128})}
    )
    second = score_slide(slide_path, out, engine, coarser)
    assert second.tiles.tissue < first.tiles.tissue
    aside = [path for path in folder.iterdir() if path.name.startswith("tiles-")]
    assert len(aside) == 1
    assert TileStore(aside[0]).n_scored == first.tiles.scored


def test_kept_tiles_are_the_slides_pixels(slide_path, section, tmp_path, engine, tiny_config):
    keeping = tiny_config.model_copy(update={"keep_tiles": True})
    score_slide(slide_path, tmp_path / "out", engine, keeping)
    store = TileStore(tmp_path / "out" / "block A1" / "tiles.zarr")
    x, y = store.grid.l0_xy[0]
    np.testing.assert_array_equal(
        store.read_pixels(store.shards[0])[0], section.rgb[y : y + 64, x : x + 64]
    )


def test_tile_then_score_reads_nothing_twice(
    slide_path, tmp_path, engine, tiny_config, monkeypatch
):
    out = tmp_path / "out"
    store = tile_slide(slide_path, out, tiny_config)
    assert not store.is_scored
    monkeypatch.setattr(
        "wsi_pipeline.tiles.fill.read_tile", lambda *_args: pytest.fail("read a tile again")
    )
    assert score_slide(slide_path, out, engine, tiny_config).status == "scored"


def test_pixels_damaged_on_disk_are_read_again(slide_path, tmp_path, engine, tiny_config):
    reference = score_slide(slide_path, tmp_path / "whole", engine, tiny_config)
    store = tile_slide(slide_path, tmp_path / "out", tiny_config)
    shard_files = sorted(path for path in (store.path / "rgb" / "c").rglob("*") if path.is_file())
    raw = bytearray(shard_files[1].read_bytes())
    raw[1000] ^= 0xFF
    shard_files[1].write_bytes(raw)
    shard_files[2].unlink()
    assert score_slide(slide_path, tmp_path / "out", engine, tiny_config) == reference


def test_outputs_can_be_written_again_from_the_store(slide_path, tmp_path, engine, tiny_config):
    out = tmp_path / "out"
    score_slide(slide_path, out, engine, tiny_config)
    folder = slide_folder(slide_path, out)
    names = ("cellularity.ome.tiff", "tiles.geojson", "tiles.parquet", "overlay.tif", "overlay.png")
    before = {name: (folder / name).read_bytes() for name in names}
    for name in names:
        (folder / name).unlink()
    write_again(folder, tiny_config, slide_path)
    assert {name: (folder / name).read_bytes() for name in names} == before


def test_a_slide_without_tissue_is_refused_with_its_reason(
    make_slide, tmp_path, engine, tiny_config
):
    glass = np.full((900, 900, 3), 242, np.uint8)
    summary = score_slide(make_slide(glass), tmp_path / "out", engine, tiny_config)
    assert summary.status == "refused"
    assert "no tissue" in summary.reason
    assert summary.cellularity is None
    folder = tmp_path / "out" / "slide"
    assert json.loads((folder / "summary.json").read_text())["status"] == "refused"
    assert (folder / "tissue.png").exists()


def test_too_much_damage_means_no_figure(make_slide, section, tmp_path, engine, tiny_config):
    path = make_slide(section.rgb, compression="jpeg", name="damaged.tif")
    damage(path, 5, 6)
    summary = score_slide(path, tmp_path / "out", engine, tiny_config)
    assert summary.status == "refused"
    assert summary.tiles.unreadable > 0
    assert summary.coverage < 0.9
    lenient = tiny_config.model_copy(update={"min_coverage": 0.1})
    again = score_slide(path, tmp_path / "out", engine, lenient)
    assert again.status == "scored"
    assert "not all tissue scored" in again.quality.flags


def test_a_coarse_slide_needs_leave_to_be_enlarged(
    make_slide, section, tmp_path, engine, tiny_config
):
    path = make_slide(section.rgb[::2, ::2].copy(), mpp=1.0)
    with pytest.raises(MppError, match="--allow-upsampling"):
        score_slide(path, tmp_path / "out", engine, tiny_config)
    assert not (tmp_path / "out" / "slide" / "summary.json").exists()
    grid = tiny_config.grid.model_copy(update={"allow_upsampling": True})
    summary = score_slide(
        path, tmp_path / "out", engine, tiny_config.model_copy(update={"grid": grid})
    )
    assert summary.quality.upsampled
    assert summary.provenance.slide.mpp == pytest.approx(1.0)


def test_two_runs_on_one_slide(slide_path, tmp_path, engine, tiny_config, monkeypatch):
    import filelock

    monkeypatch.setattr(folder_of, "ORPHAN_S", 0.2)
    folder = tmp_path / "out" / "block A1"
    folder.mkdir(parents=True)
    with (
        filelock.FileLock(folder / ".lock"),
        pytest.raises(InUseError, match="another run is at work"),
    ):
        score_slide(slide_path, tmp_path / "out", engine, tiny_config)
    assert score_slide(slide_path, tmp_path / "out", engine, tiny_config).status == "scored"


HOLD = """
import filelock, sys
lock = filelock.FileLock(sys.argv[1])
lock.acquire()
print(flush=True)
sys.stdin.read()
"""


def test_a_killed_runs_lock_is_taken_over(slide_path, tmp_path, engine, tiny_config):
    """By a run that is there before the killed one has quite gone."""
    import filelock

    folder = tmp_path / "out" / "block A1"
    folder.mkdir(parents=True)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, folder / ".lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout.readline()
        with pytest.raises(filelock.Timeout):
            filelock.FileLock(folder / ".lock").acquire(timeout=0)
        threading.Timer(1, holder.kill).start()
        assert score_slide(slide_path, tmp_path / "out", engine, tiny_config).status == "scored"
        assert holder.wait(0) == -signal.SIGKILL


def test_a_full_disk_is_said_and_resumed(slide_path, tmp_path, engine, tiny_config, monkeypatch):
    commit = TileStore.commit_scores
    calls = []

    def full(self, *args):
        calls.append(1)
        if len(calls) > 3:
            raise OSError(28, "No space left on device")
        commit(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(TileStore, "commit_scores", full)
        with pytest.raises(OutputError, match=r"No space left.*goes on from it"):
            score_slide(slide_path, tmp_path / "out", engine, tiny_config)
    assert "No space left" in (tmp_path / "out" / "block A1" / "run.log").read_text()
    assert score_slide(slide_path, tmp_path / "out", engine, tiny_config).status == "scored"


def test_a_bundle_for_other_tiles_is_refused(slide_path, tmp_path, engine, tiny_config):
    grid = tiny_config.grid.model_copy(update={"mpp": Mpp(0.25)})
    with pytest.raises(ConfigError, match="tiny takes tiles of 64 px"):
        score_slide(slide_path, tmp_path, engine, tiny_config.model_copy(update={"grid": grid}))


def test_output_names_stay_in_the_output_folder(tmp_path):
    assert slide_folder("inbox/../../etc/a.svs", tmp_path) == tmp_path / "a"
    assert slide_folder("s3://bucket/folder/b.c.svs", tmp_path) == tmp_path / "b.c"
    for location in ("..", "/", "s3://bucket/..", "...svs"):
        with pytest.raises(SlideError, match="needs a name"):
            slide_folder(location, tmp_path)


def test_copies_of_a_slide_give_the_same_outputs(slide_path, tmp_path, engine, tiny_config):
    """Neither the folder nor the number of reading threads leaves a trace."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    copy = elsewhere / slide_path.name
    shutil.copy(slide_path, copy)
    score_slide(slide_path, tmp_path / "a", engine, tiny_config)
    score_slide(copy, tmp_path / "b", engine, tiny_config.model_copy(update={"workers": 1}))
    for name in OUTPUTS - {"run.log", "tiles.zarr"}:
        a, b = ((tmp_path / side / "block A1" / name).read_bytes() for side in "ab")
        assert a == b, name
