"""The model that scores a slide's tiles, on this machine or on a cluster."""

from wsi_pipeline.cluster.driver import Cluster
from wsi_pipeline.engine.base import Engine
from wsi_pipeline.engine.build import build_engine
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
