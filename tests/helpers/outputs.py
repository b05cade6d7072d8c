"""How far a slide's folder has come, and whether two of them are the same to the byte."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import zarr

from wsi_pipeline.scoring.folder import NEXT
from wsi_pipeline.tile_data import TileState
from wsi_pipeline.tiles.store import TileStore
from wsi_pipeline.tiles.store_place import STORE_NAME

NOT_COMPARED = {"run.log", ".lock"}
MIDDLE = {"half tiled", "half scored"}


def stage_of(folder: Path) -> tuple[str, int]:
    """Say what a killed run was at, and how many tiles it had scored."""
    if (folder / "summary.json").exists():
        return "finished", 0
    if not (folder / STORE_NAME).exists():
        return "before the store", 0
    store = TileStore(folder / STORE_NAME)
    state = np.concatenate([store.state(shard) for shard in store.shards])
    if (state == TileState.PENDING).all():
        return "empty store", 0
    if (state == TileState.PENDING).any():
        return "half tiled", store.n_scored
    return ("outputs" if store.is_scored else "half scored"), store.n_scored


def files_of(folder: Path) -> dict[str, bytes]:
    """All that two runs over one slide must have in common."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in _compared(folder)}


def assert_same(folder: Path, whole: Path) -> None:
    """Compare all files byte by byte; first the stores' arrays, which say more if they differ."""
    group, expected = (zarr.open_group(at / STORE_NAME, mode="r") for at in (folder, whole))
    assert dict(group.attrs) == dict(expected.attrs)
    assert set(group.array_keys()) == set(expected.array_keys())
    for name, array in expected.arrays():
        np.testing.assert_array_equal(group[name][:], array[:], err_msg=name)
    files, expected_files = files_of(folder), files_of(whole)
    assert files.keys() == expected_files.keys()
    assert [name for name in files if files[name] != expected_files[name]] == []


def assert_whole(folder: Path, whole: Path) -> None:
    """Whatever has its final name is what it will be in the end, also while others write."""
    for path in _compared(folder):
        name = path.relative_to(folder)
        if (
            STORE_NAME in name.parts
            or name.name.startswith(".partial-")
            or name.name == "outcome.json"
        ):
            continue  # the last is there while a slide gives no figure
        final = Path(*(part for part in name.parts if part != NEXT))
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            continue  # moved to its place meanwhile
        assert content == (whole / final).read_bytes(), f"{path} is not whole"


def committed(folder: Path) -> dict[Path, int]:
    """When what is committed was written, in ns: whole slides, and scores of finished shards."""
    if (folder / "summary.json").exists():
        return {
            path: path.stat().st_mtime_ns
            for path in _compared(folder)
            if path.name != "outcome.json"  # goes away a moment after the summary has come
        }
    if not (folder / STORE_NAME / "zarr.json").exists():
        return {}
    store = TileStore(folder / STORE_NAME)
    ends = {TileState.SCORED, TileState.UNREADABLE}
    return {
        path: path.stat().st_mtime_ns
        for number, shard in enumerate(store.shards)
        if set(store.state(shard)) <= ends
        for path in (folder / STORE_NAME / "cellularity" / "c" / str(number),)
    }


def _compared(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in NOT_COMPARED:
            yield path
