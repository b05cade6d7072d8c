"""Patterns of what a model takes for carcinoma and is not; drawn where a config asks for them."""

import numpy as np

from training.synthetic.blood import lay_capillaries, lay_lakes, lay_large_vessels
from training.synthetic.fields import above, noise, warp
from training.synthetic.glands import lay_full_ducts, lay_lobules, lay_sclerosing
from training.synthetic.layout import (
    Artefact,
    Layout,
    Tissue,
    cut_edge,
    lay_ducts,
    lay_share,
    lay_surroundings,
    lay_tumour,
    tumour_bed,
)
from training.synthetic.lymph_node import lay_follicles, lay_lymph_node
from training.synthetic.necrosis import lay_debris
from training.synthetic.skin import lay_skin


def draw_blood(rng: np.random.Generator, layout: Layout) -> None:
    """Lakes, haemorrhage along fibres, vessels of every size."""
    if rng.random() < 0.3:
        lay_share(rng, layout, Tissue.FAT, rng.uniform(0.2, 0.9))
    lay_large_vessels(rng, layout, int(rng.integers(0, 5)))
    lay_capillaries(rng, layout, rng.poisson(4 * (layout.size / 256) ** 2))
    if rng.random() < 0.7:
        lay_lakes(rng, layout, rng.uniform(0.05, 0.9))
    if rng.random() < 0.3:
        layout.infiltrate = float(rng.uniform(0, 0.2))
    if rng.random() < 0.2:
        cut_edge(rng, layout, rng.uniform(0.1, 0.5))


def draw_necrosis(rng: np.random.Generator, layout: Layout) -> None:
    """Dead tissue, alone, in scar, or beside the tumour that it was."""
    if rng.random() < 0.4:
        lay_surroundings(rng, layout)
        lay_tumour(
            rng, layout, tumour_bed(rng, layout), rng.uniform(0.3, 1.0), rng.uniform(40, 110)
        )
    lay_debris(rng, layout, rng.uniform(0.4, 1.0))
    if rng.random() < 0.3:
        lay_lakes(rng, layout, rng.uniform(0.05, 0.3))


def draw_lymph_node(rng: np.random.Generator, layout: Layout) -> None:
    """Draw a node without metastasis, or follicles in stroma."""
    if rng.random() < 0.8:
        lay_lymph_node(rng, layout)
        return
    lay_surroundings(rng, layout)
    lay_share(rng, layout, Tissue.LYMPHOID, rng.uniform(0.1, 0.5))
    lay_follicles(rng, layout, int(rng.integers(1, 4)))


def draw_lobules(rng: np.random.Generator, layout: Layout) -> None:
    """Terminal ducts and lobules, plain, apocrine or filled by usual hyperplasia."""
    if rng.random() < 0.4:
        lay_share(rng, layout, Tissue.FAT, rng.uniform(0.1, 0.6))
    if rng.random() < 0.3:
        layout.infiltrate = float(rng.uniform(0, 0.25))
    layout.apocrine = rng.random() < 0.15
    if rng.random() < 0.3:
        lay_full_ducts(rng, layout, int(rng.integers(1, 5)))
    if not layout.crowded or rng.random() < 0.3:
        lay_lobules(rng, layout, int(rng.integers(1, 6)))
    lay_capillaries(rng, layout, rng.poisson(1.0))


def draw_sclerosing_glands(rng: np.random.Generator, layout: Layout) -> None:
    """Sclerosing adenosis, at times beside a lobule."""
    if rng.random() < 0.3:
        layout.infiltrate = float(rng.uniform(0, 0.15))
    if rng.random() < 0.3:
        lay_lobules(rng, layout, 1)
    lay_sclerosing(rng, layout, rng.uniform(0.3, 1.0))


def draw_septate_fat(rng: np.random.Generator, layout: Layout) -> None:
    """Fat in its septa, with vessels; at times with foamy macrophages."""
    size = layout.size
    layout.tissue[:] = Tissue.FAT
    for _ in range(rng.integers(1, 4)):
        band = noise(rng, size, rng.uniform(120, 280), rng.uniform(1, 5), rng.uniform(0, np.pi))
        within = np.abs(warp(rng, band, 80, 14)) < rng.uniform(0.03, 0.25)
        layout.tissue[within] = Tissue.STROMA
    lay_large_vessels(rng, layout, int(rng.integers(0, 4)))
    lay_capillaries(rng, layout, rng.poisson(3.0))
    if rng.random() < 0.25:
        foamy = above(noise(rng, size, rng.uniform(50, 150)), rng.uniform(0.05, 0.4))
        layout.tissue[foamy & (layout.tissue == Tissue.FAT)] = Tissue.FOAM
    if rng.random() < 0.3:
        layout.infiltrate = float(rng.uniform(0, 0.15))


def draw_skin(rng: np.random.Generator, layout: Layout) -> None:
    """Epidermis, dermis and adnexa."""
    if rng.random() < 0.3:
        layout.infiltrate = float(rng.uniform(0, 0.2))
    lay_skin(rng, layout)
    lay_capillaries(rng, layout, rng.poisson(2.0))


def draw_artefacts(rng: np.random.Generator, layout: Layout) -> None:
    """Ink, folds, dust and blur over any tissue; ink and folds over benign tissue alone."""
    kinds: tuple[Artefact, ...] = ("ink", "fold", "dust", "out of focus")
    layout.artefact = kinds[rng.choice(len(kinds), p=(0.25, 0.15, 0.3, 0.3))]
    base = rng.random()
    if base < 0.25:
        lay_surroundings(rng, layout)
    elif base < 0.4:
        lay_share(rng, layout, Tissue.FAT, rng.uniform(0.4, 1.0))
    elif base < 0.55:
        lay_share(rng, layout, Tissue.LYMPHOID, rng.uniform(0.3, 1.0))
    elif base < 0.75 or layout.artefact in ("ink", "fold"):
        lay_ducts(rng, layout, int(rng.integers(2, 7)))
        lay_lobules(rng, layout, int(rng.integers(0, 3)))
    else:
        lay_surroundings(rng, layout)
        lay_tumour(
            rng, layout, tumour_bed(rng, layout), rng.uniform(0.2, 1.0), rng.uniform(30, 110)
        )
    if layout.artefact == "ink" or rng.random() < 0.15:
        cut_edge(rng, layout, rng.uniform(0.1, 0.7))
