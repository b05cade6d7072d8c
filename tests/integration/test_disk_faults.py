"""Disks that fill up, cannot be written or go away while a slide is being scored.

The faults are the kernel's own, on a small disk in memory that only root may mount. Each ends in
one clear error, leaves nothing half-written under a final name, and once the disk is well again the
same command ends as if nothing had happened.
"""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import tifffile

from wsi_pipeline.engine import export
from wsi_pipeline.engine.build import build_engine
from wsi_pipeline.engine.execution import EngineConfig
from wsi_pipeline.engine.float32 import exported
from wsi_pipeline.engine.graphs import Graph
from wsi_pipeline.errors import OutputError, StoreError
from wsi_pipeline.model.bundle import ModelBundle
from wsi_pipeline.scoring.config import ScoreConfig
from wsi_pipeline.scoring.pipeline import score_slide
from wsi_pipeline.tiles.grid import GridConfig

STORE = "tiles.zarr"
NOT_COMPARED = {"run.log", ".lock"}
PLENTY_KIB = 20_000
BLOCK = 4096

REMEDY = r"Free space, clear the way or choose another --out; .* the same command goes on from it"


class Disk:
    """A disk in memory, of a size that can be changed while it is in use."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mount(self, kib: int = PLENTY_KIB, *options: str) -> None:
        self.path.mkdir(exist_ok=True)
        options = (f"size={max(1, kib)}k", *options)
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(self.path)]
        subprocess.run(command, check=True, capture_output=True)

    def grow(self) -> None:
        options = f"remount,size={PLENTY_KIB}k,nr_inodes=0"
        subprocess.run(["mount", "-o", options, str(self.path)], check=True)

    def lose(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.path)], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path):
    disk = Disk(tmp_path / "disk")
    try:
        disk.mount()
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        pytest.skip(f"a small disk cannot be mounted here ({error}): run as root on Linux")
    disk.lose()
    yield disk
    while disk.path.is_mount():
        disk.lose()


@pytest.fixture(scope="module")
def engine(tiny_bundle):
    config = EngineConfig(device="cpu", runtime="torch", precision="float32", batch_size=4)
    return build_engine(ModelBundle.load(tiny_bundle), config)


@pytest.fixture(scope="module")
def slide_path(section, tmp_path_factory):
    path = tmp_path_factory.mktemp("slides") / "slide.tif"
    tifffile.imwrite(
        path,
        section.rgb[256:768, 256:768],
        tile=(256, 256),
        photometric="rgb",
        compression="deflate",
        resolution=(20_000, 20_000),
        resolutionunit="CENTIMETER",
        metadata=None,
    )
    return path


@pytest.fixture(scope="module")
def score(slide_path, engine):
    """Score a slide of 64 tiles into a folder."""
    config = ScoreConfig(
        grid=GridConfig(tile_px=64, stride_px=64), engine=engine.config, keep_tiles=True, workers=2
    )

    def score(out: Path, progress: Callable[[int, int], None] = lambda *_: None) -> None:
        score_slide(slide_path, out, engine, config, progress)

    return score


@pytest.fixture(scope="module")
def whole(score, tmp_path_factory):
    """The outputs of a run that nothing went wrong with."""
    out = tmp_path_factory.mktemp("whole")
    score(out)
    return out / "slide"


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in NOT_COMPARED
    }


def assert_nothing_is_half_written(folder: Path, whole: Path) -> None:
    """What has its final name is what it is in the end; but for the states of shards."""
    expected = contents(whole)
    for staged, content in contents(folder).items():
        name = staged.removeprefix(".next/")
        if name.startswith((".partial-", f"{STORE}/state/c/")) or name == f"{STORE}/zarr.json":
            continue
        if name.startswith(f"{STORE}/cellularity_std/") or "/zarr.json" in name:
            continue
        assert content == expected.get(name), f"{name} is half-written"


def blocks(content: bytes) -> int:
    return -(-len(content) // BLOCK)


def levels(whole: Path) -> dict[str, int]:
    """Sizes of a disk, in KiB, that is full when each of the outputs is being written."""
    outputs = [path for path in whole.iterdir() if path.is_file() and path.name not in NOT_COMPARED]
    outputs.sort(key=lambda path: path.stat().st_mtime_ns)
    store = sum(blocks(path.read_bytes()) for path in (whole / STORE).rglob("*") if path.is_file())
    early = ("thumbnail.png", "tissue-outline.png", "tissue.png")
    used, full_at = 1, {}  # the log has a block
    for path in outputs:
        if path.name not in early and STORE not in full_at:
            for share in (0.02, 0.3, 0.6, 0.95):
                full_at[f"{STORE} at {share:.0%}"] = used + int(share * store)
            full_at[STORE] = used + store - 1
            used += store
        needed = blocks(path.read_bytes())
        full_at[path.name] = used + needed // 2
        used += needed
    return {name: used * BLOCK // 1024 for name, used in full_at.items()}


def fill_up_and_go_on(disk: Disk, whole: Path, score, kib: int) -> set[str]:
    """Return what was made when the disk was full."""
    disk.mount(kib)
    out = disk.path / "out"
    with pytest.raises(OutputError, match=rf"out/slide: .*No space left on device.*{REMEDY}"):
        score(out)
    folder = out / "slide"
    assert_nothing_is_half_written(folder, whole)
    assert not (folder / "summary.json").exists()
    there = {path.name for path in (*folder.iterdir(), *folder.glob(".next/*"))}
    disk.grow()
    score(out)
    assert contents(folder) == contents(whole)
    disk.lose()
    return there


def test_a_disk_that_fills_up(disk, score, whole, capfd):
    """At a few moments of a run; the long suite has them all."""
    at = levels(whole)
    there = fill_up_and_go_on(disk, whole, score, at[f"{STORE} at 30%"])
    assert STORE in there
    assert "cellularity.ome.tiff" not in there
    there = fill_up_and_go_on(disk, whole, score, at["overlay.tif"])
    assert {"cellularity.ome.tiff", "tiles.parquet"} <= there
    assert "overlay.tif" not in there
    # A log that cannot be written is no reason to fill the screen.
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_disk_that_fills_up_at_any_moment(disk, score, whole):
    at = levels(whole)
    assert {"overlay.tif", "tiles.geojson", "tiles.parquet", "legend.png", STORE} < set(at)
    stages = [fill_up_and_go_on(disk, whole, score, kib) for kib in at.values()]
    assert len({frozenset(there) for there in stages}) > 8
    for kib in range(1, max(at.values()), max(at.values()) // 6):
        fill_up_and_go_on(disk, whole, score, kib)


def test_a_disk_with_no_room_for_another_file(disk, score, whole):
    disk.mount(PLENTY_KIB, "nr_inodes=40")
    with pytest.raises(OutputError, match=f"No space left on device.*{REMEDY}"):
        score(disk.path)
    disk.grow()
    score(disk.path)
    assert contents(disk.path / "slide") == contents(whole)


def test_a_disk_that_cannot_be_written(disk, score, whole):
    disk.mount(PLENTY_KIB, "ro")
    with pytest.raises(OutputError, match=rf"disk/slide: .*Read-only file system\).*{REMEDY}"):
        score(disk.path)
    disk.lose()
    disk.mount()
    score(disk.path)
    assert contents(disk.path / "slide") == contents(whole)


def once(happens: Callable[[], object], at: int) -> Callable[[int, int], None]:
    """As progress: let something happen when so many tiles are scored."""
    done_already = []

    def progress(done: int, total: int) -> None:
        if done >= min(at, total) and not done_already:
            done_already.append(happens())

    return progress


@pytest.mark.parametrize(
    "at",
    [pytest.param(0, marks=pytest.mark.long), 20, pytest.param(1000, marks=pytest.mark.long)],
    ids=["start", "middle", "end"],
)
@pytest.mark.parametrize("what", ["drive", "folder", "store"])
def test_what_is_written_to_goes_away(what, at, disk, score, whole):
    """To zarr a missing folder is one to be made, and missing data are zeros."""
    disk.mount()
    out = disk.path / "out"
    folder = out / "slide"
    goes = {
        "drive": disk.lose,
        "folder": lambda: out.rename(disk.path / "elsewhere"),
        "store": lambda: shutil.rmtree(folder / STORE),
    }[what]
    with pytest.raises((OutputError, StoreError)) as caught:
        score(out, once(goes, at))
    if what != "store":
        assert isinstance(caught.value, OutputError)
        assert "moved or deleted, or its drive was lost" in str(caught.value)
    assert not list(disk.path.rglob("summary.json"))
    assert not list(disk.path.rglob("*.tiff"))
    if what == "drive":
        shutil.rmtree(disk.path)
        disk.mount()
    score(out)
    assert {
        name: content
        for name, content in contents(folder).items()
        if not name.startswith("tiles-unusable.zarr/")
    } == contents(whole)


@pytest.mark.parametrize("name", [".", "..", "summary.json", "run.log", ".lock"])
def test_a_folder_or_file_in_the_way(name, score, tmp_path):
    folder = tmp_path / "out" / "slide"
    in_the_way = {".": folder, "..": folder.parent}.get(name, folder / name)
    in_the_way.parent.mkdir(parents=True, exist_ok=True)
    if name in {".", ".."}:
        in_the_way.write_text("something else")
    else:
        in_the_way.mkdir()
    with pytest.raises((OutputError, StoreError), match=r"out/slide"):
        score(tmp_path / "out")


def links_into(elsewhere: Path) -> dict[str, Path]:
    return {
        ".": elsewhere,
        "summary.json": elsewhere / "precious",
        "run.log": elsewhere / "precious",
        ".lock": elsewhere / "precious",
        ".partial-tissue.png": elsewhere / "precious",
        ".partial-summary.json": elsewhere / "precious",
        STORE: elsewhere,
        ".partial-tiles.zarr": elsewhere,
        "thumbnail.png": elsewhere / "not there yet",
    }


@pytest.mark.parametrize("name", links_into(Path()))
def test_a_link_in_the_output_folder_is_not_followed(name, score, tmp_path):
    elsewhere = tmp_path / "etc"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("years of work")
    folder = tmp_path / "out" / "slide"
    link = folder if name == "." else folder / name
    link.parent.mkdir(parents=True)
    link.symlink_to(links_into(elsewhere)[name])
    with pytest.raises(OutputError, match=r"this is a link, and results are not written through"):
        score(tmp_path / "out")
    assert [path.name for path in elsewhere.iterdir()] == ["precious"]
    assert (elsewhere / "precious").read_text() == "years of work"
    link.unlink()


def test_the_output_folder_itself_may_be_a_link(score, whole, tmp_path):
    (tmp_path / "large disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "large disk")
    score(tmp_path / "out")
    assert contents(tmp_path / "large disk" / "slide") == contents(whole)


def test_a_full_cache_costs_a_warning_and_not_the_run(disk, tiny_bundle, monkeypatch, caplog):
    """The graph that OpenVINO runs is larger than what is left of the disk to keep it on."""
    made = []

    def made_anew(bundle):
        made.append(bundle.digest)
        return Graph(b"<net/>", bytes(2 << 20))

    monkeypatch.setattr(export, "export", made_anew)
    monkeypatch.setenv("XDG_CACHE_HOME", str(disk.path))
    disk.mount(1000)
    bundle = ModelBundle.load(tiny_bundle)
    assert exported(bundle) == Graph(b"<net/>", bytes(2 << 20))
    assert made == [bundle.digest]  # once
    (warning,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert "The exported model cannot be kept ([Errno 28] No space left on device" in warning
    assert not [path for path in disk.path.rglob("*") if path.is_file() and path.stat().st_size]
