"""Inboxes of real files, links, faults, and an object store."""

import logging
import os
import threading
import time
from pathlib import Path

import fsspec
import pytest
import s3fs
from hypothesis import given, settings
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer
from pydicom.uid import generate_uid

from tests.helpers.multi_file import VMS, write, write_dicom
from wsi_pipeline.errors import ConfigError, SlideError
from wsi_pipeline.night.config import InboxConfig
from wsi_pipeline.night.inbox import Inbox, find_slides
from wsi_pipeline.slide.dicom import DicomHeader
from wsi_pipeline.slide.files import SLIDE_SUFFIXES, files_of
from wsi_pipeline.slide.grouping import slides_among

AT_ONCE = InboxConfig(quiet_s=0, look_again_s=0)


def names(inbox: Path, found: Inbox) -> tuple[list[str], list[str]]:
    return tuple(
        [str(Path(slide.location).relative_to(inbox)) for slide in slides]
        for slides in (found.slides, found.copying)
    )


def age(path: Path, seconds: float) -> None:
    """Set the modification time; the change time is now, whatever one does."""
    os.utime(path, (time.time() - seconds,) * 2)


def test_slides_of_all_formats_once_each(tmp_path):
    write(tmp_path / "b.svs")
    write(tmp_path / "deep" / "er" / "A Ä.TIFF")
    write(tmp_path / "notes.txt")
    write(tmp_path / "m.mrxs")
    for name in ("Data0.dat", "Slidedat.ini", "stray.tif"):
        write(tmp_path / "m" / name)
    write(tmp_path / "v.vms", VMS.encode())
    for name in ("s.jpg", "s(1,0).jpg"):
        write(tmp_path / name)
    first, second = generate_uid(), generate_uid()
    for index in range(3):
        write_dicom(tmp_path / "dicom" / f"{index}.dcm", first)
        write_dicom(tmp_path / "dicom" / f"z{index}.dcm", second)
    write_dicom(tmp_path / "dicom" / "annotation.dcm", generate_uid(), modality="ANN")
    write(tmp_path / "dicom" / "damaged.dcm", b"DICM")

    found = find_slides(str(tmp_path), AT_ONCE)
    assert names(tmp_path, found) == (
        [
            "b.svs",
            "deep/er/A Ä.TIFF",
            "dicom/0.dcm",
            "dicom/damaged.dcm",
            "dicom/z0.dcm",
            "m.mrxs",
            "v.vms",
        ],
        [],
    )
    for slide in found.slides:
        assert list(slide.files) == files_of(slide.location)


def test_hidden_partial_and_deleted_files_are_left_out(tmp_path):
    write(tmp_path / "a.svs")
    for name in (
        ".b.svs",
        "~b.svs",
        "b.svs.part",
        "b.svs.filepart",
        "b.svs.crdownload",
        "b.svs.TMP",
        ".snapshot/b.svs",
        "$RECYCLE.BIN/S-1-5/b.svs",
        "@eaDir/b.svs",
    ):
        write(tmp_path / name)
    assert names(tmp_path, find_slides(str(tmp_path), AT_ONCE)) == (["a.svs"], [])


def test_a_relative_inbox_gives_whole_paths(tmp_path, monkeypatch):
    write(tmp_path / "in" / "a.svs")
    monkeypatch.chdir(tmp_path)
    (slide,) = find_slides("in", AT_ONCE).slides
    assert slide.location == str(tmp_path / "in" / "a.svs")
    (slide,) = find_slides(f"file://{tmp_path}/in", AT_ONCE).slides
    assert slide.location == str(tmp_path / "in" / "a.svs")


