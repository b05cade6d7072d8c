"""Where nuclei lie, and how those of each kind look."""

from dataclasses import dataclass, field
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from training.synthetic.fields import BoolField, FloatField, distance_to, noise, slope_at, values_at
from training.synthetic.layout import Layout, Tissue
from training.synthetic.patch import LYMPHOCYTE, MALIGNANT, NORMAL


@dataclass(frozen=True)
class Look:
    """How the nuclei of one kind look; lengths in px of 0.5 µm."""

    class_id: int
    length: float
    length_spread: float
    """of the logarithm"""
    slenderness: tuple[float, float]
    """short axis over long axis"""
    unevenness: float
    """amplitude of the outline's waves over the radius"""
    density: float
    """haematoxylin of the nucleus over the patch's usual one"""
    density_spread: float
    chromatin: float
    """amplitude of the clumps over the density"""
    vesicular: float
    """how much paler the middle is than the rim, 0 to 1"""
    nucleoli: float
    """mean number per nucleus"""


@dataclass(frozen=True)
class Section:
    """What all nuclei of a slide share."""

    crisp: float
    """how much inner structure they show, 0 to 1"""
    scale: float
    """their size over the usual one"""

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Section":
        """Draw a section."""
        crisp = float(rng.uniform(0, 1))
        return cls(crisp, float(rng.uniform(0.97, 1.1)))


@dataclass
class Nuclei:
    """Placed nuclei, one row each."""

    centre: list[NDArray[np.float32]] = field(default_factory=list)
    angle: list[NDArray[np.float32]] = field(default_factory=list)
    look: list[Look] = field(default_factory=list)

    def add(
        self, centre: NDArray[np.float32], angle: NDArray[np.float32] | float, look: Look
    ) -> None:
        """Add nuclei at ``centre`` (x, y in px), turned by ``angle`` (radians), of one look."""
        self.centre.append(centre)
        self.angle.append(np.broadcast_to(np.float32(angle), (len(centre),)))
        self.look.append(look)


def packing(
    rng: np.random.Generator, where: BoolField, spacing: float, jitter: float = 0.28
) -> NDArray[np.float32]:
    """Places (x, y) inside ``where``: a hexagonal packing, each moved by chance."""
    size = where.shape[0]
    rise = spacing * 0.87
    rows, columns = int(size / rise) + 3, int(size / spacing) + 3
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    x = (x + 0.5 * (y % 2) - 1) * spacing
    y = (y - 1) * rise
    places = np.stack([x.ravel(), y.ravel()], 1) + rng.normal(0, jitter * spacing, (x.size, 2))
    places = places + rng.uniform(0, spacing, 2)
    cells = places.astype(int)
    inside = np.all((cells >= 0) & (cells < size), axis=1)
    inside[inside] = where[cells[inside, 1], cells[inside, 0]]
    return np.asarray(places[inside], dtype=np.float32)


def thin(
    rng: np.random.Generator, places: NDArray[np.float32], share: float | FloatField
) -> NDArray[np.float32]:
    """Keep each place with the given chance."""
    return places[rng.random(len(places)) < share]


def deviations(rng: np.random.Generator, deviation: float, count: int) -> NDArray[np.float32]:
    """Draw ``count`` normal deviates of mean 0, as float32."""
    return np.asarray(rng.normal(0, deviation, count), dtype=np.float32)


def discs(size: int, places: NDArray[np.float32], radius: float) -> BoolField:
    """Mark a disc around each place."""
    drawn = np.zeros((size, size), dtype=np.uint8)
    for x, y in np.round(places * 8).astype(int):
        cv2.circle(drawn, (int(x), int(y)), round(radius * 8), 1, -1, shift=3)
    return drawn > 0


@dataclass(frozen=True)
class MalignantCells:
    """How the malignant cells of one section look; lengths in px."""

    nucleus: Look
    spacing: float
    cytoplasm: float
    """how far it reaches from the nucleus"""
    cleft: float
    """half the width of the pale gap between two cells"""
    eosin: float
    """of the cytoplasm, over that of usual stroma"""
    haematoxylin: float


