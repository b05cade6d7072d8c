"""The mpp referee: one place that decides how large a slide's pixels are.

A wrong pixel size scales every nucleus and ruins every score without a sign, so it is never
defaulted silently. In order: the caller's override, the reader's own value, the TIFF resolution
tags, the objective's nominal power (with a warning).
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

from wsi_pipeline.errors import MppError
from wsi_pipeline.geometry import Mpp

log = logging.getLogger(__name__)

PLAUSIBLE_MPP = (0.05, 2.0)
"""A level 0 outside these bounds is no brightfield scan of tissue."""

DISAGREEMENT = 1.10
"""Two measured values further apart than this factor contradict one another."""

NOMINAL_DISAGREEMENT = 1.5
"""An objective's power is a nominal figure: scanners sold as 40x span 0.16–0.28 µm/px."""

SCREEN_DPI = frozenset({1, 72, 96})
"""Resolutions that image software writes where it knows none: no statement about the slide."""

REMEDY = "Pass the true value with --mpp (in Python: mpp=...)."


@dataclass(frozen=True, slots=True)
class MppSources:
    """What a file says of its pixel size, in µm per level-0 pixel; None where it is silent."""

    reader: float | None = None
    tiff_tags: float | None = None
    objective_power: float | None = None

    @property
    def nominal(self) -> float | None:
        """The usual pixel size of the objective: 40x is 0.25 µm/px, 20x is 0.5 µm/px."""
        return 10.0 / self.objective_power if self.objective_power else None

    def describe(self) -> str:
        """List every source, for messages."""
        said: Mapping[str, str | None] = {
            "reader": f"{self.reader:.4g}" if self.reader else None,
            "TIFF resolution tags": f"{self.tiff_tags:.4g}" if self.tiff_tags else None,
            "objective power": f"{self.objective_power:g}x (nominally {self.nominal:.3g})"
            if self.objective_power
            else None,
        }
        return ", ".join(f"{source}: {value or 'nothing'}" for source, value in said.items())


def tiff_tag_mpp(pixels_per_unit: float, micrometres_per_unit: float) -> float | None:
    """Convert a TIFF resolution tag to µm/px; None for a screen's default resolution."""
    if pixels_per_unit <= 0:
        return None
    dpi = pixels_per_unit * 25_400 / micrometres_per_unit
    if any(abs(dpi - screen) < 0.5 for screen in SCREEN_DPI):
        return None
    return micrometres_per_unit / pixels_per_unit


def isotropic(mpp_x: float, mpp_y: float, file: str) -> float:
    """Return the common pixel size of both axes.

    Raises:
        MppError: if the axes differ by more than `DISAGREEMENT`.

    """
    if max(mpp_x, mpp_y) > DISAGREEMENT * min(mpp_x, mpp_y):
        raise MppError(
            f"{file}: its pixels are not square ({mpp_x:.4g} by {mpp_y:.4g} µm), which is more "
            f"likely a wrong header than a real scan. {REMEDY}"
        )
    return sqrt(mpp_x * mpp_y)


def referee_mpp(sources: MppSources, override: Mpp | None, file: str) -> tuple[Mpp, str]:
    """Decide the slide's level-0 pixel size.

    Returns:
        the pixel size in µm and the name of the source it came from.

    Raises:
        MppError: if no source gives a value, the value is implausible, or sources contradict one
            another; the message shows them all.

    """
    low, high = PLAUSIBLE_MPP
    if override is not None:
        if not low <= override <= high:
            raise MppError(
                f"{file}: the override of {override:g} µm/px is outside {low}–{high}, the range of "
                f"a level 0. Give micrometres per pixel, such as 0.25 for a 40x scan."
            )
        return override, "override"

    measured = [value for value in (sources.reader, sources.tiff_tags) if value is not None]
    if not measured and sources.nominal is None:
        raise MppError(
            f"{file}: the file does not say how large its pixels are "
            f"({sources.describe()}). {REMEDY}"
        )
    for value in (*measured, *([sources.nominal] if sources.nominal else [])):
        if not low <= value <= high:
            raise MppError(
                f"{file}: {value:.4g} µm/px is implausible for a level 0, outside {low}–{high} "
                f"({sources.describe()}). {REMEDY}"
            )
    if measured and max(measured) > DISAGREEMENT * min(measured):
        raise MppError(
            f"{file}: its sources for the pixel size contradict one another "
            f"({sources.describe()}). {REMEDY}"
        )
    if measured and sources.nominal is not None:
        ratio = measured[0] / sources.nominal
        if max(ratio, 1 / ratio) > NOMINAL_DISAGREEMENT:
            raise MppError(
                f"{file}: its pixel size and its objective power contradict one another "
                f"({sources.describe()}). {REMEDY}"
            )

    if sources.reader is not None:
        return Mpp(sources.reader), "reader"
    if sources.tiff_tags is not None:
        return Mpp(sources.tiff_tags), "TIFF resolution tags"
    nominal = sources.nominal or 0.0
    log.warning(
        "%s: no measured pixel size; %.3g µm/px assumed from the objective power of %gx. "
        "Pass --mpp if you know better.",
        file,
        nominal,
        sources.objective_power,
    )
    return Mpp(nominal), "objective power"
