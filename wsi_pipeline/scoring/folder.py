"""A slide's folder of results: who may write to it, and how a result appears in it.

::

    summary.json, cellularity.ome.tiff …    a finished result; the summary names every file
    tiles.zarr                              its store
    estimate.json, estimate.ome.tiff …      what part of the tiles says; gone once all are scored
    .next/                                  the result that is being made, with its store where
                                            the one above is another result's
    .lock, run.log

A result is made in ``.next`` and moved into place when all of it is there, ``summary.json`` last.
So what is finished stays whole until another is: a refusal, an error or a kill costs ``.next``
alone. Once ``.next`` has its own summary it is complete, and whoever comes next goes on moving.
"""

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
from pydantic import ValidationError

from wsi_pipeline.errors import InUseError, OutputError, StoreError
from wsi_pipeline.files import read_regular, refuse_odd_files
from wsi_pipeline.outputs.estimate import ESTIMATE_FILES
from wsi_pipeline.outputs.provenance import Provenance, Settings
from wsi_pipeline.outputs.summary import OutputFile, SlideSummary, write_summary
from wsi_pipeline.slide.access import AWAY
from wsi_pipeline.slide.files import content_digest
from wsi_pipeline.tiles.store import TileStore
from wsi_pipeline.tiles.store_place import STORE_NAME, StoreConfig, StorePath

log = logging.getLogger(__name__)

SUMMARY = "summary.json"
NEXT = ".next"
LOCK = ".lock"
OUTCOME = "outcome.json"
"""A night's note of why there is no result."""

OUTPUTS = frozenset(
    {
        "bed.geojson", "cellularity-fine.ome.tiff", "cellularity.ome.tiff", "legend.png",
        "overlay.png", "overlay.tif", "report.html", "thumbnail.png", "tiles.geojson",
        "tiles.parquet", "tissue-outline.png", "tissue.png",
    }
)  # fmt: skip
"""All that a result can hold beside its summary and its store."""

OUTPUT_FAULTS = AWAY | {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG
}  # fmt: skip
"""What the operating system says of a disk that cannot be written, besides what names a file."""

ORPHAN_S = 10.0
"""Scoring processes whose night was killed end by themselves, mostly within a second: the next
night waits for them, and not for a run that is well."""


def read_summary(folder: Path) -> SlideSummary | None:
    """Read the summary of a finished slide; None if it is not finished, or by another version."""
    try:
        return SlideSummary.model_validate_json(read_regular(folder / SUMMARY))
    except (OSError, ValidationError):
        return None


def holds(summary: SlideSummary, digest: str, settings: Settings) -> bool:
    """Tell whether a result is of a slide of this digest, and of what is asked now.

    The software's versions do not count: an update must not score a whole archive again. Nor does
    a bed that somebody drew since, unless another is asked for.
    """
    made = summary.provenance
    if settings.bed is None:
        settings = settings.model_copy(update={"bed": made.config.bed})
    return made.slide.digest == digest and made.config == settings


def prepare(folder: Path) -> Path:
    """Return the folder in which the next result is made, without leftovers but for its store."""
    staged = folder / NEXT
    staged.mkdir(exist_ok=True)
    for path in staged.iterdir():
        if not path.is_dir():
            path.unlink()
    return staged


def publish(folder: Path, summary: SlideSummary) -> SlideSummary:
    """Put the staged result in the place of the one before; return its summary, all files named."""
    staged = folder / NEXT
    outputs = dict(summary.outputs)
    for path in sorted(staged.iterdir()):
        if path.name in OUTPUTS:
            outputs[path.name] = output_file(path)
    summary = summary.model_copy(update={"outputs": dict(sorted(outputs.items()))})
    _flush(staged)
    write_summary(staged / SUMMARY, summary)
    roll_forward(folder)
    return summary


def settle(folder: Path, summary: SlideSummary) -> SlideSummary:
    """Publish a staged result, unless it is a refusal and a figure is there.

    Returns:
        the summary as published, or as given where it was not.

    Raises:
        OutputError: if the folder was deleted or its drive lost meanwhile.

    """
    require_in_place(folder)
    before = read_summary(folder)
    if summary.status == "refused" and before is not None and before.status == "scored":
        log.warning("Refused. The figure of an earlier run, with other settings, is left in place")
        return summary
    return publish(folder, summary)


