"""How far a slide's figures are to be trusted: whether it is like what errors were measured on.

The interval of a mean joins two errors: how the mean would vary with other tissue of the same kind
(`interval.block_bootstrap`), and how far the model is off on a whole patient, which no amount of
tissue averages away. Both are taken for independent and normal.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.geometry import Mpp
from wsi_pipeline.model.score_error import LEVEL, ScoreError, stain_of
from wsi_pipeline.outputs.interval import Interval
from wsi_pipeline.outputs.summary import Quality, SlideSummary

BLURRED_FROM = 0.5
"""Share of the tissue out of focus from which a slide is none that errors were measured on."""

UNLIKE = {
    "stain": "its stain is not the training's",
    "focus": "most of it is out of focus",
    "enlarged": "it was enlarged",
}
"""In which ways a slide may be unlike, by the fields of `Widened`."""

STAIN_FLAG = "stain unlike the model's"


@dataclass(frozen=True)
class Reliability:
    """What is known of a slide's errors.

    Attributes:
        errors: of its model; None if nobody measured them.
        stain_distance: how far its stain is from the training's; None if that is not known.
        unlike: in which ways the slide is unlike what errors were measured on, of `UNLIKE`.

    """

    errors: ScoreError | None = None
    stain_distance: float | None = None
    unlike: tuple[str, ...] = ()

    @property
    def widen(self) -> float:
        """How many times wider intervals are than on slides like the training's."""
        if self.errors is None:
            return 1.0
        growth = self.errors.widened.model_dump()
        return float(max([1.0, *(growth[way] for way in self.unlike)]))

    @property
    def refusal(self) -> str | None:
        """Why there is no figure; None where there is one."""
        stain = None if self.errors is None else self.errors.stain
        if stain is None or self.stain_distance is None:
            return None
        if self.stain_distance < stain.refused_from:
            return None
        return (
            f"The stain of this slide is {self.stain_distance:.1f} standard deviations from what "
            f"the model has seen, and {stain.refused_from:.1f} is the most that it is trusted "
            f"with. Look at thumbnail.png: is this H&E, and is the scanner's colour right?"
        )

    def of_tiles(
        self, score: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """Return the ends of the 90 % interval of each score; None if errors are not known."""
        if self.errors is None:
            return None
        return self.errors.tile_interval(score, widen=self.widen)

    def joined(self, mean: float, sampling: Interval | None) -> Interval | None:
        """Return the 90 % interval of a mean over tissue.

        Args:
            mean: 0 to 1.
            sampling: of how it varies with other tissue; None where there is too little to tell.

        Returns:
            None if the model's errors are not known.

        """
        if self.errors is None:
            return None
        of_model = self.errors.mean_deviation(mean, widen=self.widen)
        of_tissue = 0.0 if sampling is None else sampling.deviation
        half = NormalDist().inv_cdf((1 + LEVEL) / 2) * math.hypot(of_model, of_tissue)
        parts = [f"the model's error on a patient (deviation {100 * of_model:.1f} %)"]
        if sampling is None:
            parts.append("too little tissue to tell how it varies")
        else:
            parts.append(f"how the tissue varies (deviation {100 * of_tissue:.1f} %)")
        if self.unlike:
            why = " and ".join(UNLIKE[way] for way in self.unlike)
            parts.append(f"the model's error widened {self.widen:.1f} times, since {why}")
        return Interval(
            low=round(max(0.0, mean - half), 6),
            high=round(min(1.0, mean + half), 6),
            level=LEVEL,
            method=f"{'; '.join(parts)}; measured on {self.errors.measured_on}",
        )


def reliability_of(
    errors: ScoreError | None,
    rgb: NDArray[np.uint8],
    mpp: Mpp,
    mask: NDArray[np.bool_],
    quality: Quality,
) -> Reliability:
    """Compare a slide with what its model's errors were measured on.

    Args:
        errors: of the model; None if nobody measured them.
        rgb: uint8 [rows, columns, 3], the slide.
        mpp: pixel size of that picture.
        mask: bool of any resolution, the tissue over the same picture.
        quality: what was found of its focus and pixel size.

    """
    if errors is None:
        return Reliability()
    stain = None if errors.stain is None else stain_of(rgb, mpp, mask)
    if errors.stain is None or stain is None:
        return _told(errors, None, quality)
    return _told(errors, round(errors.stain.distance(stain), 2), quality)


def reliability_again(summary: SlideSummary) -> Reliability:
    """Return what was found of a slide when it was scored."""
    errors = summary.provenance.score_error
    if errors is None:
        return Reliability()
    return _told(errors, summary.quality.stain_distance, summary.quality)


def _told(errors: ScoreError, distance: float | None, quality: Quality) -> Reliability:
    stain = errors.stain
    found = {
        "stain": stain is not None and (distance or 0.0) >= stain.widened_from,
        "focus": quality.blurred_fraction >= BLURRED_FROM,
        "enlarged": quality.upsampled,
    }
    return Reliability(errors, distance, tuple(way for way, is_so in found.items() if is_so))


def judged(summary: SlideSummary, reliability: Reliability) -> SlideSummary:
    """Return a summary whose intervals hold the model's error too, or a refusal."""
    flags = summary.quality.flags
    if "stain" in reliability.unlike:
        flags = (*flags, STAIN_FLAG)
    quality = summary.quality.model_copy(
        update={"stain_distance": reliability.stain_distance, "flags": flags}
    )
    summary = summary.model_copy(update={"quality": quality})
    if reliability.refusal is not None and summary.status == "scored":
        return summary.model_copy(
            update={
                "status": "refused",
                "reason": reliability.refusal,
                "cellularity": None,
                "bed": None,
            }
        )
    figures, bed = summary.cellularity, summary.bed
    if figures is not None:
        joined = reliability.joined(figures.mean, figures.mean_95_interval)
        figures = figures.model_copy(update={"mean_90_interval": joined})
    if bed is not None and bed.cellularity is not None:
        joined = reliability.joined(bed.cellularity, bed.interval)
        bed = bed.model_copy(update={"interval": joined or bed.interval})
    return summary.model_copy(update={"cellularity": figures, "bed": bed})
