"""The colours of a section: two dyes and bare glass."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Stain:
    """Optical densities per unit of dye (natural logarithm, RGB) and the colour of bare glass."""

    haematoxylin: NDArray[np.float32]
    eosin: NDArray[np.float32]
    glass: NDArray[np.float32]
    nuclei: float
    """density of a usual nucleus"""
    ground: float
    """density of eosin in usual stroma"""


def draw_stain(rng: np.random.Generator, kind: Literal["usual", "shifted"]) -> Stain:
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
    return Stain(
        (haematoxylin / np.linalg.norm(haematoxylin)).astype(np.float32),
        (eosin / np.linalg.norm(eosin)).astype(np.float32),
        (white * tint).astype(np.float32),
        nuclei=float(1.6 * np.exp(0.65 * u[9])),
        ground=float(0.55 * np.exp(0.75 * u[10])),
    )
