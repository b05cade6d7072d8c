"""Does an estimate's interval hold what it says, and how many tiles does it take?

``python -m tests.benchmarks.estimates SLIDE... --out RESULTS [--fields DATA]``: each slide is
scored in full, and then estimated from draws of its tiles with many seeds. With ``--fields`` a
section is added that is put together of BRCA-M2C's fields and Camelyon16's normal ones, like beside
like.
"""

import time
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image

import wsi_pipeline as wsi
from tests.helpers.made import write_slide
from wsi_pipeline.facts import TilingFacts
from wsi_pipeline.geometry import Box, Mpp
from wsi_pipeline.outputs.estimate import estimate_mean
from wsi_pipeline.scoring.estimate import FIRST_ROUNDS, next_rounds
from wsi_pipeline.slide.slide import Slide
from wsi_pipeline.tiles.draw import draw_of, looks_of
from wsi_pipeline.tiles.store import TileStore

PRECISIONS = (0.05, 0.02, 0.01)
SEEDS = 400
TILE = 512


def section_of_fields(data: Path, path: Path, side: int = 40) -> Path:
    """Write a slide of fields, each a tile; those of one set lie together, as in a tumour."""
    rng = np.random.default_rng(3)
    fields = [
        cv2.resize(
            np.asarray(Image.open(file).convert("RGB")), (TILE, TILE), interpolation=cv2.INTER_CUBIC
        )
        for folder in ("camelyon16/normal", "brca-m2c/images")
        for file in sorted((data / folder).glob("*.png"))
    ]
    smooth = cv2.GaussianBlur(rng.normal(size=(side, side)).astype(np.float32), (0, 0), 4)
    rank = smooth.ravel().argsort().argsort().reshape(side, side) / side**2
    place = np.linspace(-1, 1, side)
    rgb = np.full((side * TILE, side * TILE, 3), 245, np.uint8)
    for row, column in np.argwhere(np.hypot(place[:, None], place[None]) < 0.95):
        drawn = np.clip(rank[row, column] + rng.normal(0, 0.04), 0, 0.9999)
        spot = np.s_[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
        rgb[spot] = np.rot90(fields[int(drawn * len(fields))], rng.integers(4))
    return write_slide(path, rgb, downsamples=(4, 16), compression="jpeg")


def tiles_of(slide: Path, folder: Path) -> tuple[NDArray[np.float64], ...]:
    """Return scores, weights (0 for what could not be read) and looks of a scored slide's tiles."""
    store = TileStore(folder / "tiles.zarr")
    table, bounds = store.table(), Box(*TilingFacts.of(store).l0_bounds)
    with Slide.open(slide) as opened:
        looks = looks_of(store.grid, opened.thumbnail(Mpp(8.0)), bounds)
    weight = np.where(table.scored, table.weight, 0.0)
    return np.nan_to_num(table.cellularity).astype(np.float64), weight, looks


def estimated(
    score: NDArray[np.float64],
    weight: NDArray[np.float64],
    looks: NDArray[np.float64],
    precision: float,
    seed: int,
) -> tuple[float, float, int]:
    """Return the mean, half of its interval's width, and the tiles that it took."""
    draw = draw_of(looks, seed)
    rounds = FIRST_ROUNDS
    while rounds < draw.rounds:
        drawn = draw.drawn(rounds)
        mean, half = estimate_mean(score * weight, weight, draw.stratum, drawn)
        if half <= precision:
            return mean, half, int(drawn.sum())
        rounds = next_rounds(rounds, half / precision)
    return float((score * weight).sum() / weight.sum()), 0.0, len(score)


def main(
    slides: Annotated[list[Path], typer.Argument(help="Slides at 0.5 µm/px or finer.")],
    out: Annotated[Path, typer.Option(help="Where results go, and are gone on with.")],
    fields: Annotated[Path | None, typer.Option(help="Folder of the labelled sets.")] = None,
) -> None:
    """Print a row for each slide and precision."""
    out.mkdir(exist_ok=True)
    if fields is not None:
        path = out / "fields.tif"
        slides = [*slides, path if path.exists() else section_of_fields(fields, path)]
    print("| slide | tiles | mean | ± | held | bias | tiles taken | of all |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for slide in slides:
        start = time.perf_counter()
        result = wsi.score(slide, out, allow_upsampling=True)
        seconds = time.perf_counter() - start
        score, weight, looks = tiles_of(slide, result.folder)
        true = (score * weight).sum() / weight.sum()
        for precision in PRECISIONS:
            runs = [estimated(score, weight, looks, precision, seed) for seed in range(SEEDS)]
            means, halves, counts = map(np.array, zip(*runs, strict=True))
            held = (np.abs(means - true) <= halves + 1e-12).mean()
            print(
                f"| {slide.stem} | {len(score)} | {true:.3f} | {precision:g} | {held:.1%} "
                f"| {means.mean() - true:+.4f} | {counts.mean():.0f} "
                f"| {counts.mean() / len(score):.0%} |",
                flush=True,
            )
        print(f"<!-- {slide.stem}: {seconds:.0f} s in full -->")


if __name__ == "__main__":
    typer.run(main)
