"""What a finished result was asked for, and what it was made from and with, as frozen values.

A result still holds for the same bytes of a slide under equal `Settings`. How a machine ran the
model is no part of them, so a result of a CPU is not made again because a GPU has come. Settings
name what decides a result, field by field: anything else in the configuration changes none.
"""

from typing import Literal

from pydantic import FiniteFloat

from wsi_pipeline.digests import Sha256
from wsi_pipeline.engine.execution import Execution, Precision
from wsi_pipeline.facts import BundleFacts, Facts, GridFacts, Record, SlideFacts
from wsi_pipeline.geometry import Mpp
from wsi_pipeline.model.score_error import ScoreError
from wsi_pipeline.outputs.fine_map import FineMapConfig
from wsi_pipeline.outputs.overlay import OverlayConfig
from wsi_pipeline.tiles.tissue import TissueConfig


class Settings(Facts):
    """What was asked of a slide, as far as it decides the result."""

    bundle: Sha256
    """Digest of the model."""
    calibration: Sha256 | None
    """Digest of its graph in 8 bits, where that was asked for."""
    precision: Literal["auto"] | Precision
    views: int
    class_fractions: bool
    mpp: Mpp | None
    """The pixel size that overrides the file's, in µm."""
    tissue: TissueConfig
    grid: GridFacts
    overlay: OverlayConfig
    fine_map: FineMapConfig = FineMapConfig()
    min_coverage: FiniteFloat
    bed: Sha256 | None = None
    """Digest of the tumour bed that was drawn; None if none was."""


class Provenance(Record):
    """All that the figures depend on."""

    slide: SlideFacts
    bundle: BundleFacts
    config: Settings
    config_digest: Sha256
    tiling_digest: Sha256
    """Of the store's `TilingFacts`, and `scoring_digest`, of its `ScoringFacts`."""
    scoring_digest: Sha256
    execution: Execution
    score_error: ScoreError | None = None
    """How far the model's scores are off; None if nobody measured it."""
    software: dict[str, str]
    """Versions, by package."""
