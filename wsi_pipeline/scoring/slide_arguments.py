"""Which slides a person means who names files and folders.

A slide may be several files, and then its folder stands for it: what of a folder is a slide and
what a part of one is decided as in an inbox (see `wsi_pipeline.slide.grouping.slides_among`).
"""

import os
from collections.abc import Sequence
from pathlib import Path

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.files import is_url
from wsi_pipeline.scoring.filing import slide_folder
from wsi_pipeline.slide.dicom import SLIDE_MODALITY, DicomHeader, dicom_header, may_be_dicom
from wsi_pipeline.slide.files import DICOM, SLIDE_SUFFIXES, names_in_index
from wsi_pipeline.slide.grouping import slides_among

STORE = ".zarr"
"""Ending of stores of tiles, whose thousands of files are none of DICOM's."""

SHOWN = 3
"""How many slides of a folder a message names."""


def slides_in(folder: Path) -> list[str]:
    """Return the slides in a folder, and those of DICOM in the folders below it.

    DICOM is exported into folders of its own, a series or a case each. Other folders below may be
    anything, results included, and are named by who means them.

    Returns:
        for each slide the path that opens it, sorted.

    """
    names = []
    for where, below, files in os.walk(folder):
        below[:] = sorted(
            each for each in below if not each.startswith((".", "~")) and not each.endswith(STORE)
        )
        place = Path(where).relative_to(folder)
        names += [
            (place / name).as_posix()
            for name in files
            if not name.startswith((".", "~")) and (Path(where) / name).is_file()  # no pipes
        ]
    found = slides_among(
        names,
        lambda name: dicom_header(str(folder / name)),
        lambda name: names_in_index(str(folder / name)),
    )
    return sorted(str(folder / name) for name in found if "/" not in name or may_be_dicom(name))


def one_slide(location: str) -> str:
    """Return what opens the slide that is meant: the location itself, or the one in the folder.

    Raises:
        ConfigError: if the folder holds no slide, or several.

    """
    if is_url(location) or not Path(location).is_dir():
        return location
    found = _slides_or_error(location)
    if len(found) > 1:
        some = ", ".join(Path(each).name for each in found[:SHOWN])
        more = ", …" if len(found) > SHOWN else ""
        raise ConfigError(
            f"{location}: this folder holds {len(found)} slides ({some}{more}). Name one of them."
        )
    return found[0]


def all_slides(locations: Sequence[str]) -> list[str]:
    """Return what opens each slide that is meant, once: folders stand for the slides in them.

    Raises:
        ConfigError: if a folder holds no slide.

    """
    paths: dict[str, None] = {}
    for location in locations:
        is_folder = not is_url(location) and Path(location).is_dir()
        paths.update(dict.fromkeys(_slides_or_error(location) if is_folder else [location]))
    by_series: dict[tuple[Path, str] | str, str] = {}
    for path in paths:
        header = _slide_header(path)
        key = path if header is None else (Path(path).parent.absolute(), header.series)
        by_series.setdefault(key, path)
    return list(by_series.values())


def own_folders(paths: Sequence[str]) -> dict[str, str]:
    """Name the folder of outputs of each slide, so that no two share one.

    Scanners call the files of every DICOM slide alike: where that is so, the folder that holds
    them tells them apart.

    Raises:
        ConfigError: if two slides cannot be told apart by their names.

    """
    plain = {path: slide_folder(path, Path()).name for path in paths}
    shared = [folder.casefold() for folder in plain.values()]
    taken: dict[str, str] = {}
    folders = {}
    for path, own in plain.items():
        folder = own
        # Many file systems take names that differ in case alone for one.
        if shared.count(own.casefold()) > 1 and may_be_dicom(path):
            folder = slide_folder(f"{Path(path).absolute().parent.name}-{own}{DICOM}", Path()).name
        if other := taken.get(folder.casefold()):
            raise ConfigError(
                f"{other} and {path} would share the output folder {folder}. "
                f"Score them into different --out folders."
            )
        taken[folder.casefold()] = path
        folders[path] = folder
    return folders


def _slides_or_error(folder: str) -> list[str]:
    found = slides_in(Path(folder))
    if not found:
        raise ConfigError(
            f"{folder}: no slides in this folder ({', '.join(sorted(SLIDE_SUFFIXES))})."
        )
    return found


def _slide_header(path: str) -> DicomHeader | None:
    header = dicom_header(path) if not is_url(path) and may_be_dicom(path) else None
    return header if header is not None and header.modality == SLIDE_MODALITY else None
