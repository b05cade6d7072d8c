"""What a worker of a Dask cluster does with a shard of tiles; see `wsi_pipeline.cluster.driver`."""

import logging
import socket
import threading
import time
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from wsi_pipeline.engine.base import Engine
from wsi_pipeline.engine.build import build_engine
from wsi_pipeline.engine.execution import EngineConfig, Execution, Runtime
from wsi_pipeline.errors import (
    BundleError,
    ClusterError,
    DamagedStoreError,
    SlideError,
    SlideUnavailableError,
    StoreError,
    WsiError,
)
from wsi_pipeline.geometry import Mpp
from wsi_pipeline.model.bundle import ModelBundle
from wsi_pipeline.slide.readers.protocol import Backend
from wsi_pipeline.slide.slide import Slide
from wsi_pipeline.tile_data import ShardPixels, TileState
from wsi_pipeline.tiles.fill import read_shard
from wsi_pipeline.tiles.grid import TileGrid
from wsi_pipeline.tiles.store import TileStore
from wsi_pipeline.tiles.store_place import store_path

log = logging.getLogger(__name__)

PACKAGES = ("wsi-pipeline", "torch")
"""What has to be of one version everywhere, or machines could give different scores."""


class Job(BaseModel):
    """What a worker has to know of a slide.

    Attributes:
        location: the slide's path or URL.
        name: what messages call it.
        backend: the reader that the driver uses.
        mpp: µm per level-0 pixel.
        size_bytes: of the slide's files, to tell another file of the same name.
        store: the store's path or URL.
        tiling_digest: of the store, and `scoring_digest`, of its scores.
        tile_px: side of a tile.
        keep_pixels: whether pixels are stored, beside scores.
        bundle: the model's location; None is the one that comes with the package.
        bundle_digest: of the model.
        engine: how the model is run, nothing left to choose.
        execution: what comes of that on the driver's word.
        software: packages and the versions of them that all machines have to have.

    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    location: str
    name: str
    backend: Backend
    mpp: Mpp
    size_bytes: int
    store: str
    tiling_digest: str
    scoring_digest: str
    tile_px: int
    keep_pixels: bool
    bundle: str | None
    bundle_digest: str
    engine: EngineConfig
    execution: Execution
    software: tuple[tuple[str, str], ...]


def software(runtime: Runtime = "torch") -> dict[str, str]:
    """Return the versions here of `PACKAGES`, and of the library that runs the model.

    Raises:
        ClusterError: if that library is not installed.

    """
    found = {package: installed(package) for package in (*PACKAGES, runtime)}
    if missing := [package for package, has in found.items() if has is None]:
        raise ClusterError(f"Install {missing[0]} on {socket.gethostname()} too.")
    return {package: has for package, has in found.items() if has is not None}


def installed(package: str) -> str | None:
    """Return the version of a package here; None if it is not installed."""
    try:
        return public_version(version(package))
    except PackageNotFoundError:
        return None


def public_version(of: str) -> str:
    """Leave out what tells builds of one version apart, such as torch's "+cpu"."""
    return of.split("+")[0]


def require_same(machine: str, package: str, has: str | None, own: str) -> None:
    """Raise if a machine has another version of a package, or None, than the driver."""
    if has != own:
        raise ClusterError(
            f"{machine} has {'no' if has is None else 'another'} {package}"
            f"{'' if has is None else f' ({has})'}, but the run was started with {own}: scores "
            f"could differ. Install {package}=={own} there and start it again."
        )


def score_shard(job: Job, start: int, stop: int) -> tuple[list[int], float]:
    """Read, score and commit one shard.

    Returns:
        the `TileState` of its tiles as committed, and the seconds that it took.

    Raises:
        WsiError: naming this machine.

    """
    began = time.perf_counter()
    try:
        state = _score_shard(job, slice(start, stop))
    except WsiError as error:
        log.warning("Tiles %d to %d of %s: %s", start, stop - 1, job.name, error)
        met = error
    else:
        return [int(value) for value in state], time.perf_counter() - began
    # Out here, without the errors that led to it: not all of them can be sent.
    raise type(met)(f"On {socket.gethostname()}: {met}")


