"""What a coarse pass saves, and what it costs in accuracy, against scoring every tile fully.

python -m tests.benchmarks.coarse SLIDE... [--bundle FOLDER] [--coarse FOLDER]

Without --coarse the bundle itself makes the first pass, on tiles at half the resolution: a quarter
of the work, by weights that were not trained for it. A small model that was would do better.
"""

import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from wsi_pipeline.bundle import DEMO_BUNDLE, ModelBundle
from wsi_pipeline.coarse import shrunk
from wsi_pipeline.config import ScoreConfig
from wsi_pipeline.engine import CoarseConfig, Engine, EngineConfig, build_engine
from wsi_pipeline.geometry import Mpp
from wsi_pipeline.grid import GridConfig, tile_grid
from wsi_pipeline.slide import Slide
from wsi_pipeline.tiling import read_tile
from wsi_pipeline.tissue import tissue_of

THRESHOLDS = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1)
TUMOUR = 0.1
"""Tiles to which the full pass gives more are counted if the coarse one keeps them from it."""


def at_half_resolution(bundle: ModelBundle, folder: Path) -> ModelBundle:
    """Return a bundle of the same weights for tiles of half as many pixels."""
    card = bundle.card
    half = card.model_copy(update={"mpp": Mpp(2 * card.mpp), "tile_px": card.tile_px // 2})
    ModelBundle.of(bundle.network(), half).save(folder)
    return ModelBundle.load(folder)


def tissue_tiles(path: Path, config: ScoreConfig) -> NDArray[np.uint8]:
    """Return all tissue tiles of a slide, uint8 [n, side, side, 3]."""
    with Slide.open(path) as slide:
        mask = tissue_of(slide, config.tissue)
        grid = tile_grid(slide.l0_bounds, slide.mpp, mask, config.grid, slide.name)
        side = config.grid.tile_px
        return np.stack([read_tile(slide, grid, index, side) for index in range(len(grid))])


def timed(engine: Engine, rgb: NDArray[np.uint8]) -> tuple[NDArray[np.float32], float]:
    """Return the scores of tiles, and the seconds that they took."""
    engine.predict(rgb[:2])
    start = time.perf_counter()
    scores = engine.predict(rgb).cellularity
    return scores, time.perf_counter() - start


def main(
    slides: Annotated[list[Path], typer.Argument(help="Real slides.")],
    bundle: Annotated[Path, typer.Option(help="The large model.")] = DEMO_BUNDLE,
    coarse: Annotated[Path | None, typer.Option(help="The small one.")] = None,
) -> None:
    """Score all tiles with both models, and print a row for each threshold."""
    large = ModelBundle.load(bundle)
    config = ScoreConfig(
        grid=GridConfig(mpp=large.card.mpp, tile_px=large.card.tile_px, allow_upsampling=True)
    )
    with tempfile.TemporaryDirectory() as name:
        half = Path(name) / "half"
        small = ModelBundle.load(coarse) if coarse else at_half_resolution(large, half)
    settings = EngineConfig(class_fractions=False)
    engines = build_engine(small, settings), build_engine(large, settings)
    first, full = [], []
    first_s = full_s = 0.0
    for path in slides:
        rgb = tissue_tiles(path, config)
        scores, seconds = timed(engines[0], shrunk(rgb, small.card.tile_px))
        first.append(scores)
        first_s += seconds
        scores, seconds = timed(engines[1], rgb)
        full.append(scores)
        full_s += seconds
    quick, exact = np.concatenate(first), np.concatenate(full)
    print(
        f"{len(exact)} tiles of {len(slides)} slides, {engines[1].execution}; first pass "
        f"{first_s / len(exact):.3f} s a tile, full {full_s / len(exact):.3f} s\n"
    )
    tumour = exact > TUMOUR
    print(
        f"| refined from | tiles refined | time | error, mean | largest | kept from it of "
        f"{tumour.sum()} tiles over {TUMOUR:g} | slides' means differ by at most |\n"
        f"|{' ---: |' * 7}"
    )
    for threshold in THRESHOLDS:
        again = CoarseConfig(bundle="", refine_from=threshold).leaves_open(quick)
        error = np.abs(np.where(again, 0, quick - exact))
        ends = np.cumsum([len(scores) for scores in full])[:-1]
        means = [part.mean() for part in np.split(np.where(again, 0, quick - exact), ends)]
        print(
            f"| {threshold:g} | {again.mean():.0%} | {first_s / full_s + again.mean():.0%} "
            f"| {error.mean():.4f} | {error.max():.3f} | {(tumour & ~again).sum()} "
            f"| {np.abs(means).max():.4f} |"
        )


if __name__ == "__main__":
    typer.run(main)
