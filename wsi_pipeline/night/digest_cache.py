"""Digests of slides seen before, so that a night need not read a terabyte to find nothing new.

A file of lines, each of which is one slide and checks itself: lines are only ever added, so two
nights may share the file, and what is damaged, or was cut off by a kill, costs reading that slide
again. So does a file that cannot be read or written; nothing here stops a night.

A slide is known by what the file system says of its files (`wsi_pipeline.slide.access.Footprint`).
Its clock may be too coarse to tell two writes apart, so a slide that has just changed is not kept.
"""

import errno
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

from wsi_pipeline.digests import is_slide_digest
from wsi_pipeline.files import atomic_path, is_url
from wsi_pipeline.night.inbox import InboxSlide
from wsi_pipeline.slide.access import fingerprint, of_file
from wsi_pipeline.slide.files import content_digest

log = logging.getLogger(__name__)

RECENT_S = 10.0
"""Clocks of file systems go by two seconds at most, and those of other machines may differ."""

LINES_AN_ENTRY = 4
"""A file with more lines than this for each slide is written anew."""


class DigestCache:
    """A file of digests; safe to share between threads and processes, and to kill.

    Args:
        path: of the file, made if it is not there; None keeps nothing.

    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._known: dict[str, tuple[str, str]] = {}
        if path is not None:
            try:
                self._load(path)
            except FileNotFoundError:
                log.debug("%s: no digests are kept yet", path)
            except OSError as error:
                self._do_without(path, error)

    def digest(self, slide: InboxSlide, moved: Callable[[], None] = lambda: None) -> str:
        """Return the digest of a slide's bytes; they are read only if its fingerprint is new.

        Args:
            slide: the slide.
            moved: called as its bytes come in.

        Raises:
            OSError: if its files must be read and cannot be.

        """
        known = self._known.get(slide.location)
        if known is not None and known[0] == slide.fingerprint:
            return known[1]
        started_s = time.time()
        digest = content_digest(slide.files, moved)
        if _is_settled(slide, started_s):
            self._keep(slide.location, slide.fingerprint, digest)
        return digest

    def _load(self, path: Path) -> None:
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "it is no file")
        lines = [line for line in path.read_bytes().split(b"\n") if line]
        for line in lines:
            entry = _entry(line)
            if entry is not None:
                location, *about = entry
                self._known[location] = (about[0], about[1])
        if lines and not self._known:
            raise OSError(errno.EINVAL, "it holds something else, or nothing but damage")
        if len(lines) > LINES_AN_ENTRY * (1 + len(self._known)):
            with atomic_path(path) as partial:
                partial.write_bytes(
                    b"".join(_line(where, *about) for where, about in self._known.items())
                )

    def _keep(self, *entry: str) -> None:
        with self._lock:
            self._known[entry[0]] = (entry[1], entry[2])
            if self._path is None:
                return
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                file = os.open(self._path, flags, 0o644)
                try:
                    os.write(file, _line(*entry))
                finally:
                    os.close(file)
            except OSError as error:
                self._do_without(self._path, error)

    def _do_without(self, path: Path, error: OSError) -> None:
        self._path = None
        log.warning(
            "%s: digests of slides cannot be kept here (%s), so slides are read again each time. "
            "Check that the folder can be written, and move away what is in the way.",
            path,
            error.strerror,
        )


def _is_settled(slide: InboxSlide, read_from_s: float) -> bool:
    """Tell whether a slide's files are those that were listed, and had not just been changed."""
    if any(map(is_url, slide.files)):
        return True  # its listing told an ETag, or a time that is all there is
    try:
        found = [of_file(Path(file).stat()) for file in slide.files]
    except OSError:
        return False
    newest_s = max(file.changed_s for file in found)
    return fingerprint(found) == slide.fingerprint and newest_s < read_from_s - RECENT_S


def _line(*entry: str) -> bytes:
    # It begins with a line break: one that a kill has cut off must not spoil the next.
    content = json.dumps(entry)
    return f"\n{_check(content)} {content}".encode()


def _entry(line: bytes) -> tuple[str, str, str] | None:
    """Read a line; None if it is damaged."""
    try:
        check, content = line.decode().split(" ", 1)
        if check != _check(content):
            return None
        location, seen, digest = json.loads(content)
    except (ValueError, RecursionError):
        return None
    # It may become part of a path, and whoever can write this file makes the check too.
    if not isinstance(location, str) or not isinstance(seen, str) or not is_slide_digest(digest):
        return None
    return location, seen, digest


def _check(content: str) -> str:
    return blake2b(content.encode(), digest_size=8).hexdigest()
