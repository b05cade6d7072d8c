"""A bundle's graph in 8 bits: a model of its own, which `wsi quantise` puts beside the bundle.

Its digest belongs to the identity of scores (`wsi_pipeline.engine.execution.Execution.graph`).
"""

import logging
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from wsi_pipeline.engine.graphs import (
    Graph,
    Record,
    damaged,
    read_graph,
    read_record,
    user_cache,
    write_graph,
)
from wsi_pipeline.errors import BundleError, ConfigError
from wsi_pipeline.model.bundle import ModelBundle

log = logging.getLogger(__name__)

QUANTISED_NAME: Final = "int8.json"
"""Of its record; beside it lie its XML and its weights."""


class Calibration(BaseModel):
    """How a bundle was quantised, and what it cost."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: str
    """The bundle's digest."""
    slides: int
    tiles: int
    """On which ranges were measured."""
    seed: int
    float32_share: float
    """Share of the convolutions, counted from the pixels on, that had to stay in float32."""
    checked_on: int
    """Other tiles of the same slides, on which the errors were measured."""
    mean_error: float
    """Of scores, absolute, against torch in float32."""
    max_error: float
    bias: float
    """The mean difference to torch in float32."""
    software: dict[str, str]


def quantised(bundle: ModelBundle) -> Graph:
    """Return a bundle's graph in 8 bits.

    Raises:
        ConfigError: if the bundle was not quantised.
        BundleError: if the file is damaged, or another bundle's.

    """
    path = _quantised_path(bundle)
    graph, record = read_graph(path)
    _calibration(path, record, bundle)
    return graph


def calibration(bundle: ModelBundle) -> tuple[Calibration, str]:
    """Return how a bundle was quantised, and the digest of its graph in 8 bits.

    Raises:
        ConfigError: if the bundle was not quantised.
        BundleError: if the file is damaged, or another bundle's.

    """
    path = _quantised_path(bundle)
    record, digest = read_record(path)
    return _calibration(path, record, bundle), digest


def keep_quantised(bundle: ModelBundle, graph: Graph, how: Calibration) -> Path:
    """Write a quantised graph beside its bundle, or to the user's cache if that is read-only.

    Returns:
        the path of its record, which says what it cost, as JSON.

    """
    folders = _quantised_folders(bundle)
    for folder in folders:
        path = folder / QUANTISED_NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_graph(path, graph, how.model_dump())
        except OSError as error:
            if folder == folders[-1]:
                raise
            log.info("%s cannot be written (%s)", folder, error.strerror)
        else:
            break
    return path


def _calibration(path: Path, record: Record, bundle: ModelBundle) -> Calibration:
    try:
        how = Calibration.model_validate(record)
    except ValidationError as error:
        raise damaged(path, "its record is of another format") from error
    if how.bundle != bundle.digest:
        raise BundleError(
            f"{path} was made of another bundle than {bundle.source} holds now: {_remedy(bundle)}."
        )
    return how


def _quantised_path(bundle: ModelBundle) -> Path:
    for path in (folder / QUANTISED_NAME for folder in _quantised_folders(bundle)):
        if path.is_file():
            return path
    raise ConfigError(
        f"{bundle.source} has no graph in 8 bits, which `engine.precision: int8` asks for: "
        f"{_remedy(bundle)}, or take another precision."
    )


def _remedy(bundle: ModelBundle) -> str:
    return f"make one with `wsi quantise {bundle.source} SLIDES`"


def _quantised_folders(bundle: ModelBundle) -> list[Path]:
    beside = [] if bundle.folder is None else [bundle.folder]
    return [*beside, user_cache(bundle)]
