"""What lies in an inbox: whole slides, and slides that are still being copied.

An inbox is a folder, with all folders below it, or an fsspec URL. A slide may be several files (see
`wsi_pipeline.slide.files`); the parts of one are no slides of their own. Left out are hidden names,
recycle bins, results, names that copying programs use until a file is whole, DICOM files that are
no slides (annotations, reports), and names that are no Unicode, which no table could show.

Nothing tells when somebody else's copy is complete, so a slide of a folder counts as whole when it
looks the same twice and nobody has touched it for a while. Objects of an object store appear whole.
"""

import errno
import logging
import math
import os
import re
import stat
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path, PurePosixPath
from typing import Protocol

import fsspec
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.files import is_url, require_no_secret
from wsi_pipeline.night.config import InboxConfig
from wsi_pipeline.night.slide_table import SlideTable
from wsi_pipeline.slide.access import Footprint, fingerprint, of_file, of_object
from wsi_pipeline.slide.dicom import SLIDE_MODALITY, DicomHeader, dicom_header, may_be_dicom
from wsi_pipeline.slide.files import DICOM, INDEXES, MRXS, SLIDE_SUFFIXES, names_in_index

log = logging.getLogger(__name__)

OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss"})
"""Protocols whose files appear whole, and that have no empty folders."""

PARTIAL = re.compile(
    r"\.(part|partial|filepart|crdownload|opdownload|download|tmp)$", re.IGNORECASE
)
"""Endings that browsers and copying programs give a file until it is whole."""

RECYCLE_BINS = frozenset(
    {"$recycle.bin", "@recycle", "#recycle", "#snapshot", "@eadir", "system volume information"}
)
"""Folders of Windows and of network drives that hold what users have deleted, in lower case."""

RESULTS = frozenset({".lock", "run.log"})
"""What is in a folder of a slide's results from the first moment on. Among its other files are
pictures that could be scored as slides."""

PARTS_WITHIN_S = 3600.0
"""An .mrxs or .vms of which no other file is there waits this long for one; then it is damaged."""


@dataclass(frozen=True, slots=True)
class InboxSlide:
    """A slide in an inbox.

    Attributes:
        location: the path or URL that opens it.
        files: all its files, in the order of `wsi_pipeline.slide.files.files_of`.
        fingerprint: see `wsi_pipeline.slide.access.fingerprint`: slides that have the one they had
            need not be read to be known again.
        name: its path below the inbox, parts joined by "/".
        unsettled: why it may not be whole yet; empty if it is.

    """

    location: str
    files: tuple[str, ...]
    fingerprint: str
    name: str = ""
    unsettled: str = ""


@dataclass(frozen=True, slots=True)
class Inbox:
    """Slides sorted by location: the whole ones, and those still being copied."""

    slides: tuple[InboxSlide, ...]
    copying: tuple[InboxSlide, ...]
    table: SlideTable = field(default_factory=SlideTable)
    """What is said of single slides."""


@dataclass(frozen=True, slots=True)
class _Look:
    """One look at an inbox: its files by their names below it, parts joined by "/"."""

    files: dict[str, Footprint]
    left_out: dict[str, str]
    """Why, by the folder or file that could not be taken."""


class _Place(Protocol):
    """What differs between folders and object stores."""

    by_url: bool
    appears_whole: bool
    """Whether a file shows only when all of it is there."""

    def look(self) -> _Look: ...

    def location(self, name: str) -> str: ...


def find_slides(
    inbox: str, config: InboxConfig, results: Path | None = None, *, show_names: bool = True
) -> Inbox:
    """List the slides in an inbox.

    Links to files and folders are followed, each real folder once. Folders that cannot be read are
    left out with a warning.

    Args:
        inbox: a folder or an fsspec URL.
        config: when a slide counts as whole. Unless the inbox is empty or an object store, the call
            takes `look_again_s` at least.
        results: the folder that results are written to, which is left out.
        show_names: whether the log may name files.

    Raises:
        ConfigError: if the inbox is missing, is a file, or cannot be listed at all.

    """
    place = _place(inbox, results)
    before = now = _look(place, inbox)
    if now.files and not place.appears_whole:
        time.sleep(config.look_again_s)
        now = _look(place, inbox)
    clock_s = time.time()
    for where, reason in now.left_out.items():
        shown = where if show_names else "A file or folder"
        log.warning("%s: left out of the night, since %s.", shown, reason)

    visible = {name for name in now.files if not PARTIAL.search(name)}
    growing = {PARTIAL.sub("", name): name for name in now.files if name not in visible}

    def unsettled(name: str, parts: Sequence[str]) -> str:
        there = [part for part in parts if part in visible]
        still = [growing[part] for part in parts if part in growing]
        watched = there + still
        if place.appears_whole:
            return ""
        if any(before.files.get(part) != now.files[part] for part in watched):
            return "It changed while the inbox was looked into."
        if any(_is_recent(now.files[part], clock_s, config.quiet_s) for part in watched):
            return f"It changed less than {config.quiet_s:g} s ago, and may not be whole yet."
        waits_for_parts = len(there) == 1 and _suffix(name) in {MRXS, *INDEXES}
        if waits_for_parts and _is_recent(now.files[name], clock_s, PARTS_WITHIN_S):
            return "The files that hold its pixels are not there yet."
        return ""

    whole: list[InboxSlide] = []
    copying: list[InboxSlide] = []
    for name, parts in _slides(place, visible, growing.keys()).items():
        files = [name] if place.by_url else [part for part in parts if part in visible]
        slide = InboxSlide(
            location=place.location(name),
            files=tuple(map(place.location, files)),
            fingerprint=fingerprint(now.files[name] for name in files),
            name=name,
            unsettled=unsettled(name, parts),
        )
        (copying if slide.unsettled else whole).append(slide)
    by_location = attrgetter("location")
    return Inbox(tuple(sorted(whole, key=by_location)), tuple(sorted(copying, key=by_location)))


