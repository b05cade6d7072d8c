"""Does the fine map know where the tumour is, better than the scores? Against outlines of BCSS.

``python -m tests.benchmarks.fine_map DATA``: each region of BCSS is scored as a slide. In squares
of 128, 256 and 512 µm the mean of either map is compared with the share of the tissue that
pathologists outlined as tumour, and the mean over each region with its truth.
"""

import tempfile
import warnings
from pathlib import Path
from typing import Annotated

import numpy as np
import tifffile
import typer
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr

import wsi_pipeline as wsi
from training.data.bcss import find_regions, read_region
from training.data.patients import fold_of, tcga_patient
from training.data.picture import is_glass

SIDES_UM = (128, 256, 512)
LEAST_TISSUE = 0.3
FEWEST = 5
MPP = 0.5


def squares(values: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Sum over squares; what is left over at the edges is cut off."""
    rows, columns = (length // side for length in values.shape)
    cut = values[: rows * side, : columns * side]
    return cut.reshape(rows, side, columns, side).sum(axis=(1, 3))


def on_pixels(found, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Spread a map over the region's pixels; NaN where it has no value."""
    cell = found.attrs["cell_um"] / MPP
    rows, columns = ((np.arange(length) / cell).astype(int) for length in shape)
    rows, columns = rows.clip(0, found.shape[0] - 1), columns.clip(0, found.shape[1] - 1)
    return np.asarray(found.values, np.float64)[np.ix_(rows, columns)]


def main(
    data: Annotated[Path, typer.Argument(help="Folder that holds bcss.")],
    held_back: Annotated[bool, typer.Option(help="Only patients that training held back.")] = False,
) -> None:
    """Measure, and print a row for each size of square."""
    warnings.simplefilter("ignore")
    rows: dict[int, list[tuple[float, float, float]]] = {side: [] for side in SIDES_UM}
    whole: list[tuple[float, float, float]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for path in find_regions(data / "bcss"):
            if held_back and fold_of(tcga_patient(path.name), 4) != 0:
                continue
            rgb, tumour = read_region(path)
            slide = Path(temporary) / f"{path.stem}.tif"
            tifffile.imwrite(
                slide, rgb, tile=(256, 256), photometric="rgb", compression="zlib",
                resolution=(1e4 / MPP, 1e4 / MPP), resolutionunit="CENTIMETER",
            )  # fmt: skip
            result = wsi.score(slide, Path(temporary) / "out", progress=lambda *_: None)
            if result.summary.cellularity is None:
                print(f"{path.name}: {result.summary.reason}")
                continue
            tissue = ~is_glass(rgb)
            maps = [on_pixels(found, tissue.shape) for found in (result.fine_map, result.map)]
            known = tissue & np.isfinite(maps[0]) & np.isfinite(maps[1])
            truth = (tumour & known).astype(float)
            filled = [np.where(known, found, 0) for found in maps]
            whole.append(tuple(v.sum() / known.sum() for v in (truth, *filled)))
            for side in SIDES_UM:
                px = round(side / MPP)
                area = squares(known.astype(float), px)
                enough = area >= LEAST_TISSUE * px**2
                sums = [squares(v, px)[enough] / area[enough] for v in (truth, *filled)]
                rows[side] += zip(*sums, strict=True)
    print("| squares, µm | n | fine map: Pearson, Spearman | tile scores: Pearson, Spearman |")
    for side, found in rows.items():
        if len(found) < FEWEST:
            print(f"| {side} | {len(found)} | | |")
            continue
        told = np.array(found)
        cells = [
            f"{pearsonr(told[:, 0], told[:, i])[0]:.3f}, {spearmanr(told[:, 0], told[:, i])[0]:.3f}"
            for i in (1, 2)
        ]
        print(f"| {side} | {len(told)} | {cells[0]} | {cells[1]} |")
    for truth, fine, scores in whole:
        print(f"a whole region: outlined {truth:.3f}, fine map {fine:.3f}, scores {scores:.3f}")


if __name__ == "__main__":
    typer.run(main)
