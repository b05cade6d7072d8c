"""Generated H&E-like breast tissue with exact truth, at 0.5 µm/px.

No public image set with cellularity may be shipped with this project, so the demonstration model
learns from tissue of our own making. A picture is built the way a section is: a *layout* says
which tissue lies where, *nuclei* are placed in it, both give the optical density of haematoxylin
and eosin per pixel, and a *stain* and a *camera* turn these into RGB. Everything that varies in
practice (stain, thickness, sharpness, cell size, architecture) is drawn widely at random, since a
model that has seen every generated look is the more likely to take a real one for one more.

**Cellularity**, exactly: the area of malignant cells over the area of tissue.

- A malignant cell is its nucleus and its cytoplasm: the pixels within the cytoplasm's width of a
  malignant nucleus and inside the space its nest or duct leaves it, the clefts between discohesive
  cells included. Nuclei of other cells that lie in between (infiltrating lymphocytes) do not count.
  In-situ carcinoma counts, as in BreastPathQ.
- Tissue is everything but the empty glass around the section. Fat vacuoles, lumens, clefts and
  vessels are tissue, as they are for a pathologist who judges the share of a tumour bed.
- A picture without tissue has cellularity 0.
"""

import argparse
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from wsi_pipeline.model.architecture import CLASSES

log = logging.getLogger(__name__)

BACKGROUND, LYMPHOCYTE, NORMAL, MALIGNANT = range(len(CLASSES))

FloatField = NDArray[np.float32]
BoolField = NDArray[np.bool_]

Pattern = Literal[
    "glass",
    "fat",
    "stroma",
    "lymphocytes",
    "ducts",
    "squamous",
    "in situ",
    "nests",
    "cords",
    "single cells",
    "solid",
    "dark sheets",
    "squamous carcinoma",
    "mixture",
]

# How often each pattern is drawn: so that the cellularities are spread as BreastPathQ's are (mean
# 0.31, a third at or near 0, a tenth at or near 1).
PATTERN_WEIGHTS: dict[Pattern, float] = {
    "glass": 0.02,
    "fat": 0.07,
    "stroma": 0.08,
    "lymphocytes": 0.08,
    "ducts": 0.10,
    "squamous": 0.03,
    "in situ": 0.09,
    "nests": 0.15,
    "cords": 0.10,
    "single cells": 0.05,
    "solid": 0.15,
    "dark sheets": 0.10,
    "squamous carcinoma": 0.05,
    "mixture": 0.10,
}


class SyntheticConfig(BaseModel):
    """What to generate.

    ``stain="shifted"`` draws each stain parameter from just outside the range that ``"usual"``
    draws it from, so that a validation set can hold stains that training never showed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(default=512, ge=64, description="side of a patch, px at 0.5 µm/px")
    stain: Literal["usual", "shifted"] = "usual"


@dataclass(frozen=True)
class Patch:
    """A generated picture and its truth; all arrays are ``[size, size]`` at 0.5 µm/px."""

    rgb: NDArray[np.uint8]
    """``[size, size, 3]``"""
    mask: NDArray[np.uint8]
    """class of the nucleus at each pixel, in the order of ``CLASSES``"""
    tumour: BoolField
    """pixels of malignant cells, nucleus and cytoplasm"""
    tissue: BoolField
    """pixels of the section, holes included"""

    @property
    def cellularity(self) -> float:
        """Area of malignant cells over area of tissue; 0 where there is no tissue."""
        return float(self.tumour.sum() / max(1, self.tissue.sum()))

    def window(self, x: int, y: int, size: int) -> "Patch":
        """Cut out a square with its exact truth; ``x, y`` is its corner."""
        rows, columns = slice(y, y + size), slice(x, x + size)
        return Patch(
            self.rgb[rows, columns],
            self.mask[rows, columns],
            self.tumour[rows, columns],
            self.tissue[rows, columns],
        )


def generate_patch(
    rng: np.random.Generator,
    config: SyntheticConfig | None = None,
    pattern: Pattern | None = None,
    weights: Mapping[Pattern, float] = PATTERN_WEIGHTS,
) -> Patch:
    """Generate one patch, of a pattern drawn by weight unless one is named."""
    config = config or SyntheticConfig()
    if pattern is None:
        share = np.array(list(weights.values()))
        pattern = list(weights)[rng.choice(len(share), p=share / share.sum())]
    layout = _Layout.empty(config.size)
    _PATTERNS[pattern](rng, layout)
    return _render(rng, layout, _draw_stain(rng, config.stain))


def generate_region(
    seed: int, size: int = 4096, stain: Literal["usual", "shifted"] = "usual"
) -> Patch:
    """Generate a slide-like picture: one section on glass, with four tissues in its quarters.

    Solid tumour lies top left, stroma with ducts top right, fat bottom left and lymphocytes bottom
    right. Memory is about 150 bytes a pixel while it is made.
    """
    rng = np.random.default_rng(seed)
    layout = _Layout.empty(size)
    grid = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    wobble = 0.03 * _noise(rng, size, size / 8)
    left, top = grid[None, :] + wobble < 0, grid[:, None] + wobble < 0
    _tumour(rng, layout, top & left, density=0.9, scale=60.0)
    _ducts(rng, layout, count=max(2, size // 400), where=top & ~left)
    layout.tissue[~top & left & (layout.tissue == Tissue.STROMA)] = Tissue.FAT
    layout.tissue[~top & ~left & (layout.tissue == Tissue.STROMA)] = Tissue.LYMPHOID
    layout.tissue[np.hypot(grid[None, :], grid[:, None]) + wobble > 0.42] = Tissue.GLASS
    return _render(rng, layout, _draw_stain(rng, stain))


# --- random fields ---------------------------------------------------------------------------


def _noise(
    rng: np.random.Generator, size: int, scale: float, stretch: float = 1.0, angle: float = 0.0
) -> FloatField:
    """Smooth noise of mean 0 and deviation 1, its features ``scale`` px wide.

    ``stretch`` makes them that much longer along ``angle`` (radians from the x axis).
    """
    if scale >= 12 and size >= 256:  # smooth enough to be drawn small
        small = _noise(rng, -(-size // 4), scale / 4, stretch, angle)
        enlarged = cv2.resize(small, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
        return np.asarray(enlarged[:size, :size], dtype=np.float32)
    reach = 1.5 * size
    coarse = rng.standard_normal(
        (int(reach / scale) + 5, int(reach / (scale * stretch)) + 5), dtype=np.float32
    )
    cos, sin, middle = np.cos(angle), np.sin(angle), size / 2
    along = np.array([cos, sin]) / (scale * stretch)
    across = np.array([-sin, cos]) / scale
    rows, columns = coarse.shape
    jitter = rng.uniform(-0.5, 0.5, 2)
    to_coarse = np.array(
        [
            [*along, columns / 2 + jitter[0] - along.sum() * middle],
            [*across, rows / 2 + jitter[1] - across.sum() * middle],
        ]
    )
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    fine = cv2.warpAffine(
        coarse, to_coarse, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT
    )
    sample = fine[::4, ::4]
    return np.asarray((fine - sample.mean()) / (sample.std() + 1e-6), dtype=np.float32)


def _above(values: FloatField, share: float) -> BoolField:
    """Mark the ``share`` of the pixels with the highest values."""
    return np.asarray(values > np.quantile(values[::4, ::4], 1 - np.clip(share, 0, 1)))


def _warp(rng: np.random.Generator, picture: FloatField, scale: float, reach: float) -> FloatField:
    """Move pixels about by smooth random steps of about ``reach`` px."""
    size = picture.shape[0]
    grid = np.arange(size, dtype=np.float32)
    x = grid[None, :] + reach * _noise(rng, size, scale)
    y = grid[:, None] + reach * _noise(rng, size, scale)
    return np.asarray(cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT))


def _blur(picture: FloatField, sigma: float) -> FloatField:
    """Blur; hardly at all where ``sigma`` is 0 or less."""
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), max(0.05, sigma)), dtype=np.float32)


def _distance_to(where: BoolField) -> FloatField:
    """Distance of each pixel to the nearest marked one, px (very large where none is marked)."""
    return np.asarray(cv2.distanceTransform((~where).astype(np.uint8), cv2.DIST_L2, 3))


# --- layout: which tissue lies where -----------------------------------------------------------


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


@dataclass
class _Layout:
    """The tissue map, and what the patterns say about the cells in it."""

    tissue: NDArray[np.uint8]
    strays: float = 0.0
    """share of the stroma's cells that are single malignant ones"""
    infiltrate: float = 0.0
    """lymphocytes strewn over stroma and tumour, as a share of a dense packing"""
    malignant: Literal["any", "dark", "squamous"] = "any"
    """what the malignant cells look like"""

    @classmethod
    def empty(cls, size: int) -> "_Layout":
        return cls(np.full((size, size), Tissue.STROMA, dtype=np.uint8))

    @property
    def size(self) -> int:
        return int(self.tissue.shape[0])


