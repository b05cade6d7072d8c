"""Tiling and scoring on the machines of a Dask cluster: one shard of tiles to a task.

The driver makes the store, submits the shards that are not scored yet, and writes the outputs as
without a cluster. A worker opens slide, store and model once, then reads, scores and commits shard
by shard. Only paths and small numbers travel: slide, store and bundle have to be readable, and the
store writable, by the same path or URL on every machine.

A shard is committed by its state, which is written last. So a worker that dies costs what it had
not committed, and Dask gives its shards to others; a driver that dies leaves a store that the next
run goes on with. Shards that Dask has done twice, since it had lost sight of a worker, do no harm:
the second finds the first's states, or writes the same bytes.

Whoever reaches a scheduler or worker can run code there (see docs/scaling.md): keep their ports on
loopback or a private network, or use Dask's TLS.
"""

import queue
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsi_pipeline.cluster import task as cluster_task
from wsi_pipeline.cluster.worker import Job, public_version, require_same, software
from wsi_pipeline.engine.execution import EngineConfig, Execution, of_bundle
from wsi_pipeline.errors import ClusterError, ConfigError, SlideError, WsiError
from wsi_pipeline.facts import SlideFacts
from wsi_pipeline.files import is_url
from wsi_pipeline.geometry import Mpp
from wsi_pipeline.model.bundle import BUNDLED_MODEL, ModelBundle
from wsi_pipeline.tile_data import TileState
from wsi_pipeline.tiles.store import TileStore

if TYPE_CHECKING:
    from distributed import Client, Future

CONNECT_S = 30
WORKERS_S = 120
"""How long a cluster may be without any worker before a run gives up."""

RETRIES = 2
"""Times that a shard is tried again after an error. Deaths of workers are counted by Dask's own
`distributed.scheduler.allowed-failures`."""


class Cluster:
    """A model on a Dask cluster; takes the place of an `Engine` for scoring slides.

    Attributes:
        bundle: the model.
        config: how the workers are asked to run it.
        execution: how they all run it.
        busy_s: seconds that workers spent on shards so far, all together.

    """

    def __init__(self, bundle: ModelBundle, config: EngineConfig, address: str) -> None:
        """Connect to a scheduler.

        Raises:
            ConfigError: if `distributed` is not installed here.
            ClusterError: if no scheduler answers, or workers are missing or do not fit.

        """
        self.bundle = bundle
        self.config = config
        self.busy_s = 0.0
        self._address = address
        self._client = _connect(address)
        try:
            _require_workers(self._client, address)
            _require_same_software(self._client, software())
            self.execution = of_bundle(bundle, _common_execution(self._client, config))
            _require_same_software(self._client, software(self.execution.runtime))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Leave the cluster; nothing of this driver's goes on there."""
        self._client.close()  # type: ignore[no-untyped-call]

    def score(
        self,
        location: str | Path,
        slide: SlideFacts,
        store: TileStore,
        *,
        tile_px: int,
        keep_pixels: bool,
        on_scored: Callable[[int], None],
    ) -> None:
        """Read and score all tiles of a store that are not scored yet.

        Args:
            location: the slide's path or fsspec URL, good on every worker.
            slide: how it is understood here.
            store: to fill, prepared by `TileStore.begin_scoring`.
            tile_px: side of a tile in pixels.
            keep_pixels: whether pixels are stored too.
            on_scored: told the number of tiles after each commit.

        Raises:
            ClusterError: if the cluster is lost, or its workers cannot do it.

        """
        job = Job(
            location=_everywhere(location),
            name=slide.name,
            backend=slide.backend,
            mpp=Mpp(slide.mpp),
            size_bytes=slide.size_bytes,
            store=_everywhere(str(store.path)),
            tiling_digest=store.tiling_digest,
            scoring_digest=store.scoring_digest or "",
            tile_px=tile_px,
            keep_pixels=keep_pixels,
            bundle=None if self.bundle.source == str(BUNDLED_MODEL) else self.bundle.source,
            bundle_digest=self.bundle.digest,
            engine=_nothing_to_choose(self.config, self.execution),
            execution=self.execution,
            software=tuple(software(self.execution.runtime).items()),
        )
        waiting = [shard for shard in store.shards if (store.state(shard) < TileState.SCORED).any()]
        # Keys of this run alone, or a shard's failure in an earlier one would be taken for its own.
        run = f"{store.tiling_digest[:12]}-{time.time_ns():x}"
        shards = {f"shard-{shard.start}-{run}": shard for shard in waiting}
        if self._client.status != "running":  # the scheduler was away, and may be back
            self._client = _connect(self._address)
        futures = [
            self._client.submit(
                cluster_task.score,
                cluster_task.Task(shard.start, shard.stop, job.model_dump_json()),
                key=key,
                retries=RETRIES,
                pure=False,
            )
            for key, shard in shards.items()
        ]
        try:
            for future in self._finished(futures):
                shard = shards[str(future.key)]
                states, seconds = self._result(future, job.name, shard)
                self.busy_s += seconds
                state = np.array(states, np.uint8)
                before = int((store.state(shard) == TileState.SCORED).sum())
                store.note(shard, state)
                on_scored(int((state == TileState.SCORED).sum()) - before)
        except BaseException:
            self._client.cancel(futures)  # type: ignore[no-untyped-call]
            raise

    def _finished(self, futures: "list[Future[Any]]") -> "Iterator[Future[Any]]":
        """Give futures as they finish; give up if nobody is there to finish them."""
        finished: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        for future in futures:
            future.add_done_callback(finished.put)  # type: ignore[no-untyped-call]
        alone_since: float | None = None
        for _ in futures:
            while True:
                try:
                    yield finished.get(timeout=1)
                except queue.Empty:
                    if self._client.scheduler_info()["workers"]:
                        alone_since = None
                    elif alone_since is None:
                        alone_since = time.monotonic()
                    elif time.monotonic() - alone_since > WORKERS_S:
                        raise ClusterError(
                            f"{self._address}: the cluster has been without workers for "
                            f"{WORKERS_S} s. Start some and run again; what is stored is kept."
                        ) from None
                else:
                    break

    def _result(self, future: "Future[Any]", name: str, shard: slice) -> tuple[list[int], float]:
        """Return what a worker says of its shard, or raise what it met in terms of a slide."""
        from distributed import KilledWorker

        try:
            result: tuple[list[int], float] = future.result()
        except CancelledError as error:
            raise ClusterError(
                f"{self._address}: the connection to the scheduler was lost. Start it again if "
                f"need be, and run again; what is stored is kept."
            ) from error
        except KilledWorker as error:
            raise SlideError(
                f"{name}: tiles {shard.start} to {shard.stop - 1} have killed one worker after "
                f"another. See the workers' logs; if they ran out of memory, give them more."
            ) from error
        return result


