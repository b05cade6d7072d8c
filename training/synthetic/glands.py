"""Benign glands whose wall has two layers of cells: lobules, their ducts, sclerosing adenosis."""

import numpy as np
from numpy.typing import NDArray

from training.synthetic.fields import FloatField, above, distance_to, noise, slope_at
from training.synthetic.layout import Layout, Tissue, blob, fill, spots
from training.synthetic.nuclei import Look, Nuclei, Section, packing, thin
from training.synthetic.patch import NORMAL


def lay_lobules(rng: np.random.Generator, layout: Layout, count: int) -> None:
    """Lay lobules: acini in loose stroma, and at times the duct that they open into."""
    for centre in spots(rng, layout.tissue == Tissue.STROMA, count):
        reach = rng.uniform(70, 190)
        if rng.random() < 0.85:
            fill(layout, blob(rng, centre, reach), Tissue.LOOSE)
        spacing = rng.uniform(44, 76)
        radius = spacing * rng.uniform(0.34, 0.5)
        acini = packing(rng, _disc(layout.size, centre, 0.85 * reach), spacing, 0.2)
        for at in thin(rng, acini, rng.uniform(0.6, 1.0)):
            wall = rng.uniform(0.5, 0.9)
            lay_gland(layout, blob(rng, at, radius * rng.uniform(0.75, 1.25)), at, wall)
        if rng.random() < 0.5:
            at = (centre + rng.normal(0, reach, 2)).astype(np.float32)
            lay_gland(layout, blob(rng, at, rng.uniform(40, 100)), at, rng.uniform(0.2, 0.5))


def lay_full_ducts(rng: np.random.Generator, layout: Layout, count: int) -> None:
    """Lay ducts of usual hyperplasia: small crowded nuclei around slits, within a second layer."""
    for centre in spots(rng, layout.tissue == Tissue.STROMA, count):
        outline = blob(rng, centre, rng.uniform(45, 130))
        lay_gland(layout, outline, centre, 1.0)
    inside = layout.tissue == Tissue.LUMINAL
    slits = noise(rng, layout.size, rng.uniform(7, 14), rng.uniform(1, 3), rng.uniform(0, np.pi))
    layout.tissue[inside & above(slits, rng.uniform(0.02, 0.15))] = Tissue.LUMEN
    layout.crowded = True


def lay_sclerosing(rng: np.random.Generator, layout: Layout, share: float) -> None:
    """Lay sclerosing adenosis: many small glands, pressed flat side by side in collagen."""
    size = layout.size
    where = above(noise(rng, size, rng.uniform(120, 260)), share)
    where &= layout.tissue == Tissue.STROMA
    swirl = rng.uniform(1, 2) * noise(rng, size, rng.uniform(90, 200)) + rng.uniform(0, np.pi)
    flat, long = rng.uniform(0.35, 0.75), rng.uniform(22, 40)
    for at in packing(rng, where, long * rng.uniform(1.35, 2.2), 0.22):
        angle = float(swirl[int(at[1]), int(at[0])])
        turn = np.linspace(0, 2 * np.pi, 32, endpoint=False)
        swell = 1 + 0.12 * rng.normal() * np.cos(3 * turn + rng.uniform(0, 6))
        length = long * rng.uniform(0.5, 1.3)
        x = length * swell * np.cos(turn)
        y = max(10.0, length * flat * rng.uniform(0.7, 1.3)) * swell * np.sin(turn)
        cos, sin = np.cos(angle), np.sin(angle)
        outline = np.stack([x * cos - y * sin, x * sin + y * cos], 1) + at
        lay_gland(layout, outline, at, 1.0 if rng.random() < 0.55 else 0.7)


def lay_gland(
    layout: Layout, outline: NDArray[np.floating], centre: NDArray[np.floating], wall: float
) -> None:
    """Lay one gland: an outer layer of 3 µm, an inner one, and a lumen.

    ``wall`` is the share of the radius that the two layers take; with 1 there is no lumen.
    """
    radius = float(np.hypot(*(outline - centre).T).mean())
    fill(layout, outline, Tissue.MYOEPITHELIUM)
    fill(layout, centre + (outline - centre) * max(0.3, 1 - 6.5 / radius), Tissue.LUMINAL)
    if wall < 1:
        fill(layout, centre + (outline - centre) * min(1 - wall, 1 - 12 / radius), Tissue.LUMEN)


def _disc(
    size: int, centre: NDArray[np.floating], radius: float
) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    grid = np.arange(size)
    return np.asarray(np.hypot(grid[None] - centre[0], grid[:, None] - centre[1]) < radius)