def _score_shard(job: Job, shard: slice) -> NDArray[np.uint8]:
    for package, own in job.software:
        require_same("this worker", package, installed(package), own)
    with _opening:
        opened = _opened(job)
        engine = _engine(job.bundle, job.bundle_digest, job.engine)
        if engine.execution != job.execution:
            raise ClusterError(
                f"{engine.bundle.source} would be run otherwise here than where the run was "
                f"started, in 8 bits perhaps by another calibration. Share one folder of models."
            )
    store = opened.store
    state = store.committed_state(shard)
    if (state >= TileState.SCORED).all():
        return state
    pixels = _stored_pixels(store, shard, state)
    keep_pixels = job.keep_pixels and pixels is None
    if pixels is None:
        pixels = read_shard(opened.slide, opened.grid, shard, job.tile_px)
    scores = None
    readable = pixels.measures.readable
    if readable.any():
        with _model:
            scores = engine.predict(pixels.rgb[readable])
    # A driver may have died and another have begun with other settings, while this was computed.
    _require_current(job)
    rgb = pixels.rgb if keep_pixels else None
    return store.commit_scores(shard, pixels.measures, scores, rgb=rgb)


class _Opened(NamedTuple):
    """What a worker keeps open of a slide."""

    slide: Slide
    store: TileStore
    grid: TileGrid


_opening = threading.Lock()
_model = threading.Lock()
"""A worker's threads read side by side, and share one model that is run by one at a time."""


@lru_cache(maxsize=2)
def _opened(job: Job) -> _Opened:
    """Open a slide and its store, and see that they are the driver's."""
    try:
        slide = Slide.open(job.location, backend=job.backend, mpp=job.mpp, name=job.name)
    except SlideUnavailableError:
        raise
    except SlideError as error:
        raise ClusterError(
            f"the slide cannot be opened as it could where the run was started ({error}) Every "
            f"worker has to reach it as {job.location}: share the folder, or use an object store."
        ) from error
    if slide.size_bytes != job.size_bytes:
        raise ClusterError(
            f"{job.location} is another file than where the run was started: {slide.size_bytes:,} "
            f"bytes and not {job.size_bytes:,}. Share one folder of slides among all machines."
        )
    try:
        store = TileStore(store_path(job.store))
        _require_current(job)
    except StoreError as error:
        raise ClusterError(
            f"the store is not seen as it was made where the run was started ({error}) Every "
            f"worker has to reach it as {job.store}: share the folder, or set `store.root` to an "
            f"object store."
        ) from error
    return _Opened(slide, store, store.grid)


@lru_cache(maxsize=1)
def _engine(location: str | None, digest: str, config: EngineConfig) -> Engine:
    """Load the model, and see that it is the driver's."""
    try:
        bundle = ModelBundle.load(location)
    except BundleError as error:
        raise ClusterError(
            f"the model cannot be loaded as it could where the run was started ({error}) Share "
            f"its folder, or name one on the hub."
        ) from error
    if bundle.digest != digest:
        raise ClusterError(
            f"{bundle.source} holds another model than where the run was started. Share one "
            f"folder of models among all machines."
        )
    return build_engine(bundle, config)


def _require_current(job: Job) -> None:
    """Raise if the store has become that of other settings, or has gone."""
    store = TileStore(store_path(job.store))
    if (store.tiling_digest, store.scoring_digest) != (job.tiling_digest, job.scoring_digest):
        raise StoreError(
            f"{job.store}: another run with other settings has taken over the store. Run again."
        )


def _stored_pixels(store: TileStore, shard: slice, state: NDArray[np.uint8]) -> ShardPixels | None:
    """Return what an earlier run has stored of a shard; None if the slide has to be read."""
    if (state == TileState.PENDING).any() or not store.has_room_for_pixels:
        return None
    try:
        return store.read_shard(shard)
    except DamagedStoreError as error:
        log.warning("%s They are read from the slide again.", error)
        return None
