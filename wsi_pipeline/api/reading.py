"""A finished result's files, read for a person; nothing is read that its summary does not name.

Whatever is read is compared with the digest in the summary, so that a map is never shown beside the
figures of another run.
"""

import hashlib
import io
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError
from pydantic_core import from_json

from wsi_pipeline.errors import ResultError, StoreError
from wsi_pipeline.facts import TilingFacts
from wsi_pipeline.files import read_regular
from wsi_pipeline.geometry import Box
from wsi_pipeline.outputs.cellularity_tiff import read_cellularity
from wsi_pipeline.outputs.estimate import ESTIMATE
from wsi_pipeline.outputs.score_map import ScoreMap
from wsi_pipeline.outputs.summary import OutputFile, SlideSummary
from wsi_pipeline.outputs.tile_table import metadata_of
from wsi_pipeline.scoring.folder import LOCK, NEXT, SUMMARY
from wsi_pipeline.scoring.verify import AGAIN, output_faults
from wsi_pipeline.validation import problems

MAP = "cellularity.ome.tiff"
FINE_MAP = "cellularity-fine.ome.tiff"
TILES = "tiles.parquet"
THUMBNAIL = "thumbnail.png"
OUTLINE = "tissue-outline.png"

VERSION = SlideSummary.model_fields["schema_version"].default
"""Of the summaries that this version reads."""

LARGEST_PICTURE_PX = 50_000_000
"""Of a thumbnail; those that are written have 1600 px on the long side."""


def place_of(path: str | Path) -> Path:
    """Return a path in which a leading ``~`` is the user's home, as a shell would have it."""
    # `Path.expanduser` raises where the name of a file begins with the sign.
    return Path(os.path.expanduser(path))  # noqa: PTH111


def finished_summary(folder: Path) -> SlideSummary:
    """Read the summary of a finished slide, and see that the files that it names are there.

    Files are known by size and time, or by all their bytes where they are newer than the summary.
    The store of tiles is not looked at: a result is whole without it.

    Raises:
        ResultError: if there is no finished result, it is of another version, or a file of it is
            missing or damaged.

    """
    if (folder / NEXT / SUMMARY).exists():
        raise ResultError(
            f"{folder}: a run was killed while it moved a result into this folder. {AGAIN}."
        )
    summary = _summary(folder)
    found = [str(fault) for fault in output_faults(folder, summary)]
    if found:
        more = f" And {len(found) - 1} more of its files: see `wsi verify`." if found[1:] else ""
        raise ResultError(f"{found[0]}{more}")
    return summary


def read_map(folder: Path, summary: SlideSummary, name: str) -> ScoreMap:
    """Read one of the cellularity maps.

    Raises:
        ResultError: if there is none, or the file is not the one that the summary names.

    """
    content = _content(folder, summary, name)
    try:
        return read_cellularity(io.BytesIO(content))
    except StoreError as error:
        raise _unreadable(folder / name, error.__cause__ or error) from error


def read_tiles(folder: Path, summary: SlideSummary) -> pa.Table:
    """Read the tissue tiles; see `wsi_pipeline.outputs.tile_table` for the columns.

    Raises:
        ResultError: if there are none, or the file is not the one that the summary names.

    """
    content = _content(folder, summary, TILES)
    try:
        return pq.read_table(io.BytesIO(content))
    except (pa.ArrowException, ValueError) as error:
        raise _unreadable(folder / TILES, error) from error


def l0_bounds_of(folder: Path, tiles: pa.Table) -> Box:
    """Return the scanned part of the slide, which thumbnails show, in level-0 pixels.

    Raises:
        ResultError: if the tiles do not say.

    """
    try:
        return Box(*TilingFacts.model_validate(metadata_of(tiles)["tiling"]).l0_bounds)
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(folder / TILES, error) from error


def read_picture(folder: Path, summary: SlideSummary, name: str) -> NDArray[np.uint8]:
    """Read a picture of the slide, uint8 RGB [rows, columns, 3].

    Raises:
        ResultError: if there is none, or the file is not the one that the summary names.

    """
    content = _content(folder, summary, name)
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            if picture.width * picture.height <= LARGEST_PICTURE_PX:
                return np.asarray(picture.convert("RGB"), np.uint8)
            size = picture.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _unreadable(folder / name, error) from error
    raise ResultError(
        f"{folder / name}: {size[0]} × {size[1]} px are no thumbnail of ours. {AGAIN}."
    )


