"""How far a model's scores are off, as patients tell that training has not seen.

It lies beside a bundle as ``score-error.json``, made by ``python -m training.calibrate``. It
belongs to no digest of the model: other intervals make no other scores.

Errors are told in units of `scale`, which is widest in the middle and narrow at both ends, as
errors are. `tile_quantile` of them hold nine tiles of ten, by split conformal prediction: the
⌈0.9 (n + 1)⌉-th smallest of the n errors, which holds at least 90 % of tiles to come if they are
like those. `patient_deviation` is the part that all tiles of one patient share, which no number of
tiles averages away.
"""

import hashlib
import logging
import math
from functools import cached_property
from pathlib import Path
from typing import Annotated, Final, Literal, Self

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from wsi_pipeline.errors import BundleError
from wsi_pipeline.files import read_regular
from wsi_pipeline.geometry import Mpp
from wsi_pipeline.validation import problems

log = logging.getLogger(__name__)

SCORE_ERROR_NAME: Final = "score-error.json"
LEVEL: Final = 0.9
"""Share that the intervals are meant to hold."""

STAIN_MPP: Final = Mpp(8.0)
"""Pixel size at which a stain is measured: finer, it would be that of single nuclei."""

_SMALLEST = 0.01
_Triple = tuple[FiniteFloat, FiniteFloat, FiniteFloat]
Positive = Annotated[FiniteFloat, Field(gt=0)]
Growth = Annotated[FiniteFloat, Field(ge=1)]


class StainDomain(BaseModel):
    """Which stains the errors were measured on.

    A stain is the mean optical density of the tissue's red, green and blue. `distance` counts
    standard deviations of the training's pictures, whatever their direction (Mahalanobis).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: _Triple
    precision: tuple[_Triple, _Triple, _Triple]
    """Inverse of the covariance."""
    widened_from: Positive
    """Distance from which intervals are widened, and the slide is flagged."""
    refused_from: Positive
    """Distance from which there is no figure."""

    def distance(self, stain: NDArray[np.float64]) -> float:
        """Return how far a stain is from the training's."""
        off = stain - np.array(self.mean)
        return float(np.sqrt(max(0.0, off @ np.array(self.precision) @ off)))


class Widened(BaseModel):
    """By how much errors grew where pictures were not the training's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stain: Growth
    """Darker, paler and with more eosin."""
    focus: Growth
    """Blurred, by a deviation of 1 µm."""
    enlarged: Growth
    """From 0.7 µm/px."""


class ScoreError(BaseModel):
    """The error of one model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    bundle: str = Field(pattern=r"\A[0-9a-f]{64}\z")
    """Digest of the model that it was measured on."""
    measured_on: str
    patients: int = Field(ge=1)
    tiles: int = Field(ge=1)
    tile_quantile: Positive
    patient_deviation: Annotated[FiniteFloat, Field(ge=0)]
    widened: Widened
    """By how much intervals are widened there."""
    stain: StainDomain | None
    """None where it was not measured: then every stain is taken for one of the training's."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read one.

        Raises:
            FileNotFoundError: if there is none.
            BundleError: if it is damaged.

        """
        content = read_regular(path)
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            raise BundleError(
                f"{path}: this does not say how far scores are off ({problems(error)}). Make it "
                f"again with `python -m training.calibrate`."
            ) from error

    def tile_interval(
        self, score: NDArray[np.floating], *, widen: float = 1.0
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the ends of each tile's 90 % interval, NaN without a score.

        Args:
            score: 0 to 1.
            widen: how many times wider they are than measured.

        """
        half = self.tile_quantile * scale(score) * widen
        low, high = np.clip(score - half, 0, 1), np.clip(score + half, 0, 1)
        return low.astype(np.float32), high.astype(np.float32)

    def mean_deviation(self, mean: float, *, widen: float = 1.0) -> float:
        """Return the standard deviation of a patient's mean, however many tiles it is of."""
        shared = self.patient_deviation * float(scale(np.array(mean)))
        return shared * widen


def scale(score: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the unit of errors at a score.

    >>> scale(np.array([0.0, 0.5])).round(3).tolist()
    [0.1, 0.51]
    """
    within = np.clip(score, 0, 1)
    return np.asarray(np.sqrt(within * (1 - within) + _SMALLEST), np.float64)


def conformal_quantile(errors: NDArray[np.floating], level: float = LEVEL) -> float:
    """Return the error that holds a share of those to come; infinite for too few.

    >>> conformal_quantile(np.arange(1.0, 20.0))
    18.0
    """
    rank = math.ceil((len(errors) + 1) * level)
    return math.inf if rank > len(errors) else float(np.sort(errors)[rank - 1])


def stain_of(
    rgb: NDArray[np.uint8], mpp: Mpp, mask: NDArray[np.bool_]
) -> NDArray[np.float64] | None:
    """Return the mean optical density of the tissue, of red, green and blue; None without tissue.

    Args:
        rgb: uint8 [rows, columns, 3].
        mpp: its pixel size; finer than `STAIN_MPP`, it is averaged first.
        mask: bool of any resolution over the same picture, True where there is tissue.

    """
    shrink = max(1.0, STAIN_MPP / mpp)
    size = tuple(max(1, round(side / shrink)) for side in (rgb.shape[1], rgb.shape[0]))
    coarse = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    share = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    tissue = share > 0.5
    if not tissue.any():
        return None
    density = -np.log10((coarse[tissue].astype(np.float64) + 1) / 256)
    return np.asarray(density.mean(axis=0), np.float64)
