"""Which tissue lies where: the map that a picture starts from, and what may be laid in it."""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from training.synthetic.fields import BoolField, above, distance_to, noise, warp


class Tissue(IntEnum):
    """What a pixel belongs to before cells are placed."""

    GLASS = 0
    STROMA = 1
    FAT = 2
    LYMPHOID = 3
    EPITHELIUM = 4
    SQUAMOUS = 5
    LUMEN = 6
    TUMOUR = 7
    NECROSIS = 8
    VESSEL = 9
    BLOOD = 10
    MUSCLE = 11
    """of the wall of a vessel"""
    DEBRIS = 12
    GERMINAL = 13
    """centre of a lymph follicle"""
    SINUS = 14
    """of a lymph node"""
    FOAM = 15
    """macrophages full of what they have eaten"""
    MYOEPITHELIUM = 16
    """outer layer of a gland"""
    LUMINAL = 17
    """inner layer of a gland"""
    LOOSE = 18
    """stroma within a lobule"""
    HORN = 19
    """of skin and hair"""
    SEBUM = 20


Artefact = Literal["ink", "fold", "dust", "out of focus"]


@dataclass(frozen=True)
class Pigment:
    """A colour that is neither dye: of red cells, of melanin."""

    density: NDArray[np.float32]
    """``[size, size]``"""
    colour: NDArray[np.floating]
    """optical densities per unit of density, RGB"""


@dataclass
class Layout:
    """The tissue map, and what the patterns say about the cells in it."""

    tissue: NDArray[np.uint8]
    strays: float = 0.0
    """share of the stroma's cells that are single malignant ones"""
    infiltrate: float = 0.0
    """lymphocytes strewn over stroma and tumour, as a share of a dense packing"""
    malignant: Literal["any", "dark", "squamous"] = "any"
    """what the malignant cells look like"""
    apocrine: bool = False
    """glands are lined by large pink cells"""
    crowded: bool = False
    """nuclei within glands overlap and stream"""
    artefact: Artefact | None = None
    """what is laid over the picture"""
    pigments: list[Pigment] = field(default_factory=list)
    """colours that the rendering adds to the dyes"""
    sebum_cells: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    """where sebaceous cells have their nuclei, (x, y) in px"""

    @classmethod
    def empty(cls, size: int) -> "Layout":
        """Return a map of stroma alone, ``size`` px wide."""
        return cls(np.full((size, size), Tissue.STROMA, dtype=np.uint8))

    @property
    def size(self) -> int:
        """Side of the picture, px."""
        return int(self.tissue.shape[0])


def blob(
    rng: np.random.Generator, centre: NDArray[np.floating], radius: float
) -> NDArray[np.float32]:
    """Outline ``[V, 2]`` of an uneven ellipse."""
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    swell = np.ones_like(turn)
    for k in (2, 3, 4, 5):
        swell += rng.normal(0, 0.16 / k) * np.cos(k * turn + rng.uniform(0, 2 * np.pi))
    points = np.stack([np.cos(turn), np.sin(turn)], 1) * (swell * radius)[:, None]
    points[:, 1] *= rng.uniform(0.6, 1.0)
    angle = rng.uniform(0, np.pi)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.asarray(points @ rotation.T + centre, dtype=np.float32)


def fill(layout: Layout, outline: NDArray[np.floating], tissue: Tissue) -> None:
    """Fill an outline (x, y in px) with a tissue."""
    cv2.fillPoly(layout.tissue, [np.round(outline * 8).astype(np.int32)], int(tissue), shift=3)


def spots(rng: np.random.Generator, where: BoolField, count: int) -> NDArray[np.float32]:
    """Draw up to ``count`` places (x, y) inside ``where``."""
    candidates = rng.integers(0, where.shape[0], (count * 4, 2))
    inside = where[candidates[:, 1], candidates[:, 0]]
    return np.asarray(candidates[inside][:count], dtype=np.float32)


def lay_ducts(
    rng: np.random.Generator, layout: Layout, count: int, where: BoolField | None = None
) -> None:
    """Lay benign ducts and lobules: rings of epithelium around a lumen, in stroma."""
    if where is None:
        where = layout.tissue > 0
    for centre in spots(rng, where, count):
        lobule = rng.random() < 0.6
        reach = rng.uniform(40, 110)
        for _ in range(rng.integers(5, 18) if lobule else 1):
            radius = rng.uniform(18, 38) if lobule else rng.uniform(40, 110)
            at = centre + (rng.normal(0, reach / 1.5, 2) if lobule else 0)
            outline = blob(rng, at, radius)
            fill(layout, outline, Tissue.EPITHELIUM)
            wall = min(radius * 0.9, rng.uniform(14, 34))
            open_share = (radius - wall) / radius
            fill(layout, at + (outline - at) * open_share, Tissue.LUMEN)


