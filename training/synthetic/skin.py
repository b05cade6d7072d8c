"""Skin: epidermis under its horn, dermis, and what grows in it."""

import cv2
import numpy as np

from training.synthetic.fields import FloatField, distance_to, edges, noise
from training.synthetic.glands import lay_gland
from training.synthetic.layout import Layout, Pigment, Tissue, blob, fill, spots
from training.synthetic.nuclei import Look, Nuclei, Section, packing, thin
from training.synthetic.patch import NORMAL


def lay_skin(rng: np.random.Generator, layout: Layout) -> None:
    """Lay skin: glass, horn, epidermis with its ridges, and dermis below; or dermis alone."""
    size = layout.size
    lay_adnexa(rng, layout)
    if rng.random() < 0.25:
        return
    angle = rng.uniform(0, 2 * np.pi)
    grid = np.arange(size, dtype=np.float32) - size / 2
    depth = np.cos(angle) * grid[None] + np.sin(angle) * grid[:, None]
    depth = depth + rng.uniform(-0.1, 0.45) * size
    surface = depth + 12 * noise(rng, size, 140)
    horn, epidermis = rng.uniform(4, 90), rng.uniform(40, 150)
    ridges = rng.uniform(4, 45) * noise(rng, size, rng.uniform(25, 70))
    layout.tissue[surface < horn + epidermis + ridges] = Tissue.SQUAMOUS
    layout.tissue[surface < horn + 3 * noise(rng, size, 18)] = Tissue.HORN
    layout.tissue[surface < 0] = Tissue.GLASS


def lay_adnexa(rng: np.random.Generator, layout: Layout) -> None:
    """Lay hair follicles, sebaceous lobules and sweat glands in stroma."""
    for centre in spots(rng, layout.tissue == Tissue.STROMA, rng.poisson(0.9)):
        outline = blob(rng, centre, rng.uniform(45, 120))
        fill(layout, outline, Tissue.SQUAMOUS)
        if rng.random() < 0.7:
            fill(layout, centre + (outline - centre) * rng.uniform(0.25, 0.6), Tissue.HORN)
    for centre in spots(rng, layout.tissue == Tissue.STROMA, rng.poisson(0.8)):
        for _ in range(rng.integers(2, 7)):
            at = centre + rng.normal(0, 60, 2)
            fill(layout, blob(rng, at, rng.uniform(30, 75)), Tissue.SEBUM)
    for centre in spots(rng, layout.tissue == Tissue.STROMA, rng.poisson(0.8)):
        for _ in range(rng.integers(5, 16)):
            at = centre + rng.normal(0, 50, 2)
            lay_gland(layout, blob(rng, at, rng.uniform(15, 26)), at, rng.uniform(0.6, 0.85))


def place_nuclei_of_skin(
    rng: np.random.Generator, layout: Layout, nuclei: Nuclei, section: Section
) -> None:
    """Place the small nuclei amid the foam of sebaceous cells."""
    sebum = layout.tissue == Tissue.SEBUM
    if not sebum.any():
        return
    scale, crisp = section.scale, section.crisp
    small = Look(
        NORMAL, rng.uniform(10, 14) * scale, 0.12, (0.65, 1.0), 0.06, rng.uniform(0.7, 1.3), 0.15,
        0.05 + 0.2 * crisp, 0.2 * crisp, 0.2,
    )  # fmt: skip
    depth = distance_to(~sebum)
    middle = thin(rng, packing(rng, sebum & (depth > 12), rng.uniform(28, 42), 0.15), 0.9)
    nuclei.add(middle, 0.0, small)
    basal = packing(rng, sebum & (depth <= 10) & (depth > 2), 14, 0.2)
    nuclei.add(thin(rng, basal, 0.8), 0.0, small)
    layout.sebum_cells = middle


def dye_skin(rng: np.random.Generator, layout: Layout, h: FloatField, e: FloatField) -> None:
    """Dye horn in its lamellae and sebaceous cells in foam; some epidermis is pigmented."""
    size = layout.size
    horn, sebum = layout.tissue == Tissue.HORN, layout.tissue == Tissue.SEBUM
    if horn.any():
        depth = distance_to(~horn) + 3 * noise(rng, size, rng.uniform(15, 40))
        waves = np.sin(2 * np.pi * depth / rng.uniform(5, 14) + noise(rng, size, 25))
        loose = rng.uniform(-0.9, 0.6)  # how far the lamellae stand apart
        solid = np.clip(2.5 * (waves - loose), 0, 1)
        e[horn] = (rng.uniform(0.7, 2.2) * solid)[horn]
        h[horn] = (rng.uniform(0.0, 0.9) * solid)[horn]
        squamous = layout.tissue == Tissue.SQUAMOUS
        granular = squamous & (distance_to(horn) < rng.uniform(3, 12))
        h[granular] += rng.uniform(0.0, 0.9)
        if rng.random() < 0.4:
            _melanin(rng, layout)
    if sebum.any():
        e[sebum] = rng.uniform(0.1, 0.5)
        h[sebum] = rng.uniform(0.0, 0.1)
        foam = np.clip(1 + 0.6 * noise(rng, size, rng.uniform(2.5, 4)), 0, 2)
        e[sebum] *= foam[sebum]
        e[sebum & _cell_walls(size, layout)] = rng.uniform(0.5, 1.0)


def _melanin(rng: np.random.Generator, layout: Layout) -> None:
    squamous = layout.tissue == Tissue.SQUAMOUS
    dermis = np.isin(layout.tissue, (Tissue.STROMA, Tissue.LOOSE))
    basal = squamous & (distance_to(dermis) < rng.uniform(10, 24))
    grain = np.clip(noise(rng, layout.size, 2) + rng.uniform(-1, 0.7), 0, 2)
    brown = np.array([0.45, 0.62, 0.64]) + rng.uniform(-0.05, 0.05, 3)
    density = np.where(basal, rng.uniform(0.3, 1.2) * grain, 0).astype(np.float32)
    layout.pigments.append(Pigment(density, brown))


def _cell_walls(size: int, layout: Layout) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    seeds = np.ones((size, size), dtype=np.uint8)
    if not len(layout.sebum_cells):
        return np.zeros((size, size), dtype=bool)
    columns, rows = layout.sebum_cells.astype(int).T
    seeds[rows, columns] = 0
    _, cell = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    return edges(np.asarray(cell))
