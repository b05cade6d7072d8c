"""Residual cancer burden: Symmans et al., J Clin Oncol 25:4414 (2007).

::

    f_inv  = cellularity · (1 − share in situ)
    d_prim = √(longest · across)                                   mm
    RCB    = 1.4 · (f_inv · d_prim)^0.17 + [4 · (1 − 0.75^nodes) · d_met]^0.17
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import norm

RcbClass = Literal["RCB-0", "RCB-I", "RCB-II", "RCB-III"]

MINIMAL_UP_TO, MODERATE_UP_TO = 1.36, 3.28
"""The largest index of class I, and of class II."""

_EXPONENT = 0.17
_STEPS = 1000


@dataclass(frozen=True, slots=True)
class Burden:
    """What is known of a case.

    Attributes:
        cellularity: share of the tumour bed that is cancer, 0 to 1.
        in_situ: share of that cancer that is in situ, 0 to 1.
        longest_mm: the bed's longer diameter.
        across_mm: its other one.
        positive_nodes: lymph nodes with metastases.
        largest_metastasis_mm: diameter of the largest of those.

    """

    cellularity: float
    in_situ: float
    longest_mm: float
    across_mm: float
    positive_nodes: int
    largest_metastasis_mm: float

    @property
    def invasive_share(self) -> float:
        """f_inv."""
        return self.cellularity * (1 - self.in_situ)

    @property
    def bed_mm(self) -> float:
        """d_prim."""
        return float(np.sqrt(self.longest_mm * self.across_mm))

    @property
    def primary_term(self) -> float:
        """What the breast adds to the index."""
        return float(1.4 * (self.invasive_share * self.bed_mm) ** _EXPONENT)

    @property
    def nodal_term(self) -> float:
        """What the nodes add to the index."""
        involved = 4 * (1 - 0.75**self.positive_nodes) * self.largest_metastasis_mm
        return float(involved**_EXPONENT)

    @property
    def index(self) -> float:
        """The index.

        >>> round(Burden(0.10, 0.05, 24, 18, 3, 4).index, 3)
        3.031
        """
        return self.primary_term + self.nodal_term


def class_of(index: float) -> RcbClass:
    """Return the class of an index.

    >>> [class_of(index) for index in (0, 1.36, 1.37, 3.28, 3.29)]
    ['RCB-0', 'RCB-I', 'RCB-II', 'RCB-II', 'RCB-III']
    """
    if index == 0:
        return "RCB-0"
    if index <= MINIMAL_UP_TO:
        return "RCB-I"
    return "RCB-II" if index <= MODERATE_UP_TO else "RCB-III"


@dataclass(frozen=True, slots=True)
class Spread:
    """What the uncertainty of the cellularity makes of an index.

    Attributes:
        low: lower end of the 95 % interval.
        high: upper end.
        flip_chance: how likely the class is another than that of the index itself, 0 to 1.

    """

    low: float
    high: float
    flip_chance: float


def spread(burden: Burden, deviation: float) -> Spread:
    """Return how far off the index may be, if only the cellularity is uncertain.

    Args:
        burden: the case.
        deviation: standard deviation of its cellularity, which is taken for normal within 0 to 1.

    """
    around = norm(burden.cellularity, max(deviation, 1e-9))

    def index_at(quantile: float) -> float:
        share = float(np.clip(around.ppf(quantile), 0, 1))
        return with_cellularity(burden, share).index

    # The index rises with the cellularity, and so its quantiles are those of the cellularity.
    own = class_of(burden.index)
    flips = [class_of(index_at((number + 0.5) / _STEPS)) != own for number in range(_STEPS)]
    return Spread(index_at(0.025), index_at(0.975), float(np.mean(flips)))


def with_cellularity(burden: Burden, cellularity: float) -> Burden:
    """Return the case with another cellularity."""
    return Burden(
        cellularity,
        burden.in_situ,
        burden.longest_mm,
        burden.across_mm,
        burden.positive_nodes,
        burden.largest_metastasis_mm,
    )