def _summary(folder: Path) -> SlideSummary:
    path = folder / SUMMARY
    try:
        content = read_regular(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ResultError(_why_none(folder)) from error
    except OSError as error:
        raise ResultError(f"{path}: cannot be read ({error.strerror}).") from error
    try:
        return SlideSummary.model_validate_json(content)
    except ValidationError as error:
        raise ResultError(f"{path}: {_why_not_understood(content, error)}") from error


def _why_none(folder: Path) -> str:
    """Say why a folder has no summary, and what to do."""
    if not folder.exists():
        return f"{folder}: there is no such folder. Name the folder of one slide's results."
    if not folder.is_dir():
        return f"{folder}: this is a file. Name the folder of one slide's results."
    from wsi_pipeline.night.plan import recall  # only here, since it is much to load

    try:
        night = recall(folder)
    except OSError:
        night = None
    if night is not None:
        return f"{folder}: a night came to no result. {night.outcome.reason}"
    if (folder / MAP).exists():
        return f"{folder}: {SUMMARY} is gone, without which nobody knows what is whole. {AGAIN}."
    if (folder / ESTIMATE).exists():
        return (
            f"{folder}: of this slide there is an estimate alone, {ESTIMATE}, and no result yet. "
            "Run `wsi score` without a precision, which goes on from there."
        )
    if (folder / LOCK).exists():
        return (
            f"{folder}: this slide is not finished: a run is at work on it, or was interrupted. "
            f"Wait for it, or run the same `wsi score` again, which goes on from there."
        )
    slides = sorted(path.parent.name for path in folder.glob(f"*/{SUMMARY}"))
    if slides:
        return (
            f"{folder}: this holds the results of {len(slides)} slides. Open one of them, such as "
            f"{folder / slides[0]}, or all with `open_results`."
        )
    return f"{folder}: there is no result here. Score a slide with `wsi score` or `score` first."


def _why_not_understood(content: bytes, error: ValidationError) -> str:
    """Say what keeps a summary from being read: damage, or another version."""
    try:
        found = from_json(content)
    except ValueError:
        return f"is damaged: it is no JSON. {AGAIN}."
    version = found.get("schema_version") if isinstance(found, dict) else None
    if isinstance(version, int) and version > VERSION:
        return f"is of version {version}, and this wsi-pipeline reads version {VERSION}. Update it."
    if isinstance(version, int) and version < VERSION:
        return (
            f"is of version {version}, which an older wsi-pipeline wrote: it does not say which "
            f"files belong to it, as version {VERSION} does. {AGAIN}, and the slide is scored anew."
        )
    return (
        f"is damaged, or was written by another version of wsi-pipeline ({problems(error)}). "
        f"{AGAIN}."
    )


def _content(folder: Path, summary: SlideSummary, name: str) -> bytes:
    """Read a file of a result, all of it, and see that it is the one that the summary names."""
    path, was = folder / name, summary.outputs.get(name)
    if summary.status == "refused" and was is None:
        raise ResultError(
            f"{summary.provenance.slide.name}: the slide was refused and has no {name}. "
            f"{summary.reason}"
        )
    if was is None:
        raise ResultError(f"{path}: the summary beside it names no such file. {AGAIN}.")
    try:
        content = read_regular(path)
    except OSError as error:
        raise ResultError(f"{path}: cannot be read ({error.strerror}). {AGAIN}.") from error
    # As `slide.files.content_digest` has it of one file.
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    if OutputFile(size_bytes=len(content), digest=digest) != was:
        raise ResultError(
            f"{path}: is not the file that belongs to these figures any more: another run has "
            f"written it since the result was opened, or it is damaged. Open the result again."
        )
    return content


def _unreadable(path: Path, error: BaseException) -> ResultError:
    return ResultError(
        f"{path}: cannot be understood ({type(error).__name__}: {error}). It was written by "
        f"another version of wsi-pipeline, or by another program. {AGAIN}."
    )