def _blob(
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


def _fill(layout: _Layout, outline: NDArray[np.floating], tissue: Tissue) -> None:
    cv2.fillPoly(layout.tissue, [np.round(outline * 8).astype(np.int32)], int(tissue), shift=3)


def _spots(rng: np.random.Generator, where: BoolField, count: int) -> NDArray[np.float32]:
    """Draw up to ``count`` places (x, y) inside ``where``."""
    candidates = rng.integers(0, where.shape[0], (count * 4, 2))
    inside = where[candidates[:, 1], candidates[:, 0]]
    return np.asarray(candidates[inside][:count], dtype=np.float32)


def _ducts(
    rng: np.random.Generator, layout: _Layout, count: int, where: BoolField | None = None
) -> None:
    """Lay benign ducts and lobules: rings of epithelium around a lumen, in stroma."""
    if where is None:
        where = layout.tissue > 0
    for centre in _spots(rng, where, count):
        lobule = rng.random() < 0.6
        reach = rng.uniform(40, 110)
        for _ in range(rng.integers(5, 18) if lobule else 1):
            radius = rng.uniform(18, 38) if lobule else rng.uniform(40, 110)
            at = centre + (rng.normal(0, reach / 1.5, 2) if lobule else 0)
            outline = _blob(rng, at, radius)
            _fill(layout, outline, Tissue.EPITHELIUM)
            wall = min(radius * 0.9, rng.uniform(14, 34))
            open_share = (radius - wall) / radius
            _fill(layout, at + (outline - at) * open_share, Tissue.LUMEN)


def _in_situ(rng: np.random.Generator, layout: _Layout, count: int) -> None:
    """Lay ducts filled with malignant cells: solid, cribriform or with a necrotic middle."""
    for centre in _spots(rng, layout.tissue > 0, count):
        radius = rng.uniform(60, 170)
        outline = _blob(rng, centre, radius)
        _fill(layout, outline, Tissue.TUMOUR)
        style = rng.integers(3)
        if style == 1:
            for _ in range(rng.integers(3, 9)):
                at = centre + rng.normal(0, radius / 2.5, 2)
                _fill(layout, _blob(rng, at, rng.uniform(8, 24)), Tissue.LUMEN)
        elif style == 2:
            inner = centre + (outline - centre) * rng.uniform(0.3, 0.6)
            _fill(layout, inner, Tissue.NECROSIS)


def _tumour(
    rng: np.random.Generator,
    layout: _Layout,
    bed: BoolField,
    density: float,
    scale: float,
    stretch: float = 1.0,
) -> None:
    """Fill the share ``density`` of a tumour bed with nests about ``scale`` px wide."""
    angle = rng.uniform(0, np.pi)
    nests = _noise(rng, layout.size, scale, stretch, angle)
    nests += 0.35 * _noise(rng, layout.size, max(10.0, scale / 3), stretch, angle)
    if stretch > 1:
        nests = _warp(rng, nests, 80, 20)
    layout.tissue[bed & _above(nests, density)] = Tissue.TUMOUR
    tumour = layout.tissue == Tissue.TUMOUR
    if rng.random() < 0.35:
        holes = _above(_noise(rng, layout.size, rng.uniform(12, 30)), rng.uniform(0.02, 0.12))
        layout.tissue[holes & tumour] = Tissue.LUMEN
    if rng.random() < 0.25:  # the nests have shrunk away from the stroma
        around = _distance_to(tumour) < rng.uniform(3, 14)
        torn = around & _above(_noise(rng, layout.size, rng.uniform(25, 70)), rng.uniform(0.2, 0.7))
        layout.tissue[torn & bed & (layout.tissue == Tissue.STROMA)] = Tissue.LUMEN


def _share(rng: np.random.Generator, layout: _Layout, tissue: Tissue, share: float) -> None:
    """Turn about that share of the stroma into another tissue, in large patches."""
    where = _above(_noise(rng, layout.size, rng.uniform(80, 260)), share)
    layout.tissue[where & (layout.tissue == Tissue.STROMA)] = tissue


def _vessels(rng: np.random.Generator, layout: _Layout) -> None:
    stroma = layout.tissue == Tissue.STROMA
    for centre in _spots(rng, stroma, rng.poisson((layout.size / 512) ** 2)):
        _fill(layout, _blob(rng, centre, rng.uniform(12, 40)), Tissue.VESSEL)


def _surroundings(rng: np.random.Generator, layout: _Layout) -> None:
    """Add what any field of view may hold beside its subject."""
    if rng.random() < 0.35:
        _share(rng, layout, Tissue.FAT, rng.uniform(0.05, 0.5))
    if rng.random() < 0.25:
        _share(rng, layout, Tissue.LYMPHOID, rng.uniform(0.03, 0.25))
    if rng.random() < 0.5:
        layout.infiltrate = float(rng.uniform(0.0, 0.35) ** 1.5)
    _vessels(rng, layout)
    if rng.random() < 0.2:
        _tears(rng, layout)
    if rng.random() < 0.12:
        _cut_edge(rng, layout, rng.uniform(0.1, 0.7))


def _tears(rng: np.random.Generator, layout: _Layout) -> None:
    """Open empty clefts in the stroma."""
    clefts = _noise(rng, layout.size, rng.uniform(12, 40), rng.uniform(1, 5), rng.uniform(0, np.pi))
    torn = _above(_warp(rng, clefts, 60, 8), rng.uniform(0.02, 0.2))
    layout.tissue[torn & (layout.tissue == Tissue.STROMA)] = Tissue.LUMEN


def _cut_edge(rng: np.random.Generator, layout: _Layout, share: float) -> None:
    """Let the section end somewhere: glass beyond an uneven line."""
    angle = rng.uniform(0, 2 * np.pi)
    grid = np.linspace(-1, 1, layout.size, dtype=np.float32)
    slope = np.cos(angle) * grid[None, :] + np.sin(angle) * grid[:, None]
    slope = slope + 0.12 * _noise(rng, layout.size, 60) + 0.04 * _noise(rng, layout.size, 14)
    layout.tissue[_above(slope, share)] = Tissue.GLASS


def _pattern_glass(rng: np.random.Generator, layout: _Layout) -> None:
    layout.tissue[:] = Tissue.GLASS
    if rng.random() < 0.5:
        layout.tissue[:] = Tissue.STROMA
        _cut_edge(rng, layout, rng.uniform(0.6, 0.95))


def _pattern_fat(rng: np.random.Generator, layout: _Layout) -> None:
    _share(rng, layout, Tissue.FAT, rng.uniform(0.7, 1.0))
    if rng.random() < 0.2:
        layout.infiltrate = float(rng.uniform(0, 0.1))
    if rng.random() < 0.15:
        _cut_edge(rng, layout, rng.uniform(0.1, 0.6))


def _pattern_stroma(rng: np.random.Generator, layout: _Layout) -> None:
    _surroundings(rng, layout)


def _pattern_lymphocytes(rng: np.random.Generator, layout: _Layout) -> None:
    _share(rng, layout, Tissue.LYMPHOID, rng.uniform(0.25, 1.0))
    layout.infiltrate = float(rng.uniform(0.05, 0.5))
    if rng.random() < 0.3:
        _ducts(rng, layout, int(rng.integers(1, 3)))
    _vessels(rng, layout)


def _pattern_ducts(rng: np.random.Generator, layout: _Layout) -> None:
    _surroundings(rng, layout)
    _ducts(rng, layout, int(rng.integers(2, 9)))


def _pattern_squamous(rng: np.random.Generator, layout: _Layout) -> None:
    _share(rng, layout, Tissue.SQUAMOUS, rng.uniform(0.2, 0.7))
    _surroundings(rng, layout)


def _pattern_in_situ(rng: np.random.Generator, layout: _Layout) -> None:
    _surroundings(rng, layout)
    _in_situ(rng, layout, int(rng.integers(1, 5)))


def _bed(rng: np.random.Generator, layout: _Layout) -> BoolField:
    whole = rng.random() < 0.5
    bed = _above(_noise(rng, layout.size, 200), 1.0 if whole else rng.uniform(0.3, 0.9))
    return np.asarray(bed & np.isin(layout.tissue, (Tissue.STROMA, Tissue.FAT, Tissue.LYMPHOID)))


def _pattern_nests(rng: np.random.Generator, layout: _Layout) -> None:
    _surroundings(rng, layout)
    _tumour(rng, layout, _bed(rng, layout), rng.uniform(0.15, 0.95), rng.uniform(30, 110))


def _pattern_cords(rng: np.random.Generator, layout: _Layout) -> None:
    _surroundings(rng, layout)
    bed = _bed(rng, layout)
    _tumour(rng, layout, bed, rng.uniform(0.1, 0.7), rng.uniform(13, 28), rng.uniform(2, 6))


def _pattern_single_cells(rng: np.random.Generator, layout: _Layout) -> None:
    _surroundings(rng, layout)
    layout.strays = float(rng.uniform(0.2, 0.9))


def _pattern_solid(rng: np.random.Generator, layout: _Layout) -> None:
    if rng.random() < 0.4:
        _surroundings(rng, layout)
    _tumour(rng, layout, layout.tissue > 0, 1 - 0.12 * rng.random() ** 2, rng.uniform(40, 120))
    if rng.random() < 0.1:
        necrosis = _above(_noise(rng, layout.size, 120), rng.uniform(0.1, 0.4))
        layout.tissue[necrosis & (layout.tissue == Tissue.TUMOUR)] = Tissue.NECROSIS


def _pattern_dark_sheets(rng: np.random.Generator, layout: _Layout) -> None:
    layout.malignant = "dark"
    if rng.random() < 0.5:
        _surroundings(rng, layout)
    bed = _bed(rng, layout) if rng.random() < 0.5 else layout.tissue > 0
    stretch = rng.uniform(1, 3)
    _tumour(rng, layout, bed, rng.uniform(0.3, 1.0), rng.uniform(25, 130), stretch)


def _pattern_squamous_carcinoma(rng: np.random.Generator, layout: _Layout) -> None:
    layout.malignant = "squamous"
    _surroundings(rng, layout)
    _tumour(rng, layout, _bed(rng, layout), rng.uniform(0.3, 1.0), rng.uniform(60, 160))


def _pattern_mixture(rng: np.random.Generator, layout: _Layout) -> None:
    _surroundings(rng, layout)
    _ducts(rng, layout, int(rng.integers(1, 3)))
    _tumour(rng, layout, _bed(rng, layout), rng.uniform(0.1, 0.8), rng.uniform(20, 90))
    layout.strays = float(rng.uniform(0, 0.3))


_PATTERNS: dict[Pattern, Callable[[np.random.Generator, _Layout], None]] = {
    "glass": _pattern_glass,
    "fat": _pattern_fat,
    "stroma": _pattern_stroma,
    "lymphocytes": _pattern_lymphocytes,
    "ducts": _pattern_ducts,
    "squamous": _pattern_squamous,
    "in situ": _pattern_in_situ,
    "nests": _pattern_nests,
    "cords": _pattern_cords,
    "single cells": _pattern_single_cells,
    "solid": _pattern_solid,
    "dark sheets": _pattern_dark_sheets,
    "squamous carcinoma": _pattern_squamous_carcinoma,
    "mixture": _pattern_mixture,
}


# --- nuclei ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Look:
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


@dataclass
class _Nuclei:
    """Placed nuclei, one row each."""

    centre: list[NDArray[np.float32]] = field(default_factory=list)
    angle: list[NDArray[np.float32]] = field(default_factory=list)
    look: list[_Look] = field(default_factory=list)

    def add(
        self, centre: NDArray[np.float32], angle: NDArray[np.float32] | float, look: _Look
    ) -> None:
        self.centre.append(centre)
        self.angle.append(np.broadcast_to(np.float32(angle), (len(centre),)))
        self.look.append(look)


def _packing(
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


def _thin(
    rng: np.random.Generator, places: NDArray[np.float32], share: float | FloatField
) -> NDArray[np.float32]:
    """Keep each place with the given chance."""
    return places[rng.random(len(places)) < share]


def _at(values: FloatField, places: NDArray[np.float32]) -> FloatField:
    """Read a field at some places."""
    columns, rows = places.astype(int).T
    return np.asarray(values[rows, columns])


def _normal(rng: np.random.Generator, deviation: float, count: int) -> NDArray[np.float32]:
    return np.asarray(rng.normal(0, deviation, count), dtype=np.float32)


def _discs(size: int, places: NDArray[np.float32], radius: float) -> BoolField:
    """Mark a disc around each place."""
    drawn = np.zeros((size, size), dtype=np.uint8)
    for x, y in np.round(places * 8).astype(int):
        cv2.circle(drawn, (int(x), int(y)), round(radius * 8), 1, -1, shift=3)
    return drawn > 0


def _edges(labels: NDArray[np.int32]) -> BoolField:
    """Mark pixels whose label differs from that of the pixel above or to the left."""
    edges = np.zeros(labels.shape, dtype=bool)
    edges[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edges[1:] |= labels[1:] != labels[:-1]
    return edges


def _slope(distance: FloatField, places: NDArray[np.float32]) -> NDArray[np.float32]:
    """Direction (radians) of steepest ascent of a distance map at some places."""
    smooth = _blur(distance, 3)
    columns, rows = places.astype(int).T
    size = distance.shape[0]
    right, left = np.minimum(columns + 2, size - 1), np.maximum(columns - 2, 0)
    down, up = np.minimum(rows + 2, size - 1), np.maximum(rows - 2, 0)
    dx = smooth[rows, right] - smooth[rows, left]
    dy = smooth[down, columns] - smooth[up, columns]
    return np.asarray(np.arctan2(dy, dx), dtype=np.float32)


@dataclass(frozen=True)
class _Cells:
    """The nuclei of a picture, drawn."""

    mask: NDArray[np.uint8]
    """class per pixel"""
    haematoxylin: FloatField
    """of the nuclei alone, over the patch's usual nuclear density"""
    tumour: BoolField
    """malignant cells, nucleus and cytoplasm"""
    borders: BoolField
    """where two malignant cells touch"""


def _outlines(
    rng: np.random.Generator,
    centre: NDArray[np.float32],
    angle: NDArray[np.float32],
    look: _Look,
) -> NDArray[np.int32]:
    """Outlines ``[N, V, 2]`` in eighths of a pixel."""
    count, corners = len(centre), 18
    turn = np.linspace(0, 2 * np.pi, corners, endpoint=False)[None]
    swell = np.ones((count, corners))
    for k in (2, 3, 4):
        amplitude = rng.normal(0, look.unevenness / np.sqrt(k), (count, 1))
        swell += amplitude * np.cos(k * turn + rng.uniform(0, 2 * np.pi, (count, 1)))
    length = look.length * np.exp(rng.normal(0, look.length_spread, (count, 1)))
    short = length * rng.uniform(*look.slenderness, (count, 1))
    x, y = length / 2 * swell * np.cos(turn), short / 2 * swell * np.sin(turn)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    points = np.stack([x * cos - y * sin, x * sin + y * cos], -1) + centre[:, None]
    return np.asarray(np.round(points * 8), dtype=np.int32)


def _draw_cells(
    rng: np.random.Generator, nuclei: _Nuclei, room: BoolField, cytoplasm: float
) -> _Cells:
    """Draw nuclei one over the other, and give malignant ones ``cytoplasm`` px inside ``room``."""
    size = room.shape[0]
    above, below = np.zeros((2, size, size), dtype=np.int32)
    outlines = [
        _outlines(rng, c, a, k)
        for c, a, k in zip(nuclei.centre, nuclei.angle, nuclei.look, strict=True)
    ]
    stacked = np.concatenate(outlines) if outlines else np.zeros((0, 18, 2), dtype=np.int32)
    order = rng.permutation(len(stacked))
    for i in order:
        cv2.fillPoly(above, [stacked[i]], int(i) + 1, shift=3)
    for i in order[::-1]:
        cv2.fillPoly(below, [stacked[i]], int(i) + 1, shift=3)
    ids, overlap = above, above != below
    counts = [len(centre) for centre in nuclei.centre]

    def of_each(value: Callable[[_Look], float]) -> FloatField:
        return np.concatenate([[0.0], np.repeat([value(k) for k in nuclei.look], counts)]).astype(
            np.float32
        )

    density = of_each(lambda k: k.density)
    density *= np.exp(of_each(lambda k: k.density_spread) * _normal(rng, 1, len(density)))
    mask = of_each(lambda k: k.class_id).astype(np.uint8)[ids]

    inside = ids > 0
    edge = _edges(ids)
    depth = _distance_to(~inside | edge)
    middle = 1 - np.exp(-depth / 1.6)
    clumps = 0.6 * _noise(rng, size, 2.2) + 0.6 * _noise(rng, size, 4.5)
    haematoxylin = density[ids] * (
        (1 + of_each(lambda k: k.chromatin)[ids] * clumps)
        * (1 - of_each(lambda k: k.vesicular)[ids] * middle)
    )
    haematoxylin[overlap] *= rng.uniform(1, 1.35)  # light passes both nuclei
    haematoxylin[edge & inside] *= rng.uniform(0.65, 1.05)
    _add_nucleoli(rng, haematoxylin, nuclei, inside)

    malignant = mask == MALIGNANT
    tumour, borders = malignant, np.zeros_like(malignant)
    if malignant.any():
        distance, nearest = cv2.distanceTransformWithLabels(
            (~(malignant & ~edge)).astype(np.uint8), cv2.DIST_L2, 5
        )
        others = inside & ~malignant
        tumour = malignant | (room & (distance <= cytoplasm) & ~others)
        borders = _edges(nearest) & tumour & ~inside
    return _Cells(mask, np.maximum(haematoxylin, 0), tumour, borders)


def _add_nucleoli(
    rng: np.random.Generator, haematoxylin: FloatField, nuclei: _Nuclei, inside: BoolField
) -> None:
    dots = np.zeros(inside.shape, dtype=np.uint8)
    for look, centre in zip(nuclei.look, nuclei.centre, strict=True):
        for _ in range(int(np.ceil(look.nucleoli))):
            chosen = _thin(rng, centre, look.nucleoli / np.ceil(look.nucleoli))
            moved = chosen + rng.normal(0, look.length * 0.1, chosen.shape)
            for x, y in np.round(moved * 8).astype(int):
                cv2.circle(dots, (int(x), int(y)), int(rng.uniform(8, 18)), 1, -1, shift=3)
    haematoxylin[(dots > 0) & inside] += 0.35


# --- stain and camera --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Stain:
    """Optical densities per unit of dye (natural logarithm, RGB) and the colour of bare glass."""

    haematoxylin: NDArray[np.float32]
    eosin: NDArray[np.float32]
    glass: NDArray[np.float32]
    nuclei: float
    """density of a usual nucleus"""
    ground: float
    """density of eosin in usual stroma"""


def _draw_stain(rng: np.random.Generator, kind: Literal["usual", "shifted"]) -> _Stain:
    """Draw stain vectors around those of published slides (as Macenko's method finds them)."""
    u = rng.uniform(-1, 1, 12)
    if kind == "shifted":
        u = np.where(u < 0, -1, 1) * (1 + 0.3 * np.abs(u))
    haematoxylin = np.array([0.63 + 0.13 * u[0], 0.69 + 0.10 * u[1], 0.30 + 0.11 * u[2]])
    eosin = np.array([0.25 + 0.18 * u[3], 0.88 + 0.08 * u[4], 0.42 + 0.18 * u[5]])
    haematoxylin /= np.linalg.norm(haematoxylin)
    # In many sections nuclei take up eosin too: in some frozen ones they are but a darker red.
    haematoxylin += min(0.65, 0.07 * (1 + u[11]) ** 3) * (eosin - haematoxylin)
    white = 0.925 + 0.06 * u[6]
    tint = np.array([1.0, 1 - 0.06 * (1 + u[7]), 1 - 0.015 + 0.03 * u[8]])
    return _Stain(
        (haematoxylin / np.linalg.norm(haematoxylin)).astype(np.float32),
        (eosin / np.linalg.norm(eosin)).astype(np.float32),
        (white * tint).astype(np.float32),
        nuclei=float(1.6 * np.exp(0.65 * u[9])),
        ground=float(0.55 * np.exp(0.75 * u[10])),
    )


def _photograph(rng: np.random.Generator, rgb: FloatField) -> NDArray[np.uint8]:
    """Blur, resample, add noise and compress, as scanners do; ``rgb`` in 0..1."""
    size = rgb.shape[0]
    rgb = _blur(rgb, rng.uniform(-0.5, 0.9))
    if rng.random() < 0.35:
        out_of_focus = np.clip(0.5 + 0.6 * _noise(rng, size, rng.uniform(60, 200)), 0, 1)[..., None]
        rgb += out_of_focus * (_blur(rgb, rng.uniform(1.0, 2.2)) - rgb)
    if rng.random() < 0.4:  # scanned more coarsely: 0.69 µm/px is usual for spatial transcriptomics
        coarse = max(32, round(size * rng.uniform(0.6, 0.9)))
        small = np.asarray(
            cv2.resize(rgb, (coarse, coarse), interpolation=cv2.INTER_AREA), np.float32
        )
        small = _compress(rng, small) if rng.random() < 0.5 else small
        rgb = np.asarray(cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC), np.float32)
    if rng.random() < 0.4:
        rgb = rgb + rng.uniform(0.2, 1.5) * (rgb - _blur(rgb, 1.2))
    rgb = rgb + rng.uniform(0, 0.06) * (1 - rgb)  # stray light: nothing is quite black
    rgb = rgb + rng.uniform(0, 0.018) * rng.standard_normal(rgb.shape, dtype=np.float32)
    if rng.random() < 0.7:
        rgb = _compress(rng, rgb)
    return np.clip(np.round(rgb * 255), 0, 255).astype(np.uint8)


def _compress(rng: np.random.Generator, rgb: FloatField) -> FloatField:
    """Store as JPEG and read again; ``rgb`` in 0..1."""
    picture = np.clip(np.round(rgb * 255), 0, 255).astype(np.uint8)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(55, 96))]
    _, data = cv2.imencode(".jpg", picture[..., ::-1], quality)
    again = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.float32)
    return np.ascontiguousarray(again[..., ::-1]) / np.float32(255)


