"""The folder of a night's report, ``nights/2026-11-23T0200Z/`` below the output folder.

It holds the tables (`night.report_table`) and the page (`night.report_page`), which is written
last.
"""

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from wsi_pipeline.files import atomic_path
from wsi_pipeline.night.report import NightReport
from wsi_pipeline.night.report_page import night_page
from wsi_pipeline.night.report_table import write_tables

NIGHTS = "nights"
PAGE = "index.html"


def write_report(out: Path, night: NightReport) -> Path:
    """Write the report of a night into a folder that no other night has.

    Args:
        out: the folder with one folder per slide.
        night: what became of the slides.

    Returns:
        the page.

    Raises:
        OSError: if it cannot be written.

    """
    folder = _folder(out, night.started)
    write_tables(folder, night.sorted_outcomes())
    with (
        atomic_path(folder / PAGE) as partial,
        partial.open("w", encoding="utf-8", newline="\n") as file,
    ):
        # Piece by piece, since every slide brings a picture.
        file.writelines(night_page(out, night))
    return folder / PAGE


def _folder(out: Path, started: datetime) -> Path:
    """Make the folder of a night, which no other night has, of the same minute or still at work."""
    nights = next(folder for folder in _numbered(out / NIGHTS) if _is_or_becomes_a_folder(folder))
    name = started.astimezone(UTC).strftime("%Y-%m-%dT%H%MZ")
    for folder in _numbered(nights / name):
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise AssertionError


def _numbered(path: Path) -> Iterator[Path]:
    return (path.with_name(f"{path.name}-{n}") if n > 1 else path for n in itertools.count(1))


def _is_or_becomes_a_folder(path: Path) -> bool:
    """Tell whether a folder can be had by this name; not where a file has it, or a link."""
    if path.is_symlink():
        return False
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        return False
    return True
