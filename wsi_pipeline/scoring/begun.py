"""How a run begins with a slide: its folder locked, its file opened, its bytes and bed known."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_pipeline.bed.outline import Bed
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.facts import TilingFacts
from wsi_pipeline.model.bundle import ModelBundle
from wsi_pipeline.outputs.provenance import Provenance, Settings
from wsi_pipeline.outputs.summary import SlideSummary
from wsi_pipeline.scoring.beds import bed_to_take
from wsi_pipeline.scoring.config import ScoreConfig
from wsi_pipeline.scoring.folder import SUMMARY, exclusive, roll_forward, store_place
from wsi_pipeline.scoring.identity import provenance_of, tiling_facts
from wsi_pipeline.scoring.opening import SlideContent, errors_named, filed, open_filed
from wsi_pipeline.scoring.run_log import log_file
from wsi_pipeline.scoring.verify import finished
from wsi_pipeline.slide.files import SlideFile
from wsi_pipeline.slide.slide import Slide
from wsi_pipeline.tiles.grid import require_resolution
from wsi_pipeline.tiles.store_place import StorePath

log = logging.getLogger(__name__)


if TYPE_CHECKING:
    from wsi_pipeline.scoring.scorer import Scorer


@dataclass(frozen=True, eq=False)
class Begun:
    """A slide that a run is at work on.

    Attributes:
        file: its files.
        folder: where its result goes; nobody else works there.
        slide: opened.
        content: its bytes.
        drawn: the tumour bed that somebody outlined; None where nobody did.
        settings: all that decides its result.
        done: the result of an earlier run with just these; None where there is none.

    """

    file: SlideFile
    folder: Path
    slide: Slide
    content: SlideContent
    drawn: Bed | None
    settings: Settings
    done: SlideSummary | None

    def identity(self, engine: Scorer, config: ScoreConfig) -> tuple[TilingFacts, Provenance]:
        """Return what its tiles, and its result, are known by."""
        tiling = tiling_facts(self.slide, self.content.digest, config)
        errors = config.errors_of(engine.bundle)
        return tiling, provenance_of(self.slide, tiling, self.settings, engine, errors)

    def store_place(self, config: ScoreConfig, provenance: Provenance) -> StorePath:
        """Return where its tiles are stored."""
        return store_place(
            self.folder, config.store, provenance.tiling_digest, provenance.scoring_digest
        )


def finished_result(
    found: SlideFile,
    out: Path,
    bundle: ModelBundle,
    config: ScoreConfig,
    bed: Path | None = None,
) -> SlideSummary | None:
    """Return the result that an earlier run has left of a slide, if just that is asked for.

    So nothing is started that only scoring needs; the arguments are those of `begun`.
    """
    if not (out / found.folder / SUMMARY).exists():
        return None
    with begun(found, out, bundle, config, bed) as at:
        return at.done


@contextmanager
def begun(
    found: SlideFile | str | Path,
    out: Path,
    bundle: ModelBundle,
    config: ScoreConfig,
    bed: Path | None,
) -> Iterator[Begun]:
    """Begin with a slide, and hold its folder until the block ends.

    Args:
        found: the slide's path or fsspec URL, or its file as `filing.file_slide` finds it.
        out: the folder that gets one folder per slide.
        bundle: the model.
        config: everything else.
        bed: see `wsi_pipeline.scoring.pipeline.score_slide`.

    Raises:
        WsiError: if the slide cannot be scored, or somebody else is at work on it.

    """
    require_fit(bundle, config)
    settings = config.settings(bundle)
    config.errors_of(bundle)  # what is wrong with it is said before anything is read
    file = filed(found, config)
    folder = out / file.folder
    with exclusive(folder), log_file(folder / "run.log"), errors_named(file):
        log.info("Scoring %s with %s", folder.name, bundle.card.name)
        roll_forward(folder)
        with open_filed(file, config) as slide:
            content = SlideContent.of(slide, file)
            drawn = bed_to_take(folder, bed, slide, content.digest)
            settings = settings.model_copy(update={"bed": None if drawn is None else drawn.digest})
            done = finished(folder, content.digest, settings)
            if done is None:
                require_resolution(slide.mpp, config.grid, slide.name)
            yield Begun(file, folder, slide, content, drawn, settings, done)


def require_fit(bundle: ModelBundle, config: ScoreConfig) -> None:
    """Raise if tiles would not be what the model was trained on."""
    card, grid = bundle.card, config.grid
    if (grid.mpp, grid.tile_px) != (card.mpp, card.tile_px):
        raise ConfigError(
            f"The bundle {card.name} takes tiles of {card.tile_px} px at {card.mpp:g} µm/px, but "
            f"the configuration makes them of {grid.tile_px} px at {grid.mpp:g} µm/px. Change "
            f"grid.tile_px and grid.mpp, or take another bundle."
        )
