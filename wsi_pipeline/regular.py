"""Files that can be read to their end: what is a pipe, a socket or a device is never opened.

Opening a pipe waits for a writer who never comes, and a device may have no end.
"""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

KINDS = {
    stat.S_ISFIFO: "a named pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


def kind_of(mode: int) -> str:
    """Say what a path leads to that is neither a file nor a folder, given its `st_mode`."""
    return next((word for test, word in KINDS.items() if test(mode)), "no file")


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading.

    Raises:
        OSError: if there is none, it cannot be read, or it is something else.

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


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def read_regular(path: Path) -> bytes:
    """Read a whole file.

    Raises:
        OSError: if there is none, it cannot be read, or it is something else.

    """
    with open_regular(path) as file:
        return file.read()


def _require_regular(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"It is {kind_of(mode)}, not a file", str(path))
