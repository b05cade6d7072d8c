"""Decoded tiles, shared by the threads that read a slide."""

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

WANTED_BYTES = 112 << 20
"""Holds the tiles that two rows of patches share, at the full size of 256 px, over 14 cm of slide
at 0.25 µm/px."""

USED_UP_BYTES = 16 << 20
"""Few, so that memory is used again while it is still in the processor's own cache."""


class TileCache:
    """Has each tile decoded once for all who need it, within bounds, whatever the slide.

    The thread that asks first decodes; those that ask meanwhile wait for it. Patches of a grid do
    not overlap, mostly: what they have used up of a tile is rarely asked for again. Tiles that are
    used up go first, so that those at the border of the next row stay.
    """

    def __init__(
        self, wanted_bytes: int = WANTED_BYTES, used_up_bytes: int = USED_UP_BYTES
    ) -> None:
        self._decoded = threading.Condition()
        self._decoding: set[Hashable] = set()
        self._wanted = _shelf(wanted_bytes)
        self._used_up = _shelf(used_up_bytes)

    def get(
        self, key: Hashable, decode: Callable[[], NDArray[np.uint8]], use_px: int
    ) -> NDArray[np.uint8]:
        """Return a tile, uint8 [rows, columns, channels], not to be changed.

        Args:
            key: of the tile.
            decode: makes it. If it raises, those who wait try for themselves.
            use_px: how many of its pixels the caller takes.

        """
        with self._decoded:
            while key in self._decoding:
                self._decoded.wait()
            kept: _Kept | None = self._wanted.pop(key, None) or self._used_up.pop(key, None)
            if kept is not None:
                self._put(key, kept, use_px)
                return kept.pixels
            self._decoding.add(key)
        try:
            pixels = decode()
            kept = _Kept(pixels, unused_px=pixels.shape[0] * pixels.shape[1])
        finally:
            with self._decoded:
                self._decoding.remove(key)
                self._decoded.notify_all()
                if kept is not None:
                    self._put(key, kept, use_px)
        return pixels

    def _put(self, key: Hashable, kept: "_Kept", use_px: int) -> None:
        kept.unused_px -= use_px
        shelf = self._wanted if kept.unused_px > 0 else self._used_up
        if kept.pixels.nbytes <= shelf.maxsize:
            shelf[key] = kept


@dataclass(slots=True, eq=False)
class _Kept:
    pixels: NDArray[np.uint8]
    unused_px: int


def _shelf(max_bytes: int) -> Any:  # noqa: ANN401 - cachetools has no types
    """Return what gives up the tiles that have lain there longest when there is no more room."""
    return LRUCache(max_bytes, getsizeof=lambda kept: kept.pixels.nbytes)
