"""The outputs of a scored slide, written again from its store: `wsi heatmap`."""

from pathlib import Path

from wsi_pipeline.errors import ConfigError, StoreError
from wsi_pipeline.geometry import Mpp
from wsi_pipeline.outputs.summary import SlideSummary
from wsi_pipeline.outputs.write import write_outputs
from wsi_pipeline.scoring.config import ScoreConfig
from wsi_pipeline.scoring.folder import (
    exclusive,
    is_store_of,
    prepare,
    publish,
    read_summary,
    roll_forward,
)
from wsi_pipeline.scoring.run_log import log_file
from wsi_pipeline.slide.slide import Slide
from wsi_pipeline.tiles.store import TileStore


def write_again(
    folder: Path, config: ScoreConfig, location: str | Path | None = None
) -> SlideSummary:
    """Write the outputs of a scored slide again, from its store.

    Args:
        folder: the slide's.
        config: for the overlay.
        location: the slide's file; without it the pictures of the slide stay as they are.

    Returns:
        the summary, which names the new files.

    Raises:
        ConfigError: if there is no result, or the file is another slide.
        WsiError: if the store is damaged, or the slide cannot be read.

    """
    summary = read_summary(folder)
    if summary is None or summary.status != "scored":
        raise ConfigError(f"{folder}: there is no finished result here. Run `wsi score` first.")
    with exclusive(folder), log_file(folder / "run.log"):
        roll_forward(folder)
        summary = read_summary(folder) or summary
        made = summary.provenance
        place = config.store.path(folder)
        if not is_store_of(place, made):
            raise StoreError(
                f"{place}: this is not the store of the result beside it, or it is damaged. Run "
                f"`wsi score` again."
            )
        staged, store = prepare(folder), TileStore(place)
        if location is None:
            write_outputs(staged, store, config.overlay, None)
            return publish(folder, summary)
        about = made.slide
        with Slide.open(
            location, backend=about.backend, mpp=Mpp(about.mpp), name=about.name
        ) as slide:
            if slide.digest() != about.digest:
                raise ConfigError(
                    f"{location}: this is not the slide that {folder} was scored from "
                    f"({about.name}). Name that one, or leave --slide out."
                )
            write_outputs(staged, store, config.overlay, slide)
        settings = made.config.model_copy(update={"overlay": config.overlay})
        drawn = made.model_copy(update={"config": settings, "config_digest": settings.digest})
        return publish(folder, summary.model_copy(update={"provenance": drawn}))
