"""Finished results last: no refusal, rerun, kill or damage takes a figure away unnoticed."""

import json
import os
import shutil
from pathlib import Path

import filelock
import numpy as np
import pytest

from tests.helpers.made import write_slide
from wsi_pipeline.bed.outline import BED  # which nothing on these slides suggests
from wsi_pipeline.engine.build import build_engine
from wsi_pipeline.engine.execution import EngineConfig
from wsi_pipeline.errors import (
    ConfigError,
    InUseError,
    MppError,
    OutputError,
    SlideChangedError,
)
from wsi_pipeline.model.bundle import ModelBundle
from wsi_pipeline.scoring import folder as folder_of
from wsi_pipeline.scoring.config import ScoreConfig
from wsi_pipeline.scoring.filing import file_slide
from wsi_pipeline.scoring.pipeline import score_slide, tile_slide
from wsi_pipeline.scoring.rewrite import write_again
from wsi_pipeline.scoring.verify import faults
from wsi_pipeline.slide.files import content_digest
from wsi_pipeline.tiles.grid import GridConfig
from wsi_pipeline.tiles.store import TileStore
from wsi_pipeline.tiles.store_place import StoreConfig

SLIDE = "block.tif"
HERE = StoreConfig()


@pytest.fixture(scope="module")
def engine(tiny_bundle):
    config = EngineConfig(device="cpu", runtime="torch", precision="auto", batch_size=4)
    engine = build_engine(ModelBundle.load(tiny_bundle), config)
    engine.execution = engine.execution.model_copy(update={"precision": "float32"})
    return engine


@pytest.fixture(scope="module")
def config(engine):
    grid = GridConfig(tile_px=64, stride_px=64)
    return ScoreConfig(grid=grid, engine=engine.config, workers=2)


@pytest.fixture(scope="module")
def slide(section, tmp_path_factory):
    return write_slide(tmp_path_factory.mktemp("slides") / SLIDE, section.rgb[256:768, 256:768])


@pytest.fixture(scope="module")
def finished(slide, tmp_path_factory, engine, config):
    out = tmp_path_factory.mktemp("finished")
    score_slide(slide, out, engine, config)
    return out / "block"


@pytest.fixture
def scored(finished, tmp_path):
    """The folder of a finished slide, a copy for each test."""
    return shutil.copytree(finished, tmp_path / "out" / "block")


def changed(config: ScoreConfig, **sections: dict[str, object]) -> ScoreConfig:
    content = config.model_dump()
    for name, values in sections.items():
        content[name] = content[name] | values
    return ScoreConfig.model_validate(content)


