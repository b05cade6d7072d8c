"""A store beside a perfect one in memory: written, scored, killed, damaged, gone on with at random.

Kills are real: a child process that was forked dies by SIGKILL at one of its writes, with half of
the file written or none of it. Whatever happens, what is read is what was committed, and a run that
is let alone comes to the same figures.
"""

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.helpers.killing import killed_at
from tests.helpers.store_runs import CLASSES, TILE, MeanModel, NoisySlide, figures, grid_of
from wsi_pipeline.errors import DamagedStoreError
from wsi_pipeline.geometry import Size
from wsi_pipeline.tile_data import Measures, ShardPixels, TileState
from wsi_pipeline.tiles import checked_arrays
from wsi_pipeline.tiles import store as library
from wsi_pipeline.tiles.store import TileStore
from wsi_pipeline.tiles.store_resume import create_or_resume

COUNT = 20
SHARDS = [slice(0, 8), slice(8, 16), slice(16, 20)]
PENDING, STORED, SCORED = TileState.PENDING, TileState.STORED, TileState.SCORED


def tiles_of(shard: slice) -> ShardPixels:
    """What the slide has there; every fifth tile cannot be read."""
    grid, slide = grid_of(COUNT), NoisySlide()
    rgb = np.stack(
        [slide.read(grid.l0_box(i), Size(TILE, TILE)) for i in range(shard.start, shard.stop)]
    )
    readable = np.arange(shard.start, shard.stop) % 5 != 0
    rgb[~readable] = 0
    measure = np.arange(shard.start, shard.stop, dtype=np.float32)
    return ShardPixels(rgb, Measures(measure, measure + 100, readable))


