"""The model that scores a slide's tiles, on this machine or on a cluster."""

from wsi_pipeline.cluster.driver import Cluster
from wsi_pipeline.engine.base import Engine
from wsi_pipeline.engine.build import build_engine
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.model.bundle import ModelBundle
from wsi_pipeline.scoring.config import ScoreConfig

Scorer = Engine | Cluster
"""A model that is ready, on this machine or on a cluster."""


def start_engine(bundle: ModelBundle, config: ScoreConfig) -> Scorer:
    """Make a model ready, on this machine or on the cluster that the configuration names.

    Raises:
        WsiError: if it cannot be run there.

    """
    if config.cluster is None:
        return build_engine(bundle, config.engine)
    return Cluster(bundle, config.engine, config.cluster)


def require_fit(engine: Scorer, config: ScoreConfig) -> None:
    """Raise if tiles would not be what the model was trained on."""
    card, grid = engine.bundle.card, config.grid
    if (grid.mpp, grid.tile_px) != (card.mpp, card.tile_px):
        raise ConfigError(
            f"The bundle {card.name} takes tiles of {card.tile_px} px at {card.mpp:g} µm/px, but "
            f"the configuration makes them of {grid.tile_px} px at {grid.mpp:g} µm/px. Change "
            f"grid.tile_px and grid.mpp, or take another bundle."
        )
