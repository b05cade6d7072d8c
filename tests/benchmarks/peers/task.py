"""What a peer is asked to do and what it gives back, in files: each is a process of its own.

Imported inside the peers' environments, so the standard library must do.
"""

import csv
import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

L0Corner = tuple[int, int]


@dataclass(frozen=True)
class Task:
    """One run of one peer over one slide.

    Attributes:
        slide: the slide, alone in its folder.
        slide_mpp: µm/px of its level 0, for peers that do not read TIFF's resolution tags.
        out: the folder that gets all results.
        bundle: ours, for what runs our network eagerly.
        model: TorchScript for the others, from normalised float32 [B, 3, H, W] to logits [B, 1].
        mean: of red, green and blue in 0..1, as the model wants them normalised.
        std: likewise.
        mpp: µm/px of the tiles.
        tile_px: their side at `mpp`.
        tiles: corners in level-0 pixels to score, or None to find tissue as the peer does.
        batch: tiles to a batch.
        workers: processes that load tiles; 0 reads in the process that computes.
        reader: the library that reads slides, where the peer lets its users choose.
        speedup: whether to have the peer optimise the model, where it offers that.

    """

    slide: str
    slide_mpp: float
    out: str
    bundle: str
    model: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    mpp: float
    tile_px: int
    tiles: tuple[L0Corner, ...] | None
    batch: int
    workers: int
    reader: str = ""
    speedup: bool = False

    @property
    def results(self) -> Path:
        """The folder that the peer itself writes to; what it leaves there is counted."""
        return Path(self.out) / "results"

    @property
    def l0_tile(self) -> int:
        """Side of a tile in level-0 pixels."""
        return round(self.tile_px * self.mpp / self.slide_mpp)

    def save(self) -> Path:
        """Write the task where `load` finds it."""
        path = Path(self.out) / "task.json"
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")
        return path

    def give(self, corners: Iterable[L0Corner], scores: Iterable[float], model_s: float) -> None:
        """Hand back scores between 0 and 1, and the seconds that the model itself took."""
        with (Path(self.out) / "scores.csv").open("w", encoding="utf-8", newline="") as file:
            rows = ((*corner, score) for corner, score in zip(corners, scores, strict=True))
            csv.writer(file).writerows(rows)
        (Path(self.out) / "model_s.txt").write_text(str(model_s), encoding="utf-8")

    def given(self) -> tuple[dict[L0Corner, float], float]:
        """Return what was handed back: scores by level-0 corner, and the model's seconds."""
        with (Path(self.out) / "scores.csv").open(encoding="utf-8", newline="") as file:
            scores = {(int(x), int(y)): float(score) for x, y, score in csv.reader(file)}
        model_s = (Path(self.out) / "model_s.txt").read_text(encoding="utf-8")
        return scores, float(model_s)


def load() -> Task:
    """Return the task that this process was started for."""
    content = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if content["tiles"] is not None:
        content["tiles"] = tuple((x, y) for x, y in content["tiles"])
    return Task(**content)


class Timed:
    """A callable, and the seconds spent in it."""

    def __init__(self, inner: Callable[..., Any]) -> None:
        self.inner = inner
        self.seconds = 0.0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return self.inner(*args, **kwargs)
        finally:
            self.seconds += time.perf_counter() - start

    def __getattr__(self, name: str) -> Any:
        """Be the callable in all else."""
        return getattr(self.inner, name)
