"""Which of many files are slides, and which are the parts of one.

A slide may be several files, see `wsi_pipeline.slide.files`; the parts of one are no slides of
their own. DICOM files that are no slides (annotations, reports) are none either.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from pathlib import PurePosixPath

from wsi_pipeline.slide.dicom import SLIDE_MODALITY, DicomHeader, may_be_dicom
from wsi_pipeline.slide.files import INDEXES, MRXS, SLIDE_SUFFIXES

log = logging.getLogger(__name__)


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
        if suffix_of(name) == MRXS:
            mrxs_of[name[: -len(MRXS)]].append(name)
    series: dict[tuple[str, str], list[str]] = defaultdict(list)
    parts_of_others: set[str] = set()
    for name in sorted(names, key=lambda name: name.split("/")):
        folder, suffix = name[: name.rfind("/") + 1], suffix_of(name)
        owners = next((mrxs_of[above] for above in folders_above(name) if above in mrxs_of), ())
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


def folders_above(name: str) -> Iterator[str]:
    """Yield the folders that a file is in, the outermost first; parts are joined by "/"."""
    parts = name.split("/")
    return ("/".join(parts[:count]) for count in range(1, len(parts)))


def suffix_of(name: str) -> str:
    """Return the suffix of a file's name in lower case, with its point."""
    return PurePosixPath(name).suffix.lower()