class Beside(RuleBasedStateMachine):
    """The rules; `expected` is the state of each shard as a perfect store would have it."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        # Takes nearly all of the time, and no kill of a process shows the difference.
        for module in (library, checked_arrays):
            self.patch.setattr(module, "flush", lambda *_: None)
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "tiles.zarr"
        self.expected = [PENDING] * len(SHARDS)
        self.pixels = [False] * len(SHARDS)
        self.hit: set[int] = set()

    def teardown(self) -> None:
        store = run_to_the_end(self.path)
        assert figures(store) == FIGURES
        self.patch.undo()
        shutil.rmtree(self.folder)

    @initialize()
    def open(self) -> None:
        self.store = opened(self.path)

    @rule(number=st.integers(0, 2), lasting=st.booleans())
    def store_pixels(self, number: int, lasting: bool) -> None:
        if not self.store.has_room_for_pixels:
            self.store.make_room_for_pixels()
        self.store.commit_pixels(SHARDS[number], tiles_of(SHARDS[number]), lasting=lasting)
        self.expected[number] = max(self.expected[number], STORED)
        self.pixels[number] = True

    @rule(number=st.integers(0, 2))
    def score(self, number: int) -> None:
        score(self.store, number)
        self.expected[number] = SCORED

    @rule(number=st.integers(0, 2), write=st.integers(0, 8), part=st.floats(0, 1))
    def be_killed_while_scoring(self, number: int, write: int, part: float) -> None:
        killed = killed_at(write, part, lambda: score(TileStore(self.path), number))
        self.go_on()
        if not killed:
            self.expected[number] = SCORED

    @rule(number=st.integers(0, 2), write=st.integers(0, 8), part=st.floats(0, 1))
    def be_killed_while_storing(self, number: int, write: int, part: float) -> None:
        def act() -> None:
            store = TileStore(self.path)
            store.make_room_for_pixels()
            store.commit_pixels(SHARDS[number], tiles_of(SHARDS[number]))

        killed = killed_at(write, part, act)
        if not killed:
            self.expected[number] = max(self.expected[number], STORED)
            self.pixels[number] = True
        self.go_on()

    @rule()
    def go_on(self) -> None:
        """In another process that knows nothing."""
        self.store = opened(self.path)

    @rule()
    def drop_pixels(self) -> None:
        self.store.drop_pixels()
        self.pixels = [False] * len(SHARDS)
        assert not (self.path / "rgb").exists()

    @rule(write=st.integers(0, 8))
    def score_by_another_model_and_be_killed(self, write: int) -> None:
        """What it had begun is set aside again by the one that goes on."""
        killed_at(write, 0.5, lambda: TileStore(self.path).begin_scoring({"bundle": "y"}, CLASSES))
        self.go_on()
        self.expected = [min(state, STORED) for state in self.expected]
        self.expected = self.told()  # unless the kill came before anything was changed

    def told(self) -> list[TileState]:
        """What the store says, which is at least what is expected."""
        told = [state_of(self.store, shard) for shard in SHARDS]
        assert all(one >= other for one, other in zip(told, self.expected, strict=True))
        return told

    @precondition(lambda self: SCORED in self.expected)
    @rule(
        number=st.integers(0, 2),
        name=st.sampled_from(["blur", "pen", "cellularity", "cellularity_std", "state", "rgb"]),
        how=st.sampled_from(["flip", "empty", "gone"]),
        where=st.floats(0, 1, exclude_max=True),
    )
    def damage(self, number: int, name: str, how: str, where: float) -> None:
        """One chunk; all that was committed of other shards stays."""
        chunk = self.path / name / "c" / str(number)
        file = chunk / "0" / "0" / "0" if name == "rgb" else chunk
        if not file.is_file():
            return
        content = bytearray(file.read_bytes())
        if how == "flip":
            content[int(where * len(content))] ^= 1
        if how == "gone":
            file.unlink()
        else:
            file.write_bytes(content if how == "flip" else b"")
        if name == "rgb":
            self.pixels[number] = False
        elif name.startswith("cellularity"):
            self.expected[number] = min(self.expected[number], STORED)
        else:
            self.expected[number] = PENDING
        self.go_on()

    @invariant()
    def what_is_committed_is_there(self) -> None:
        if not hasattr(self, "store"):
            return
        self.expected = self.told()
        for number, shard in enumerate(SHARDS):
            tiles = tiles_of(shard)
            if self.pixels[number] and self.expected[number] != PENDING:
                read = self.store.read_shard(shard)
                np.testing.assert_array_equal(read.rgb, tiles.rgb)
                np.testing.assert_array_equal(read.measures.blur, tiles.measures.blur)
                np.testing.assert_array_equal(read.measures.readable, tiles.measures.readable)
            else:
                with suppress(DamagedStoreError):
                    np.testing.assert_array_equal(self.store.read_pixels(shard), tiles.rgb)
        if self.store.is_scored:
            assert figures(self.store) == FIGURES


def opened(path: Path) -> TileStore:
    store = create_or_resume(path, grid_of(COUNT), tile_px=TILE, tiling={"slide": "x"})
    store.begin_scoring({"bundle": "x"}, CLASSES)
    return store


def state_of(store: TileStore, shard: slice) -> TileState:
    """The one state of a shard's readable tiles."""
    state = store.committed_state(shard)
    np.testing.assert_array_equal(state, store.state(shard))
    readable = tiles_of(shard).measures.readable
    (one,) = set(state[readable])
    if one != PENDING:
        assert (state[~readable] == TileState.UNREADABLE).all()
    return TileState(one)


def score(store: TileStore, number: int) -> None:
    tiles = tiles_of(SHARDS[number])
    readable = tiles.measures.readable
    store.commit_scores(SHARDS[number], tiles.measures, MeanModel().predict(tiles.rgb[readable]))


def run_to_the_end(path: Path) -> TileStore:
    store = opened(path)
    for number, shard in enumerate(SHARDS):
        if (store.state(shard) < SCORED).any():
            score(store, number)
    return opened(path)


with tempfile.TemporaryDirectory() as _folder:
    FIGURES = figures(run_to_the_end(Path(_folder) / "tiles.zarr"))


TestBeside = Beside.TestCase
TestBeside.settings = settings(
    max_examples=10,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.long
def test_for_longer():
    run_state_machine_as_test(
        Beside, settings=settings(TestBeside.settings, max_examples=300, stateful_step_count=30)
    )