# --- rendering ---------------------------------------------------------------------------------


def _fat_cells(rng: np.random.Generator, size: int) -> FloatField:
    """How much of each pixel is the wall between fat cells, 0 to 1."""
    seeds = np.ones((size, size), dtype=np.uint8)
    everywhere = np.ones((size, size), dtype=bool)
    columns, rows = _packing(rng, everywhere, rng.uniform(70, 150), 0.22).astype(int).T
    seeds[rows, columns] = 0
    _, cell = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    border = _warp(rng, _edges(np.asarray(cell)).astype(np.float32), 45, rng.uniform(2, 7))
    # Where three walls meet the blurred border is highest, so a threshold rounds the corners.
    spread = rng.uniform(2.5, 7)
    thickness = _blur(border, spread) * spread
    return np.asarray(np.clip((thickness - rng.uniform(0.1, 0.35)) * 4, 0, 1), dtype=np.float32)


@dataclass(frozen=True)
class _MalignantCells:
    """How the malignant cells of one section look; lengths in px."""

    nucleus: _Look
    spacing: float
    cytoplasm: float
    """how far it reaches from the nucleus"""
    cleft: float
    """half the width of the pale gap between two cells"""
    eosin: float
    """of the cytoplasm, over that of usual stroma"""
    haematoxylin: float


