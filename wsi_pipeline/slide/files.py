"""Which files a slide is made of, known by their names, and the digest of their bytes.

Most formats are one file. MRXS keeps its pixels in a folder of its name, DICOM in the files of one
series, Hamamatsu VMS and VMU in the files that their text names. By URL only slides of one file
can be opened (see `wsi_pipeline.slide.slide`), so there the slide is what the URL names.
"""

import hashlib
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsi_pipeline.files import is_url, open_binary
from wsi_pipeline.shown import shown
from wsi_pipeline.slide.access import fingerprint, footprint
from wsi_pipeline.slide.dicom import dicom_header, may_be_dicom

log = logging.getLogger(__name__)

SLIDE_SUFFIXES = frozenset(
    {".bif", ".dcm", ".mrxs", ".ndpi", ".scn", ".svs", ".svslide", ".tif", ".tiff", ".vms", ".vmu"}
)
"""Of the files that are opened as slides, in lower case."""

DICOM = ".dcm"
MRXS = ".mrxs"
INDEXES = frozenset({".vms", ".vmu"})
"""Texts that name the files that hold the pixels."""

INDEX_BYTES = 1 << 16
"""More of a VMS or VMU is not read: OpenSlide takes no longer ones."""

READ_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class SlideFile:
    """A slide's file as it was found, and what it is called from there on.

    It is made once, where a slide comes in; nobody asks again which files it has.

    Attributes:
        location: the path or fsspec URL that opens it.
        parts: all its files; see `files_of`.
        folder: name of its folder below the output folder.
        name: what outputs and messages call it.
        digest: of its bytes, if known already; see `content_digest`.
        fingerprint: of its files when they were read for it; see `wsi_pipeline.slide.access`.

    """

    location: str
    parts: tuple[str, ...]
    folder: str
    name: str
    digest: str | None = None
    fingerprint: str | None = None

    def seen_now(self) -> str:
        """Return the fingerprint that its files have now.

        Raises:
            SlideError: if one of them cannot be read.

        """
        return fingerprint(map(footprint, self.parts))


def files_of(location: str) -> list[str]:
    """Return all files of the slide that `location` opens, sorted behind the file of MRXS or VMS.

    Args:
        location: a path or an fsspec URL.

    Returns:
        paths that exist, or the URL alone.

    """
    if is_url(location):
        return [location]
    path = Path(location)
    suffix = path.suffix.lower()
    if suffix == MRXS:
        beside = sorted(
            part
            for part in path.with_suffix("").rglob("*")
            if part.is_file() and not part.name.startswith(".")
        )
        return [location, *map(str, beside)]
    if suffix in INDEXES:
        beside = sorted(path.with_name(name) for name in names_in_index(location))
        return [location, *(str(part) for part in beside if part.is_file())]
    header = dicom_header(location) if may_be_dicom(path.name) else None
    if header is None:
        return [location]
    return sorted(
        str(part)
        for part in path.parent.iterdir()
        if may_be_dicom(part.name)
        and (part.suffix.lower() == DICOM) == (suffix == DICOM)
        and part.is_file()
        and (other := dicom_header(str(part))) is not None
        and other.series == header.series
    )


def file_name(location: str) -> str:
    """Return the last part of a path or URL, fit to be shown: on one line, and in UTF-8."""
    return shown(location.rsplit("/", 1)[-1])


def content_digest(files: Sequence[str], moved: Callable[[], None] = lambda: None) -> str:
    """Return the BLAKE2b digest (hex, 32 digits) of all bytes of the files, in their order.

    Args:
        files: paths or fsspec URLs; names do not count.
        moved: called for each block that was read.

    Raises:
        OSError: if one of them cannot be read.

    """
    digest = hashlib.blake2b(digest_size=16)
    for location in files:
        with open_binary(location) as file:
            while block := file.read(READ_BYTES):
                digest.update(block)
                moved()
    return digest.hexdigest()


def names_in_index(location: str) -> set[str]:
    """Read the values of a VMS or VMU that can be names of its parts, in its own folder."""
    try:
        with open_binary(location) as file:
            text = file.read(INDEX_BYTES).decode("utf-8", errors="surrogateescape")
    except OSError as error:
        log.debug("%s: no index: %s", location, error)
        return set()
    return {
        value
        for value in re.findall(r"^[^=\r\n]+=[ \t]*(.+?)[ \t]*\r?$", text, re.MULTILINE)
        if not re.search(r"[/\0]", value)
        and Path(value).suffix.lower() not in {"", DICOM, MRXS, *INDEXES}
    }
