"""The mpp referee: one place that decides how large a slide's pixels are.

A wrong pixel size scales every nucleus and ruins every score without a sign, so it is never
defaulted silently. In order: the caller's override, the reader's own value, OME-XML, the image's
description, the TIFF resolution tags, the objective's nominal power (with a warning).
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import sqrt
from typing import Self

from wsi_pipeline.errors import MppError
from wsi_pipeline.geometry import Mpp
from wsi_pipeline.slide.stated_mpp import Statement

log = logging.getLogger(__name__)

PLAUSIBLE_MPP = (0.05, 2.0)
"""A level 0 outside these bounds is no brightfield scan of tissue."""

DISAGREEMENT = 1.10
"""Two measured values further apart than this factor contradict one another."""

NOMINAL_DISAGREEMENT = 1.5
"""An objective's power is a nominal figure: scanners sold as 40x span 0.16–0.28 µm/px."""

REMEDY = "Pass the true value with --mpp (in Python: mpp=...)."


SOURCES = {
    "reader": "reader",
    "ome_xml": "OME-XML",
    "description": "image description",
    "tiff_tags": "TIFF resolution tags",
}
"""The places that hold a measured value, in the order in which they are believed."""

POWER = "objective power"


@dataclass(frozen=True, slots=True)
class MppSources:
    """What a file says of its pixel size, in µm per level-0 pixel; None where it is silent.

    Attributes:
        objective_power: of the objective, which only tells the nominal pixel size.
        texts: what the file has, in its own words, where that is no pixel size; by source.
        faults: what is wrong with its statements, for which none of them is believed.

    """

    reader: float | None = None
    ome_xml: float | None = None
    description: float | None = None
    tiff_tags: float | None = None
    objective_power: float | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    faults: tuple[str, ...] = ()

    @classmethod
    def of(cls, said: Mapping[str, Statement], power: Statement | None) -> Self:
        """Take over what was understood, and what was not.

        Args:
            said: by the names of this class.
            power: of the objective.

        """
        sizes: dict[str, float] = {}
        texts: dict[str, str] = {}
        faults: list[str] = []
        for source, statement in said.items():
            name = SOURCES[source]
            if statement.xy is None:
                texts[source] = statement.text
            elif (size := isotropic(*statement.xy)) is None:
                x, y = statement.xy
                texts[source] = f"{x:.4g} by {y:.4g}"
                faults.append(
                    f"its pixels are not square ({x:.4g} by {y:.4g} µm by the {name}), which is "
                    f"more likely a wrong header than a real scan"
                )
            else:
                sizes[source] = size
            if not statement.understood:
                faults.append(f"the {name} says {statement.text!r}, which is not understood")
        if power is not None and power.xy is None:
            texts["objective_power"] = power.text
            if not sizes:
                faults.append(f"the {POWER} is {power.text!r}, which is not understood")
        return cls(
            **sizes,
            objective_power=power.xy[0] if power is not None and power.xy is not None else None,
            texts=texts,
            faults=tuple(faults),
        )

    @property
    def measured(self) -> dict[str, float]:
        """The measured pixel sizes, by the names of their sources, the most trusted first."""
        values = {name: getattr(self, source) for source, name in SOURCES.items()}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def nominal(self) -> float | None:
        """The usual pixel size of the objective: 40x is 0.25 µm/px, 20x is 0.5 µm/px."""
        return 10.0 / self.objective_power if self.objective_power else None

    def describe(self) -> str:
        """List every source, for messages."""
        said = {
            name: f"{getattr(self, source):.4g}" if getattr(self, source) else None
            for source, name in SOURCES.items()
        }
        said[POWER] = (
            f"{self.objective_power:g}x (nominally {self.nominal:.3g})"
            if self.objective_power
            else None
        )
        texts = {SOURCES.get(source, POWER): repr(text) for source, text in self.texts.items()}
        return ", ".join(
            f"{name}: {value or texts.get(name) or 'nothing'}" for name, value in said.items()
        )


def isotropic(mpp_x: float, mpp_y: float) -> float | None:
    """Return the common pixel size of both axes; None if they differ by over `DISAGREEMENT`.

    >>> isotropic(0.25, 0.25), isotropic(0.25, 0.5)
    (0.25, None)
    """
    if max(mpp_x, mpp_y) > DISAGREEMENT * min(mpp_x, mpp_y):
        return None
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

    if sources.faults:
        raise MppError(f"{file}: {'; '.join(sources.faults)} ({sources.describe()}). {REMEDY}")
    measured = sources.measured
    if not measured and sources.nominal is None:
        raise MppError(
            f"{file}: the file does not say how large its pixels are "
            f"({sources.describe()}). {REMEDY}"
        )
    for value in (*measured.values(), *([sources.nominal] if sources.nominal else [])):
        if not low <= value <= high:
            raise MppError(
                f"{file}: {value:.4g} µm/px is implausible for a level 0, outside {low}–{high} "
                f"({sources.describe()}). {REMEDY}"
            )
    if measured and max(measured.values()) > DISAGREEMENT * min(measured.values()):
        raise MppError(
            f"{file}: its sources for the pixel size contradict one another "
            f"({sources.describe()}). {REMEDY}"
        )
    source, value = next(iter(measured.items()), (POWER, 0.0))
    if measured and sources.nominal is not None:
        ratio = value / sources.nominal
        if max(ratio, 1 / ratio) > NOMINAL_DISAGREEMENT:
            raise MppError(
                f"{file}: its pixel size and its objective power contradict one another "
                f"({sources.describe()}). {REMEDY}"
            )
    if measured:
        return Mpp(value), source
    nominal = sources.nominal or 0.0
    log.warning(
        "%s: no measured pixel size; %.3g µm/px assumed from the objective power of %gx. "
        "Pass --mpp if you know better.",
        file,
        nominal,
        sources.objective_power,
    )
    return Mpp(nominal), POWER
