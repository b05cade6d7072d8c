"""Whether a slide's file can be reached, told apart from whether it is any good.

A network drive that goes away in the middle of a slide looks, tile by tile, like a damaged file.
Nothing is wrong with the slide then, and the same command works once the drive is back.
"""

import errno
import hashlib
import json
import math
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import fsspec

from wsi_pipeline.errors import SlideError, SlideUnavailableError
from wsi_pipeline.files import file_kind, is_url, open_regular

AWAY = {
    getattr(errno, name)
    for name in (
        "EAGAIN", "EBUSY", "ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "EHOSTDOWN",
        "EHOSTUNREACH", "EINTR", "EIO", "EMFILE", "ENETDOWN", "ENETRESET", "ENETUNREACH", "ENFILE",
        "ENODEV", "ENOLINK", "ENOMEM", "ENOTCONN", "ENXIO", "EPIPE", "EREMOTEIO", "ESHUTDOWN",
        "ESTALE", "ETIMEDOUT",
    )
    if hasattr(errno, name)
}  # fmt: skip
"""What the operating system says of drives, networks and its own means, not of a file's bytes."""

AWAY_CLASSES = frozenset(
    {
        # botocore's, aiohttp's, requests' and google's: they are not imported to be known.
        "ClientConnectorError", "ClientOSError", "ClientPayloadError", "ConnectionClosedError",
        "ConnectTimeoutError", "EndpointConnectionError", "FSTimeoutError", "HTTPClientError",
        "IncompleteReadError", "ReadTimeoutError", "ResponseStreamingError", "RetryError",
        "ServerDisconnectedError", "ServerTimeoutError", "TransportError",
    }
)  # fmt: skip
"""Errors of object stores by the names of their classes."""

ADVICE = "Nothing is said of the file itself: run the same command again once it can be reached."


@dataclass(frozen=True, slots=True)
class Footprint:
    """What changes when another file takes a file's place, or it is written to.

    Attributes:
        size: in bytes.
        version: the file's number and times, those of its description too, which nobody can set;
            on object stores, its ETag.
        changed_s: when it was last changed, in seconds since 1970; -inf if nobody says.

    """

    size: int
    version: str
    changed_s: float


def of_file(about: os.stat_result) -> Footprint:
    """Return the footprint of a file of this machine or a network drive."""
    return Footprint(
        about.st_size,
        f"{about.st_ino}:{about.st_mtime_ns}:{about.st_ctime_ns}",
        max(about.st_mtime, about.st_ctime),
    )


def of_object(about: Mapping[str, Any]) -> Footprint:
    """Read fsspec's description of a file, in which every store has its own words for the time."""
    times = ("LastModified", "last_modified", "mtime", "modified", "updated", "created")
    changed = next((about[word] for word in times if about.get(word) is not None), None)
    if isinstance(changed, datetime):
        changed = changed.timestamp()
    changed_s = float(changed) if isinstance(changed, int | float) else -math.inf
    version = about.get("ETag") or about.get("etag") or changed
    return Footprint(int(about.get("size") or 0), str(version), changed_s)


def fingerprint(found: Iterable[Footprint]) -> str:
    """Return a digest that changes when any of a slide's files does."""
    about = [(file.size, file.version) for file in found]
    return hashlib.blake2b(json.dumps(about).encode(), digest_size=16).hexdigest()


def footprint(location: str) -> Footprint:
    """Find a slide's file and see that it can be one.

    Raises:
        SlideUnavailableError: if it cannot be reached now.
        SlideError: if it is missing, empty, no regular file, or may not be read.

    """
    try:
        found = _remote_footprint(location) if is_url(location) else _local_footprint(location)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SlideError(
            f"{location}: there is no such file. Check the {_kind(location)}."
        ) from error
    # Object stores have errors of their own, which no class unites.
    except Exception as error:
        if isinstance(error, SlideError):
            raise
        if is_away(error):
            raise unavailable(location, error) from error
        if isinstance(error, OSError) and error.errno == errno.ELOOP:
            raise SlideError(
                f"{location}: its symbolic links lead in a circle. Mend the links."
            ) from error
        raise SlideError(
            f"{location}: cannot be read ({one_line(error)}). Check its permissions and its "
            f"{_kind(location)}."
        ) from error
    if not found.size:
        raise SlideError(f"{location}: the file is empty. Copy it again.")
    return found


def is_away(error: BaseException) -> bool:
    """Tell whether an error, or one behind it, is of the way to the file and not of its bytes."""
    return any(
        isinstance(each, ConnectionError | TimeoutError | MemoryError | SlideUnavailableError)
        or (isinstance(each, OSError) and each.errno in AWAY)
        or not AWAY_CLASSES.isdisjoint(kind.__name__ for kind in type(each).__mro__)
        # OpenSlide gives the operating system's words without its number.
        or any(os.strerror(code) in str(each) for code in (errno.EIO, errno.ESTALE))
        for each in _chain(error)
    )


def unavailable(name: str, error: BaseException | str) -> SlideUnavailableError:
    """Return the error to raise where a slide cannot be reached."""
    return SlideUnavailableError(f"{name}: cannot be reached now ({one_line(error)}). {ADVICE}")


def one_line(error: BaseException | str) -> str:
    """Say an error in one line of sensible length: libraries print whole headers in theirs."""
    said = error if isinstance(error, str) else _said(error)
    words = " ".join(said.split())
    return words if len(words) <= 200 else f"{words[:199]}…"


def _said(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__ or following.__context__


def _kind(location: str) -> str:
    return "URL" if is_url(location) else "path"


def _local_footprint(location: str) -> Footprint:
    try:
        location.encode()
    except UnicodeEncodeError as error:
        readable = os.fsencode(location).decode("utf-8", "backslashreplace")
        raise SlideError(f"{readable}: its name is not UTF-8. Rename the file.") from error
    if "\0" in location:
        raise FileNotFoundError(location)
    path = Path(location)
    about = path.stat()
    if stat.S_ISDIR(about.st_mode):
        raise SlideError(
            f"{location}: this is a folder. Name the slide file in it (for DICOM, any one of "
            f"its .dcm files)."
        )
    if not stat.S_ISREG(about.st_mode):
        raise SlideError(
            f"{location}: this is {file_kind(about.st_mode)}, not a file with a slide. Check the "
            f"path."
        )
    with open_regular(path):
        pass
    return of_file(about)


def _remote_footprint(location: str) -> Footprint:
    filesystem, path = fsspec.core.url_to_fs(location)
    about = filesystem.info(path)
    if about.get("type") == "directory":
        raise SlideError(f"{location}: this is a folder. Name the slide file in it.")
    return of_object(about)
