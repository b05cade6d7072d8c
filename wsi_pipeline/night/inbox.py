"""What lies in an inbox: whole slides, and slides that are still being copied.

An inbox is a folder, with all folders below it, or an fsspec URL (`night.inbox_places`). A slide
may be several files (`slide.grouping`). Left out are names that copying programs use until a file
is whole.

Nothing tells when somebody else's copy is complete, so a slide of a folder counts as whole when it
looks the same twice and nobody has touched it for a while. Objects of an object store appear whole.
"""

import logging
import re
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path

from wsi_pipeline.night.config import InboxConfig
from wsi_pipeline.night.inbox_places import Place, look_at, place_of
from wsi_pipeline.night.inbox_table import SlideTable
from wsi_pipeline.slide.access import Footprint, fingerprint
from wsi_pipeline.slide.dicom import SLIDE_MODALITY, DicomHeader, dicom_header
from wsi_pipeline.slide.files import DICOM, INDEXES, MRXS, names_in_index
from wsi_pipeline.slide.grouping import slides_among, suffix_of

log = logging.getLogger(__name__)

PARTIAL = re.compile(
    r"\.(part|partial|filepart|crdownload|opdownload|download|tmp)$", re.IGNORECASE
)
"""Endings that browsers and copying programs give a file until it is whole."""

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
    place = place_of(inbox, results)
    before = now = look_at(place, inbox)
    if now.files and not place.appears_whole:
        time.sleep(config.look_again_s)
        now = look_at(place, inbox)
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
        waits_for_parts = len(there) == 1 and suffix_of(name) in {MRXS, *INDEXES}
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


def _slides(
    place: Place, visible: Collection[str], growing: Collection[str]
) -> dict[str, list[str]]:
    """Return the slides that can be seen, with their parts, those still to come among them.

    By URL only slides of one file can be opened: of the others it will do to know where they are.
    """

    def header(name: str) -> DicomHeader | None:
        if place.by_url:
            return DicomHeader("", SLIDE_MODALITY) if suffix_of(name) == DICOM else None
        return dicom_header(place.location(name))

    def named_by(name: str) -> Collection[str]:
        return () if place.by_url else names_in_index(place.location(name))

    slides = slides_among({*visible, *growing}, header, named_by)
    return {name: parts for name, parts in slides.items() if name in visible}


def _is_recent(file: Footprint, clock_s: float, within_s: float) -> bool:
    """Tell whether a file was modified just now; not if its clock is ahead of ours."""
    return 0 <= clock_s - file.changed_s < within_s
