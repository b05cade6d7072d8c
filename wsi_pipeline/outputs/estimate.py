"""``estimate.json``: a mean over all tiles, from those that were drawn of them, with an interval.

Tiles come in strata and are drawn from each by simple random sampling
(`wsi_pipeline.tiles.draw`). The mean is a combined ratio estimate: what the strata hold of cancer
over what they hold of tissue, each scaled up from the tiles drawn. Its variance is that of the
residuals within strata (Cochran, Sampling Techniques, 1977, 6.11), with the finite population's
correction: where all is drawn, nothing is uncertain.
"""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat, ValidationError

from wsi_pipeline.facts import Record
from wsi_pipeline.files import atomic_path, read_regular
from wsi_pipeline.outputs.interval import Share
from wsi_pipeline.outputs.provenance import Provenance

LEVEL = 0.9

ESTIMATE = "estimate.json"
ESTIMATE_MAP = "estimate.ome.tiff"
ESTIMATE_PICTURE = "estimate.png"
ESTIMATE_FILES = frozenset({ESTIMATE, ESTIMATE_MAP, ESTIMATE_PICTURE})
"""What an estimate leaves in a slide's folder, until a result takes its place."""


class Estimate(Record):
    """What a part of a slide's tiles says of all of them. It is no result: see `SlideSummary`."""

    schema_version: Literal[1] = 1
    of: Literal["tissue", "bed"]
    mean: Share
    mean_is: str
    low: Share
    high: Share
    level: Annotated[FiniteFloat, Field(gt=0, lt=1)] = LEVEL
    """Share of such intervals that hold what scoring every tile would give."""
    precision: Annotated[FiniteFloat, Field(gt=0, lt=1)]
    """Half of the interval's width that was asked for."""
    scored: int
    tiles: int
    """Tiles that it is an estimate for: those with tissue, or those of them in the bed."""
    method: str
    provenance: Provenance


def write_estimate(path: Path, estimate: Estimate) -> None:
    """Write the estimate as JSON."""
    with atomic_path(path) as partial:
        partial.write_text(estimate.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_estimate(path: Path) -> Estimate | None:
    """Read an estimate; None where there is none that can be understood."""
    try:
        return Estimate.model_validate_json(read_regular(path))
    except (OSError, ValidationError):
        return None


def estimate_mean(
    amount: NDArray[np.float64],
    size: NDArray[np.float64],
    stratum: NDArray[np.int64],
    drawn: NDArray[np.bool_],
    level: float = LEVEL,
) -> tuple[float, float]:
    """Return the mean and half the width of its interval.

    Args:
        amount: float64 [N], what each tile adds to the sum; only that of drawn tiles is looked at.
        size: float64 [N], what each adds to the whole; 0 for a tile that could not be read.
        stratum: int64 [N].
        drawn: bool [N].
        level: of the interval.

    """
    from scipy.special import stdtrit  # as long to import as half of this package

    strata = int(stratum.max()) + 1
    members = np.bincount(stratum, minlength=strata)
    n = np.bincount(stratum[drawn], minlength=strata)
    scale = members / np.maximum(n, 1)
    of = stratum[drawn]
    whole = scale @ np.bincount(of, size[drawn], strata)
    mean = scale @ np.bincount(of, amount[drawn], strata) / whole
    residual = amount[drawn] - mean * size[drawn]
    middle = np.bincount(of, residual, strata) / np.maximum(n, 1)
    squares = np.bincount(of, (residual - middle[of]) ** 2, strata)
    variance = members * (members - n) * squares / np.maximum(n * (n - 1), 1) / whole**2
    if not (total := variance.sum()):
        return float(mean), 0.0
    # Satterthwaite's, with what a square of a variance is too large by on average taken off.
    freedom = max(1.0, total**2 / (variance**2 / (n + 1)).sum() - 2)
    return float(mean), float(stdtrit(freedom, (1 + level) / 2) * np.sqrt(total))