def files(folder: Path) -> dict[str, bytes]:
    """All that a finished result is, its store included."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not {".next", ".lock", "run.log"} & set(path.relative_to(folder).parts)
    }


def stop_at(tiles: int):
    def progress(done: int, _total: int) -> None:
        if done >= tiles:
            raise KeyboardInterrupt

    return progress


def no_model(engine, monkeypatch):
    monkeypatch.setattr(engine, "predict", lambda _rgb: pytest.fail("scored again"))


def test_a_refusal_leaves_a_finished_result_whole(scored, slide, tmp_path, engine, config):
    before = files(scored)
    out = tmp_path / "out"
    for refused in (
        changed(config, slide={"mpp": 9.0}),  # not to be believed
        changed(config, slide={"mpp": 1.0}),  # to be enlarged without leave
    ):
        with pytest.raises(MppError):
            score_slide(slide, out, engine, refused)
        assert files(scored) == before
    # No figure with these settings, and the reason is told; the figure that there is stays.
    none = changed(config, tissue={"min_texture": 9.0})
    assert score_slide(slide, out, engine, none).status == "refused"
    assert files(scored) == before
    assert faults(scored, HERE, deep=True) == []


def test_other_settings_leave_the_old_result_whole_until_the_new_one_is(
    scored, slide, tmp_path, engine, config, monkeypatch
):
    out = tmp_path / "out"
    before = files(scored)
    first = json.loads(before["summary.json"])
    other = changed(config, grid={"stride_px": 96})
    with pytest.raises(KeyboardInterrupt):
        score_slide(slide, out, engine, other, stop_at(8))
    assert files(scored) == before
    assert faults(scored, HERE, deep=True) == []

    # Asked as before, there is nothing to do; asked as then, it goes on where it was stopped.
    known = []
    score_slide(slide, out, engine, config, on_known=lambda: known.append(1))
    assert known
    seen = []
    second = score_slide(slide, out, engine, other, lambda done, _total: seen.append(done))
    assert seen[0] >= 8
    assert second.tiles.scored < first["tiles"]["scored"]
    assert faults(scored, HERE, deep=True) == []
    assert not (scored / ".next").exists()
    whole = score_slide(slide, tmp_path / "whole", engine, other)
    assert whole == second
    kept = files(scored)
    aside = {name.split("/")[0] for name in kept if name.startswith("tiles-")}
    assert len(aside) == 1
    assert TileStore(scored / aside.pop()).n_scored == first["tiles"]["scored"]
    assert {name: kept[name] for name in files(tmp_path / "whole" / "block")} == files(
        tmp_path / "whole" / "block"
    )

    # What does not change the scores is not scored again, and the store serves both.
    no_model(engine, monkeypatch)
    third = score_slide(slide, out, engine, changed(other, overlay={"opacity": 0.8}))
    assert third.cellularity == second.cellularity
    assert faults(scored, HERE, deep=True) == []


def test_a_kill_while_results_change_places(scored, slide, tmp_path, engine, config, monkeypatch):
    """At each single move: whoever comes next goes on with it, whatever is asked for."""
    other = changed(config, grid={"stride_px": 128}, overlay={"opacity": 0.8})
    before = files(scored)

    def killed_after(moves, patched):
        """Have the process end at a move of a result's files; count them in a list."""
        done = []

        def of(move):
            def moving(path, target):
                if ".next" not in Path(target).parts and ".partial-" not in str(path):
                    done.append(target)
                    if len(done) > moves:
                        raise KeyboardInterrupt
                return move(path, target)

            return moving

        patched.setattr(Path, "replace", of(Path.replace))
        patched.setattr(Path, "rename", of(Path.rename))
        return done

    with monkeypatch.context() as patched:
        killed_after(0, patched)
        with pytest.raises(KeyboardInterrupt):
            score_slide(slide, tmp_path / "out", engine, other)
    assert files(scored) == before
    [fault] = faults(scored, HERE)
    assert "killed while it moved a result into place" in str(fault)

    for moves in range(99):
        folder = tmp_path / str(moves)
        shutil.copytree(scored, folder)
        with monkeypatch.context() as patched:
            done = killed_after(moves, patched)
            try:
                folder_of.roll_forward(folder)
            except KeyboardInterrupt:
                assert faults(folder, HERE)
            else:
                break
        folder_of.roll_forward(folder)
        assert faults(folder, HERE, deep=True) == []
        assert not (folder / ".next").exists()
        assert files(folder) == files(tmp_path / "0")
    assert len(done) == len(folder_of.OUTPUTS - {BED}) + 3  # two stores and the summary
    summary = score_slide(slide, tmp_path / "out", engine, config)
    assert summary.model_dump(mode="json") == json.loads(before["summary.json"])


