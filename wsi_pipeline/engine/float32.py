"""A bundle's graph in float32, exported once and kept.

It computes what torch would. It can be made again at any time, and is kept in the user's own cache,
by the bundle's digest: were it looked for beside the bundle, whoever hands a bundle on could have
another model run under its digest.
"""

import json
import logging
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import filelock

from wsi_pipeline.engine.graphs import (
    EXPORT_FORMAT,
    RECORD,
    Graph,
    Record,
    read_graph,
    user_cache,
    write_graph,
)
from wsi_pipeline.engine.openvino import import_openvino
from wsi_pipeline.engine.shipped import shipped
from wsi_pipeline.errors import BundleError
from wsi_pipeline.model.bundle import ModelBundle
from wsi_pipeline.model.torch_extra import torch_at_hand, torch_version

log = logging.getLogger(__name__)


def exported(bundle: ModelBundle) -> Graph:
    """Return a bundle's graph in float32: the package's, the user's cache's, or exported anew.

    Raises:
        ConfigError: if OpenVINO is not installed, or torch if the graph has to be exported.
        BundleError: if the bundle does not hold its network's weights.

    """
    if (graph := shipped(bundle)) is not None:
        return graph
    of = {
        "bundle": bundle.digest,
        "format": EXPORT_FORMAT,
        "openvino": version("openvino"),
        "torch": torch_version(),
    }
    name = sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:16]
    try:
        path = user_cache(bundle) / f"float32-{name}{RECORD}"
        path.parent.mkdir(parents=True, exist_ok=True)
        # Processes that start together wait for the first one's graph.
        with filelock.FileLock(path.with_suffix(".lock")):
            graph = _kept(path, of)
            if graph is None:
                graph = _export(bundle)
                write_graph(path, graph, of)
    except OSError as error:
        log.warning(
            "The exported model cannot be kept (%s), and is made anew by each process. "
            "Free space, or set XDG_CACHE_HOME to a folder that can be written.",
            error,
        )
    return _export(bundle) if graph is None else graph


def _export(bundle: ModelBundle) -> Graph:
    import_openvino()
    # Imported here, since torch takes seconds, and most graphs are found in the cache.
    with torch_at_hand(f"{bundle.source}: making its graph"):
        from wsi_pipeline.engine.export import export

    return export(bundle)


def _kept(path: Path, of: Record) -> Graph | None:
    try:
        graph, record = read_graph(path)
    except FileNotFoundError:
        return None
    except BundleError as error:
        log.warning("%s It is made anew.", error)
        return None
    return graph if record == of else None