def _draw_malignant(
    rng: np.random.Generator, kind: Literal["any", "dark", "squamous"], scale: float, crisp: float
) -> _MalignantCells:
    """Draw the look of malignant cells.

    Its usual nucleus is 7.2 to 16 µm long, and longer than the lymphocytes of its section (5.3 to
    7.6 µm); it may be darker or paler than they.
    """
    draw = rng.random()
    if kind == "dark" or (kind == "any" and draw < 0.25):
        # Hyperchromatic and discohesive, with scant blue cytoplasm: all that sets such a sheet
        # apart from lymphocytes is the size, shape and variety of its nuclei.
        nucleus = _Look(
            MALIGNANT, rng.uniform(14.8, 20) * scale, rng.uniform(0.1, 0.22),
            (rng.uniform(0.45, 0.65), 0.97), rng.uniform(0.04, 0.1), rng.uniform(0.9, 1.45),
            rng.uniform(0.15, 0.4), 0.05 + 0.15 * crisp, rng.uniform(0, 0.25) * crisp, 0.0,
        )  # fmt: skip
        spacing = nucleus.length * rng.uniform(0.7, 1.0)
        return _MalignantCells(
            nucleus, spacing, spacing, rng.uniform(0.6, 3.5),
            rng.uniform(0.1, 0.7), rng.uniform(0.3, 1.4),
        )  # fmt: skip
    if kind == "squamous" or draw < 0.35:
        nucleus = _Look(
            MALIGNANT, rng.uniform(14.8, 21) * scale, rng.uniform(0.12, 0.25),
            (rng.uniform(0.5, 0.7), 0.97), rng.uniform(0.04, 0.08), rng.uniform(0.55, 1.25),
            rng.uniform(0.15, 0.3), 0.05 + 0.25 * crisp, rng.uniform(0, 0.7), rng.uniform(0, 1.6),
        )  # fmt: skip
        spacing = nucleus.length * rng.uniform(1.2, 1.9)
        return _MalignantCells(
            nucleus, spacing, spacing, rng.uniform(0, 1.6),
            rng.uniform(0.8, 1.9), rng.uniform(0.0, 0.35),
        )  # fmt: skip
    grade = rng.random()
    length = (rng.uniform(14.8, 18.5) + 10 * grade * rng.random()) * scale
    nucleus = _Look(
        MALIGNANT, length, 0.08 + 0.16 * grade,
        (rng.uniform(0.45, 0.7), 0.97), 0.03 + 0.07 * grade, rng.uniform(0.5, 1.3),
        0.12 + 0.2 * grade, 0.05 + (0.15 + 0.25 * grade) * crisp, rng.uniform(0, 0.75) * crisp,
        rng.uniform(0, 1.5) * crisp,
    )  # fmt: skip
    spacing = nucleus.length * rng.uniform(0.75, 1.5)
    confluent = rng.random() < 0.7  # cells touch, or each stands in its own gap
    cytoplasm = spacing if confluent else max(2.0, (spacing - 0.8 * nucleus.length) * 0.7)
    return _MalignantCells(
        nucleus, spacing, cytoplasm, rng.uniform(0, 1.2),
        rng.uniform(0.2, 1.2), rng.uniform(0.1, 0.9),
    )  # fmt: skip


