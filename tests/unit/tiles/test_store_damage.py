"""Any file of a store, damaged in any way: the same figures again, or one line that says so."""

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import zarr

from tests.helpers.store_runs import MeanModel, NoisySlide, figures, pixels_of, run
from wsi_pipeline.errors import DamagedStoreError
from wsi_pipeline.tile_data import TileState
from wsi_pipeline.tiles import checked_arrays, store_place
from wsi_pipeline.tiles import store as library
from wsi_pipeline.tiles.store import TileStore

COUNT = 20


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped bit": flip,
    "half of it": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "empty": lambda file: file.write_bytes(b""),
    "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "gone": lambda file: file.unlink(),
}

BEYOND_REPAIR = {"zarr.json", "state/zarr.json", "blur/zarr.json", "pen/zarr.json"}
"""Where a store is set aside and the slide scored anew."""

STAGES = {"finished": None, "half scored": 1}
"""Shards that were scored before the damage."""


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Stores at each stage, and the figures that all come to in the end."""
    folder = tmp_path_factory.mktemp("stores")
    for stage, stop_after in STAGES.items():
        run(folder / stage / "tiles.zarr", COUNT, stop_after=0)
        run(folder / stage / "tiles.zarr", COUNT, stop_after=stop_after)
    finished = TileStore(folder / "finished" / "tiles.zarr")
    half = TileStore(folder / "half scored" / "tiles.zarr")
    assert finished.is_scored
    assert 0 < half.n_scored < COUNT
    return folder, figures(finished), pixels_of(finished)


def believed(path: Path) -> dict[str, bytes] | None:
    """What those read of a store who do not mend it; None if it tells them that they cannot."""
    try:
        store = TileStore(path)
        return figures(store) if store.is_scored else None
    except DamagedStoreError as error:
        message = str(error)
    assert message.startswith(str(path)), message
    assert "\n" not in message
    return None


def cases(*, thoroughly: bool) -> list[tuple[str, str]]:
    """Stages and damages: each file gets all of them, or one in turn."""
    return [(stage, "all" if thoroughly else "in turn") for stage in STAGES]


@pytest.mark.parametrize(
    ("stage", "which"),
    [
        *cases(thoroughly=False),
        *(pytest.param(*case, marks=pytest.mark.long) for case in cases(thoroughly=True)),
    ],
)
def test_damage_is_healed_or_said(stage, which, stores, tmp_path, monkeypatch, caplog):
    for module in (library, checked_arrays):  # takes the time, and changes no byte
        monkeypatch.setattr(module, "flush", lambda *_: None)
    caplog.set_level(logging.WARNING)
    folder, expected, pixels = stores
    whole = folder / stage
    names = sorted(
        file.relative_to(whole / "tiles.zarr").as_posix()
        for file in whole.rglob("*")
        if file.is_file()
    )
    assert len(names) == {"finished": 37, "half scored": 31}[stage]
    for number, name in enumerate(names):
        kinds = list(DAMAGES)
        if which == "in turn":
            kinds = [kinds[(number + (stage == "finished")) % len(kinds)]]
        for kind in kinds:
            here = tmp_path / f"{number} {kind}"
            shutil.copytree(whole, here)
            path = here / "tiles.zarr"
            DAMAGES[kind](path / name)
            assert believed(path) in (None, expected), (name, kind)
            caplog.clear()
            model, slide = MeanModel(), NoisySlide()
            store = run(path, COUNT, model=model, slide=slide)
            assert figures(store) == expected, (name, kind)
            aside = {at.name for at in here.iterdir()} - {"tiles.zarr"}
            assert aside == ({"tiles-unusable.zarr"} if name in BEYOND_REPAIR else set()), name
            assert not aside or "is set aside as tiles-unusable.zarr" in caplog.text
            if stage == "finished" and not aside and name.split("/")[-1] != "zarr.json":
                assert model.tiles <= 8, f"{name}: more than its shard was scored again"
                assert slide.reads <= 8
            scored = stage == "finished" or name.startswith("rgb/c/0/")
            if name.startswith("rgb/c/") and kind != "gone" and scored:
                with pytest.raises(DamagedStoreError, match="rgb of tiles"):
                    pixels_of(store)
            else:
                assert pixels_of(store) == pixels, (name, kind)
            shutil.rmtree(here)


def test_all_that_is_lost_at_once_is_healed(stores, tmp_path, caplog):
    """A chunk of each array, and the grid: the rest is kept."""
    folder, expected, _ = stores
    shutil.copytree(folder / "finished", tmp_path / "x")
    path = tmp_path / "x" / "tiles.zarr"
    for name in ("blur/c/0", "class_fraction/c/0/0", "l0_xy/c/0/0", "tissue/zarr.json"):
        flip(path / name)
    (path / "rgb" / "c" / "1" / "0" / "0" / "0").unlink()
    (path / "cellularity" / "c" / "0").unlink()
    model = MeanModel()
    assert figures(run(path, COUNT, pixels="in memory", model=model)) == expected
    assert model.tiles == 8
    assert "made again from the slide" in caplog.text
    assert "tiles 0 to 7 is damaged or lost" in caplog.text


def test_another_grid_than_the_damaged_one_is_not_believed(stores, tmp_path):
    folder, _, _ = stores
    shutil.copytree(folder / "finished", tmp_path / "x")
    path = tmp_path / "x" / "tiles.zarr"
    flip(path / "tissue" / "c" / "0")
    assert len(run(path, COUNT - 1)) == COUNT - 1
    assert (tmp_path / "x" / "tiles-unusable.zarr").is_dir()


def test_what_is_committed_has_been_flushed_before(tmp_path, monkeypatch):
    """All of a shard's files and the folders that name them, and only then its state."""
    flushed: list[Path] = []
    states: list[set[Path]] = []
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        fsync(descriptor)
        if path.match("state/c/*"):
            states.append(set(flushed))
        flushed.append(path)

    monkeypatch.setattr(store_place.os, "fsync", noting)
    path = tmp_path / "tiles.zarr"
    run(path, 8)
    assert len(states) == 2  # stored, and scored
    for commit, names in zip(
        states,
        (("rgb", "blur", "pen"), ("cellularity", "cellularity_std", "class_fraction")),
        strict=True,
    ):
        for name in names:
            (file,) = (file for file in (path / name / "c").rglob("*") if file.is_file())
            for what in (file, *file.parents):
                if what.is_relative_to(path):
                    assert what in commit, what
    assert path / "state" / "c" in flushed
    assert path / "zarr.json" in states[0]
    assert tmp_path in states[0], "the store's own name"


