"""What a slide's tiles, scores and result are known by: their facts, taken from what makes them."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import TYPE_CHECKING

from wsi_pipeline.facts import BundleFacts, GridFacts, ScoringFacts, SlideFacts, TilingFacts
from wsi_pipeline.model.score_error import ScoreError
from wsi_pipeline.outputs.provenance import Provenance, Settings
from wsi_pipeline.scoring.config import ScoreConfig
from wsi_pipeline.slide.slide import Slide

if TYPE_CHECKING:
    from wsi_pipeline.scoring.scorer import Scorer


def slide_facts(slide: Slide, digest: str) -> SlideFacts:
    """Return which slide of this digest it is, and how its pixels are understood."""
    return SlideFacts(
        name=slide.name,
        size_bytes=slide.size_bytes,
        digest=digest,
        vendor=slide.vendor,
        backend=slide.backend,
        width_px=slide.l0_size.width,
        height_px=slide.l0_size.height,
        mpp=slide.mpp,
        mpp_source=slide.mpp_source,
    )


def tiling_facts(slide: Slide, digest: str, config: ScoreConfig) -> TilingFacts:
    """Return all that decides the tiles of a slide of this digest."""
    bounds = slide.l0_bounds
    view = slide.view_for(config.grid.mpp / slide.mpp)
    return TilingFacts(
        slide_digest=digest,
        l0_bounds=(bounds.x, bounds.y, bounds.width, bounds.height),
        mpp=slide.mpp,
        level=view.level,
        shrink=view.shrink,
        tissue=config.tissue,
        grid=GridFacts.of(config.grid),
    )


def scoring_facts(engine: Scorer) -> ScoringFacts:
    """Return all that decides the scores that a model gives to tiles."""
    card, execution = engine.bundle.card, engine.execution
    return ScoringFacts(
        bundle=BundleFacts(
            name=card.name,
            version=card.version,
            digest=engine.bundle.digest,
            demonstration=card.demonstration,
        ),
        classes=card.architecture.classes,
        runtime=execution.runtime,
        precision=execution.precision,
        graph=execution.graph,
        views=engine.config.views,
        class_fractions=engine.config.class_fractions,
    )


def provenance_of(
    slide: Slide,
    tiling: TilingFacts,
    settings: Settings,
    engine: Scorer,
    errors: ScoreError | None,
) -> Provenance:
    """Return what a result is made from and with, as it goes into the summary."""
    scoring, execution = scoring_facts(engine), engine.execution
    software = {
        "wsi-pipeline": version("wsi-pipeline"),
        "python": platform.python_version(),
        execution.runtime: version(execution.runtime),
        "numpy": version("numpy"),
    }
    return Provenance(
        slide=slide_facts(slide, tiling.slide_digest),
        bundle=scoring.bundle,
        config=settings,
        config_digest=settings.digest,
        tiling_digest=tiling.digest,
        scoring_digest=scoring.digest,
        execution=execution,
        score_error=errors,
        software=software,
    )