def _place_nuclei(
    rng: np.random.Generator, layout: _Layout, walls: FloatField, fibre_angle: float
) -> tuple[_Nuclei, BoolField, _MalignantCells]:
    """Place all nuclei; also return where malignant cells may spread, and how they look."""
    nuclei = _Nuclei()
    tissue, size = layout.tissue, layout.size
    crisp = float(rng.uniform(0, 1))  # how much inner structure this slide's nuclei show
    scale = float(rng.uniform(0.97, 1.1))

    cells = _draw_malignant(rng, layout.malignant, scale, crisp)
    malignant = cells.nucleus
    room = tissue == Tissue.TUMOUR
    places = _packing(rng, room, cells.spacing, rng.uniform(0.12, 0.28))
    places = _thin(rng, places, rng.uniform(0.88, 1.0))
    # Nuclei lie anyhow, or side by side.
    direction = 2 * _noise(rng, size, 150) if rng.random() < 0.5 else None
    turned = (
        rng.uniform(0, np.pi, len(places)).astype(np.float32)
        if direction is None
        else _at(direction, places) + _normal(rng, rng.uniform(0.2, 0.8), len(places))
    )
    nuclei.add(places, turned, malignant)

    spindle = _Look(
        NORMAL, rng.uniform(13, 25) * scale, 0.25, (0.18, rng.uniform(0.35, 0.6)), 0.06,
        rng.uniform(0.6, 1.2), 0.25, 0.05 + 0.15 * crisp, rng.uniform(0, 0.4) * crisp, 0.0,
    )  # fmt: skip
    grouping = np.clip(0.6 + 0.5 * _noise(rng, size, 70), 0, 1.5) * rng.uniform(0.1, 0.95)
    places = _packing(rng, tissue == Tissue.STROMA, rng.uniform(24, 34), 0.4)
    places = _thin(rng, places, _at(grouping, places))
    stray = rng.random(len(places)) < layout.strays
    fibroblasts, strays = places[~stray], places[stray]
    nuclei.add(fibroblasts, fibre_angle + _normal(rng, 0.35, len(fibroblasts)), spindle)
    nuclei.add(strays, fibre_angle + _normal(rng, 0.8, len(strays)), malignant)
    room |= _discs(size, strays, malignant.length * rng.uniform(0.55, 0.9))

    flat = _Look(NORMAL, 19 * scale, 0.2, (0.25, 0.45), 0.05, 0.9, 0.15, 0.1, 0.0, 0.0)
    in_walls = _packing(rng, (tissue == Tissue.FAT) & (walls > 0.5), 10, 0.4)
    in_walls = _thin(rng, in_walls, 0.05)
    nuclei.add(in_walls, _slope(walls, in_walls) + np.pi / 2, flat)

    vessel = tissue == Tissue.VESSEL
    inwards = _distance_to(~vessel)
    rim = _thin(rng, _packing(rng, vessel & (inwards < 5), 9, 0.3), 0.5)
    nuclei.add(rim, _slope(inwards, rim) + np.pi / 2, flat)

    lymphocyte = _Look(
        LYMPHOCYTE, rng.uniform(11, 13.8) * scale, 0.06, (0.82, 1.0), 0.025,
        rng.uniform(0.9, 1.4), 0.1, 0.05 + 0.15 * crisp, 0.0, 0.0,
    )  # fmt: skip
    spacing = lymphocyte.length * rng.uniform(1.0, 1.35)
    crowd = _packing(rng, tissue == Tissue.LYMPHOID, spacing, rng.uniform(0.15, 0.35))
    nuclei.add(_thin(rng, crowd, rng.uniform(0.6, 0.97)), 0.0, lymphocyte)
    if layout.infiltrate > 0:
        soft = (tissue == Tissue.STROMA) | ((tissue == Tissue.FAT) & (walls > 0.5))
        if rng.random() < 0.5:
            soft |= tissue == Tissue.TUMOUR
        strewn = _packing(rng, soft, spacing, 0.35)
        flocks = np.clip(_noise(rng, size, rng.uniform(30, 90)), 0, 2)
        chosen = _thin(rng, strewn, 1.5 * layout.infiltrate * _at(flocks, strewn))
        nuclei.add(chosen, 0.0, lymphocyte)

    epithelium = tissue == Tissue.EPITHELIUM
    benign = _Look(
        NORMAL, rng.uniform(12.5, 16.5) * scale, 0.07, (0.55, 0.9), 0.03, rng.uniform(0.6, 1.4),
        0.1, 0.05 + 0.2 * crisp, 0.35 * crisp, 0.2 * crisp,
    )  # fmt: skip
    depth = _distance_to(~epithelium)
    places = _packing(rng, epithelium & (depth > 3), benign.length * rng.uniform(0.6, 1.05))
    nuclei.add(places, _slope(depth, places), benign)

    squamous = tissue == Tissue.SQUAMOUS
    keratinocyte = _Look(
        NORMAL, rng.uniform(13, 16) * scale, 0.08, (0.6, 0.95), 0.03, rng.uniform(0.6, 1.2), 0.12,
        0.15 * crisp, 0.4 * crisp, 0.3,
    )  # fmt: skip
    depth = _distance_to(~squamous)
    basal = _packing(rng, squamous & (depth < 22) & (depth > 4), 14, 0.18)
    nuclei.add(basal, _slope(depth, basal), keratinocyte)
    upper = _packing(rng, squamous & (depth >= 22), rng.uniform(24, 34), 0.18)
    nuclei.add(upper, rng.uniform(0, np.pi, len(upper)).astype(np.float32), keratinocyte)
    return nuclei, room, cells