def test_links_are_followed_once_and_circles_end(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    write(elsewhere / "far.svs")
    (elsewhere / "back").symlink_to(tmp_path / "in")
    inbox = tmp_path / "in"
    write(inbox / "folder" / "a.svs")
    (inbox / "a link to it").symlink_to(inbox / "folder")
    (inbox / "folder" / "up").symlink_to(inbox)
    (inbox / "self").symlink_to(inbox / "self")
    (inbox / "self.svs").symlink_to(inbox / "self.svs")
    (inbox / "nowhere.svs").symlink_to(inbox / "missing.svs")
    (inbox / "far").symlink_to(elsewhere)
    (inbox / "b.svs").symlink_to(inbox / "folder" / "a.svs")
    (inbox / "again").symlink_to(elsewhere)
    os.mkfifo(inbox / "pipe.svs")
    found = find_slides(str(inbox), AT_ONCE)
    # What cannot be opened is a slide all the same: its outcome tells why.
    odd = ["nowhere.svs", "pipe.svs", "self.svs"]
    assert names(inbox, found) == (["again/far.svs", "b.svs", "folder/a.svs", *odd], [])


def test_results_are_no_slides(tmp_path):
    inbox = tmp_path / "in"
    write(inbox / "a.svs")
    results = inbox / "results"
    write(results / "overlay.tif")
    old = inbox / "of last year" / "a"
    for name in (".lock", "run.log", "cellularity.ome.tiff"):
        write(old / name)
    config = InboxConfig(quiet_s=0, look_again_s=0)
    assert names(inbox, find_slides(str(inbox), config, results)) == (["a.svs"], [])
    # The folder of results may be the inbox itself.
    found = find_slides(str(inbox), config, inbox)
    assert names(inbox, found) == (["a.svs", "results/overlay.tif"], [])
    store = fsspec.filesystem("memory")
    for name in ("a.svs", "old/.lock", "old/run.log", "old/overlay.tif"):
        store.pipe(f"/results-are-no-slides/{name}", b"x")
    by_url = find_slides("memory://results-are-no-slides", config)
    assert [slide.location for slide in by_url.slides] == ["memory://results-are-no-slides/a.svs"]


def test_what_cannot_be_read_is_named_and_the_rest_goes_on(tmp_path, caplog, monkeypatch):
    write(tmp_path / "a.svs")
    write(tmp_path / "locked" / "b.svs")
    scandir = os.scandir

    def refuse(folder):  # chmod does not keep root out, who runs the tests in containers
        if Path(folder).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    write(Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.svs")))
    with caplog.at_level(logging.WARNING):
        found = find_slides(str(tmp_path), AT_ONCE)
    assert names(tmp_path, found) == (["a.svs"], [])
    warnings = sorted(record.getMessage() for record in caplog.records)
    assert len(warnings) == 2
    assert "bad\\udcff.svs" in warnings[0]
    assert "not UTF-8" in warnings[0]
    assert f"{tmp_path}/locked: " in warnings[1]
    assert "Permission denied" in warnings[1]


def test_an_inbox_must_be_a_folder_that_is_there(tmp_path):
    file = write(tmp_path / "a.svs")
    with pytest.raises(ConfigError, match=r"missing: there is no such inbox\. Check"):
        find_slides(str(tmp_path / "missing"), AT_ONCE)
    with pytest.raises(ConfigError, match=r"a\.svs: the inbox is a file\. Name the folder"):
        find_slides(str(file), AT_ONCE)
    with pytest.raises(ConfigError, match=r"memory://missing: there is no such inbox"):
        find_slides("memory://missing", AT_ONCE)
    with pytest.raises(ConfigError, match=r"nosuch://x: no file system"):
        find_slides("nosuch://x", AT_ONCE)
    for secret in ("sftp://me:s3cret@host/in", "https://host/in?signature=s3cret"):
        with pytest.raises(SlideError, match=r"an inbox holds a .* Leave it out") as refused:
            find_slides(secret, AT_ONCE)
        assert "s3cret" not in str(refused.value)


def test_a_locked_inbox_is_an_error(tmp_path, monkeypatch):
    def refuse(_folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ConfigError, match=r"cannot be listed .*Permission denied"):
        find_slides(str(tmp_path), AT_ONCE)


def test_an_empty_inbox_takes_no_second_look(tmp_path):
    start = time.perf_counter()
    assert find_slides(str(tmp_path), InboxConfig()) == Inbox((), ())
    assert time.perf_counter() - start < 1


def test_files_touched_a_moment_ago_wait(tmp_path):
    write(tmp_path / "a.svs")
    config = InboxConfig(quiet_s=0.3, look_again_s=0)
    assert names(tmp_path, find_slides(str(tmp_path), config)) == ([], ["a.svs"])
    time.sleep(0.35)
    assert names(tmp_path, find_slides(str(tmp_path), config)) == (["a.svs"], [])


def test_copies_that_keep_the_old_time_are_known_by_their_change_time(tmp_path):
    age(write(tmp_path / "a.svs"), 1e6)
    config = InboxConfig(quiet_s=60, look_again_s=0)
    assert names(tmp_path, find_slides(str(tmp_path), config)) == ([], ["a.svs"])


def test_files_that_grow_between_the_looks_wait(tmp_path):
    write(tmp_path / "still.svs")
    for name in ("growing.svs", "m.mrxs", "m/Data0.dat"):
        write(tmp_path / name)
    stop = threading.Event()

    def copy() -> None:
        while not stop.wait(0.005):
            for name in ("growing.svs", "m/Data0.dat"):
                with (tmp_path / name).open("ab") as file:
                    file.write(b"more")
                age(tmp_path / name, 1e6)  # as programs do that keep the original's time

    copying = threading.Thread(target=copy)
    copying.start()
    try:
        found = find_slides(str(tmp_path), InboxConfig(quiet_s=0, look_again_s=0.1))
    finally:
        stop.set()
        copying.join()
    assert names(tmp_path, found) == (["still.svs"], ["growing.svs", "m.mrxs"])


def test_files_that_come_between_the_looks_wait(tmp_path):
    write(tmp_path / "a.svs")
    coming = threading.Timer(0.1, write, [tmp_path / "b.svs"])
    coming.start()
    found = find_slides(str(tmp_path), InboxConfig(quiet_s=0, look_again_s=0.5))
    coming.join()
    assert names(tmp_path, found) == (["a.svs"], ["b.svs"])


def test_a_clock_ahead_of_ours_keeps_no_slide_waiting(tmp_path):
    age(write(tmp_path / "a.svs"), -1e6)
    assert names(tmp_path, find_slides(str(tmp_path), InboxConfig(look_again_s=0))) == (
        ["a.svs"],
        [],
    )


def test_a_download_beside_its_final_name_waits_only_while_it_goes_on(tmp_path):
    write(tmp_path / "a.svs", b"")  # Firefox reserves the name
    write(tmp_path / "m.mrxs")
    write(tmp_path / "m" / "Data0.dat")
    time.sleep(0.35)
    write(tmp_path / "a.svs.part")
    write(tmp_path / "m" / "Data1.dat.filepart")
    config = InboxConfig(quiet_s=0.3, look_again_s=0)
    found = find_slides(str(tmp_path), config)
    assert names(tmp_path, found) == ([], ["a.svs", "m.mrxs"])
    assert not any("part" in file for slide in found.copying for file in slide.files)
    time.sleep(0.35)
    assert names(tmp_path, find_slides(str(tmp_path), config)) == (["a.svs", "m.mrxs"], [])


def test_an_index_waits_for_its_files_but_not_for_ever(tmp_path, monkeypatch):
    write(tmp_path / "m.mrxs")
    write(tmp_path / "v.vms", VMS.encode())
    assert names(tmp_path, find_slides(str(tmp_path), AT_ONCE)) == ([], ["m.mrxs", "v.vms"])
    monkeypatch.setattr("wsi_pipeline.night.inbox.PARTS_WITHIN_S", 0.0)
    assert names(tmp_path, find_slides(str(tmp_path), AT_ONCE)) == (["m.mrxs", "v.vms"], [])


def test_the_fingerprint_changes_with_any_file(tmp_path):
    write(tmp_path / "m.mrxs")
    part = write(tmp_path / "m" / "Data0.dat")

    def fingerprint() -> str:
        (slide,) = find_slides(str(tmp_path), AT_ONCE).slides
        return slide.fingerprint

    seen = [fingerprint()]
    assert fingerprint() == seen[0]
    write(part, b"other length")
    age(part, 1000)
    seen.append(fingerprint())
    age(part, 999)
    seen.append(fingerprint())
    write(tmp_path / "m" / "Data1.dat")
    seen.append(fingerprint())
    part.rename(part.with_name("Data2.dat"))
    seen.append(fingerprint())
    assert len(set(seen)) == len(seen)


@pytest.mark.long
def test_ten_thousand_slides_in_seconds(tmp_path):
    for index in range(10_000):
        folder = tmp_path / f"{index // 100}"
        folder.mkdir(exist_ok=True)
        (folder / f"{index}.svs").touch()
    start = time.perf_counter()
    found = find_slides(str(tmp_path), AT_ONCE)
    assert time.perf_counter() - start < 20  # one or two, but for what else the machine does
    assert len(found.slides) == 10_000


def test_any_fsspec_file_system():
    files = fsspec.filesystem("memory")
    for name in ("a.svs", "below/ü b.tif", "m.mrxs", "m/Data0.dat", ".hidden/c.svs", "x.svs.part"):
        files.pipe(f"/inbox/{name}", b"bytes")
    found = find_slides("memory://inbox/", AT_ONCE)
    assert [slide.location for slide in found.slides] == [
        "memory://inbox/a.svs",
        "memory://inbox/below/ü b.tif",
        "memory://inbox/m.mrxs",
    ]
    for slide in found.slides:
        assert list(slide.files) == files_of(slide.location)
        assert fsspec.open(slide.location).open().read() == b"bytes"
    written_now = find_slides("memory://inbox", InboxConfig(look_again_s=0))
    assert not written_now.slides
    assert [slide.location for slide in written_now.copying] == [
        slide.location for slide in found.slides
    ]
    assert "changed less than 60 s ago" in written_now.copying[0].unsettled
    with pytest.raises(ConfigError, match="is a file"):
        find_slides("memory://inbox/a.svs", AT_ONCE)


@pytest.fixture
def s3(monkeypatch):
    """A real S3 API on this machine."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    yield s3fs.S3FileSystem()
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_objects_of_s3_are_whole_at_once(s3):
    s3.mkdir("scans")
    for name in ("a.svs", "below/b ü.svs", "dicom/1.dcm", "dicom/2.dcm", "folder/"):
        s3.pipe(f"scans/in/{name}", b"bytes")
    start = time.perf_counter()
    found = find_slides("s3://scans/in", InboxConfig())
    assert time.perf_counter() - start < 5
    assert found.copying == ()
    assert [slide.location for slide in found.slides] == [
        "s3://scans/in/a.svs",
        "s3://scans/in/below/b ü.svs",
        "s3://scans/in/dicom/1.dcm",
    ]
    # The listing is fresh each time, and bytes of the same length are told apart.
    s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True).pipe(
        "scans/in/a.svs", b"bytez"
    )
    again = find_slides("s3://scans/in/", InboxConfig())
    assert [slide.location for slide in again.slides] == [slide.location for slide in found.slides]
    changed = [
        one.location
        for one, other in zip(found.slides, again.slides, strict=True)
        if one.fingerprint != other.fingerprint
    ]
    assert changed == ["s3://scans/in/a.svs"]

    assert find_slides("s3://scans/emptied", InboxConfig()) == Inbox((), ())
    with pytest.raises(ConfigError, match="s3://missing/in: "):
        find_slides("s3://missing/in", InboxConfig())
    with pytest.raises(ConfigError, match="is a file"):
        find_slides("s3://scans/in/a.svs", InboxConfig())


_part = st.sampled_from(["a", "b", "m", "a.b"])
_file = st.tuples(
    _part, st.sampled_from([".svs", ".mrxs", ".dcm", ".vms", ".dat", ".jpg", ".MRXS"])
)
_name = st.tuples(st.lists(_part, max_size=3), _file).map(
    lambda name: "/".join([*name[0], "".join(name[1])])
)


@settings(max_examples=150, deadline=None)
@given(st.sets(_name, max_size=25), st.dictionaries(_name, st.sampled_from(["1", "2", None])))
def test_every_slide_file_is_one_slide_or_a_part_of_one(found, series):
    def header(name):
        uid = series.get(name, "1")
        return None if uid is None else DicomHeader(uid, "SM")

    slides = slides_among(found, header, lambda _name: {"a.jpg", "missing.jpg"})
    assert slides == slides_among(sorted(found, reverse=True), header, lambda _name: {"a.jpg"})
    for name, parts in slides.items():
        assert parts[0] == name
        assert found.issuperset(parts)
        assert len(set(parts)) == len(parts)
        suffix = Path(name).suffix.lower()
        folder = name[: -len(".mrxs")] + "/" if suffix == ".mrxs" else str(Path(name).parent)
        assert all(part.startswith(folder.removeprefix(".")) for part in parts[1:])
    covered = [part for parts in slides.values() for part in parts]
    assert {name for name in found if Path(name).suffix.lower() in SLIDE_SUFFIXES} <= set(covered)
    assert all(Path(name).suffix.lower() in SLIDE_SUFFIXES for name in slides)
