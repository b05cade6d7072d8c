"""Digests of slides seen before, so that a night need not read a terabyte to find nothing new.

It is a convenience: what is lost of it only costs reading those slides again. So a damaged file is
set aside, and one that cannot be written is done without; neither stops a night.
"""

import logging
import sqlite3
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from wsi_pipeline.inbox import InboxSlide
from wsi_pipeline.slide_files import content_digest

log = logging.getLogger(__name__)

APPLICATION = 0x5753_4944
"""Written into the file's header ("WSID"), with `VERSION`: other files are not ours to change."""
VERSION = 1

WAIT_S = 30.0
"""For another process that is writing."""


SCHEMA = """
    CREATE TABLE IF NOT EXISTS digests (
        location TEXT PRIMARY KEY,
        fingerprint TEXT NOT NULL,
        digest TEXT NOT NULL
    ) WITHOUT ROWID
"""

UNFIT = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
"""What SQLite says of a damaged file, or of none of its own."""


class DigestCache:
    """A file of digests; safe to share between threads and processes, and to kill.

    Args:
        path: of the file, made if it is not there; None keeps nothing.

    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._connection = _open(path)
            except (sqlite3.Error, OSError) as error:
                self._recover(path, error)

    def digest(self, slide: InboxSlide) -> str:
        """Return the digest of a slide's bytes; they are read only if its fingerprint is new.

        Raises:
            OSError: if its files must be read and cannot be.

        """
        key = (slide.location, slide.fingerprint)
        rows = self._execute(
            "SELECT digest FROM digests WHERE location = ? AND fingerprint = ?", *key
        )
        if rows:
            return str(rows[0][0])
        digest = content_digest(slide.files)
        self._execute("INSERT OR REPLACE INTO digests VALUES (?, ?, ?)", *key, digest)
        return digest

    def close(self) -> None:
        """Close the file; nothing more is remembered from then on."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _execute(self, statement: str, *values: str) -> list[tuple[object, ...]]:
        """Run one statement, whole or not at all; return no rows if there is any trouble."""
        with self._lock:
            if self._path is None or self._connection is None:
                return []
            try:
                return self._connection.execute(statement, values).fetchall()
            except sqlite3.Error as error:
                self._recover(self._path, error)
                return []

    def _recover(self, path: Path, error: sqlite3.Error | OSError) -> None:
        """Set an unfit file aside and start another; do without one that cannot be used at all."""
        self.close()
        if getattr(error, "sqlite_errorcode", None) in UNFIT:
            try:
                aside = _set_aside(path)
                self._connection = _open(path)
            except (sqlite3.Error, OSError) as second:
                error = second
            else:
                log.warning(
                    "%s: the digests kept here cannot be used (%s). The file is now %s; the "
                    "slides are read again.",
                    path,
                    error,
                    aside.name,
                )
                return
        log.warning(
            "%s: digests of slides cannot be kept here (%s), so slides are read again each time. "
            "Check that the folder can be written.",
            path,
            error,
        )


def _open(path: Path) -> sqlite3.Connection:
    """Open the file, and make its table if it is new.

    Raises:
        sqlite3.Error: if the file is damaged, somebody else's, or cannot be written.

    """
    connection = sqlite3.connect(
        path, timeout=WAIT_S, isolation_level=None, check_same_thread=False
    )
    try:
        _prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    tables = connection.execute("SELECT name FROM sqlite_master").fetchall()
    if application == 0 and not tables:
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute(SCHEMA)
    elif (application, version) != (APPLICATION, VERSION):
        raise _unfit("it is another program's, or another version's")
    elif connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        raise _unfit("it is damaged")
    connection.execute("COMMIT")


def _set_aside(path: Path) -> Path:
    """Rename the file, with its journal, or that would be played into the next one."""
    aside = path.with_name(f"{path.name}.unfit")
    for suffix in ("", "-journal", "-wal", "-shm"):
        file = path.with_name(path.name + suffix)
        if file.exists():
            file.replace(aside.with_name(aside.name + suffix))
    return aside


def _unfit(reason: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(reason)
    error.sqlite_errorcode = sqlite3.SQLITE_NOTADB
    return error
