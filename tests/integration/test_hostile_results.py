"""Results' folders in which somebody has laid links and notes: nothing is written through them."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.helpers.made import config_of_tiny
from tests.unit.test_hostile_files import store  # noqa: F401 - a fixture
from wsi_pipeline.errors import OutputError, SlideError, StoreError
from wsi_pipeline.night.config import InboxConfig
from wsi_pipeline.night.digest_cache import DigestCache, _line
from wsi_pipeline.night.inbox import find_slides
from wsi_pipeline.night.outcome import of_error
from wsi_pipeline.night.plan import Cohort, recall, remember
from wsi_pipeline.night.report import NightReport
from wsi_pipeline.night.report_folder import write_report
from wsi_pipeline.scoring.filing import pseudonym
from wsi_pipeline.slide.files import SlideFile, content_digest
from wsi_pipeline.tiles.store import TileStore
from wsi_pipeline.tiles.store_layout import sealed
from wsi_pipeline.tiles.store_place import StoreConfig
from wsi_pipeline.tiles.store_resume import create_or_resume

WRONG = ("../../../tmp/x", "", "a" * 31, "a" * 33, "A" * 32, "a" * 32 + "\n", 7, None, ["a" * 32])


@pytest.mark.parametrize("digest", WRONG)
def test_a_planted_digest_leads_nowhere(tmp_path, digest):
    slide = write_slide_of_bytes(tmp_path / "in" / "a.svs")
    (found,) = find_slides(str(tmp_path / "in"), InboxConfig(quiet_s=0, look_again_s=0)).slides
    kept = tmp_path / "digests"
    kept.write_bytes(_line(found.location, found.fingerprint, digest))
    assert DigestCache(kept).digest(found) == content_digest([str(slide)])
    if isinstance(digest, str):
        with pytest.raises(SlideError, match="no digest"):
            pseudonym(digest)
    note = {"name": "a", "folder": "a", "status": "failed", "slide_digest": digest}
    remembered = json.dumps({"tried": "x", "outcome": note})
    folder = tmp_path / "out" / "a"
    folder.mkdir(parents=True)
    (folder / "outcome.json").write_text(remembered)
    assert digest is None or recall(folder) is None


@pytest.mark.parametrize("name", ["tiling_digest", "scoring_digest"])
def test_a_store_whose_digest_is_a_path_is_damaged(store, name):  # noqa: F811
    metadata = json.loads((store.path / "zarr.json").read_text())
    metadata["attributes"][name] = "../../../x"
    metadata["attributes"] = sealed(metadata["attributes"])  # whoever writes it can seal it
    (store.path / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(StoreError, match="the store is damaged"):
        getattr(TileStore(store.path), name)


def test_pages_and_notes_are_not_written_through_links(tmp_path, tiny_bundle, caplog):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    for name in ("nights", "nights-2", "slide"):
        (out / name).symlink_to(elsewhere)
    now = datetime.now(UTC)
    page = write_report(out, NightReport(started=now, ended=now, inbox="in", outcomes=[]))
    assert page.parent.parent == out / "nights-3"
    night = page.parent
    for path in night.iterdir():
        path.unlink()
    night.rmdir()
    night.symlink_to(elsewhere)
    again = write_report(out, NightReport(started=now, ended=now, inbox="in", outcomes=[]))
    assert again.parent.name == f"{night.name}-2"
    cohort = Cohort.prepare(str(tmp_path), out, str(tiny_bundle), config_of_tiny())
    file = SlideFile("slide.svs", ("slide.svs",), "slide", "slide.svs", "a" * 32)
    remember(cohort, of_error(file, SlideError("damaged")))
    assert "the folder is a link" in caplog.text
    assert list(elsewhere.iterdir()) == []
    cache = DigestCache(out / ".digests")
    (out / ".digests").symlink_to(elsewhere / "digests")
    slide = write_slide_of_bytes(tmp_path / "in" / "a.svs")
    os.utime(slide, (0, 0))
    (found,) = find_slides(str(tmp_path / "in"), InboxConfig(quiet_s=0, look_again_s=0)).slides
    cache.digest(found)
    assert list(elsewhere.iterdir()) == []


def test_a_store_elsewhere_is_not_written_through_links(tmp_path, store):  # noqa: F811
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    root = tmp_path / "stores"
    place = StoreConfig(root=str(root)).path(Path("out/slide"))
    assert place == root / "slide" / "tiles.zarr"
    root.mkdir()
    (root / "slide").symlink_to(elsewhere)
    with pytest.raises(OutputError, match="this is a link"):
        create_or_resume(place, store.grid, tile_px=64, tiling={"a": 1})
    (root / "slide").unlink()
    made = create_or_resume(place, store.grid, tile_px=64, tiling={"a": 1})
    state = made.path / "state" / "c"
    if state.exists():
        state.rename(tmp_path / "state")
    state.symlink_to(elsewhere)
    with pytest.raises(OutputError, match="this is a link"):
        create_or_resume(place, store.grid, tile_px=64, tiling={"a": 1})
    assert list(elsewhere.iterdir()) == []


def write_slide_of_bytes(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"slide")
    return path