def slides_among(
    names: Collection[str],
    header_of: Callable[[str], DicomHeader | None],
    named_by: Callable[[str], Collection[str]],
) -> dict[str, list[str]]:
    """Tell which of many files are slides, and which are the parts of one.

    Args:
        names: of all files, parts joined by "/".
        header_of: reads a DICOM file's header; None if it has none.
        named_by: reads the names that a VMS or VMU names.

    Returns:
        the files of each slide, by the one that is opened; each file belongs to one slide at most,
        but for the two MRXS slides whose names differ in nothing but the suffix's case.

    """
    slides: dict[str, list[str]] = {}
    mrxs_of: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if _suffix(name) == MRXS:
            mrxs_of[name[: -len(MRXS)]].append(name)
    series: dict[tuple[str, str], list[str]] = defaultdict(list)
    parts_of_others: set[str] = set()
    for name in sorted(names, key=lambda name: name.split("/")):
        folder, suffix = name[: name.rfind("/") + 1], _suffix(name)
        owners = next((mrxs_of[above] for above in _folders(name) if above in mrxs_of), ())
        for owner in owners:
            slides.setdefault(owner, [owner]).append(name)
        if owners or (suffix not in SLIDE_SUFFIXES and not may_be_dicom(name)):
            continue
        header = header_of(name) if may_be_dicom(name) else None
        if header is not None and header.modality != SLIDE_MODALITY:
            log.debug("%s: no slide, but DICOM of modality %s", name, header.modality)
        elif header is not None:
            series[folder, header.series].append(name)
        elif suffix in SLIDE_SUFFIXES:
            slides.setdefault(name, [name])
        if suffix in INDEXES:
            parts = sorted({folder + part for part in named_by(name)}.intersection(names))
            slides[name] += parts
            parts_of_others.update(parts)
    slides.update((files[0], files) for files in series.values())
    return {name: files for name, files in slides.items() if name not in parts_of_others}


class _Folder:
    by_url = False
    appears_whole = False

    def __init__(self, inbox: str, results: Path | None) -> None:
        self._root = Path(inbox).absolute()
        self._results = results

    def look(self) -> _Look:
        """List all files below the folder, through links too, each real folder once.

        Real folders come before links to them, so that slides keep their own names.
        """
        found = _Look({}, {})
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

    def look(self) -> _Look:
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
        return _Look(
            {
                name: of_object(about[path])
                for path, name in names.items()
                if not name.endswith("/")
                and all(map(_is_wanted, name.split("/")))
                and not any(
                    {f"{folder}/{one}" for one in RESULTS} <= there for folder in _folders(name)
                )
            },
            {},
        )

    def location(self, name: str) -> str:
        return f"{self._url}/{name}"


def _place(inbox: str, results: Path | None) -> _Place:
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


def _look(place: _Place, inbox: str) -> _Look:
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


def _slides(
    place: _Place, visible: Collection[str], growing: Collection[str]
) -> dict[str, list[str]]:
    """Return the slides that can be seen, with their parts, those still to come among them.

    By URL only slides of one file can be opened: of the others it will do to know where they are.
    """

    def header(name: str) -> DicomHeader | None:
        if place.by_url:
            return DicomHeader("", SLIDE_MODALITY) if _suffix(name) == DICOM else None
        return dicom_header(place.location(name))

    def named_by(name: str) -> Collection[str]:
        return () if place.by_url else names_in_index(place.location(name))

    slides = slides_among({*visible, *growing}, header, named_by)
    return {name: parts for name, parts in slides.items() if name in visible}


def _is_recent(file: Footprint, clock_s: float, within_s: float) -> bool:
    """Tell whether a file was modified just now; not if its clock is ahead of ours."""
    return 0 <= clock_s - file.changed_s < within_s


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


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _folders(name: str) -> Iterator[str]:
    """Return the folders that a file is in, the outermost first."""
    parts = name.split("/")
    return ("/".join(parts[:count]) for count in range(1, len(parts)))
