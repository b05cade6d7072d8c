"""A slide that is away, told from one that is damaged: at opening, while reading, and by S3."""

import errno
import os
import threading
from pathlib import Path

import fsspec
import numpy as np
import pytest

from tests.helpers.made import damage
from tests.helpers.object_store import serve_objects
from wsi_pipeline.errors import SlideError, SlideUnavailableError
from wsi_pipeline.geometry import Box, Mpp, Size
from wsi_pipeline.slide.access import is_away, one_line
from wsi_pipeline.slide.readers import choose
from wsi_pipeline.slide.rescue import RescuingReader
from wsi_pipeline.slide.slide import Slide
from wsi_pipeline.slide.tiff import compressed_tiles
from wsi_pipeline.tiles.fill import read_shard
from wsi_pipeline.tiles.grid import GridConfig, tile_grid

BACKENDS = ("openslide", "tiffslide")
BOX, SIZE = Box(300, 300, 128, 128), Size(128, 128)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def path(make_slide, tissue_like):
    return make_slide(tissue_like(512, 768), compression="jpeg")


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT])
def test_a_drive_that_is_away_at_opening(path, monkeypatch, code):
    def fail(*_args, **_options):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "stat", fail)
    with pytest.raises(SlideUnavailableError, match=r"slide\.tif: cannot be reached now.*again"):
        Slide.open(path)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_file_that_vanishes_while_it_is_read(path, backend, monkeypatch):
    with Slide.open(path, backend=backend) as slide:
        slide.read(BOX, SIZE)
        path.unlink()
        # The handle at hand still reads; one that has to be opened anew does not.
        monkeypatch.setattr(
            slide._reader._shared._lease.reader, "read_level", _raise(ValueError("broken"))
        )
        with pytest.raises(SlideUnavailableError, match="was there when the slide was opened"):
            slide.read(Box(0, 0, 128, 128), SIZE)
        with pytest.raises(SlideUnavailableError):
            slide.digest()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_file_that_is_cut_short_while_it_is_read(path, backend):
    """As by a copy that starts over: what is missing now says nothing of the slide."""
    with Slide.open(path, backend=backend) as slide:
        os.truncate(path, path.stat().st_size // 4)
        with pytest.raises(SlideUnavailableError, match="has changed since"):
            slide.read(Box(600, 400, 128, 112), SIZE)


def test_a_drive_that_goes_away_costs_no_tile_and_no_thumbnail(path, monkeypatch):
    """Not one tile is marked as damaged: the slide as a whole fails, and can be gone on with."""
    with Slide.open(path) as slide:
        config = GridConfig(tile_px=128, stride_px=128)
        grid = tile_grid(slide.l0_bounds, slide.mpp, np.ones((8, 8), bool), config, slide.name)
        assert read_shard(slide, grid, slice(0, 4), 128).measures.readable.all()
        monkeypatch.setattr(
            compressed_tiles.SharedFile, "read_at", _raise(OSError(errno.EIO, "Input/output error"))
        )
        monkeypatch.setattr(
            choose.OpenSlideReader, "read_level", _raise(OSError(errno.EIO, "Input/output error"))
        )
        with pytest.raises(SlideUnavailableError, match="Input/output error"):
            read_shard(slide, grid, slice(4, 8), 128)
        with pytest.raises(SlideUnavailableError):
            slide.thumbnail(Mpp(4.0))
        monkeypatch.undo()
        assert read_shard(slide, grid, slice(4, 8), 128).measures.readable.all()
        assert not slide.unreadable


def test_an_object_store_that_stops(path, monkeypatch):
    with serve_objects() as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        store.files.put(str(path), "scans/slide.tif")
        url = f"{store.url}/slide.tif"
        with Slide.open(url) as slide, Slide.open(path) as local:
            np.testing.assert_array_equal(slide.read(BOX, SIZE), local.read(BOX, SIZE))
            assert slide.digest() == local.digest()
        with pytest.raises(SlideError, match="no such file") as missing:
            Slide.open(f"{store.url}/other.tif")
        assert not isinstance(missing.value, SlideUnavailableError)
        slide = Slide.open(url)
    # The server is gone; what the reader has not at hand it cannot get.
    with slide:
        slide._reader._shared._lease.reader._slide.ts_tifffile.filehandle._fh.cache.cache = b""
        with pytest.raises(SlideUnavailableError, match=r"slide\.tif: cannot be reached now"):
            slide.digest()
    fsspec.filesystem("s3").clear_instance_cache()


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (OSError(errno.EIO, "x"), True),
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (MemoryError(), True),
        (ValueError("Input/output error"), True),
        (type("EndpointConnectionError", (Exception,), {})(), True),
        (OSError(errno.EACCES, "x"), False),
        (ValueError("bad tile"), False),
    ],
)
def test_what_counts_as_away(error, away):
    assert is_away(error) == away
    wrapped = RuntimeError("reading failed")
    wrapped.__cause__ = error
    assert is_away(wrapped) == away


def test_errors_are_said_in_one_line():
    assert one_line("a\n  b") == "a b"
    assert len(one_line("x" * 999)) == 200
    assert one_line(KeyError()) == "KeyError"


@pytest.fixture
def damaged(path):
    """Its second tile is zeroed."""
    damage(path, 1)
    return path


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("error::ResourceWarning")
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_damage_leaves_no_file_open(damaged, backend):
    before = open_files()
    with Slide.open(damaged, backend=backend) as slide:
        for _ in range(30):
            with pytest.raises(SlideError):
                slide.read(Box(256, 0, 256, 256), Size(256, 256))
        assert open_files() <= before + 4
        slide.thumbnail(Mpp(2.0))
        assert open_files() <= before + 4
    assert open_files() == before


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_threads_damage_is_not_anothers(damaged, backend, monkeypatch):
    """An error spends the handle that OpenSlide's readers share; the sound reads do not suffer.

    Nor does the other kind of reader help out here, as it cannot for most formats.
    """
    before = open_files()
    if backend == "openslide":
        no_other = _raise(ValueError("no other reader"))
        monkeypatch.setattr(RescuingReader, "_opened_by_other", no_other)
    wrong = []

    def read(slide):
        for _ in range(20):
            try:
                slide.read(Box(256, 0, 256, 256), Size(256, 256))
                wrong.append("damage was not seen")
            except SlideError:
                pass
            try:
                slide.read(Box(0, 256, 200, 200), Size(200, 200))
            except SlideError as error:
                wrong.append(str(error))

    with Slide.open(damaged, backend=backend) as slide:
        threads = [threading.Thread(target=read, args=(slide,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
    assert open_files() == before


@pytest.mark.parametrize("content", [b"", b"text" * 99, b"II*\0" + bytes(99)])
def test_what_cannot_be_opened_is_closed(tmp_path, content):
    path = tmp_path / "bad.svs"
    path.write_bytes(content)
    before = open_files()
    for backend in ("auto", *BACKENDS):
        with pytest.raises(SlideError):
            Slide.open(path, backend=backend)
    assert open_files() == before


def test_a_slide_without_mpp_is_closed(make_slide, tissue_like):
    path = make_slide(tissue_like(300, 300), mpp=None)
    before = open_files()
    for backend in BACKENDS:
        with pytest.raises(Exception, match="--mpp"):
            Slide.open(path, backend=backend)
    assert open_files() == before


def _raise(error):
    def fail(*_args, **_options):
        raise error

    return fail