def _everywhere(location: str | Path) -> str:
    """Return a location that does not depend on the folder that a process runs in."""
    return str(location) if is_url(str(location)) else str(Path(location).absolute())


def _connect(address: str) -> "Client":
    try:
        from distributed import Client
    except ImportError as error:
        raise ConfigError(
            f"`cluster: {address}` needs Dask's scheduler: install `wsi-pipeline[cluster]`, or "
            f"leave `cluster` out to score on this machine."
        ) from error
    try:
        return Client(address, timeout=CONNECT_S, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"{address}: no Dask scheduler answers there ({error}). Start one with `dask "
            f"scheduler`, or leave `cluster` out to score on this machine."
        ) from error


def _require_workers(client: "Client", address: str) -> None:
    try:
        client.wait_for_workers(1, timeout=WORKERS_S)
    except TimeoutError as error:
        raise ClusterError(
            f"{address}: the cluster has no workers. Start some with `dask worker {address}`."
        ) from error


def _require_same_software(client: "Client", software: dict[str, str]) -> None:
    """Raise if a machine of the cluster lacks a package, or has another version of it.

    Asks by a function of the standard library: one of ours could not even be sent there.
    """
    for package, own in software.items():
        found: dict[str, Any] = client.run(version, package, on_error="return")
        for machine, answer in found.items():
            has = None if isinstance(answer, Exception) else public_version(answer)
            require_same(machine, package, has, own)
    package, own = next(iter(software.items()))  # all that the scheduler needs of us
    try:
        found_there: str | None = client.run_on_scheduler(version, package)  # type: ignore[no-untyped-call]
    except PackageNotFoundError:
        found_there = None
    require_same("The scheduler", package, found_there, own)


def _nothing_to_choose(config: EngineConfig, execution: Execution) -> EngineConfig:
    return config.model_copy(
        update={
            "device": execution.device if config.device == "auto" else config.device,
            "runtime": execution.runtime,
            "precision": execution.precision,
        }
    )


def _common_execution(client: "Client", config: EngineConfig) -> Execution:
    """Return how all workers would run a model.

    Raises:
        ClusterError: if they would not do it alike, or cannot.

    """
    answers: dict[str, Any] = client.run(
        cluster_task.execution, config.model_dump_json(), on_error="return"
    )
    found: set[Execution] = set()
    for worker, answer in answers.items():
        if isinstance(answer, WsiError):
            raise ClusterError(f"{worker}: {answer}")
        if isinstance(answer, Exception):
            raise answer
        found.add(Execution.model_validate_json(answer))
    if len(found) != 1:
        they = "; ".join(sorted(map(str, found)))
        raise ClusterError(
            f"The workers would not score alike ({they}). Set `engine.device`, `engine.runtime` "
            f"and `engine.precision`, or use machines of one kind."
        )
    return found.pop()