def test_damage_is_noticed_and_mended(scored, slide, tmp_path, engine, config, monkeypatch):
    out = tmp_path / "out"
    before = files(scored)
    summary = json.loads(before["summary.json"])
    outputs = {name for name in before if "/" not in name} - {"summary.json"}
    assert set(summary["outputs"]) == outputs == folder_of.OUTPUTS - {BED}
    assert {name: about["size_bytes"] for name, about in summary["outputs"].items()} == {
        name: len(before[name]) for name in outputs
    }

    def flip(path, *, secretly):
        about = path.stat()
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        if secretly:
            os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))

    (scored / "tiles.parquet").unlink()
    (scored / "overlay.tif").write_bytes(before["overlay.tif"][:-1])
    (scored / "overlay.png").unlink()
    (scored / "overlay.png").mkdir()
    flip(scored / "tiles.geojson", secretly=False)
    flip(scored / "cellularity.ome.tiff", secretly=True)
    (scored / "legend.png").touch()  # is read, and well
    found = {fault.path.name: str(fault) for fault in faults(scored, HERE)}
    assert found.keys() == {"tiles.parquet", "overlay.tif", "overlay.png", "tiles.geojson"}
    assert "tiles.parquet: is gone. Run the same `wsi score`" in found["tiles.parquet"]
    deep = {fault.path.name for fault in faults(scored, HERE, deep=True)}
    assert deep == found.keys() | {"cellularity.ome.tiff"}

    (scored / "overlay.png").rmdir()
    with monkeypatch.context() as patched:
        no_model(engine, patched)
        # On another machine too, that would run the model otherwise.
        now = engine.execution.model_copy(update={"precision": "bfloat16", "device": "cuda"})
        patched.setattr(engine, "execution", now)
        again = score_slide(slide, out, engine, config)
    assert again.model_dump(mode="json") == summary
    assert files(scored) == before

    # Without the store they are scored again.
    shutil.rmtree(scored / "tiles.zarr")
    assert faults(scored, HERE, deep=True) == []
    (scored / "tiles.parquet").unlink()
    score_slide(slide, out, engine, config)
    assert files(scored) == before

    # A flipped bit in the store is found, and healed by scoring those tiles alone.
    scores = scored / "tiles.zarr" / "cellularity" / "c" / "0"
    flip(scores, secretly=True)
    [fault] = faults(scored, HERE, deep=True)
    assert fault.path.name == "tiles.zarr"
    (scored / "tiles.parquet").unlink()
    score_slide(slide, out, engine, config)
    assert files(scored) == before
    assert faults(scored, HERE, deep=True) == []

    for lose in (Path.unlink, lambda path: path.write_text('{"status": "sco')):
        lose(scored / "summary.json")
        [fault] = faults(scored, HERE)
        assert fault.path.name == "summary.json"
        score_slide(slide, out, engine, config)
        assert {name: files(scored)[name] for name in before} == before


def test_how_a_finished_result_was_run_does_not_count_but_scores_are_not_mixed(
    scored, slide, tmp_path, engine, config, monkeypatch
):
    now = engine.execution.model_copy(update={"precision": "bfloat16", "device": "cuda"})
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(engine, "execution", now)
        no_model(engine, patched)
        known = []
        for same in (config, changed(config, grid={"allow_upsampling": True})):
            score_slide(slide, out, engine, same, on_known=lambda: known.append(1))
        assert len(known) == 2
    half = tmp_path / "half"
    with pytest.raises(KeyboardInterrupt):
        score_slide(slide, half, engine, config, stop_at(20))
    monkeypatch.setattr(engine, "execution", now)
    seen = []
    score_slide(slide, half, engine, config, lambda done, _total: seen.append(done))
    assert seen[0] == 0


def test_outputs_written_again_are_in_the_summary(scored, slide, config, monkeypatch):
    before = files(scored)
    with filelock.FileLock(scored / ".lock"), monkeypatch.context() as patched:
        patched.setattr(folder_of, "ORPHAN_S", 0.1)
        with pytest.raises(InUseError, match="another run is at work"):
            write_again(scored, config, slide)
    assert files(scored) == before

    write_again(scored, config)
    assert files(scored) == before
    summary = write_again(scored, changed(config, overlay={"opacity": 0.8}), slide)
    after = files(scored)
    assert after["overlay.png"] != before["overlay.png"]
    assert after["tissue.png"] == before["tissue.png"]
    assert summary.provenance.config.overlay.opacity == 0.8
    assert json.loads(after["summary.json"]) == summary.model_dump(mode="json")
    assert faults(scored, HERE, deep=True) == []


def test_tiling_a_finished_slide_otherwise_leaves_it_whole(scored, slide, tmp_path, engine, config):
    before = files(scored)
    other = changed(config, grid={"stride_px": 128})
    store = tile_slide(slide, tmp_path / "out", other)
    assert files(scored) == before
    assert store.path == scored / ".next" / "tiles.zarr"
    assert score_slide(slide, tmp_path / "out", engine, other).status == "scored"
    assert not (scored / ".next").exists()


