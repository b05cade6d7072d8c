"""One slide's way against its slowest stage alone, at 1, 4 and 16 times the tissue.

python -m tests.benchmarks.overlap [--bundle FOLDER] [--config YAML]

The slide is a real one repeated (`tests.benchmarks.big_slide`). Each stage runs alone, on what the
stage before has left; then the whole way runs from the start, in which reading, storing and scoring
overlap. Libraries and the model are loaded before.
"""

import os
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Annotated

import typer

from tests.benchmarks.big_slide import build
from wsi_pipeline.cluster.driver import Cluster
from wsi_pipeline.engine.base import Engine
from wsi_pipeline.model.bundle import BUNDLED_MODEL, ModelBundle
from wsi_pipeline.scoring.config import ScoreConfig
from wsi_pipeline.scoring.identity import tiling_facts
from wsi_pipeline.scoring.pipeline import find_tissue, open_store, score_slide
from wsi_pipeline.scoring.rewrite import write_again
from wsi_pipeline.scoring.scorer import start_engine
from wsi_pipeline.slide.slide import Slide
from wsi_pipeline.tiles.fill import fill
from wsi_pipeline.tiles.grid import tile_grid
from wsi_pipeline.tiles.store_place import STORE_NAME

REPEATS = (1, 2, 4)
"""Of the slide, in each direction."""


def alone(path: Path, folder: Path, config: ScoreConfig, engine: Engine) -> dict[str, float]:
    """Return the seconds that each stage takes on its own, in their order."""
    if isinstance(engine, Cluster):
        raise typer.BadParameter("a cluster's stages cannot be run alone: leave `cluster` out")
    folder.mkdir()
    seconds: dict[str, float] = {}
    at = time.perf_counter()

    def lap(stage: str) -> None:
        nonlocal at
        now = time.perf_counter()
        seconds[stage] = now - at
        at = now

    with Slide.open(path) as slide:
        tiling = tiling_facts(slide, slide.digest(), config)
        mask = find_tissue(slide, folder, config)
        grid = tile_grid(slide.l0_bounds, slide.mpp, mask, config.grid, slide.name)
        store = open_store(folder / STORE_NAME, grid, tiling)
        lap("digest and tissue")
        with fill(slide, store, workers=config.workers, pixels="until scored") as shards:
            deque(shards, maxlen=0)
        lap("reading and storing")
    for shard in store.shards:
        engine.predict(store.read_pixels(shard))
    lap("model")
    return seconds


def outputs(path: Path, folder: Path, config: ScoreConfig) -> float:
    """Return the seconds that writing the outputs of a scored slide takes."""
    start = time.perf_counter()
    write_again(folder, config, path)
    return time.perf_counter() - start


def main(
    bundle: Annotated[Path, typer.Option(help="The model.")] = BUNDLED_MODEL,
    config: Annotated[Path | None, typer.Option(help="As for `wsi score`.")] = None,
) -> None:
    """Measure, and print a row for each size."""
    settings = ScoreConfig.resolve(config)
    engine = start_engine(ModelBundle.load(bundle), settings)
    print(f"Load before: {os.getloadavg()[0]:.1f}, processors: {os.cpu_count()}\n")
    columns = ["digest and tissue", "reading and storing", "model", "outputs"]
    head = ["tiles", *(f"{name}, s" for name in columns), "whole way, s", "s a tile"]
    head.append("against the slowest")
    print(f"| {' | '.join(head)} |\n|{' ---: |' * len(head)}")
    for run, repeats in enumerate((REPEATS[0], *REPEATS)):
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "big.tif"
            build(path, repeats)
            seconds = alone(path, Path(name) / "alone", settings, engine)
            start = time.perf_counter()
            out = Path(name) / "whole"
            summary = score_slide(path, out, engine, settings)
            whole = time.perf_counter() - start
            seconds["outputs"] = outputs(path, out / "big", settings)
        if run:  # the first warms up
            figures = [
                str(summary.tiles.scored),
                *(f"{seconds[column]:.1f}" for column in columns),
                f"{whole:.1f}",
                f"{whole / summary.tiles.scored:.3f}",
                f"{whole / max(seconds.values()):.2f}",
            ]
            print(f"| {' | '.join(figures)} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