def lay_in_situ(rng: np.random.Generator, layout: Layout, count: int) -> None:
    """Lay ducts filled with malignant cells: solid, cribriform or with a necrotic middle."""
    for centre in spots(rng, layout.tissue > 0, count):
        radius = rng.uniform(60, 170)
        outline = blob(rng, centre, radius)
        fill(layout, outline, Tissue.TUMOUR)
        style = rng.integers(3)
        if style == 1:
            for _ in range(rng.integers(3, 9)):
                at = centre + rng.normal(0, radius / 2.5, 2)
                fill(layout, blob(rng, at, rng.uniform(8, 24)), Tissue.LUMEN)
        elif style == 2:
            inner = centre + (outline - centre) * rng.uniform(0.3, 0.6)
            fill(layout, inner, Tissue.NECROSIS)


def lay_tumour(
    rng: np.random.Generator,
    layout: Layout,
    bed: BoolField,
    density: float,
    scale: float,
    stretch: float = 1.0,
) -> None:
    """Fill the share ``density`` of a tumour bed with nests about ``scale`` px wide."""
    angle = rng.uniform(0, np.pi)
    nests = noise(rng, layout.size, scale, stretch, angle)
    nests += 0.35 * noise(rng, layout.size, max(10.0, scale / 3), stretch, angle)
    if stretch > 1:
        nests = warp(rng, nests, 80, 20)
    layout.tissue[bed & above(nests, density)] = Tissue.TUMOUR
    tumour = layout.tissue == Tissue.TUMOUR
    if rng.random() < 0.35:
        holes = above(noise(rng, layout.size, rng.uniform(12, 30)), rng.uniform(0.02, 0.12))
        layout.tissue[holes & tumour] = Tissue.LUMEN
    if rng.random() < 0.25:  # the nests have shrunk away from the stroma
        around = distance_to(tumour) < rng.uniform(3, 14)
        torn = around & above(noise(rng, layout.size, rng.uniform(25, 70)), rng.uniform(0.2, 0.7))
        layout.tissue[torn & bed & (layout.tissue == Tissue.STROMA)] = Tissue.LUMEN


def lay_share(rng: np.random.Generator, layout: Layout, tissue: Tissue, share: float) -> None:
    """Turn about that share of the stroma into another tissue, in large patches."""
    where = above(noise(rng, layout.size, rng.uniform(80, 260)), share)
    layout.tissue[where & (layout.tissue == Tissue.STROMA)] = tissue


def lay_vessels(rng: np.random.Generator, layout: Layout) -> None:
    """Strew small vessels over the stroma, about one to 512 px square."""
    stroma = layout.tissue == Tissue.STROMA
    for centre in spots(rng, stroma, rng.poisson((layout.size / 512) ** 2)):
        fill(layout, blob(rng, centre, rng.uniform(12, 40)), Tissue.VESSEL)


def lay_surroundings(rng: np.random.Generator, layout: Layout) -> None:
    """Add what any field of view may hold beside its subject."""
    if rng.random() < 0.35:
        lay_share(rng, layout, Tissue.FAT, rng.uniform(0.05, 0.5))
    if rng.random() < 0.25:
        lay_share(rng, layout, Tissue.LYMPHOID, rng.uniform(0.03, 0.25))
    if rng.random() < 0.5:
        layout.infiltrate = float(rng.uniform(0.0, 0.35) ** 1.5)
    lay_vessels(rng, layout)
    if rng.random() < 0.2:
        lay_tears(rng, layout)
    if rng.random() < 0.12:
        cut_edge(rng, layout, rng.uniform(0.1, 0.7))


def lay_tears(rng: np.random.Generator, layout: Layout) -> None:
    """Open empty clefts in the stroma."""
    clefts = noise(rng, layout.size, rng.uniform(12, 40), rng.uniform(1, 5), rng.uniform(0, np.pi))
    torn = above(warp(rng, clefts, 60, 8), rng.uniform(0.02, 0.2))
    layout.tissue[torn & (layout.tissue == Tissue.STROMA)] = Tissue.LUMEN


def cut_edge(rng: np.random.Generator, layout: Layout, share: float) -> None:
    """Let the section end somewhere: glass beyond an uneven line."""
    angle = rng.uniform(0, 2 * np.pi)
    grid = np.linspace(-1, 1, layout.size, dtype=np.float32)
    slope = np.cos(angle) * grid[None, :] + np.sin(angle) * grid[:, None]
    slope = slope + 0.12 * noise(rng, layout.size, 60) + 0.04 * noise(rng, layout.size, 14)
    layout.tissue[above(slope, share)] = Tissue.GLASS


def tumour_bed(rng: np.random.Generator, layout: Layout) -> BoolField:
    """Mark where tumour may grow: the whole picture, or a large patch of it."""
    whole = rng.random() < 0.5
    bed = above(noise(rng, layout.size, 200), 1.0 if whole else rng.uniform(0.3, 0.9))
    return np.asarray(bed & np.isin(layout.tissue, (Tissue.STROMA, Tissue.FAT, Tissue.LYMPHOID)))
