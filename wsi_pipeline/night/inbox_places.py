"""Where an inbox is, a folder or an object store, and which files can be seen in it.

Left out are hidden names, recycle bins, results, and names that are no Unicode, which no table
could show.
"""

import errno
import logging
import math
import os
import stat
from collections import deque
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Protocol

import fsspec
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.files import is_url, require_no_secret
from wsi_pipeline.slide.access import Footprint, of_file, of_object
from wsi_pipeline.slide.grouping import folders_above

log = logging.getLogger(__name__)

OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss"})
"""Protocols whose files appear whole, and that have no empty folders."""

RECYCLE_BINS = frozenset(
    {"$recycle.bin", "@recycle", "#recycle", "#snapshot", "@eadir", "system volume information"}
)
"""Folders of Windows and of network drives that hold what users have deleted, in lower case."""

RESULTS = frozenset({".lock", "run.log"})
"""What is in a folder of a slide's results from the first moment on. Among its other files are
pictures that could be scored as slides."""


@dataclass(frozen=True, slots=True)
class Listing:
    """One look at an inbox: its files by their names below it, parts joined by "/"."""

    files: dict[str, Footprint]
    left_out: dict[str, str]
    """Why, by the folder or file that could not be taken."""


class Place(Protocol):
    """What differs between folders and object stores."""

    by_url: bool
    """Whether its slides are opened by URL."""
    appears_whole: bool
    """Whether a file shows only when all of it is there."""

    def look(self) -> Listing:
        """List all files below it that may be slides' files."""
        ...

    def location(self, name: str) -> str:
        """Return the path or URL of a file."""
        ...


def place_of(inbox: str, results: Path | None) -> Place:
    """Return where an inbox is.

    Args:
        inbox: a folder or an fsspec URL.
        results: the folder that results are written to, which is left out.

    Raises:
        ConfigError: if no file system for the URL is installed, or the URL holds a secret.

    """
    if not is_url(inbox):
        return _Folder(inbox, results)
    require_no_secret(inbox)
    try:
        files, root = fsspec.core.url_to_fs(inbox)
    except (ValueError, ImportError) as error:
        raise ConfigError(
            f"{inbox}: no file system of this kind is installed ({error}). Check the URL, or "
            f"install what it names (for s3://, the extra wsi-pipeline[s3])."
        ) from error
    return (
        _Folder(root, results) if isinstance(files, LocalFileSystem) else _Store(inbox, files, root)
    )


def look_at(place: Place, inbox: str) -> Listing:
    """List the files in an inbox that may be slides' files; messages call the inbox by its name.

    Raises:
        ConfigError: if it is missing, is a file, or cannot be listed.

    """
    try:
        return place.look()
    except FileNotFoundError as error:
        raise ConfigError(
            f"{inbox}: there is no such inbox. Check the name, and that its drive is mounted."
        ) from error
    except NotADirectoryError as error:
        raise ConfigError(
            f"{inbox}: the inbox is a file. Name the folder that the slides are in."
        ) from error
    # Object stores raise errors of their own: no credentials, no network.
    except Exception as error:
        raise ConfigError(
            f"{inbox}: the inbox cannot be listed ({error}). Check that it can be reached, and "
            f"that this user may read it."
        ) from error


class _Folder:
    by_url = False
    appears_whole = False

    def __init__(self, inbox: str, results: Path | None) -> None:
        self._root = Path(inbox).absolute()
        self._results = results

    def look(self) -> Listing:
        """List all files below the folder, through links too, each real folder once.

        Real folders come before links to them, so that slides keep their own names.
        """
        found = Listing({}, {})
        # Unless they are written into the inbox itself.
        seen = set() if self._results is None else {_identity(self._results)}
        seen.discard(_identity(self._root))
        folders, links = deque([""]), deque[str]()
        while folders or links:
            below = (folders or links).popleft()
            try:
                identity = _identity(self._root / below)
                if identity in seen:
                    continue
                seen.add(identity)
                with os.scandir(self._root / below) as listing:
                    entries = sorted(listing, key=attrgetter("name"))
                if below and {entry.name for entry in entries} >= RESULTS:
                    continue
            except OSError as error:
                if not below:
                    raise
                if error.errno != errno.ENOENT:  # gone since
                    reason = f"the folder cannot be listed ({error.strerror})"
                    found.left_out[self.location(below)] = reason
                continue
            for entry in entries:
                name = below + entry.name
                if not _is_wanted(entry.name):
                    continue
                about = _status(entry)
                if not _is_unicode(entry.name):
                    found.left_out[repr(self.location(name))] = "its name is not UTF-8: rename it"
                elif about is not None and stat.S_ISDIR(about.st_mode):
                    (links if entry.is_symlink() else folders).append(f"{name}/")
                elif about is not None and stat.S_ISREG(about.st_mode):
                    found.files[name] = of_file(about)
                elif about is not None or entry.is_symlink():
                    # A pipe, or a link that leads nowhere. Whoever reads it says what is wrong.
                    found.files[name] = Footprint(0, "", -math.inf)
        return found

    def location(self, name: str) -> str:
        return str(self._root / name)


class _Store:
    """An fsspec file system other than this machine's."""

    by_url = True

    def __init__(self, inbox: str, files: AbstractFileSystem, root: str) -> None:
        self._url = inbox.rstrip("/")
        self._files = files
        self._root = root.rstrip("/")
        protocols = [files.protocol] if isinstance(files.protocol, str) else files.protocol
        self.appears_whole = not OBJECT_STORES.isdisjoint(protocols)

    def look(self) -> Listing:
        self._files.invalidate_cache()
        about = self._files.find(self._root, detail=True)
        if self._root in about:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not about:
            # An object store has no empty folders: an inbox that was emptied is one that is gone.
            bucket = self._root.split("/")[0]
            if not self._files.exists(bucket if self.appears_whole else self._root):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        names = {path: path.removeprefix(self._root).lstrip("/") for path in about}
        there = set(names.values())
        return Listing(
            {
                name: of_object(about[path])
                for path, name in names.items()
                if not name.endswith("/")
                and all(map(_is_wanted, name.split("/")))
                and not any(
                    {f"{folder}/{one}" for one in RESULTS} <= there
                    for folder in folders_above(name)
                )
            },
            {},
        )

    def location(self, name: str) -> str:
        return f"{self._url}/{name}"


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _is_wanted(name: str) -> bool:
    return not name.startswith((".", "~")) and name.lower() not in RECYCLE_BINS


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Return what a link leads to; None if it leads nowhere or in a circle, or is gone."""
    try:
        return entry.stat()
    except OSError as error:
        log.debug("%s: %s", entry.path, error)
        return None