def draw_malignant(
    rng: np.random.Generator, kind: Literal["any", "dark", "squamous"], scale: float, crisp: float
) -> MalignantCells:
    """Draw the look of malignant cells.

    Its usual nucleus is 7.2 to 16 µm long, and longer than the lymphocytes of its section (5.3 to
    7.6 µm); it may be darker or paler than they.
    """
    draw = rng.random()
    if kind == "dark" or (kind == "any" and draw < 0.25):
        # Hyperchromatic and discohesive, with scant blue cytoplasm: all that sets such a sheet
        # apart from lymphocytes is the size, shape and variety of its nuclei.
        nucleus = Look(
            MALIGNANT, rng.uniform(14.8, 20) * scale, rng.uniform(0.1, 0.22),
            (rng.uniform(0.45, 0.65), 0.97), rng.uniform(0.04, 0.1), rng.uniform(0.9, 1.45),
            rng.uniform(0.15, 0.4), 0.05 + 0.15 * crisp, rng.uniform(0, 0.25) * crisp, 0.0,
        )  # fmt: skip
        spacing = nucleus.length * rng.uniform(0.7, 1.0)
        return MalignantCells(
            nucleus, spacing, spacing, rng.uniform(0.6, 3.5),
            rng.uniform(0.1, 0.7), rng.uniform(0.3, 1.4),
        )  # fmt: skip
    if kind == "squamous" or draw < 0.35:
        nucleus = Look(
            MALIGNANT, rng.uniform(14.8, 21) * scale, rng.uniform(0.12, 0.25),
            (rng.uniform(0.5, 0.7), 0.97), rng.uniform(0.04, 0.08), rng.uniform(0.55, 1.25),
            rng.uniform(0.15, 0.3), 0.05 + 0.25 * crisp, rng.uniform(0, 0.7), rng.uniform(0, 1.6),
        )  # fmt: skip
        spacing = nucleus.length * rng.uniform(1.2, 1.9)
        return MalignantCells(
            nucleus, spacing, spacing, rng.uniform(0, 1.6),
            rng.uniform(0.8, 1.9), rng.uniform(0.0, 0.35),
        )  # fmt: skip
    grade = rng.random()
    length = (rng.uniform(14.8, 18.5) + 10 * grade * rng.random()) * scale
    nucleus = Look(
        MALIGNANT, length, 0.08 + 0.16 * grade,
        (rng.uniform(0.45, 0.7), 0.97), 0.03 + 0.07 * grade, rng.uniform(0.5, 1.3),
        0.12 + 0.2 * grade, 0.05 + (0.15 + 0.25 * grade) * crisp, rng.uniform(0, 0.75) * crisp,
        rng.uniform(0, 1.5) * crisp,
    )  # fmt: skip
    spacing = nucleus.length * rng.uniform(0.75, 1.5)
    confluent = rng.random() < 0.7  # cells touch, or each stands in its own gap
    cytoplasm = spacing if confluent else max(2.0, (spacing - 0.8 * nucleus.length) * 0.7)
    return MalignantCells(
        nucleus, spacing, cytoplasm, rng.uniform(0, 1.2),
        rng.uniform(0.2, 1.2), rng.uniform(0.1, 0.9),
    )  # fmt: skip