def _ground(
    rng: np.random.Generator, layout: _Layout, walls: FloatField, fibre_angle: float
) -> tuple[FloatField, FloatField]:
    """Dyes of all that is not a nucleus or a malignant cell, over those of usual stroma.

    Returns haematoxylin and eosin.
    """
    tissue, size = layout.tissue, layout.size
    shape = (size, size)
    thickness = np.exp(0.3 * _noise(rng, size, 120))
    fibres = _warp(
        rng, _noise(rng, size, rng.uniform(2, 4), rng.uniform(6, 18), fibre_angle), 70, 16
    )
    bundles = _warp(rng, _noise(rng, size, rng.uniform(7, 16), 6, fibre_angle), 90, 20)
    collagen = 1 + rng.uniform(0.02, 0.25) * fibres + rng.uniform(0.02, 0.3) * bundles
    collagen *= np.exp(rng.uniform(0, 0.5) * _noise(rng, size, rng.uniform(60, 160)))
    gaps = bundles + 0.4 * fibres < rng.uniform(-3.2, -1.0)
    collagen[gaps] *= rng.uniform(0.05, 0.5)

    grain = 1 + 0.12 * _noise(rng, size, 3) + rng.uniform(0, 0.3) * _noise(rng, size, 1.5)
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
    h = haematoxylin[tissue] * grain * np.exp(rng.uniform(0, 0.5) * _noise(rng, size, 70))
    fat = tissue == Tissue.FAT
    e[fat] = (rng.uniform(0.0, 0.06) + walls * rng.uniform(0.5, 1.1))[fat]
    necrosis = tissue == Tissue.NECROSIS
    if necrosis.any():
        dust = np.clip(_noise(rng, size, 5) - 1.2, 0, 1)
        h[necrosis] += 1.5 * dust[necrosis]
    blood = np.zeros(shape, dtype=np.float32)
    cells = _packing(rng, tissue == Tissue.VESSEL, 13, 0.25)
    for x, y in np.round(_thin(rng, cells, rng.uniform(0.1, 0.9)) * 8).astype(int):
        cv2.circle(blood, (int(x), int(y)), 48, 1.0, -1, shift=3)
    e += blood * rng.uniform(0.8, 1.8)
    return np.asarray(h * thickness, dtype=np.float32), np.asarray(e * thickness, dtype=np.float32)


