"""Whether finished results are still what they were: `wsi verify`, and what reruns ask first.

A summary names each file of its result with its size and digest. Cheaply, a file is taken for whole
that has its size and was not written to since the summary was; any other is read. Deeply, all are
read, and all arrays of the store, whose chunks carry checksums.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wsi_pipeline.errors import ConfigError, StoreError
from wsi_pipeline.outputs.provenance import Provenance, Settings
from wsi_pipeline.outputs.summary import OutputFile, SlideSummary
from wsi_pipeline.scoring.folder import (
    LOCK,
    NEXT,
    OUTCOME,
    OUTPUTS,
    SUMMARY,
    holds,
    is_store_of,
    output_file,
    read_summary,
)
from wsi_pipeline.tiles.store import TileStore
from wsi_pipeline.tiles.store_place import StoreConfig

AGAIN = "Run the same `wsi score` or night again"
REMADE = f"{AGAIN}: what is gone is written again from the store, or scored again without one."


@dataclass(frozen=True, slots=True)
class Fault:
    """Something about a result that is not as it was, and what to do about it."""

    path: Path
    what: str
    remedy: str = REMADE

    def __str__(self) -> str:
        return f"{self.path}: {self.what}. {self.remedy}"


def finished(folder: Path, slide_digest: str, settings: Settings) -> SlideSummary | None:
    """Return the result of a slide of this digest if it is whole, and what is asked for now."""
    summary = read_summary(folder)
    if (
        summary is None
        or (folder / NEXT / SUMMARY).exists()
        or not holds(summary, slide_digest, settings)
        or next(output_faults(folder, summary), None) is not None
    ):
        return None
    return summary


def store_to_write_from(
    folder: Path, slide_digest: str, settings: Settings, config: StoreConfig
) -> tuple[TileStore, Provenance] | None:
    """Return the whole store of a finished result that lost others of its files.

    Args:
        folder: the slide's.
        slide_digest: of the slide's bytes.
        settings: what is asked for now.
        config: where stores are.

    Returns:
        the store and what the result was made from; None if there is no such result, or its store
        is gone or damaged.

    """
    summary = read_summary(folder)
    if summary is None or summary.status != "scored" or not holds(summary, slide_digest, settings):
        return None
    place = config.path(folder)
    if not is_store_of(place, summary.provenance):
        return None
    store = TileStore(place)
    return None if store_fault(store) else (store, summary.provenance)


def output_faults(folder: Path, summary: SlideSummary, *, deep: bool = False) -> Iterator[Fault]:
    """Yield what is wrong with the files of a result, the store apart."""
    written_ns = (folder / SUMMARY).stat().st_mtime_ns
    for name, was in summary.outputs.items():
        what = _fault_of(folder / name, was, None if deep else written_ns)
        if what is not None:
            yield Fault(folder / name, what)


def faults(folder: Path, store: StoreConfig, *, deep: bool = False) -> list[Fault]:
    """Return all that is wrong with a slide's folder; nothing where no result is to be expected."""
    path = folder / SUMMARY
    if (folder / NEXT / SUMMARY).exists():
        return [Fault(path, "a run was killed while it moved a result into place", f"{AGAIN}.")]
    summary = read_summary(folder)
    if summary is None:
        if path.exists():
            return [Fault(path, "is damaged, or of another version", f"{AGAIN}.")]
        if any((folder / name).exists() for name in ("cellularity.ome.tiff", "tiles.parquet")):
            return [Fault(path, "is gone", f"{AGAIN}.")]
        return []
    found = list(output_faults(folder, summary, deep=deep))
    place = store.path(folder)
    # Whoever is short of space may delete a store: the result is whole without it.
    if summary.status == "scored" and place.exists():
        if not is_store_of(place, summary.provenance):
            what: str | None = "is damaged, or not the store of this result"
        else:
            what = store_fault(TileStore(place)) if deep else None
        if what is not None:
            remedy = "Move it away: the other files are whole without it."
            found.append(Fault(folder / place.name, what, remedy))
    return found


def store_fault(store: TileStore) -> str | None:
    """Say what is wrong with the arrays of a store, all of which are read."""
    try:
        if not store.is_scored:
            return "lacks scores"
        store.table()
    except StoreError as error:
        return str(error)
    return None


def slide_folders(where: Path) -> list[Path]:
    """Return the folders of single slides: this one, or those in it.

    Raises:
        ConfigError: if there is none.

    """
    found = [where] if _is_slides(where) else []
    if not found and where.is_dir():
        found = sorted(path for path in where.iterdir() if _is_slides(path))
    if not found:
        raise ConfigError(
            f"{where}: no results are here. Name the folder of one slide, or the one that was "
            f"given as --out."
        )
    return found


def _is_slides(folder: Path) -> bool:
    marks = (LOCK, SUMMARY, OUTCOME, *OUTPUTS)
    return (
        folder.is_dir()
        and not folder.is_symlink()
        and not folder.name.startswith(".")
        and any((folder / mark).exists() for mark in marks)
    )


def _fault_of(path: Path, was: OutputFile, unchanged_before_ns: int | None) -> str | None:
    """Say what is wrong with a file; it is read unless it is older than a given time."""
    try:
        about = path.lstat()
        if not path.is_file() or path.is_symlink():
            return "is no file any more"
        if about.st_size != was.size_bytes:
            return f"has {about.st_size:,} bytes and not {was.size_bytes:,}"
        if unchanged_before_ns is not None and about.st_mtime_ns < unchanged_before_ns:
            return None
        return None if output_file(path) == was else "its bytes have changed"
    except FileNotFoundError:
        return "is gone"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
