"""Lymph nodes: follicles with germinal centres, sinuses, a capsule. Dense, blue, and benign."""

import cv2
import numpy as np

from training.synthetic.fields import FloatField, distance_to, noise, warp
from training.synthetic.layout import Layout, Tissue, blob, cut_edge, fill, spots
from training.synthetic.nuclei import Look, Nuclei, Section, packing, thin
from training.synthetic.patch import LYMPHOCYTE, NORMAL


def lay_lymph_node(rng: np.random.Generator, layout: Layout) -> None:
    """Fill the picture with a node: follicles and sinuses in a bed of lymphocytes."""
    size = layout.size
    layout.tissue[:] = Tissue.LYMPHOID
    if rng.random() < 0.75:
        bands = noise(rng, size, rng.uniform(50, 120), rng.uniform(1, 4), rng.uniform(0, np.pi))
        bands = warp(rng, bands, 90, 20)
        layout.tissue[np.abs(bands) < rng.uniform(0.05, 0.35)] = Tissue.SINUS
    if rng.random() < 0.35:
        cords = noise(rng, size, rng.uniform(60, 130), 4, rng.uniform(0, np.pi))
        layout.tissue[np.abs(warp(rng, cords, 80, 16)) < rng.uniform(0.02, 0.1)] = Tissue.STROMA
    lay_follicles(rng, layout, int(rng.integers(0, 5)))
    for centre in spots(rng, layout.tissue == Tissue.LYMPHOID, rng.poisson((size / 300) ** 2)):
        fill(layout, blob(rng, centre, rng.uniform(8, 22)), Tissue.VESSEL)
    if rng.random() < 0.35:
        _capsule(rng, layout)


def lay_follicles(rng: np.random.Generator, layout: Layout, count: int) -> None:
    """Lay round follicles: a pale germinal centre within a mantle of small lymphocytes."""
    for centre in spots(rng, layout.tissue != Tissue.GLASS, count):
        radius = rng.uniform(60, 210)
        outline = blob(rng, centre, radius)
        fill(layout, outline, Tissue.LYMPHOID)
        middle = centre + (outline - centre) * rng.uniform(0.5, 0.85)
        fill(layout, middle, Tissue.GERMINAL)
        for at in spots(rng, layout.tissue == Tissue.GERMINAL, rng.poisson((radius / 35) ** 2)):
            fill(layout, blob(rng, at, rng.uniform(6, 13)), Tissue.FOAM)


def _capsule(rng: np.random.Generator, layout: Layout) -> None:
    """Let the node end in fat or on glass, within a band of collagen and a sinus."""
    before = layout.tissue.copy()
    cut_edge(rng, layout, rng.uniform(0.1, 0.6))
    beyond = layout.tissue == Tissue.GLASS
    layout.tissue[:] = before
    inwards = distance_to(beyond)
    sinus, capsule = rng.uniform(10, 35), rng.uniform(6, 30)
    layout.tissue[inwards < sinus + capsule] = Tissue.SINUS
    layout.tissue[inwards < capsule] = Tissue.STROMA
    layout.tissue[beyond] = Tissue.FAT if rng.random() < 0.6 else Tissue.GLASS


def place_nuclei_of_node(
    rng: np.random.Generator, layout: Layout, nuclei: Nuclei, section: Section
) -> None:
    """Place the large pale lymphocytes of germinal centres, macrophages, and lining cells."""
    if not _any_of_node(layout):
        return
    scale, crisp = section.scale, section.crisp
    germinal = layout.tissue == Tissue.GERMINAL
    if germinal.any():
        centre_cell = Look(
            LYMPHOCYTE, rng.uniform(13.5, 17.5) * scale, rng.uniform(0.08, 0.2), (0.55, 0.98), 0.05,
            rng.uniform(0.5, 1.1), 0.2, 0.05 + 0.2 * crisp, rng.uniform(0, 0.5),
            rng.uniform(0, 1.2),
        )  # fmt: skip
        spacing = centre_cell.length * rng.uniform(0.9, 1.25)
        places = thin(rng, packing(rng, germinal, spacing, 0.3), rng.uniform(0.75, 0.98))
        turned = rng.uniform(0, np.pi, len(places)).astype(np.float32)
        nuclei.add(places, turned, centre_cell)
    macrophage = Look(
        NORMAL, rng.uniform(13, 18) * scale, 0.12, (0.5, 0.9), 0.05, rng.uniform(0.45, 0.85), 0.12,
        0.15 * crisp, rng.uniform(0, 0.5), 0.4 * crisp,
    )  # fmt: skip
    sinus, foam = layout.tissue == Tissue.SINUS, layout.tissue == Tissue.FOAM
    if sinus.any():
        places = thin(rng, packing(rng, sinus, rng.uniform(20, 32), 0.35), rng.uniform(0.3, 0.95))
        turned = rng.uniform(0, np.pi, len(places)).astype(np.float32)
        nuclei.add(places, turned, macrophage)
        small = Look(
            LYMPHOCYTE, rng.uniform(11, 13.5) * scale, 0.06, (0.82, 1.0), 0.025,
            rng.uniform(0.9, 1.4), 0.1, 0.05 + 0.15 * crisp, 0.0, 0.0,
        )  # fmt: skip
        places = thin(rng, packing(rng, sinus, 15, 0.4), rng.uniform(0.0, 0.45))
        nuclei.add(places, 0.0, small)
    if foam.any():
        places = thin(rng, packing(rng, foam, rng.uniform(22, 34), 0.3), rng.uniform(0.5, 1.0))
        turned = rng.uniform(0, np.pi, len(places)).astype(np.float32)
        nuclei.add(places, turned, macrophage)


def dye_node(rng: np.random.Generator, layout: Layout, h: FloatField, e: FloatField) -> None:
    """Dye germinal centres, sinuses and macrophages, with the crumbs that these have eaten."""
    size = layout.size
    if not _any_of_node(layout):
        return
    grain = 1 + 0.15 * noise(rng, size, 2.5)
    for tissue, eosin, blue in (
        (Tissue.GERMINAL, (0.25, 0.9), (0.05, 0.4)),
        (Tissue.SINUS, (0.03, 0.55), (0.0, 0.12)),
        (Tissue.FOAM, (0.08, 0.5), (0.0, 0.15)),
    ):
        where = layout.tissue == tissue
        if where.any():
            e[where] = (rng.uniform(*eosin) * grain)[where]
            h[where] = (rng.uniform(*blue) * grain)[where]
    foam = layout.tissue == Tissue.FOAM
    if foam.any():
        bubbles = np.clip(noise(rng, size, rng.uniform(3, 5)), -1, 1)
        e[foam] *= (1 + 0.5 * bubbles)[foam]
        crumbs = np.zeros((size, size), dtype=np.float32)
        for x, y in np.round(thin(rng, packing(rng, foam, 12, 0.4), 0.12) * 8).astype(int):
            cv2.circle(crumbs, (int(x), int(y)), int(rng.uniform(8, 20)), 2.5, -1, shift=3)
        h += np.where(foam, crumbs, 0)


def _any_of_node(layout: Layout) -> bool:
    kinds = (Tissue.GERMINAL, Tissue.SINUS, Tissue.FOAM)
    return bool(np.isin(layout.tissue, kinds).any())
