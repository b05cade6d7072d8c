"""The bundled model's graph, which comes with the package: scoring on a CPU needs no torch for it.

It is as trustworthy as the code beside it, and serves no bundle but the one that it was made of:
its record names the digests of the weights and of what the card says of the network. Weights are
kept in half precision, which moves scores by less than 0.001. ``python -m tools.ship_graph`` makes
it.
"""

import logging
from pathlib import Path
from typing import Final

from wsi_pipeline.digests import digest_of
from wsi_pipeline.engine.graphs import EXPORT_FORMAT, Graph, Record, read_graph, read_record
from wsi_pipeline.errors import BundleError
from wsi_pipeline.model.bundle import ModelBundle

SHIPPED: Final = Path(__file__).parent / "shipped_graph" / "float32.json"
"""Where the record of the graph lies."""

log = logging.getLogger(__name__)


def shipped(bundle: ModelBundle) -> Graph | None:
    """Return the graph that comes with the package, if it is this bundle's; else None."""
    try:
        record, _ = read_record(SHIPPED)
        return read_graph(SHIPPED)[0] if record == of(bundle) else None
    except FileNotFoundError:
        return None
    except BundleError as error:
        log.warning("%s The bundled model is exported anew.", error)
        return None


def of(bundle: ModelBundle) -> Record:
    """Return what a graph follows from: a bundle's weights, and what its card says of them."""
    network = bundle.card.model_dump(mode="json", include={"architecture", "tile_px"})
    return {
        "weights": bundle.weights_sha256,
        "network": digest_of(network),
        "format": EXPORT_FORMAT,
    }
