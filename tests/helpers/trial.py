"""A file of unknown worth, taken through open, digest, tissue, grid and read in a child process.

Whatever the file does to the libraries, it does to the child: the trial ends in a word.
"""

import faulthandler
import logging
import multiprocessing
import os
import resource
import signal
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import numpy as np

from wsi_pipeline.errors import SlideError, SlideUnavailableError, WsiError
from wsi_pipeline.geometry import Box, Mpp, Size
from wsi_pipeline.slide.slide import Slide
from wsi_pipeline.tiles.grid import GridConfig, tile_grid
from wsi_pipeline.tiles.tissue import TissueConfig, blur_score, pen_fraction, tissue_of

OK, DAMAGED = "ok", "ok, damaged in places"
CRASH, HANG, MEMORY, UNTYPED = "crash", "hang", "memory", "untyped exception"
BUGS = (CRASH, HANG, MEMORY, UNTYPED)

TISSUE = TissueConfig(mpp=Mpp(16.0))
GRID = GridConfig(allow_upsampling=True)
TILES_READ = 6

NOBODY = 65534

LIMIT_S = 60.0
LIMIT_BYTES = 3 << 29
ADDRESS_SPACE_BYTES = 16 << 30
"""The watch kills a child that fills its memory; this stops one that takes it all at once."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a trial ended: a word of the above or an error's class, its message, and its cost."""

    word: str
    message: str = ""
    seconds: float = 0.0
    peak_mib: float = 0.0


def attempt(path: str, mpp: float | None, l0_boxes: tuple[Box, ...] = ()) -> tuple[str, str]:
    """Take a file through all that is read of it; return how it ended."""
    try:
        with Slide.open(path, mpp=None if mpp is None else Mpp(mpp)) as slide:
            slide.digest()
            mask = tissue_of(slide, TISSUE)
            damaged = bool(slide.unreadable)
            grid = tile_grid(slide.l0_bounds, slide.mpp, mask, GRID, slide.name)
            chosen = np.unique(np.linspace(0, len(grid) - 1, TILES_READ).astype(int))
            for l0_box in (*l0_boxes, *(grid.l0_box(int(index)) for index in chosen)):
                try:
                    tile = slide.read(l0_box, Size(GRID.tile_px, GRID.tile_px))
                except SlideUnavailableError:
                    raise
                except SlideError:
                    damaged = True
                else:
                    blur_score(tile)
                    pen_fraction(tile)
    except WsiError as error:
        return type(error).__name__, str(error)
    except Exception as error:  # noqa: BLE001 - what is counted as a bug
        return UNTYPED, f"{type(error).__name__}: {error}"
    return (DAMAGED if damaged else OK), ""


class Child:
    """A process that makes one trial after the other, and is replaced when one kills it."""

    def __init__(self, limit_s: float = LIMIT_S, limit_bytes: int = LIMIT_BYTES) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._limit_s, self._limit_bytes = limit_s, limit_bytes
        self._process: Any = None
        self._pipe: Connection | None = None
        self._trace = tempfile.NamedTemporaryFile(suffix=".trace")  # noqa: SIM115

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._trace.close()

    def attempt(
        self,
        path: Path,
        mpp: float | None = None,
        l0_boxes: tuple[Box, ...] = (),
        *,
        as_nobody: bool = False,
    ) -> Ending:
        """Make one trial; `as_nobody` gives up the rights of root for it."""
        if self._process is None:
            self._start()
        start = time.monotonic()
        self._pipe.send((str(path), mpp, l0_boxes, as_nobody))
        word = None
        while word is None:
            try:
                if self._pipe.poll(0.02):
                    return Ending(*self._pipe.recv())
            except (EOFError, ConnectionResetError):
                word = CRASH
            else:
                if time.monotonic() - start > self._limit_s:
                    word = HANG
                elif _resident_bytes(self._process.pid) > self._limit_bytes:
                    word = MEMORY
        seconds = time.monotonic() - start
        if word != CRASH:
            os.kill(self._process.pid, signal.SIGABRT)  # faulthandler writes down where it is
        self._process.join(10)
        code = self._process.exitcode
        self._stop()
        where = Path(self._trace.name).read_text(errors="replace")
        return Ending(word, f"exit code {code}\n{where}", seconds)

    def _start(self) -> None:
        self._trace.truncate(0)
        self._pipe, theirs = self._context.Pipe()
        self._process = self._context.Process(target=_serve, args=(theirs, self._trace.name))
        self._process.start()
        theirs.close()
        self._pipe.recv()

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None


def _serve(pipe: Connection, trace: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the libraries complain at length
    logging.disable(logging.CRITICAL)
    with Path(trace).open("wb") as file:
        faulthandler.enable(file, all_threads=True)
        pipe.send("ready")
        while True:
            path, mpp, l0_boxes, as_nobody = pipe.recv()
            Path("/proc/self/clear_refs").write_text("5")
            start = time.monotonic()
            us = os.geteuid()
            if as_nobody and us == 0:
                os.seteuid(NOBODY)
            try:
                word, message = attempt(path, mpp, l0_boxes)
            finally:
                os.seteuid(us)
            pipe.send((word, message, time.monotonic() - start, _peak_mib()))


def _peak_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _resident_bytes(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return 0
    return pages * resource.getpagesize()
