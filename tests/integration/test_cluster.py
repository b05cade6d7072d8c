"""Slides scored over a Dask cluster of real processes: a scheduler and two workers on loopback."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import yaml
import zarr

from tests.helpers.made import damage
from tests.helpers.object_store import ObjectStore, serve_objects
from wsi_pipeline.cluster import driver as cluster
from wsi_pipeline.cluster import worker as cluster_worker
from wsi_pipeline.engine.build import build_engine
from wsi_pipeline.engine.openvino import openvino_is_installed
from wsi_pipeline.errors import ClusterError, ConfigError
from wsi_pipeline.model.bundle import ModelBundle
from wsi_pipeline.night.config import NightConfig
from wsi_pipeline.scoring.pipeline import score_slide
from wsi_pipeline.scoring.scorer import start_engine
from wsi_pipeline.tile_data import TileState
from wsi_pipeline.tiles.store import TileStore

BIN = Path(sys.executable).parent
NOT_COMPARED = {"run.log", ".lock"}


class Site:
    """A scheduler, its workers, and what they write to their logs."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self._environment = os.environ | environment | {"OMP_NUM_THREADS": "1"}
        self.workers: list[subprocess.Popen[bytes]] = []
        told = folder / "scheduler.json"
        self._scheduler = self._start(
            "scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(told)
        )
        while not told.exists():
            assert self._scheduler.poll() is None, self.log("scheduler-0")
            time.sleep(0.05)
        self.address = str(json.loads(told.read_text())["address"])

    def _start(self, kind: str, *options: str, number: int = 0) -> subprocess.Popen[bytes]:
        log = self._folder / f"{kind}-{number}.log"
        with log.open("wb") as file:
            return subprocess.Popen(
                [BIN / "dask", kind, "--no-dashboard", *options],
                env=self._environment, stdout=file, stderr=file, cwd=self._folder,
            )  # fmt: skip

    def start_worker(self, preload: str = "wsi_pipeline.cluster.worker") -> None:
        number = len(self.workers)
        self.workers.append(
            self._start(
                "worker", self.address, "--host", "127.0.0.1", "--nthreads", "1",
                "--nworkers", "1", "--no-nanny", "--preload", preload, number=number,
            )
        )  # fmt: skip

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()

    def end(self) -> None:
        for process in (*self.workers, self._scheduler):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def s3() -> Iterator[ObjectStore]:
    with serve_objects() as served:
        yield served


@pytest.fixture(scope="module")
def make_site(s3, tmp_path_factory) -> Iterator[Callable[[int], Site]]:
    with ExitStack() as stack:

        def make(workers: int) -> Site:
            site = Site(tmp_path_factory.mktemp("dask"), s3.environment)
            stack.callback(site.end)
            for _ in range(workers):
                site.start_worker()
            return site

        yield make


@pytest.fixture(scope="module")
def site(make_site) -> Site:
    return make_site(2)


@pytest.fixture
def slide(make_slide, section) -> Path:
    """About 50 tiles of 64 px, in seven shards."""
    return make_slide(section.rgb[256:832, 256:832], compression="jpeg", name="slide [1].tif")


@pytest.fixture
def larger_slide(make_slide, section) -> Path:
    return make_slide(np.tile(section.rgb, (2, 2, 1)), compression="jpeg")


@pytest.fixture
def bundle(tiny_bundle) -> ModelBundle:
    return ModelBundle.load(tiny_bundle)


def on(config: NightConfig, **changes: object) -> NightConfig:
    return NightConfig.model_validate(config.model_dump() | changes)


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in NOT_COMPARED
    }


def assert_same(files: dict[str, bytes], expected: dict[str, bytes]) -> None:
    assert files.keys() == expected.keys()
    assert [name for name in files if files[name] != expected[name]] == []


@pytest.mark.parametrize("keep", [False, True])
def test_a_cluster_gives_the_same_files(site, slide, bundle, tiny_config, tmp_path, keep):
    config = on(tiny_config, keep_tiles=keep)
    score_slide(slide, tmp_path / "here", build_engine(bundle, config.engine), config)
    there = on(config, cluster=site.address)
    engine = start_engine(bundle, there)
    seen = []
    score_slide(slide, tmp_path / "there", engine, there, lambda *at: seen.append(at))
    folders = tmp_path / "here" / "slide [1]", tmp_path / "there" / "slide [1]"
    assert_same(*map(files_of, folders))
    assert seen[0][0] == 0
    assert seen[-1][0] == seen[-1][1] == len(TileStore(folders[1] / "tiles.zarr")) > 40
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert engine.busy_s > 0
    engine.close()
    # The driver is not where the work was done, and both workers had some of it.
    logs = site.log("worker-0") + site.log("worker-1")
    assert "slide [1]" not in logs


