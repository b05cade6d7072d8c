"""Digests that are kept, lost, damaged, and written while the process is killed."""

import hashlib
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from wsi_pipeline.digest_cache import DigestCache
from wsi_pipeline.inbox import InboxSlide


@pytest.fixture
def reads(monkeypatch):
    """Note what was read."""
    read = []

    def digest(files):
        read.append(list(files))
        data = b"".join(Path(file).read_bytes() for file in files)
        return hashlib.blake2b(data, digest_size=16).hexdigest()

    monkeypatch.setattr("wsi_pipeline.digest_cache.content_digest", digest)
    return read


def slide(folder: Path, name: str, fingerprint: str = "1", content: bytes = b"slide") -> InboxSlide:
    path = folder / name
    path.write_bytes(content)
    return InboxSlide(str(path), (str(path),), fingerprint)


def expected(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def test_a_slide_is_read_once_for_each_fingerprint(tmp_path, reads):
    cache = DigestCache(tmp_path / "below" / "digests.sqlite")
    a, b = slide(tmp_path, "a.svs"), slide(tmp_path, "ü b'\".svs", content=b"b")
    for _ in range(3):
        assert cache.digest(a) == expected(b"slide")
        assert DigestCache(tmp_path / "below" / "digests.sqlite").digest(b) == expected(b"b")
    assert reads == [[a.location], [b.location]]
    changed = slide(tmp_path, "a.svs", "2", b"other")
    assert cache.digest(changed) == cache.digest(changed) == expected(b"other")
    assert cache.digest(a) == expected(b"other")  # the bytes that are there now
    assert len(reads) == 4


def test_all_files_of_a_slide_count(tmp_path):
    files = tuple(slide(tmp_path, name, content=name.encode()).location for name in "ab")
    cache = DigestCache(tmp_path / "digests.sqlite")
    assert cache.digest(InboxSlide(files[0], files, "1")) == expected(b"ab")


def test_an_unreadable_slide_is_its_own_error_and_is_not_kept(tmp_path):
    cache = DigestCache(tmp_path / "digests.sqlite")
    missing = InboxSlide(str(tmp_path / "a.svs"), (str(tmp_path / "a.svs"),), "1")
    with pytest.raises(FileNotFoundError):
        cache.digest(missing)
    slide(tmp_path, "a.svs")
    assert cache.digest(missing) == expected(b"slide")


def _foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE digests (x)")
        connection.commit()


def _older(path: Path) -> None:
    DigestCache(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


def _overwritten(path: Path) -> None:
    DigestCache(path)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096)


def _cut(path: Path) -> None:
    DigestCache(path)
    os.truncate(path, 4096)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b"not a database at all" * 500),
        lambda path: path.write_bytes(b"SQLite format 3\0" + b"\xff" * 5000),
        _foreign,
        _older,
        _overwritten,
        _cut,
    ],
)
def test_an_unfit_file_is_set_aside(tmp_path, spoil, reads, caplog):
    path = tmp_path / "digests.sqlite"
    spoil(path)
    before = path.read_bytes()
    with caplog.at_level(logging.WARNING):
        cache = DigestCache(path)
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [str(path)]
    assert (tmp_path / "digests.sqlite.unfit").read_bytes() == before
    a = slide(tmp_path, "a.svs")
    assert cache.digest(a) == DigestCache(path).digest(a) == expected(b"slide")
    assert len(reads) == 1


def test_an_empty_file_is_a_new_one(tmp_path, caplog):
    (tmp_path / "digests.sqlite").touch()
    DigestCache(tmp_path / "digests.sqlite")
    assert not caplog.records


def test_damage_while_it_is_in_use_costs_reading_again(tmp_path, reads, caplog):
    path = tmp_path / "digests.sqlite"
    cache = DigestCache(path)
    a = slide(tmp_path, "a.svs")
    cache.digest(a)
    with path.open("r+b") as file:
        file.write(b"rubbish" * 2000)
    assert [cache.digest(a) for _ in range(3)] == [expected(b"slide")] * 3
    assert len(reads) == 2
    assert len(caplog.records) == 1


def test_a_place_that_cannot_be_written_is_done_without(tmp_path, reads, caplog):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    a = slide(tmp_path, "a.svs")
    for path in (tmp_path / "file" / "digests.sqlite", tmp_path / "folder"):
        cache = DigestCache(path)
        assert cache.digest(a) == cache.digest(a) == expected(b"slide")
    assert len(reads) == 4
    assert len(caplog.records) == 2


def test_another_writer_costs_only_reading_again(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("wsi_pipeline.digest_cache.WAIT_S", 0.05)
    path = tmp_path / "digests.sqlite"
    cache = DigestCache(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        assert cache.digest(slide(tmp_path, "a.svs")) == expected(b"slide")
    assert "locked" in caplog.text


def test_without_a_file_or_after_its_end_slides_are_read(tmp_path, reads, caplog):
    a = slide(tmp_path, "a.svs")
    with DigestCache(None) as cache:
        assert cache.digest(a) == cache.digest(a) == expected(b"slide")
    with DigestCache(tmp_path / "digests.sqlite") as cache:
        assert cache.digest(a) == cache.digest(a) == expected(b"slide")
    assert cache.digest(a) == expected(b"slide")
    assert len(reads) == 4
    assert not caplog.records


def test_threads_share_it(tmp_path):
    cache = DigestCache(tmp_path / "digests.sqlite")
    slides = [slide(tmp_path, f"{i}.svs", content=b"%d" % i) for i in range(40)]
    found = []
    threads = [
        threading.Thread(target=lambda part=part: found.extend(map(cache.digest, part)))
        for part in (slides[::2], slides[1::2], slides)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(set(found)) == sorted(expected(b"%d" % i) for i in range(40))
    assert len(found) == 80


WRITER = """
import sys
from pathlib import Path
from wsi_pipeline.digest_cache import DigestCache
from wsi_pipeline.inbox import InboxSlide
cache = DigestCache(Path(sys.argv[1]))
start = int(sys.argv[3])
for number in range(start, start + 100_000):
    cache.digest(InboxSlide(f"{sys.argv[2]}?{number}", (sys.argv[2],), str(number)))
    print(number, flush=True)
"""


def test_it_survives_kills_with_all_that_it_said_it_kept(tmp_path, caplog, reads):
    path, a = tmp_path / "digests.sqlite", slide(tmp_path, "a.svs")
    kept = []
    for kill in range(2):
        command = [sys.executable, "-c", WRITER, path, a.location, str(kill * 100_000)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            kept.append(writer.stdout.readline().strip())
            time.sleep(0.05 + 0.03 * kill)
            writer.send_signal(signal.SIGKILL)
            kept += writer.stdout.read().split()[:-1]
    cache = DigestCache(path)
    assert not caplog.records
    assert len(kept) > 3
    for number in kept:
        again = InboxSlide(f"{a.location}?{number}", a.files, number)
        assert cache.digest(again) == expected(b"slide")
    assert not reads


def test_ten_thousand_known_slides_take_seconds(tmp_path):
    cache = DigestCache(tmp_path / "digests.sqlite")
    with closing(sqlite3.connect(tmp_path / "digests.sqlite")) as connection:
        connection.executemany(
            "INSERT INTO digests VALUES (?, ?, ?)",
            ((f"/in/{i}.svs", "1", f"{i:032x}") for i in range(10_000)),
        )
        connection.commit()
    start = time.perf_counter()
    for i in range(10_000):
        location = f"/in/{i}.svs"
        assert cache.digest(InboxSlide(location, (location,), "1")) == f"{i:032x}"
    assert time.perf_counter() - start < 10
