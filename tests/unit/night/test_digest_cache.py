"""Digests that are kept, lost, damaged, and written while the process is killed."""

import hashlib
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wsi_pipeline.night import digest_cache
from wsi_pipeline.night.config import InboxConfig
from wsi_pipeline.night.digest_cache import DigestCache
from wsi_pipeline.night.inbox import InboxSlide, find_slides


@pytest.fixture
def reads(monkeypatch):
    """Note what was read."""
    read = []
    digest_of = digest_cache.content_digest

    def digest(files, moved):
        read.append(list(files))
        return digest_of(files, moved)

    monkeypatch.setattr(digest_cache, "content_digest", digest)
    return read


@pytest.fixture
def long_ago(monkeypatch):
    """Have files count as settled at once."""
    monkeypatch.setattr(digest_cache, "RECENT_S", -1.0)


def slides_in(inbox: Path) -> list[InboxSlide]:
    return list(find_slides(str(inbox), InboxConfig(quiet_s=0, look_again_s=0)).slides)


def expected(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


@pytest.fixture
def inbox(tmp_path):
    folder = tmp_path / "inbox"
    folder.mkdir()
    (folder / "a.svs").write_bytes(b"slide")
    return folder


@pytest.mark.usefixtures("long_ago")
def test_a_slide_is_read_once_until_anything_about_it_changes(tmp_path, inbox, reads):
    path = tmp_path / "below" / "digests"
    (inbox / "ü b'\".svs").write_bytes(b"b")
    for _ in range(3):
        digests = [DigestCache(path).digest(slide) for slide in slides_in(inbox)]
        assert digests == [expected(b"slide"), expected(b"b")]
    assert len(reads) == 2

    # What size and time of modification do not show: other bytes of the same size and time.
    file = inbox / "a.svs"
    about = file.stat()
    file.write_bytes(b"other")
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert file.stat().st_mtime_ns == about.st_mtime_ns
    assert DigestCache(path).digest(slides_in(inbox)[0]) == expected(b"other")

    # So is another file that was moved to its place.
    (tmp_path / "new").write_bytes(b"third")
    os.utime(tmp_path / "new", ns=(about.st_atime_ns, about.st_mtime_ns))
    (tmp_path / "new").rename(file)
    assert DigestCache(path).digest(slides_in(inbox)[0]) == expected(b"third")
    assert len(reads) == 4


def test_what_has_just_changed_is_not_kept(tmp_path, inbox, reads, monkeypatch):
    """A clock that is coarser than two writes are apart gives both the same times."""
    path = tmp_path / "digests"
    for _ in range(2):
        DigestCache(path).digest(slides_in(inbox)[0])
    assert len(reads) == 2
    # Nor is what changed between the listing and the reading.
    monkeypatch.setattr(digest_cache, "RECENT_S", -1.0)
    [slide] = slides_in(inbox)
    (inbox / "a.svs").write_bytes(b"other")
    DigestCache(path).digest(slide)
    assert not path.exists()


def test_all_files_of_a_slide_count(tmp_path):
    files = []
    for name in "ab":
        (tmp_path / name).write_bytes(name.encode())
        files.append(str(tmp_path / name))
    cache = DigestCache(None)
    assert cache.digest(InboxSlide(files[0], tuple(files), "1")) == expected(b"ab")
    with pytest.raises(FileNotFoundError):
        cache.digest(InboxSlide("missing", ("missing",), "1"))


@pytest.mark.usefixtures("long_ago")
def test_damage_costs_reading_again(tmp_path, inbox, reads, caplog):
    path = tmp_path / "digests"
    (inbox / "b.svs").write_bytes(b"b")
    slides = slides_in(inbox)
    cache = DigestCache(path)
    whole = [cache.digest(slide) for slide in slides]
    content = path.read_bytes()
    for at in range(0, len(content), 7):
        spoiled = bytearray(content)
        spoiled[at] ^= 0x11
        for damaged in (bytes(spoiled), content[:at] + b"\n", content[:at]):
            path.write_bytes(damaged)
            assert [DigestCache(path).digest(slide) for slide in slides] == whole
    path.write_bytes(content[:-3])
    assert len({DigestCache(path).digest(slide) for slide in slides}) == 2
    reads.clear()
    assert [DigestCache(path).digest(slide) for slide in slides] == whole
    assert not reads


@pytest.mark.usefixtures("long_ago")
def test_what_is_in_the_way_is_left_and_done_without(tmp_path, inbox, caplog):
    [slide] = slides_in(inbox)
    (tmp_path / "letter").write_text("Dear colleague\n")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("letter", "folder", "pipe", "link", "letter/below"):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert DigestCache(tmp_path / name).digest(slide) == expected(b"slide")
        assert "digests of slides cannot be kept here" in caplog.text, name
    assert (tmp_path / "letter").read_text() == "Dear colleague\n"
    assert not (tmp_path / "elsewhere").exists()


WRITER = """
import sys
from wsi_pipeline.night.digest_cache import DigestCache
from wsi_pipeline.night.inbox import InboxSlide
from wsi_pipeline.night import digest_cache
digest_cache._is_settled = lambda *_: True
path, slide, first = sys.argv[1:]
cache = DigestCache(path=__import__("pathlib").Path(path))
for number in range(int(first), int(first) + 100_000):
    cache.digest(InboxSlide(f"{slide}?{number}", (slide,), str(number)))
    print(number, flush=True)
"""


def test_two_nights_that_are_killed_lose_nothing_that_was_kept(tmp_path, inbox, reads):
    path, slide = tmp_path / "digests", str(inbox / "a.svs")
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, path, slide, str(number * 100_000)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    kept = []
    for writer in writers:
        with writer:
            kept.append(writer.stdout.readline().strip())
            time.sleep(0.1)
            writer.send_signal(signal.SIGKILL)
            kept += writer.stdout.read().split()[:-1]
    assert len(kept) > 4
    cache = DigestCache(path)
    for number in kept:
        known = InboxSlide(f"{slide}?{number}", (slide,), number)
        assert cache.digest(known) == expected(b"slide")
    assert not reads


@pytest.mark.usefixtures("long_ago")
def test_a_file_of_many_changes_is_written_anew(tmp_path, inbox, reads):
    path = tmp_path / "digests"
    for number in range(20):
        (inbox / "a.svs").write_text(f"{number}")
        digest = DigestCache(path).digest(slides_in(inbox)[0])
    assert len(path.read_bytes().splitlines()) < 2 * 12
    reads.clear()
    assert DigestCache(path).digest(slides_in(inbox)[0]) == digest
    assert not reads