@pytest.mark.long
@pytest.mark.skipif(not openvino_is_installed(), reason="needs OpenVINO")
def test_a_cluster_of_openvino(site, slide, bundle, tiny_config, tmp_path):
    """It is what workers without a GPU choose, and they score as this machine does."""
    config = on(tiny_config, engine={"device": "cpu", "batch_size": 4})
    score_slide(slide, tmp_path / "here", build_engine(bundle, config.engine), config)
    there = on(config, cluster=site.address)
    engine = start_engine(bundle, there)
    assert engine.execution.runtime == "openvino"
    score_slide(slide, tmp_path / "there", engine, there)
    engine.close()
    assert_same(*(files_of(tmp_path / where / "slide [1]") for where in ("here", "there")))


def test_slide_and_store_on_s3(site, s3, slide, bundle, tiny_config, tmp_path):
    """Only URLs travel, and the objects are a local store's files."""
    engine = build_engine(bundle, tiny_config.engine)
    url = f"{s3.url}/in/slide [1].tif"
    s3.files.pipe_file(url, slide.read_bytes())
    score_slide(slide, tmp_path / "local", engine, tiny_config)
    expected = files_of(tmp_path / "local" / "slide [1]")
    arrays = {
        name.removeprefix("tiles.zarr/"): content
        for name, content in expected.items()
        if name.startswith("tiles.zarr/")
    }
    outputs = {name: expected[name] for name in expected if not name.startswith("tiles.zarr/")}
    config = on(tiny_config, store={"root": f"{s3.url}/stores"}, cluster=site.address)
    score_slide(url, tmp_path / "there", start_engine(bundle, config), config)
    assert_same(files_of(tmp_path / "there" / "slide [1]"), outputs)
    assert_same(s3.objects("stores/slide [1]/tiles.zarr"), arrays)
    texts = [path.read_bytes() for path in (tmp_path / "there").rglob("*") if path.is_file()]
    everything = b"".join([*texts, site.log("worker-0").encode(), *arrays.values()])
    assert b"the-secret-key" not in everything


def test_a_damaged_tile_is_left_out_as_without_a_cluster(
    site, make_slide, section, bundle, tiny_config, tmp_path
):
    slide = make_slide(section.rgb[:512, :512], compression="jpeg", tile=128)
    damage(slide, 10)
    config = on(tiny_config, min_coverage=0.1)
    score_slide(slide, tmp_path / "here", build_engine(bundle, config.engine), config)
    there = on(config, cluster=site.address)
    score_slide(slide, tmp_path / "there", start_engine(bundle, there), there)
    assert_same(files_of(tmp_path / "there" / "slide"), files_of(tmp_path / "here" / "slide"))
    assert TileStore(tmp_path / "there" / "slide" / "tiles.zarr").n_unreadable > 0


@pytest.mark.long
def test_a_cluster_that_does_not_fit_says_why(
    site, slide, bundle, tiny_config, tmp_path, monkeypatch
):
    monkeypatch.setattr(cluster, "CONNECT_S", 1)
    with pytest.raises(ClusterError, match=r"tcp://127.0.0.1:9: no Dask scheduler answers"):
        start_engine(bundle, on(tiny_config, cluster="tcp://127.0.0.1:9"))
    monkeypatch.setattr(cluster, "CONNECT_S", 30)
    config = on(tiny_config, cluster=site.address)
    with monkeypatch.context() as patch:
        other = {"wsi-pipeline": "99.0", "torch": "2.0"}
        patch.setattr(cluster, "software", lambda _runtime="torch": other)
        with pytest.raises(ClusterError, match=r"127.0.0.1:\d+ has another wsi-pipeline .* 99.0"):
            start_engine(bundle, config)
    with pytest.raises(ClusterError, match=r"tcp://.*: There is no device 'cuda'"):
        start_engine(bundle, on(config, engine={"device": "cuda"}))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "distributed", None)
        with pytest.raises(ConfigError, match=r"install `wsi-pipeline\[cluster\]`"):
            start_engine(bundle, config)
    with pytest.raises(ValueError, match="cluster"):
        on(tiny_config, cluster="tcp://user:secret@host:8786")

    # What is there for the driver alone: a store in its memory, another file of the same name.
    engine = start_engine(bundle, config)
    elsewhere = on(config, store={"root": "memory://stores"})
    with pytest.raises(ClusterError, match=r"^On \S+: the store is not seen .* memory://stores"):
        score_slide(slide, tmp_path / "memory", engine, elsewhere)
    original = cluster_worker.Job.__init__
    monkeypatch.setattr(
        cluster_worker.Job, "__init__", lambda self, **f: original(self, **f | {"size_bytes": 9})
    )
    with pytest.raises(ClusterError, match=r"^On \S+: .*slide.* is another file than where"):
        score_slide(slide, tmp_path / "other", engine, config)
    monkeypatch.undo()
    slide_elsewhere = slide.rename(slide.with_name("renamed.tif"))
    score_slide(slide_elsewhere, tmp_path / "fine", engine, config)
    engine.close()


