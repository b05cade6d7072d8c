import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

from wsi_pipeline.slide.tiff.decoded_tiles import TileCache

SIDE = 8
TILE_BYTES = SIDE * SIDE * 3


class Decoder:
    """Counts what it is asked for; a tile is filled with its number."""

    def __init__(self, seconds=0.0):
        self.asked = []
        self._seconds = seconds

    def __call__(self, number):
        def decode():
            self.asked.append(number)
            time.sleep(self._seconds)
            return np.full((SIDE, SIDE, 3), number, np.uint8)

        return decode


def test_a_tile_is_decoded_once_by_all_threads():
    cache, decoder = TileCache(), Decoder(seconds=0.01)
    with ThreadPoolExecutor(8) as pool:
        wanted = [number % 10 for number in range(80)]
        tiles = list(pool.map(lambda number: cache.get(number, decoder(number), 1), wanted))
    assert [int(tile[0, 0, 0]) for tile in tiles] == wanted
    assert sorted(decoder.asked) == list(range(10))


def test_those_who_wait_try_for_themselves_if_decoding_fails():
    cache, started, tried = TileCache(), threading.Event(), []

    def fail():
        tried.append(threading.get_ident())
        started.set()
        time.sleep(0.05)
        raise ValueError("damaged")

    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(cache.get, "tile", fail, 1) for _ in range(3)]
        assert started.wait(10)
        for future in futures:
            with pytest.raises(ValueError, match="damaged"):
                future.result()
    assert len(set(tried)) == 3
    assert cache.get("tile", lambda: np.ones((1, 1, 3), np.uint8), 1).all()


def test_it_is_bounded_and_gives_up_what_is_used_up_first():
    cache, decoder = TileCache(wanted_bytes=3 * TILE_BYTES, used_up_bytes=TILE_BYTES), Decoder()
    for number in range(100):
        cache.get(number, decoder(number), SIDE * SIDE)
    for number in (100, 101, 102):
        cache.get(number, decoder(number), 1)
    held = sum(len(shelf) for shelf in (cache._wanted, cache._used_up))
    assert held == 4
    decoder.asked.clear()
    for number in (100, 101, 102, 99):
        cache.get(number, decoder(number), 1)
    assert not decoder.asked
    cache.get(103, decoder(103), 1)  # 100 was used longest ago
    cache.get(102, decoder(102), 1)
    assert decoder.asked == [103]
    cache.get(100, decoder(100), 1)
    assert decoder.asked == [103, 100]


@pytest.mark.parametrize("across", [40, 400])
def test_a_grid_decodes_each_tile_once_in_memory_that_does_not_grow_with_its_area(across):
    """Patches of 2.5 tiles, row by row: what two rows share waits for the second."""
    down, patch = 20, SIDE * 5 // 2
    # What two rows of patches share, and the tiles at hand.
    cache = TileCache(wanted_bytes=(across + 4) * TILE_BYTES, used_up_bytes=8 * TILE_BYTES)
    decoded, most = Counter(), 0

    def decode(place):
        decoded[place] += 1
        return np.zeros((SIDE, SIDE, 3), np.uint8)

    for top in range(0, down * SIDE, patch):
        for left in range(0, across * SIDE, patch):
            for row in range(top // SIDE, -(-(top + patch) // SIDE)):
                for column in range(left // SIDE, -(-(left + patch) // SIDE)):
                    height = min(top + patch, row * SIDE + SIDE) - max(top, row * SIDE)
                    width = min(left + patch, column * SIDE + SIDE) - max(left, column * SIDE)
                    place = (row, column)
                    cache.get(place, partial(decode, place), height * width)
            most = max(most, cache._wanted.currsize + cache._used_up.currsize)
    assert len(decoded) >= across * down
    assert set(decoded.values()) == {1}
    assert most <= (across + 12) * TILE_BYTES


def test_a_tile_larger_than_the_memory_is_not_kept_and_displaces_nothing():
    cache, decoder = TileCache(wanted_bytes=TILE_BYTES, used_up_bytes=TILE_BYTES), Decoder()
    cache.get(1, decoder(1), 1)
    assert cache.get("large", lambda: np.ones((SIDE, 2 * SIDE, 3), np.uint8), 1).all()
    cache.get(1, decoder(1), 1)
    assert decoder.asked == [1]