def _render(rng: np.random.Generator, layout: _Layout, stain: _Stain) -> Patch:
    """Fill a layout with cells and take its picture."""
    size = layout.size
    fibre_angle = float(rng.uniform(0, np.pi))
    walls = (
        _fat_cells(rng, size)
        if (layout.tissue == Tissue.FAT).any()
        else np.zeros((size, size), dtype=np.float32)
    )
    nuclei, room, malignant = _place_nuclei(rng, layout, walls, fibre_angle)
    cells = _draw_cells(rng, nuclei, room, malignant.cytoplasm)
    h, e = _ground(rng, layout, walls, fibre_angle)

    body = cells.tumour
    texture = 1 + rng.uniform(0.05, 0.2) * _noise(rng, size, 2.5) + 0.15 * _noise(rng, size, 14)
    e = np.where(body, malignant.eosin * texture, e)
    h = np.where(body, malignant.haematoxylin * texture, h)
    membrane = rng.uniform(-0.5, 0.6)
    e[cells.borders] *= 1 + membrane
    h[cells.borders] *= 1 + membrane
    gaps = _gaps(rng, layout, cells, malignant.cleft)
    e *= 1 - gaps
    h *= 1 - gaps

    # Below a nucleus lies less of everything else; a slight blur is the section's thickness.
    thick = rng.uniform(0.3, 0.8)
    covered = _blur((cells.mask > 0).astype(np.float32), thick)
    nuclear = _blur(cells.haematoxylin, thick)
    if rng.random() < 0.25:  # a thick section: other nuclei shine through, out of focus
        shift = tuple(rng.integers(-12, 13, 2).tolist())
        deeper = _blur(np.roll(cells.haematoxylin, shift, (0, 1)), rng.uniform(2, 5))
        deep = np.clip(0.5 + 0.7 * _noise(rng, size, rng.uniform(60, 200)), 0, 1)
        nuclear += rng.uniform(0.3, 0.9) * deep * deeper * (layout.tissue != Tissue.GLASS)
    h = stain.ground * _blur(h, thick) * (1 - 0.7 * covered) + stain.nuclei * nuclear
    e = stain.ground * _blur(e, thick) * (1 - 0.6 * covered)
    shade = 1 + rng.uniform(0, 0.02) * _noise(rng, size, size / 2)
    channels = zip(stain.glass, stain.haematoxylin, stain.eosin, strict=True)
    rgb = np.dstack(
        [shade * glass * np.exp(-(h * per_h + e * per_e)) for glass, per_h, per_e in channels]
    )
    _add_dirt(rng, rgb)
    return Patch(
        rgb=_photograph(rng, rgb),
        mask=cells.mask,
        tumour=body,
        tissue=np.asarray(layout.tissue != Tissue.GLASS),
    )


