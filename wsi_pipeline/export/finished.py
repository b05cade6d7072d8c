"""Finished results, as exports take them: whole, or refused; and stores that appear when whole."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wsi_pipeline.bed.outline import BED as BED
from wsi_pipeline.errors import OutputError, ResultError
from wsi_pipeline.outputs.summary import SlideSummary
from wsi_pipeline.scoring.folder import output_file, read_summary

FINE_MAP, MAP = "cellularity-fine.ome.tiff", "cellularity.ome.tiff"
OVERLAY, THUMBNAIL, TISSUE = "overlay.tif", "thumbnail.png", "tissue.png"
TILES = "tiles.parquet"


def scored_summary(folder: Path) -> SlideSummary:
    """Read the figures of a scored slide.

    Args:
        folder: the slide's results.

    Raises:
        ResultError: if there are none.

    """
    summary = read_summary(folder)
    if summary is None or summary.status != "scored":
        raise ResultError(f"{folder}: there is no finished result here. Run `wsi score` first.")
    return summary


def own_file(folder: Path, summary: SlideSummary, name: str) -> Path:
    """Return the path of a file that belongs to these figures, by all its bytes.

    Raises:
        ResultError: if it is gone, or another than when the figures were written: no export shows
            a map beside the figures of another run.

    """
    path, was = folder / name, summary.outputs.get(name)
    if was is None or not path.is_file() or output_file(path) != was:
        raise ResultError(
            f"{path}: is gone, or not what it was when its figures were written. Run the same "
            "`wsi score` again, which writes it anew."
        )
    return path


@contextmanager
def new_store(target: Path) -> Iterator[Path]:
    """Yield a place for a store that appears under its name when the block is through.

    Raises:
        OutputError: if the target exists, or cannot be written.

    """
    if target.exists():
        raise OutputError(f"{target}: is there already. Delete it, or choose another name.")
    partial = target.with_name(f".partial-{target.name}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.rename(target)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error.strerror or error}).") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