def states_of(store: Path) -> dict[int, int]:
    """When the state of each scored shard was written, in ns, by the shard's number."""
    states = zarr.open_group(store, mode="r")["state"]
    return {
        number: (store / "state" / "c" / str(number)).stat().st_mtime_ns
        for number in range(states.nchunks)
        if (states.blocks[number] >= TileState.SCORED).all()
    }


@pytest.mark.long
def test_a_killed_worker_costs_what_it_had_not_committed(
    make_site, larger_slide, bundle, tiny_config, tmp_path
):
    site = make_site(2)
    score_slide(
        larger_slide, tmp_path / "here", build_engine(bundle, tiny_config.engine), tiny_config
    )
    config = on(tiny_config, cluster=site.address)
    store = tmp_path / "there" / "slide" / "tiles.zarr"
    before = {}

    def kill_one(done: int, total: int) -> None:
        if not before and done > total / 3:
            before.update(states_of(store))
            site.workers[0].send_signal(signal.SIGKILL)

    score_slide(larger_slide, tmp_path / "there", start_engine(bundle, config), config, kill_one)
    assert site.workers[0].wait() == -signal.SIGKILL
    assert_same(files_of(tmp_path / "there" / "slide"), files_of(tmp_path / "here" / "slide"))
    after = states_of(store)
    assert len(before) >= 5
    assert {number: after[number] for number in before} == before
    assert len(after) > 1.5 * len(before)


@pytest.mark.long
def test_a_killed_driver_leaves_a_store_on_s3_that_the_next_goes_on_with(
    make_site, s3, larger_slide, tiny_bundle, bundle, tiny_config, tmp_path
):
    site = make_site(2)
    local = score_slide(
        larger_slide, tmp_path / "local", build_engine(bundle, tiny_config.engine), tiny_config
    )
    url = f"{s3.url}/in/slide.tif"
    s3.files.pipe_file(url, larger_slide.read_bytes())
    config = on(tiny_config, cluster=site.address, store={"root": f"{s3.url}/killed"})
    settings = tmp_path / "score.yaml"
    settings.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [
        BIN / "wsi", "score", url, "--bundle", str(tiny_bundle), "--config", str(settings),
        "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    store = config.store.path(tmp_path / "out" / "slide")
    kills = []
    for share in (0.2, 0.5):
        driver = subprocess.Popen(command, stderr=subprocess.PIPE)
        while driver.poll() is None:
            time.sleep(0.2)
            if (store / "zarr.json").exists():
                scored = TileStore(store).n_scored
                if scored > share * local.tiles.tissue:
                    driver.kill()
        assert driver.wait() == -signal.SIGKILL, driver.stderr.read().decode()
        kills.append(scored)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "out" / "slide" / "run.log").read_text()
    assert log.count("tiles had been scored by an earlier run") == 2
    assert kills == sorted(kills)
    expected = files_of(tmp_path / "local" / "slide")
    assert_same(
        files_of(tmp_path / "out" / "slide"),
        {name: expected[name] for name in expected if not name.startswith("tiles.zarr/")},
    )
    objects = s3.objects("killed/slide/tiles.zarr")
    assert_same(
        {f"tiles.zarr/{name}": objects[name] for name in objects},
        {name: expected[name] for name in expected if name.startswith("tiles.zarr/")},
    )


@pytest.mark.long
def test_without_workers_a_run_ends(
    make_site, larger_slide, bundle, tiny_config, tmp_path, monkeypatch
):
    site = make_site(0)
    monkeypatch.setattr(cluster, "WORKERS_S", 2)
    config = on(tiny_config, cluster=site.address)
    with pytest.raises(ClusterError, match="the cluster has no workers"):
        start_engine(bundle, config)
    monkeypatch.setattr(cluster, "WORKERS_S", 60)
    site.start_worker()
    engine = start_engine(bundle, config)
    monkeypatch.setattr(cluster, "WORKERS_S", 2)

    def kill(done: int, _total: int) -> None:
        if done:
            site.workers[0].kill()

    with pytest.raises(ClusterError, match=r"without workers for 2 s.*kept"):
        score_slide(larger_slide, tmp_path / "out", engine, config, kill)

    monkeypatch.setattr(cluster, "WORKERS_S", 60)
    site.start_worker()
    calls = []

    def end(done: int, _total: int) -> None:
        calls.append(done)
        if len(calls) == 2:
            site.end()

    with pytest.raises(ClusterError, match="connection to the scheduler was lost"):
        score_slide(larger_slide, tmp_path / "out", engine, config, end)
