"""The dyes of all that is not a nucleus."""

import cv2
import numpy as np

from training.synthetic.cells import Cells
from training.synthetic.fields import FloatField, blur, distance_to, edges, noise, warp
from training.synthetic.layout import Layout, Tissue
from training.synthetic.nuclei import packing, thin


def fat_walls(rng: np.random.Generator, size: int) -> FloatField:
    """How much of each pixel is the wall between fat cells, 0 to 1."""
    seeds = np.ones((size, size), dtype=np.uint8)
    everywhere = np.ones((size, size), dtype=bool)
    columns, rows = packing(rng, everywhere, rng.uniform(70, 150), 0.22).astype(int).T
    seeds[rows, columns] = 0
    _, cell = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    border = warp(rng, edges(np.asarray(cell)).astype(np.float32), 45, rng.uniform(2, 7))
    # Where three walls meet the blurred border is highest, so a threshold rounds the corners.
    spread = rng.uniform(2.5, 7)
    thickness = blur(border, spread) * spread
    return np.asarray(np.clip((thickness - rng.uniform(0.1, 0.35)) * 4, 0, 1), dtype=np.float32)


def ground_dyes(
    rng: np.random.Generator, layout: Layout, walls: FloatField, fibre_angle: float
) -> tuple[FloatField, FloatField]:
    """Dyes of all that is not a nucleus or a malignant cell, over those of usual stroma.

    Returns haematoxylin and eosin.
    """
    tissue, size = layout.tissue, layout.size
    shape = (size, size)
    thickness = np.exp(0.3 * noise(rng, size, 120))
    fibres = warp(rng, noise(rng, size, rng.uniform(2, 4), rng.uniform(6, 18), fibre_angle), 70, 16)
    bundles = warp(rng, noise(rng, size, rng.uniform(7, 16), 6, fibre_angle), 90, 20)
    collagen = 1 + rng.uniform(0.02, 0.25) * fibres + rng.uniform(0.02, 0.3) * bundles
    collagen *= np.exp(rng.uniform(0, 0.5) * noise(rng, size, rng.uniform(60, 160)))
    gaps = bundles + 0.4 * fibres < rng.uniform(-3.2, -1.0)
    collagen[gaps] *= rng.uniform(0.05, 0.5)

    grain = 1 + 0.12 * noise(rng, size, 3) + rng.uniform(0, 0.3) * noise(rng, size, 1.5)
    eosin = np.zeros(len(Tissue), dtype=np.float32)
    eosin[Tissue.STROMA] = 1.0
    eosin[Tissue.LYMPHOID] = rng.uniform(0.2, 0.8)
    eosin[Tissue.EPITHELIUM] = rng.uniform(0.5, 1.1)
    eosin[Tissue.SQUAMOUS] = rng.uniform(0.7, 1.3)
    eosin[Tissue.LUMEN] = rng.uniform(0.0, 0.1)
    eosin[Tissue.TUMOUR] = rng.choice([rng.uniform(0.0, 0.2), rng.uniform(0.3, 1.0)])
    eosin[Tissue.NECROSIS] = rng.uniform(0.8, 1.6)
    eosin[Tissue.VESSEL] = rng.uniform(0.0, 0.2)
    haematoxylin = np.zeros_like(eosin)
    blue = rng.random() < 0.4  # basophilic, myxoid ground
    haematoxylin[Tissue.STROMA] = rng.uniform(0.2, 0.8) if blue else rng.uniform(0.0, 0.25)
    haematoxylin[Tissue.LYMPHOID] = rng.uniform(0.05, 0.35)
    haematoxylin[Tissue.EPITHELIUM] = rng.uniform(0.2, 0.6)
    haematoxylin[Tissue.SQUAMOUS] = rng.uniform(0.2, 0.6)
    haematoxylin[Tissue.NECROSIS] = rng.uniform(0.0, 0.3)

    e = eosin[tissue] * np.where(tissue == Tissue.STROMA, collagen * (0.5 + 0.5 * grain), grain)
    h = haematoxylin[tissue] * grain * np.exp(rng.uniform(0, 0.5) * noise(rng, size, 70))
    fat = tissue == Tissue.FAT
    e[fat] = (rng.uniform(0.0, 0.06) + walls * rng.uniform(0.5, 1.1))[fat]
    necrosis = tissue == Tissue.NECROSIS
    if necrosis.any():
        dust = np.clip(noise(rng, size, 5) - 1.2, 0, 1)
        h[necrosis] += 1.5 * dust[necrosis]
    blood = np.zeros(shape, dtype=np.float32)
    cells = packing(rng, tissue == Tissue.VESSEL, 13, 0.25)
    for x, y in np.round(thin(rng, cells, rng.uniform(0.1, 0.9)) * 8).astype(int):
        cv2.circle(blood, (int(x), int(y)), 48, 1.0, -1, shift=3)
    e += blood * rng.uniform(0.8, 1.8)
    return np.asarray(h * thickness, dtype=np.float32), np.asarray(e * thickness, dtype=np.float32)


def draw_gaps(rng: np.random.Generator, layout: Layout, cells: Cells, cleft: float) -> FloatField:
    """How much of the ground is missing, 0 to 1: between malignant cells, where ice has been."""
    size = layout.size
    gaps = np.zeros((size, size), dtype=np.float32)
    if cleft > 0.3 and cells.borders.any():
        width = cleft * np.clip(0.8 + 0.5 * noise(rng, size, 25), 0.2, 2)
        between = np.exp(-((distance_to(cells.borders) / width) ** 2))
        gaps = np.where(cells.tumour, rng.uniform(0.4, 1.0) * between, 0).astype(np.float32)
    if rng.random() < 0.2:  # a frozen section
        ice = noise(rng, size, rng.uniform(3, 9), rng.uniform(1, 2.5), rng.uniform(0, np.pi))
        ice += rng.uniform(0, 0.7) * noise(rng, size, 60)
        solid = np.isin(layout.tissue, (Tissue.GLASS, Tissue.FAT, Tissue.LUMEN))
        holes = np.clip(2 * (ice - rng.uniform(1.0, 2.2)), 0, 1) * ~solid
        gaps = np.maximum(gaps, rng.uniform(0.5, 1.0) * holes)
    return np.asarray(gaps, dtype=np.float32)
