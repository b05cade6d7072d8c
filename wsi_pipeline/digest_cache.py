"""Digests of slides seen before, so that a night need not read a terabyte to find nothing new.

It is a convenience: what is lost of it only costs reading those slides again. So a damaged file is
set aside, and one that cannot be written is done without; neither stops a night.
"""

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

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
        path: of the file, made if it is not there.

    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._usable = True
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._prepare()
        except (sqlite3.Error, OSError) as error:
            self._recover(error)

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

    def _execute(self, statement: str, *values: str) -> list[tuple[object, ...]]:
        """Run one statement, whole or not at all; return no rows if there is any trouble."""
        if not self._usable:
            return []
        try:
            with self._connection() as connection:
                return connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            self._recover(error)
            return []

    def _connection(self) -> closing[sqlite3.Connection]:
        # One for each statement: none is shared between threads or carried through a fork.
        return closing(sqlite3.connect(self._path, timeout=WAIT_S, isolation_level=None))

    def _prepare(self) -> None:
        """Make the table if the file is new.

        Raises:
            sqlite3.Error: if the file is damaged, somebody else's, or cannot be written.

        """
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            is_new = not connection.execute("SELECT * FROM sqlite_master").fetchall()
            if is_new and application == 0:
                connection.execute(f"PRAGMA application_id = {APPLICATION}")
                connection.execute(f"PRAGMA user_version = {VERSION}")
                connection.execute(SCHEMA)
            elif (application, version) != (APPLICATION, VERSION):
                raise _unfit("it is another program's, or another version's")
            elif connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                raise _unfit("it is damaged")
            connection.execute("COMMIT")

    def _recover(self, error: sqlite3.Error | OSError) -> None:
        """Set an unfit file aside and start another; do without one that cannot be used at all."""
        if getattr(error, "sqlite_errorcode", None) in UNFIT:
            aside = self._path.with_name(f"{self._path.name}.unfit")
            log.warning(
                "%s: the digests kept here cannot be used (%s). The file is now %s; the slides "
                "are read again.",
                self._path,
                error,
                aside.name,
            )
            try:
                # With its journal, or that would be played into the new file.
                for suffix in ("", "-journal", "-wal", "-shm"):
                    file = self._path.with_name(self._path.name + suffix)
                    if file.exists():
                        file.replace(aside.with_name(aside.name + suffix))
                self._prepare()
            except (sqlite3.Error, OSError) as second:
                error = second
            else:
                return
        self._usable = False
        log.warning(
            "%s: digests of slides cannot be kept here (%s), so slides are read again each time. "
            "Check that the folder can be written.",
            self._path,
            error,
        )


def _unfit(reason: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(reason)
    error.sqlite_errorcode = sqlite3.SQLITE_NOTADB
    return error
