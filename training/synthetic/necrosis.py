"""Dead tissue: ghosts of cells and the dust of their nuclei. None of it is a nucleus any more."""

import cv2
import numpy as np

from training.synthetic.fields import FloatField, above, blur, distance_to, noise
from training.synthetic.layout import Layout, Tissue
from training.synthetic.nuclei import Look, Nuclei, Section, packing, thin
from training.synthetic.patch import LYMPHOCYTE, NORMAL


def lay_debris(rng: np.random.Generator, layout: Layout, share: float) -> None:
    """Let a share of all tissue be dead, in large patches with ragged edges."""
    where = noise(rng, layout.size, rng.uniform(80, 240)) + 0.15 * noise(rng, layout.size, 12)
    layout.tissue[above(where, share) & (layout.tissue != Tissue.GLASS)] = Tissue.DEBRIS


def place_nuclei_in_debris(
    rng: np.random.Generator, layout: Layout, nuclei: Nuclei, section: Section
) -> None:
    """Place the living among the dead: white cells at the edge and foamy macrophages."""
    debris = layout.tissue == Tissue.DEBRIS
    if not debris.any():
        return
    scale, crisp = section.scale, section.crisp
    white = Look(
        LYMPHOCYTE, rng.uniform(9, 12.5) * scale, 0.1, (0.7, 1.0), 0.08, rng.uniform(1.0, 1.5),
        0.1, 0.05 + 0.15 * crisp, 0.0, 0.0,
    )  # fmt: skip
    near_edge = np.exp(-distance_to(~debris) / rng.uniform(15, 60)).astype(np.float32)
    places = packing(rng, debris, 13, 0.4)
    columns, rows = places.astype(int).T
    share = rng.uniform(0, 0.5) * near_edge[rows, columns] + rng.uniform(0, 0.03)
    nuclei.add(thin(rng, places, share), 0.0, white)
    macrophage = Look(
        NORMAL, rng.uniform(12, 15) * scale, 0.1, (0.6, 0.95), 0.05, rng.uniform(0.5, 0.9), 0.1,
        0.15 * crisp, 0.4 * crisp, 0.3,
    )  # fmt: skip
    places = thin(rng, packing(rng, debris, 26, 0.35), rng.uniform(0, 0.12))
    nuclei.add(places, rng.uniform(0, np.pi, len(places)).astype(np.float32), macrophage)


def dye_debris(rng: np.random.Generator, layout: Layout, h: FloatField, e: FloatField) -> None:
    """Give debris its grain, the pale ghosts of nuclei, shrunken dark ones, and their dust."""
    debris = layout.tissue == Tissue.DEBRIS
    if not debris.any():
        return
    size = layout.size
    grain = 1 + rng.uniform(0.1, 0.35) * noise(rng, size, 1.8) + 0.25 * noise(rng, size, 6)
    grain = grain + rng.uniform(0, 0.5) * noise(rng, size, 22)
    e[debris] = (rng.uniform(0.5, 1.5) * np.clip(grain, 0.1, None))[debris]
    h[debris] = (rng.uniform(0.0, 0.4) * np.clip(1 + noise(rng, size, 30), 0.1, None))[debris]
    ghosts = np.zeros((size, size), dtype=np.float32)
    _strew(rng, ghosts, debris, (26, rng.uniform(0, 0.9)), (4.5, 8.0), (0.2, 0.9))
    shrunken = np.zeros((size, size), dtype=np.float32)
    _strew(rng, shrunken, debris, (22, rng.uniform(0, 0.35)), (2.2, 4.2), (1.8, 4.0))
    clumped = np.clip(noise(rng, size, 45), 0, 2) * rng.uniform(0.0, 0.5)
    _strew(rng, shrunken, debris, (8, clumped), (0.6, 2.2), (1.0, 3.5))
    h += np.where(debris, blur(ghosts, 1.2) + blur(shrunken, 0.5), 0)


def _strew(
    rng: np.random.Generator,
    drawn: FloatField,
    where: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
    spacing_and_share: tuple[float, float | FloatField],
    radius: tuple[float, float],
    density: tuple[float, float],
) -> None:
    """Draw grains: radius in px, density of haematoxylin over that of eosin in usual stroma."""
    spacing, share = spacing_and_share
    places = packing(rng, where, spacing, 0.4)
    if not isinstance(share, float):
        columns, rows = places.astype(int).T
        share = share[rows, columns]
    for x, y in np.round(thin(rng, places, share) * 8).astype(int):
        size = round(rng.uniform(*radius) * 8)
        cv2.circle(drawn, (int(x), int(y)), size, float(rng.uniform(*density)), -1, shift=3)