def test_a_slide_that_changes_while_it_is_scored_gives_no_figure(
    slide, section, tmp_path, engine, config
):
    """Though its size and time of modification are as before."""
    path = tmp_path / SLIDE
    path.write_bytes(slide.read_bytes() + b"behind all that is read")

    def once(change):
        def progress(done: int, _total: int) -> None:
            if done >= 20 and not changes:
                changes.append(change())

        changes = []
        return progress

    def rewrite() -> None:
        about = path.stat()
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))

    with pytest.raises(SlideChangedError, match=r"block\.tif: the file has changed"):
        score_slide(path, tmp_path / "out", engine, config, once(rewrite))
    folder = tmp_path / "out" / "block"
    assert folder_of.read_summary(folder) is None
    assert not list(folder.glob("*.tiff"))
    # Nor do the scores of unknown bytes pass for those of the ones before.
    rewrite()
    seen = []
    summary = score_slide(
        path, tmp_path / "out", engine, config, lambda done, _total: seen.append(done)
    )
    assert seen[0] == 0
    assert summary.provenance.slide.digest == content_digest([str(path)])

    # A digest that the night has from before is of other bytes.
    filed = file_slide(str(path), "digest")
    rewrite()
    with pytest.raises(SlideChangedError, match="since it was looked into"):
        score_slide(filed, tmp_path / "out", engine, config)
    # A touch is no change.
    changed_little = score_slide(path, tmp_path / "b", engine, config, once(path.touch))
    assert changed_little.status == "scored"


def test_a_refused_slide_has_its_pictures_and_no_figure_beside_them(
    make_slide, tmp_path, engine, config
):
    glass = make_slide(np.full((600, 600, 3), 242, np.uint8), name=SLIDE)
    summary = score_slide(glass, tmp_path / "out", engine, config)
    folder = tmp_path / "out" / "block"
    assert set(summary.outputs) == {"thumbnail.png", "tissue-outline.png", "tissue.png"}
    assert faults(folder, HERE, deep=True) == []
    (folder / "summary.json").unlink()
    (folder / "summary.json").mkdir()
    with pytest.raises(OutputError, match=r"summary\.json"):
        score_slide(glass, tmp_path / "out", engine, config)


def outline(path, *corners):
    ring = [*corners, corners[0]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    path.write_text(json.dumps({"type": "Feature", "geometry": geometry, "properties": {}}))
    return path


def test_a_bed_that_somebody_drew_outlives_later_runs(scored, slide, tmp_path, engine, config):
    out = scored.parent
    drawn = outline(tmp_path / "bed.geojson", [40, 40], [400, 60], [380, 420])
    summary = write_again(scored, config, slide, drawn)
    assert summary.bed.source == "drawn"
    before = files(scored)
    known = []
    again = score_slide(slide, out, engine, config, on_known=lambda: known.append(True))
    assert (again, known) == (summary, [True])
    assert files(scored) == before

    other = outline(tmp_path / "other.geojson", [100, 100], [300, 100], [300, 300])
    moved = score_slide(slide, out, engine, config, bed=other)
    assert moved.bed.area_mm2 == pytest.approx(0.5 * 0.1 * 0.1, abs=1e-4)
    assert moved.cellularity == summary.cellularity

    coarser = changed(config, fine_map={"cell_um": 128})
    kept = score_slide(slide, out, engine, coarser)
    assert kept.bed.source == "drawn"
    assert kept.bed.area_mm2 == moved.bed.area_mm2
    assert verify_is_clean(scored)


def test_a_drawn_bed_that_was_changed_by_hand_is_not_taken_for_it(
    scored, slide, tmp_path, engine, config
):
    drawn = outline(tmp_path / "bed.geojson", [40, 40], [400, 60], [380, 420])
    write_again(scored, config, slide, drawn)
    (scored / BED).write_text("{}")
    with pytest.raises(ConfigError, match=r"bed\.geojson: the bed that was drawn .* --bed"):
        score_slide(slide, scored.parent, engine, config)
    assert score_slide(slide, scored.parent, engine, config, bed=drawn).bed.source == "drawn"


def verify_is_clean(folder):
    return faults(folder, HERE, deep=True) == []