def test_dropped_pixels_leave_nothing_behind(tmp_path, monkeypatch):
    path = tmp_path / "tiles.zarr"
    store = run(path, COUNT, pixels="until scored")
    zarr.consolidate_metadata(path)
    store = run(path, COUNT, pixels="until scored")
    assert "rgb" in dict(zarr.open_group(path, mode="r").arrays())

    def killed(_path: object) -> None:
        shutil.rmtree(path / "rgb" / "c" / "0")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(library, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            store.drop_pixels()
    model, slide = MeanModel(), NoisySlide()
    run(path, COUNT, pixels="in memory", model=model, slide=slide).drop_pixels()
    assert (model.tiles, slide.reads) == (0, 0)
    assert not (path / "rgb").exists()
    group = zarr.open_group(path, mode="r")
    assert "rgb" not in dict(group.arrays())
    assert group.metadata.consolidated_metadata is None
    with pytest.raises(DamagedStoreError, match="have been dropped"):
        TileStore(path).read_pixels(slice(0, 8))

    # Kept after all: read again, and not scored again.
    kept = run(path, COUNT, pixels="kept", model=model, slide=slide)
    assert (model.tiles, slide.reads) == (0, COUNT)
    assert (kept.state(slice(0, COUNT)) == TileState.SCORED).all()
    assert len(pixels_of(kept)) == COUNT * 8 * 8 * 3


def test_no_pixels_are_stored_where_none_are_wanted(tmp_path):
    store = run(tmp_path / "tiles.zarr", COUNT, pixels="in memory", stop_after=1)
    assert 0 < store.n_scored < COUNT
    slide = NoisySlide()
    again = run(tmp_path / "tiles.zarr", COUNT, pixels="in memory", slide=slide)
    assert again.is_scored
    assert slide.reads == COUNT - store.n_scored
    assert not (tmp_path / "tiles.zarr" / "rgb").exists()
