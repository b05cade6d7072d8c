"""How well a model agrees with a pathologist on a laboratory's own slides.

Bland and Altman (Lancet 327:307, 1986) for bias and limits; the intraclass correlation of absolute
agreement between single readings, ICC(2,1), of Shrout and Fleiss (Psychol Bull 86:420, 1979), with
its interval from the bootstrap over slides.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 2000


@dataclass(frozen=True)
class Agreement:
    """Figures are shares from 0 to 1.

    Attributes:
        slides: how many were compared.
        bias: the model's mean less the pathologist's.
        deviation: standard deviation of the differences.
        icc: absolute agreement of one reading with another.
        icc_95: its interval.
        mean_error: mean absolute difference.

    """

    slides: int
    bias: float
    deviation: float
    icc: float
    icc_95: tuple[float, float]
    mean_error: float

    @property
    def limits(self) -> tuple[float, float]:
        """Between which 95 % of differences lie, if they are normal."""
        return self.bias - 1.96 * self.deviation, self.bias + 1.96 * self.deviation


def agreement(
    model: NDArray[np.float64], pathologist: NDArray[np.float64], seed: int = 0
) -> Agreement:
    """Compare two readings of the same slides, each float64 [N], 0 to 1."""
    difference = model - pathologist
    rng, count = np.random.default_rng(seed), len(model)
    drawn = [rng.integers(0, count, count) for _ in range(DRAWS)]
    resampled = [icc(model[rows], pathologist[rows]) for rows in drawn]
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    return Agreement(
        slides=count,
        bias=float(difference.mean()),
        deviation=float(difference.std(ddof=1)),
        icc=icc(model, pathologist),
        icc_95=(float(low), float(high)),
        mean_error=float(np.abs(difference).mean()),
    )


def icc(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return ICC(2,1); NaN where no slide differs from another.

    >>> icc(np.array([0.1, 0.5, 0.9]), np.array([0.1, 0.5, 0.9]))
    1.0
    """
    readings = np.stack([one, other], axis=1)
    count, raters = readings.shape
    grand = readings.mean()
    between = raters * ((readings.mean(1) - grand) ** 2).sum() / (count - 1)
    of_raters = count * ((readings.mean(0) - grand) ** 2).sum() / (raters - 1)
    rest = readings - readings.mean(1, keepdims=True) - readings.mean(0, keepdims=True) + grand
    error = (rest**2).sum() / ((count - 1) * (raters - 1))
    total = between + (raters - 1) * error + raters * (of_raters - error) / count
    return float((between - error) / total) if total > 0 else float("nan")