def roll_forward(folder: Path) -> None:
    """Move a complete result into place, from wherever an earlier run was stopped in doing so."""
    staged = folder / NEXT
    summary = read_summary(staged)
    if summary is None:
        return
    made, place = staged / STORE_NAME, folder / STORE_NAME
    if is_store_of(made, summary.provenance):
        if place.exists():
            _set_aside(place)
        made.rename(place)
    for name in OUTPUTS:
        if (staged / name).exists():
            (staged / name).replace(folder / name)
        elif name not in summary.outputs:
            (folder / name).unlink(missing_ok=True)
    for name in ESTIMATE_FILES:
        (folder / name).unlink(missing_ok=True)
    _flush(folder)
    (staged / SUMMARY).replace(folder / SUMMARY)
    _flush(folder)
    try:
        staged.rmdir()
    except OSError:
        return  # the store of another result lies there, to be gone on with


def output_file(path: Path) -> OutputFile:
    """Describe a file by its bytes."""
    return OutputFile(size_bytes=path.stat().st_size, digest=content_digest([str(path)]))


def store_place(
    folder: Path, config: StoreConfig, tiling_digest: str, scoring_digest: str | None = None
) -> StorePath:
    """Return where to store tiles: beside the finished result only if they are that result's own.

    A root of its own sets stores of other settings aside by itself.
    """
    place = config.path(folder)
    if config.root is not None or not (folder / SUMMARY).exists():
        return place
    try:
        store = TileStore(place)
    except StoreError:
        return folder / NEXT / STORE_NAME
    same_scores = scoring_digest is None or store.scoring_digest == scoring_digest
    same = store.tiling_digest == tiling_digest and same_scores
    return place if same else folder / NEXT / STORE_NAME


def is_store_of(path: StorePath, provenance: Provenance) -> bool:
    """Tell whether there is a store of just these tiles and scores."""
    try:
        store = TileStore(path)
    except StoreError:
        return False
    return (store.tiling_digest, store.scoring_digest) == (
        provenance.tiling_digest,
        provenance.scoring_digest,
    )


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; a lock left by a dead process is no lock.

    Raises:
        InUseError: if another process is at work on the same slide, and does not end soon.
        OutputError: if the folder cannot be written, or is gone at the end.

    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        refuse_odd_files(folder)
        with filelock.FileLock(folder / LOCK, timeout=ORPHAN_S):
            if (folder / SUMMARY).is_dir():
                raise IsADirectoryError(
                    errno.EISDIR, os.strerror(errno.EISDIR), str(folder / SUMMARY)
                )
            try:
                yield
            except (OSError, StoreError):
                require_in_place(folder)
                raise
    except filelock.Timeout as error:
        raise InUseError(
            f"{folder}: another run is at work on this slide. Wait for it, or choose another --out."
        ) from error
    except OSError as error:
        named = str(error.filename or "").startswith(str(folder))
        if not named and error.errno not in OUTPUT_FAULTS:
            raise
        what = f"{Path(error.filename).name}: {error.strerror}" if named else error.strerror
        raise OutputError(
            f"{folder}: cannot be written ({what}). Free space, clear the way or choose another "
            f"--out; what is stored so far is kept, and the same command goes on from it."
        ) from error


def require_in_place(folder: Path) -> None:
    """Raise if the folder was deleted or its drive lost meanwhile.

    To zarr a folder that is missing is one to be made, and a file that is missing holds zeros.
    """
    if not (folder / LOCK).exists():
        raise OutputError(
            f"{folder}: was moved or deleted, or its drive was lost, while the slide was being "
            f"scored. Run the same command again once it can be written."
        )


def _set_aside(store: Path) -> None:
    """Rename a store out of the way of another."""
    try:
        TileStore(store).set_aside()
    except StoreError:
        number = 1
        while (aside := store.with_name(f"{store.stem}-damaged-{number}.zarr")).exists():
            number += 1
        store.rename(aside)


def _flush(folder: Path) -> None:
    """Have the disk keep what a folder names, as far as it can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Not all network drives can flush a folder.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
