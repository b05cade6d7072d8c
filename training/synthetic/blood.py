"""Blood, inside vessels and outside them: red cells have no nucleus, so nothing here is a cell."""

import cv2
import numpy as np

from training.synthetic.fields import FloatField, above, blur, distance_to, noise, slope_at, warp
from training.synthetic.layout import Layout, Pigment, Tissue, blob, fill, spots
from training.synthetic.nuclei import Look, Nuclei, Section, packing, thin
from training.synthetic.patch import LYMPHOCYTE, NORMAL


def lay_lakes(rng: np.random.Generator, layout: Layout, share: float) -> None:
    """Let blood lie in the stroma, in lakes or dissected along its fibres."""
    size = layout.size
    if rng.random() < 0.5:
        lakes = noise(rng, size, rng.uniform(50, 220)) + 0.2 * noise(rng, size, 16)
    else:
        lakes = noise(rng, size, rng.uniform(12, 40), rng.uniform(3, 7), rng.uniform(0, np.pi))
        lakes = warp(rng, lakes, 80, 20)
    soft = np.isin(layout.tissue, (Tissue.STROMA, Tissue.FAT))
    layout.tissue[above(lakes, share) & soft] = Tissue.BLOOD


def lay_large_vessels(rng: np.random.Generator, layout: Layout, count: int) -> None:
    """Lay veins and arteries: blood or nothing within a wall of muscle."""
    for centre in spots(rng, layout.tissue == Tissue.STROMA, count):
        radius = rng.uniform(25, 130)
        outline = blob(rng, centre, radius)
        fill(layout, outline, Tissue.MUSCLE)
        hollow = centre + (outline - centre) * rng.uniform(0.45, 0.9)
        fill(layout, hollow, Tissue.BLOOD if rng.random() < 0.7 else Tissue.LUMEN)


def lay_capillaries(rng: np.random.Generator, layout: Layout, count: int) -> None:
    """Strew small vessels that are full of blood."""
    for centre in spots(rng, layout.tissue == Tissue.STROMA, count):
        fill(layout, blob(rng, centre, rng.uniform(5, 16)), Tissue.BLOOD)


def place_nuclei_in_blood(
    rng: np.random.Generator, layout: Layout, nuclei: Nuclei, section: Section
) -> None:
    """Place the few white cells of blood, the lining of vessels, and the muscle of their walls."""
    scale, crisp = section.scale, section.crisp
    blood, muscle = layout.tissue == Tissue.BLOOD, layout.tissue == Tissue.MUSCLE
    if blood.any():
        white = Look(
            LYMPHOCYTE, rng.uniform(11, 13.8) * scale, 0.08, (0.75, 1.0), 0.04,
            rng.uniform(0.9, 1.4), 0.1, 0.05 + 0.15 * crisp, 0.0, 0.0,
        )  # fmt: skip
        nuclei.add(thin(rng, packing(rng, blood, 16, 0.4), rng.uniform(0, 0.05)), 0.0, white)
        flat = Look(NORMAL, 18 * scale, 0.2, (0.2, 0.4), 0.05, 0.9, 0.15, 0.1, 0.0, 0.0)
        inwards = distance_to(~blood)
        rim = thin(rng, packing(rng, blood & (inwards < 5), 10, 0.3), rng.uniform(0.0, 0.5))
        nuclei.add(rim, slope_at(inwards, rim) + np.pi / 2, flat)
    if muscle.any():
        smooth = Look(
            NORMAL, rng.uniform(18, 28) * scale, 0.2, (0.18, 0.35), 0.04, rng.uniform(0.6, 1.1),
            0.2, 0.1 * crisp, 0.2 * crisp, 0.0,
        )  # fmt: skip
        depth = distance_to(~muscle)
        places = thin(rng, packing(rng, muscle & (depth > 2), rng.uniform(17, 26), 0.35), 0.8)
        nuclei.add(places, slope_at(depth, places) + np.pi / 2, smooth)


def dye_blood(rng: np.random.Generator, layout: Layout, h: FloatField, e: FloatField) -> None:
    """Fill blood with red cells, whose own red lies over the eosin; some have come apart."""
    blood, muscle = layout.tissue == Tissue.BLOOD, layout.tissue == Tissue.MUSCLE
    size = layout.size
    if muscle.any():
        e[muscle] = (rng.uniform(0.8, 1.5) * (1 + 0.12 * noise(rng, size, 4)))[muscle]
        h[muscle] = rng.uniform(0.05, 0.3)
    if not blood.any():
        return
    cells = np.zeros((size, size), dtype=np.float32)
    width = rng.uniform(10.5, 14)  # 5 to 7 µm: sections shrink them
    places = packing(rng, distance_to(blood) < width / 3, width * rng.uniform(0.78, 1.15), 0.3)
    places = thin(rng, places, rng.uniform(0.6, 1.0))
    squeeze = rng.uniform(0.6, 1.0, len(places))
    for (x, y), narrow, angle in zip(
        places, squeeze, rng.uniform(0, 180, len(places)), strict=True
    ):
        axes = (width / 2, width / 2 * narrow)
        box = ((float(x), float(y)), (2 * axes[0], 2 * axes[1]), float(angle))
        cv2.ellipse(cells, box, float(rng.uniform(0.75, 1.25)), -1)
        if narrow > 0.85:  # seen from above: paler in the middle
            cv2.circle(cells, (int(x), int(y)), 2, 0.7, -1)
    lysed = rng.uniform(0, 1) ** 2 * (0.8 + 0.1 * noise(rng, size, 6))
    cells = np.where(blood, np.maximum(blur(cells, 0.7), lysed), 0).astype(np.float32)
    red = rng.uniform(0, 1)  # between the eosin of the section and the cells' own colour
    e[blood] = (rng.uniform(0.6, 1.6) * (1 - red) * cells + rng.uniform(0, 0.12))[blood]
    h[blood] = rng.uniform(0, 0.1)
    colour = np.array([rng.uniform(0.03, 0.25), rng.uniform(0.6, 0.9), rng.uniform(0.45, 0.8)])
    layout.pigments.append(
        Pigment(np.asarray(rng.uniform(0.5, 1.4) * red * cells, dtype=np.float32), colour)
    )
