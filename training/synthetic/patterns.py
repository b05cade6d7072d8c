"""The tissues that can be drawn, each a way to fill a layout."""

from collections.abc import Callable
from typing import Literal

import numpy as np

from training.synthetic.benign_patterns import (
    draw_artefacts,
    draw_blood,
    draw_lobules,
    draw_lymph_node,
    draw_necrosis,
    draw_sclerosing_glands,
    draw_septate_fat,
    draw_skin,
)
from training.synthetic.fields import above, noise
from training.synthetic.layout import (
    Layout,
    Tissue,
    cut_edge,
    lay_ducts,
    lay_in_situ,
    lay_share,
    lay_surroundings,
    lay_tumour,
    lay_vessels,
    tumour_bed,
)

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
    "blood",
    "necrosis",
    "lymph node",
    "lobules",
    "sclerosing glands",
    "septate fat",
    "skin",
    "artefacts",
]


# How often each pattern is drawn: so that the cellularities are spread as BreastPathQ's are (mean
# 0.31, a third at or near 0, a tenth at or near 1). A pattern that is not here is drawn where a
# config names it.
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


def _pattern_glass(rng: np.random.Generator, layout: Layout) -> None:
    layout.tissue[:] = Tissue.GLASS
    if rng.random() < 0.5:
        layout.tissue[:] = Tissue.STROMA
        cut_edge(rng, layout, rng.uniform(0.6, 0.95))


def _pattern_fat(rng: np.random.Generator, layout: Layout) -> None:
    lay_share(rng, layout, Tissue.FAT, rng.uniform(0.7, 1.0))
    if rng.random() < 0.2:
        layout.infiltrate = float(rng.uniform(0, 0.1))
    if rng.random() < 0.15:
        cut_edge(rng, layout, rng.uniform(0.1, 0.6))


def _pattern_stroma(rng: np.random.Generator, layout: Layout) -> None:
    lay_surroundings(rng, layout)


def _pattern_lymphocytes(rng: np.random.Generator, layout: Layout) -> None:
    lay_share(rng, layout, Tissue.LYMPHOID, rng.uniform(0.25, 1.0))
    layout.infiltrate = float(rng.uniform(0.05, 0.5))
    if rng.random() < 0.3:
        lay_ducts(rng, layout, int(rng.integers(1, 3)))
    lay_vessels(rng, layout)


def _pattern_ducts(rng: np.random.Generator, layout: Layout) -> None:
    lay_surroundings(rng, layout)
    lay_ducts(rng, layout, int(rng.integers(2, 9)))


def _pattern_squamous(rng: np.random.Generator, layout: Layout) -> None:
    lay_share(rng, layout, Tissue.SQUAMOUS, rng.uniform(0.2, 0.7))
    lay_surroundings(rng, layout)


def _pattern_in_situ(rng: np.random.Generator, layout: Layout) -> None:
    lay_surroundings(rng, layout)
    lay_in_situ(rng, layout, int(rng.integers(1, 5)))


def _pattern_nests(rng: np.random.Generator, layout: Layout) -> None:
    lay_surroundings(rng, layout)
    lay_tumour(rng, layout, tumour_bed(rng, layout), rng.uniform(0.15, 0.95), rng.uniform(30, 110))


def _pattern_cords(rng: np.random.Generator, layout: Layout) -> None:
    lay_surroundings(rng, layout)
    bed = tumour_bed(rng, layout)
    lay_tumour(rng, layout, bed, rng.uniform(0.1, 0.7), rng.uniform(13, 28), rng.uniform(2, 6))


def _pattern_single_cells(rng: np.random.Generator, layout: Layout) -> None:
    lay_surroundings(rng, layout)
    layout.strays = float(rng.uniform(0.2, 0.9))


def _pattern_solid(rng: np.random.Generator, layout: Layout) -> None:
    if rng.random() < 0.4:
        lay_surroundings(rng, layout)
    lay_tumour(rng, layout, layout.tissue > 0, 1 - 0.12 * rng.random() ** 2, rng.uniform(40, 120))
    if rng.random() < 0.1:
        necrosis = above(noise(rng, layout.size, 120), rng.uniform(0.1, 0.4))
        layout.tissue[necrosis & (layout.tissue == Tissue.TUMOUR)] = Tissue.NECROSIS


def _pattern_dark_sheets(rng: np.random.Generator, layout: Layout) -> None:
    layout.malignant = "dark"
    if rng.random() < 0.5:
        lay_surroundings(rng, layout)
    bed = tumour_bed(rng, layout) if rng.random() < 0.5 else layout.tissue > 0
    stretch = rng.uniform(1, 3)
    lay_tumour(rng, layout, bed, rng.uniform(0.3, 1.0), rng.uniform(25, 130), stretch)


def _pattern_squamous_carcinoma(rng: np.random.Generator, layout: Layout) -> None:
    layout.malignant = "squamous"
    lay_surroundings(rng, layout)
    lay_tumour(rng, layout, tumour_bed(rng, layout), rng.uniform(0.3, 1.0), rng.uniform(60, 160))


def _pattern_mixture(rng: np.random.Generator, layout: Layout) -> None:
    lay_surroundings(rng, layout)
    lay_ducts(rng, layout, int(rng.integers(1, 3)))
    lay_tumour(rng, layout, tumour_bed(rng, layout), rng.uniform(0.1, 0.8), rng.uniform(20, 90))
    layout.strays = float(rng.uniform(0, 0.3))


PATTERNS: dict[Pattern, Callable[[np.random.Generator, Layout], None]] = {
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
    "blood": draw_blood,
    "necrosis": draw_necrosis,
    "lymph node": draw_lymph_node,
    "lobules": draw_lobules,
    "sclerosing glands": draw_sclerosing_glands,
    "septate fat": draw_septate_fat,
    "skin": draw_skin,
    "artefacts": draw_artefacts,
}