def place_nuclei_of_glands(
    rng: np.random.Generator, layout: Layout, nuclei: Nuclei, section: Section
) -> None:
    """Place flat nuclei in the outer layer, upright ones in the inner, spindles in loose stroma."""
    scale, crisp = section.scale, section.crisp
    outer, inner = layout.tissue == Tissue.MYOEPITHELIUM, layout.tissue == Tissue.LUMINAL
    loose = layout.tissue == Tissue.LOOSE
    if loose.any():
        spindle = Look(
            NORMAL, rng.uniform(12, 20) * scale, 0.25, (0.2, 0.55), 0.06, rng.uniform(0.6, 1.2),
            0.25, 0.05 + 0.15 * crisp, rng.uniform(0, 0.4) * crisp, 0.0,
        )  # fmt: skip
        places = thin(rng, packing(rng, loose, rng.uniform(18, 28), 0.4), rng.uniform(0.3, 0.9))
        nuclei.add(places, rng.uniform(0, np.pi, len(places)).astype(np.float32), spindle)
    if not inner.any():
        return
    flat = Look(
        NORMAL, rng.uniform(11, 15) * scale, 0.12, (0.3, 0.6), 0.04, rng.uniform(0.7, 1.4), 0.15,
        0.05 + 0.15 * crisp, 0.2 * crisp, 0.0,
    )  # fmt: skip
    to_centre = distance_to(~(outer | inner))
    rim = packing(rng, outer & (to_centre > 1), rng.uniform(11, 17), 0.25)
    nuclei.add(rim, slope_at(to_centre, rim) + np.pi / 2, flat)
    if layout.apocrine:  # large, round, with a nucleolus: benign all the same
        upright = Look(
            NORMAL, rng.uniform(13.5, 17) * scale, 0.08, (0.8, 1.0), 0.02, rng.uniform(0.6, 1.1),
            0.1, 0.05 + 0.15 * crisp, rng.uniform(0.1, 0.5), rng.uniform(0.6, 1.2),
        )  # fmt: skip
        spacing = upright.length * rng.uniform(1.1, 1.5)
    else:
        upright = Look(
            NORMAL, rng.uniform(12, 15) * scale, 0.09, (0.5, 0.95), 0.03, rng.uniform(0.6, 1.4),
            0.12, 0.05 + 0.2 * crisp, 0.35 * crisp, 0.2 * crisp,
        )  # fmt: skip
        spacing = upright.length * (
            rng.uniform(0.6, 0.8) if layout.crowded else rng.uniform(0.65, 0.9)
        )
    places = packing(rng, inner & (distance_to(~inner) > 2), spacing, 0.2)
    direction = slope_at(to_centre, places)
    if layout.crowded:  # nuclei stream past each other
        direction = (2 * noise(rng, layout.size, 60))[tuple(places.astype(int).T[::-1])]
    nuclei.add(places, direction, upright)


def dye_glands(rng: np.random.Generator, layout: Layout, h: FloatField, e: FloatField) -> None:
    """Dye loose stroma, both layers, and what fills some lumens."""
    size = layout.size
    loose = layout.tissue == Tissue.LOOSE
    if loose.any():
        fibres = noise(rng, size, rng.uniform(2, 4), rng.uniform(2, 6), rng.uniform(0, np.pi))
        e[loose] = (rng.uniform(0.25, 0.8) * np.clip(1 + 0.3 * fibres, 0.1, None))[loose]
        h[loose] = rng.uniform(0.02, 0.4)
    outer, inner = layout.tissue == Tissue.MYOEPITHELIUM, layout.tissue == Tissue.LUMINAL
    if not inner.any():
        return
    grain = 1 + 0.12 * noise(rng, size, 2.5)
    eosin = rng.uniform(1.2, 2.2) if layout.apocrine else rng.uniform(0.4, 1.2)
    e[inner] = (eosin * grain)[inner]
    h[inner] = (rng.uniform(0.05, 0.6) * grain)[inner]
    clear = rng.random() < 0.4
    e[outer] = (grain * (rng.uniform(0.02, 0.2) if clear else rng.uniform(0.4, 1.1)))[outer]
    h[outer] = 0.05 if clear else rng.uniform(0.1, 0.5)
    membrane = (distance_to(outer | inner) < 2) & np.isin(
        layout.tissue, (Tissue.STROMA, Tissue.LOOSE)
    )
    e[membrane] = rng.uniform(0.9, 1.6)
    if rng.random() < 0.3:
        lumen = layout.tissue == Tissue.LUMEN
        e[lumen] = (rng.uniform(0.2, 1.2) * (1 + 0.05 * noise(rng, size, 8)))[lumen]
