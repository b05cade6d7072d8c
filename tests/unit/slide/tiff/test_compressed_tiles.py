"""Placement, caching and fallbacks of tiles; `test_jpeg.py` has their pixels."""

import io
import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.jpeg_tiles import write_jpeg_slide
from wsi_pipeline.errors import SlideError
from wsi_pipeline.geometry import Box, Mpp, Size
from wsi_pipeline.slide.pyramid import View
from wsi_pipeline.slide.resample import area_mean
from wsi_pipeline.slide.slide import Slide
from wsi_pipeline.slide.tiff import compressed_tiles
from wsi_pipeline.slide.tiff.compressed_tiles import SharedFile, TiledLevels
from wsi_pipeline.slide.tiff.jpeg import ShrinkingDecoder
from wsi_pipeline.tiles.fill import fill
from wsi_pipeline.tiles.grid import GridConfig, tile_grid
from wsi_pipeline.tiles.store import TileStore

TILE, WIDTH, HEIGHT = 64, 301, 203


def opened(path):
    tiff = tifffile.TiffFile(path)
    pages = [level.pages[0] for level in tiff.series[0].levels]
    return TiledLevels(pages, SharedFile(path.open("rb"))), pages


@pytest.fixture(scope="module")
def made(tmp_path_factory, tissue_like):
    """A slide, and each of its sizes pasted together from tiles decoded one by one."""
    path = tmp_path_factory.mktemp("slide") / "slide.tif"
    rgb = cv2.GaussianBlur(tissue_like(HEIGHT, WIDTH), (0, 0), 1.5)
    write_jpeg_slide(path, rgb, "420", tile=TILE)
    levels, (page,) = opened(path)
    decoder, whole = ShrinkingDecoder.of(page), {}
    for shrink in (1, 2, 4, 8):
        side = TILE // shrink
        whole[shrink] = np.zeros((-(-HEIGHT // TILE) * side, -(-WIDTH // TILE) * side, 3), np.uint8)
        for index in range(len(page.dataoffsets)):
            segment = levels._segment(page, index)
            tile = (
                page.decode(segment, index)[0][0]
                if shrink == 1
                else decoder.decode(segment, shrink)
            )
            row, column = divmod(index, -(-WIDTH // TILE))
            spot = np.s_[row * side : row * side + side, column * side : column * side + side]
            whole[shrink][spot] = tile
    return path, whole


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_box_is_cut_from_all_tiles_pasted_together(made, data):
    path, whole = made
    levels, _ = opened(path)
    shrink = data.draw(st.sampled_from((1, *levels.shrinks[0])))
    width, height = WIDTH // shrink, HEIGHT // shrink
    for _ in range(3):
        x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
        box = Box(x, y, data.draw(st.integers(1, width - x)), data.draw(st.integers(1, height - y)))
        np.testing.assert_array_equal(
            levels.read(0, box, shrink), whole[shrink][box.y : box.bottom, box.x : box.right]
        )


@settings(max_examples=40, deadline=None)
@given(st.integers(-40, WIDTH), st.integers(-40, HEIGHT), st.sampled_from((2, 4, 8)))
def test_a_slide_is_read_where_it_is(made, x, y, shrink):
    """The area mean of level 0 is the same place, whatever way it was come by."""
    path, _ = made
    with Slide.open(path) as slide, Slide.open(path, backend="openslide") as other:
        box, size = Box(x, y, 20 * shrink, 12 * shrink), Size(20, 12)
        assert slide.view_for(shrink).shrink == shrink
        assert other.view_for(shrink) == View(0, 1, Size(WIDTH, HEIGHT), 1.0)
        ours, theirs = (each.read(box, size).astype(int) for each in (slide, other))
        inside = box.intersection(Box(0, 0, WIDTH // shrink * shrink, HEIGHT // shrink * shrink))
        seen = np.s_[
            (inside.y - y) // shrink + 2 : (inside.bottom - y) // shrink - 2,
            (inside.x - x) // shrink + 2 : (inside.right - x) // shrink - 2,
        ]
        if ours[seen].size:
            assert np.abs(ours[seen] - theirs[seen]).mean() < 6


def test_a_level_of_the_file_wins(make_slide, tissue_like):
    path = make_slide(tissue_like(1024, 1024), compression="jpeg", downsamples=(4,))
    with Slide.open(path) as slide:
        assert [level.downsample for level in slide.levels] == [1, 4]
        found = {view.downsample: (view.level, view.shrink) for view in slide._views}
        assert found == {1: (0, 1), 2: (0, 2), 4: (1, 1), 8: (1, 2), 16: (1, 4), 32: (1, 8)}
        assert slide.view_for(1.9).downsample == 1
        assert slide.view_for(1.91).downsample == 2
        assert slide.view_for(3.9).level == 1
    with Slide.open(make_slide(tissue_like(300, 300), name="other.tif")) as slide:
        assert [view.shrink for view in slide._views] == [1]


@pytest.mark.parametrize("workers", [1, 4])
def test_each_compressed_tile_is_decoded_once_by_all_threads(
    tmp_path, tissue_like, monkeypatch, workers
):
    """Patches of 4.1 tiles: without a cache, half of the tiles would be decoded twice or more."""
    path = tmp_path / "slide.tif"
    write_jpeg_slide(path, tissue_like(1100, 1300), "444", tile=32, mpp=0.25)
    decoded, read = Counter(), Counter()
    decode, read_at = ShrinkingDecoder.decode, SharedFile.read_at
    lock = threading.Lock()

    def counting(decoder, segment, shrink):
        with lock:
            decoded[segment, shrink] += 1
        return decode(decoder, segment, shrink)

    def noting(file, offset, count):
        with lock:
            read[offset] += 1
        return read_at(file, offset, count)

    monkeypatch.setattr(ShrinkingDecoder, "decode", counting)
    monkeypatch.setattr(SharedFile, "read_at", noting)
    with Slide.open(path) as slide:
        config = GridConfig(tile_px=66, stride_px=66, min_tissue=0)
        grid = tile_grid(slide.l0_bounds, slide.mpp, np.ones((8, 8), bool), config, slide.name)
        store = TileStore.create(tmp_path / "tiles.zarr", grid, tile_px=66, tiling={})
        with fill(slide, store, workers=workers, pixels="kept") as shards:
            assert len(list(shards)) == len(store.shards)
    assert len(read) == -(-1100 // 32) * -(-1300 // 32)
    assert set(read.values()) == {1}
    assert {shrink for _, shrink in decoded} == {2}
    assert decoded.total() == len(read)


def overwrite(path, index, change):
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        offset, count = page.dataoffsets[index], page.databytecounts[index]
    with path.open("r+b") as file:
        file.seek(offset)
        old = file.read(count)
        file.seek(offset)
        file.write(change(old)[:count])


@pytest.fixture
def path(tmp_path, tissue_like):
    path = tmp_path / "slide.tif"
    write_jpeg_slide(path, cv2.GaussianBlur(tissue_like(256, 256), (0, 0), 1.5), "444", tile=TILE)
    return path


def test_what_the_shrinking_decoder_refuses_goes_the_general_way(path):
    """libjpeg warns of data missing at a tile's end and goes on: so do all other slide readers."""
    overwrite(path, 5, lambda old: old[:-30] + b"\xff\xd9" + bytes(28))
    levels, (page,) = opened(path)
    with pytest.raises(ValueError, match="premature end"):
        ShrinkingDecoder.of(page).decode(levels._segment(page, 5), 2)
    whole = page.decode(levels._segment(page, 5), 5)[0][0]
    shrunk = levels.read(0, Box(32, 32, 32, 32), 2)
    np.testing.assert_array_equal(shrunk, area_mean(np.asarray(whole), 2, 2))


@pytest.mark.parametrize("shrink", [1, 2, 8])
def test_what_cannot_be_decoded_is_asked_for_elsewhere(path, shrink):
    overwrite(path, 5, lambda old: bytes(len(old)))
    levels, _ = opened(path)
    box = Box(0, 0, 256 // shrink, 256 // shrink)
    with pytest.raises(Exception, match=r".+"):
        levels.read(0, box, shrink)
    asked = []

    def rescue(level, whole_box):
        asked.append((level, whole_box))
        return np.full((TILE, TILE, 3), 7, np.uint8)

    levels.rescue = rescue
    found = levels.read(0, box, shrink)
    np.testing.assert_array_equal(levels.read(0, box, shrink), found)
    assert asked == [(0, Box(TILE, TILE, TILE, TILE))]  # in its own pixels, once
    side = TILE // shrink
    assert (found[side : 2 * side, side : 2 * side] == 7).all()


def test_what_is_lost_is_asked_for_once_and_costs_only_itself(path):
    for index in (5, 6):
        overwrite(path, index, lambda old: bytes(len(old)))
    levels, _ = opened(path)
    asked = []

    def rescue(level, whole_box):
        asked.append(whole_box)
        raise ValueError("nor here")

    levels.rescue = rescue
    for _ in range(2):
        for shrink in (1, 2):
            with pytest.raises(compressed_tiles.LostTileError, match="tile 5 of its directory 0"):
                levels.read(0, Box(0, 0, 256 // shrink, 256 // shrink), shrink)
    assert len(asked) == 2
    assert levels.read(0, Box(0, 0, 32, 32), 2).std() > 0


def test_through_a_slide_damage_is_what_it_was(path):
    overwrite(path, 5, lambda old: bytes(len(old)))
    with Slide.open(path) as slide:
        assert slide.view_for(2).shrink == 2
        with pytest.raises(SlideError, match="of level 0 at 1/2 cannot be decoded"):
            slide.read(Box(64, 64, 64, 64), Size(32, 32))
        assert slide.read(Box(128, 64, 64, 64), Size(32, 32)).std() > 0
        thumbnail = slide.thumbnail(Mpp(1.0))
        assert (thumbnail[17:31, 17:31] == 255).all()
        assert not (thumbnail[:, 33:] == 255).all(axis=2).any()


def test_files_are_read_at_once_where_that_is_possible(tmp_path):
    content = np.random.default_rng(0).bytes(1 << 16)
    (tmp_path / "a").write_bytes(content)
    places = [(int(at), 777) for at in np.random.default_rng(1).integers(0, len(content), 500)]
    for source in ((tmp_path / "a").open("rb"), io.BytesIO(content)):
        with source as file, ThreadPoolExecutor(8) as pool:
            shared = SharedFile(file)
            assert shared._is_local == (hasattr(os, "pread") and not isinstance(file, io.BytesIO))
            parts = pool.map(lambda place, shared=shared: shared.read_at(*place), places)
            assert list(parts) == [content[at : at + count] for at, count in places]
        with pytest.raises(ValueError, match="closed"):
            shared.read_at(0, 1)