def place_nuclei(
    rng: np.random.Generator,
    layout: Layout,
    section: Section,
    walls: FloatField,
    fibre_angle: float,
) -> tuple[Nuclei, BoolField, MalignantCells]:
    """Place all nuclei; also return where malignant cells may spread, and how they look."""
    nuclei = Nuclei()
    tissue, size = layout.tissue, layout.size
    crisp, scale = section.crisp, section.scale

    cells = draw_malignant(rng, layout.malignant, scale, crisp)
    malignant = cells.nucleus
    room = tissue == Tissue.TUMOUR
    places = packing(rng, room, cells.spacing, rng.uniform(0.12, 0.28))
    places = thin(rng, places, rng.uniform(0.88, 1.0))
    # Nuclei lie anyhow, or side by side.
    direction = 2 * noise(rng, size, 150) if rng.random() < 0.5 else None
    turned = (
        rng.uniform(0, np.pi, len(places)).astype(np.float32)
        if direction is None
        else values_at(direction, places) + deviations(rng, rng.uniform(0.2, 0.8), len(places))
    )
    nuclei.add(places, turned, malignant)

    spindle = Look(
        NORMAL, rng.uniform(13, 25) * scale, 0.25, (0.18, rng.uniform(0.35, 0.6)), 0.06,
        rng.uniform(0.6, 1.2), 0.25, 0.05 + 0.15 * crisp, rng.uniform(0, 0.4) * crisp, 0.0,
    )  # fmt: skip
    grouping = np.clip(0.6 + 0.5 * noise(rng, size, 70), 0, 1.5) * rng.uniform(0.1, 0.95)
    places = packing(rng, tissue == Tissue.STROMA, rng.uniform(24, 34), 0.4)
    places = thin(rng, places, values_at(grouping, places))
    stray = rng.random(len(places)) < layout.strays
    fibroblasts, strays = places[~stray], places[stray]
    nuclei.add(fibroblasts, fibre_angle + deviations(rng, 0.35, len(fibroblasts)), spindle)
    nuclei.add(strays, fibre_angle + deviations(rng, 0.8, len(strays)), malignant)
    room |= discs(size, strays, malignant.length * rng.uniform(0.55, 0.9))

    flat = Look(NORMAL, 19 * scale, 0.2, (0.25, 0.45), 0.05, 0.9, 0.15, 0.1, 0.0, 0.0)
    in_walls = packing(rng, (tissue == Tissue.FAT) & (walls > 0.5), 10, 0.4)
    in_walls = thin(rng, in_walls, 0.05)
    nuclei.add(in_walls, slope_at(walls, in_walls) + np.pi / 2, flat)

    vessel = tissue == Tissue.VESSEL
    inwards = distance_to(~vessel)
    rim = thin(rng, packing(rng, vessel & (inwards < 5), 9, 0.3), 0.5)
    nuclei.add(rim, slope_at(inwards, rim) + np.pi / 2, flat)

    lymphocyte = Look(
        LYMPHOCYTE, rng.uniform(11, 13.8) * scale, 0.06, (0.82, 1.0), 0.025,
        rng.uniform(0.9, 1.4), 0.1, 0.05 + 0.15 * crisp, 0.0, 0.0,
    )  # fmt: skip
    spacing = lymphocyte.length * rng.uniform(1.0, 1.35)
    crowd = packing(rng, tissue == Tissue.LYMPHOID, spacing, rng.uniform(0.15, 0.35))
    nuclei.add(thin(rng, crowd, rng.uniform(0.6, 0.97)), 0.0, lymphocyte)
    if layout.infiltrate > 0:
        soft = (tissue == Tissue.STROMA) | ((tissue == Tissue.FAT) & (walls > 0.5))
        if rng.random() < 0.5:
            soft |= tissue == Tissue.TUMOUR
        strewn = packing(rng, soft, spacing, 0.35)
        flocks = np.clip(noise(rng, size, rng.uniform(30, 90)), 0, 2)
        chosen = thin(rng, strewn, 1.5 * layout.infiltrate * values_at(flocks, strewn))
        nuclei.add(chosen, 0.0, lymphocyte)

    epithelium = tissue == Tissue.EPITHELIUM
    benign = Look(
        NORMAL, rng.uniform(12.5, 16.5) * scale, 0.07, (0.55, 0.9), 0.03, rng.uniform(0.6, 1.4),
        0.1, 0.05 + 0.2 * crisp, 0.35 * crisp, 0.2 * crisp,
    )  # fmt: skip
    depth = distance_to(~epithelium)
    places = packing(rng, epithelium & (depth > 3), benign.length * rng.uniform(0.6, 1.05))
    nuclei.add(places, slope_at(depth, places), benign)

    squamous = tissue == Tissue.SQUAMOUS
    keratinocyte = Look(
        NORMAL, rng.uniform(13, 16) * scale, 0.08, (0.6, 0.95), 0.03, rng.uniform(0.6, 1.2), 0.12,
        0.15 * crisp, 0.4 * crisp, 0.3,
    )  # fmt: skip
    depth = distance_to(~squamous)
    basal = packing(rng, squamous & (depth < 22) & (depth > 4), 14, 0.18)
    nuclei.add(basal, slope_at(depth, basal), keratinocyte)
    upper = packing(rng, squamous & (depth >= 22), rng.uniform(24, 34), 0.18)
    nuclei.add(upper, rng.uniform(0, np.pi, len(upper)).astype(np.float32), keratinocyte)
    return nuclei, room, cells