def _gaps(rng: np.random.Generator, layout: _Layout, cells: _Cells, cleft: float) -> FloatField:
    """How much of the ground is missing, 0 to 1: between malignant cells, where ice has been."""
    size = layout.size
    gaps = np.zeros((size, size), dtype=np.float32)
    if cleft > 0.3 and cells.borders.any():
        width = cleft * np.clip(0.8 + 0.5 * _noise(rng, size, 25), 0.2, 2)
        between = np.exp(-((_distance_to(cells.borders) / width) ** 2))
        gaps = np.where(cells.tumour, rng.uniform(0.4, 1.0) * between, 0).astype(np.float32)
    if rng.random() < 0.2:  # a frozen section
        ice = _noise(rng, size, rng.uniform(3, 9), rng.uniform(1, 2.5), rng.uniform(0, np.pi))
        ice += rng.uniform(0, 0.7) * _noise(rng, size, 60)
        solid = np.isin(layout.tissue, (Tissue.GLASS, Tissue.FAT, Tissue.LUMEN))
        holes = np.clip(2 * (ice - rng.uniform(1.0, 2.2)), 0, 1) * ~solid
        gaps = np.maximum(gaps, rng.uniform(0.5, 1.0) * holes)
    return np.asarray(gaps, dtype=np.float32)


def _add_dirt(rng: np.random.Generator, rgb: FloatField) -> None:
    """Sometimes drop a few grains on the section: dark ones, and clear ones with a dark rim."""
    if rng.random() < 0.75:
        return
    size = rgb.shape[0]
    for _ in range(rng.integers(1, 6)):
        centre = rng.uniform(0, size, 2)
        outline = _blob(rng, centre, rng.uniform(2, 9))
        colour = (rng.uniform(0.05, 0.45) * np.array([1.0, 0.9, 0.8])).tolist()
        cv2.fillPoly(rgb, [np.round(outline * 8).astype(np.int32)], colour, shift=3)
        if rng.random() < 0.5:
            clear = centre + (outline - centre) * rng.uniform(0.4, 0.7)
            bright = rng.uniform(0.6, 1.0, 3).tolist()
            cv2.fillPoly(rgb, [np.round(clear * 8).astype(np.int32)], bright, shift=3)


# --- command -----------------------------------------------------------------------------------


def contact_sheet(patches: Sequence[Patch], columns: int, cell: int = 256) -> NDArray[np.uint8]:
    """Lay patches out in rows, each beside its truth, with its cellularity written on it."""
    colours = np.array([[255, 255, 255], [30, 160, 60], [40, 90, 220], [220, 40, 40]], np.uint8)
    tiles = []
    for patch in patches:
        truth = colours[patch.mask]
        truth[patch.tumour & (patch.mask == BACKGROUND)] = (250, 200, 200)
        truth[~patch.tissue] = (225, 225, 225)
        pair = np.hstack([patch.rgb, truth])
        tile = cv2.resize(pair, (2 * cell, cell), interpolation=cv2.INTER_AREA)
        origin = (6, 22)
        cv2.putText(
            tile, f"{patch.cellularity:.2f}", origin, cv2.FONT_HERSHEY_SIMPLEX, 0.7, (0, 0, 0), 2
        )
        tiles.append(tile)
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    return np.vstack([np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)])


def main(arguments: Sequence[str] | None = None) -> None:
    """Write sample patches and a contact sheet of every pattern."""
    parser = argparse.ArgumentParser(prog="python -m training.synthetic", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--each", type=int, default=3, help="patches of each pattern")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=512, help="side of a patch in pixels")
    parser.add_argument("--stain", choices=("usual", "shifted"), default="usual")
    chosen = parser.parse_args(arguments)
    config = SyntheticConfig(size=chosen.size, stain=chosen.stain)
    chosen.out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(chosen.seed)
    patches = []
    for pattern in _PATTERNS:
        for number in range(chosen.each):
            patch = generate_patch(rng, config, pattern)
            patches.append(patch)
            name = f"{pattern.replace(' ', '-')}-{number}-{patch.cellularity:.3f}.png"
            cv2.imwrite(str(chosen.out / name), patch.rgb[..., ::-1])
    sheet = contact_sheet(patches, columns=chosen.each)
    cv2.imwrite(str(chosen.out / "contact-sheet.png"), sheet[..., ::-1])
    log.info("%d patches and contact-sheet.png are in %s", len(patches), chosen.out)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
