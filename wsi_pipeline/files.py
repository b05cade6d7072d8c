"""Files and URLs: opened, kept free of secrets, and written so that they appear whole.

- Locations are paths and fsspec URLs; a URL must not hold a secret.
- Only regular files are opened. Opening a pipe waits for a writer who never comes, and a device may
  have no end.
- A file appears under its final name only when it is whole. Nothing is written through a link.
"""

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO

from wsi_pipeline.errors import OutputError, SlideError

# A user or a password. The latter may hold slashes, and then ends the authority early.
_CREDENTIALS = re.compile(r"://(?:[^/?#]*@|(?!\[)[^/?#]*:(?!\d+(?:[/?#]|$)))")
_QUERY = re.compile(r"\bhttps?://[^?#]*\?")

_KINDS = {
    stat.S_ISFIFO: "a named pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


def is_url(location: str) -> bool:
    """Tell fsspec URLs from paths.

    >>> is_url("s3://bucket/slide.svs"), is_url("C:/slides/slide.svs")
    (True, False)
    """
    return "://" in location


def secret_in(location: str) -> str | None:
    """Say what a URL holds that must not get into a log, a name or a result; None if nothing.

    A query counts, since signed URLs carry their secret in it.

    >>> secret_in("s3://key:secret@bucket/slide.svs")
    'user name or password'
    >>> secret_in("https://host/slide.svs?signature=secret")
    'query'
    >>> secret_in("s3://bucket/slide.svs")
    """
    if _CREDENTIALS.search(location):
        return "user name or password"
    return "query" if _QUERY.search(location) else None


def require_no_secret(location: str) -> None:
    """Refuse the URL of a slide or an inbox that holds a secret. The message does not repeat it.

    Raises:
        SlideError: if `secret_in` finds one.

    """
    if kind := secret_in(location):
        raise SlideError(
            f"The URL of a slide or an inbox holds a {kind}, which would end up in logs and "
            f"results. Leave it out, and give credentials in the environment or in fsspec's "
            f"configuration."
        )


def open_binary(location: str) -> AbstractContextManager[BinaryIO]:
    """Open a path or an fsspec URL for reading.

    Paths do not go through fsspec, to which "::" in a name is a chain of file systems.

    Raises:
        OSError: if there is no such file, it cannot be read, or it is not a regular one. Object
            stores raise errors of their own.

    """
    if not is_url(location):
        return open_regular(Path(location))
    import fsspec  # here: it takes a tenth of a second, and few need it

    file: AbstractContextManager[BinaryIO] = fsspec.open(location, "rb")
    return file


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading.

    Raises:
        OSError: if there is none, it cannot be read, or it is not a regular file.

    """
    _require_regular(path, path.stat().st_mode)
    # Opened by its path: libraries go by the file's name.
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115
    try:
        _require_regular(path, os.fstat(file.fileno()).st_mode)  # it may be another one by now
    except OSError:
        file.close()
        raise
    return file


def read_regular(path: Path) -> bytes:
    """Read a whole file.

    Raises:
        OSError: as `open_regular`.

    """
    with open_regular(path) as file:
        return file.read()


def file_kind(mode: int) -> str:
    """Say what a path leads to that is neither a file nor a folder, given its `st_mode`."""
    return next((word for test, word in _KINDS.items() if test(mode)), "no file")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a hidden sibling of ``path`` to write to; rename it to ``path`` if the block succeeds.

    The name keeps its suffix, since writers choose their format by it. A killed process leaves at
    most the hidden file, which the next run replaces.
    """
    partial = path.with_name(f".partial-{path.name}")
    # Not overwritten: somebody may have made it a link to a file elsewhere.
    partial.unlink(missing_ok=True)
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def refuse_odd_files(folder: Path) -> None:
    """Raise if results would be written through a link, to wherever it leads, or into a pipe.

    Args:
        folder: gets the results; links in it are not followed.

    Raises:
        OutputError: naming the first path that is neither a file nor a folder.

    """
    for path in (folder, *folder.rglob("*")):
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            continue  # not there yet, or another run's that has just gone
        if stat.S_ISLNK(mode):
            raise OutputError(
                f"{path}: this is a link, and results are not written through links, which may "
                f"lead anywhere. Remove it, or choose another --out."
            )
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise OutputError(
                f"{path}: this is {file_kind(mode)}, where results belong. Remove it, or choose "
                f"another --out."
            )


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _require_regular(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"It is {file_kind(mode)}, not a file", str(path))
