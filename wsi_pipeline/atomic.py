"""Files appear under their final names only when they are whole, and nowhere else."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wsi_pipeline.errors import OutputError
from wsi_pipeline.regular import kind_of


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a hidden sibling of ``path`` to write to; rename it to ``path`` if the block succeeds.

    The name keeps its suffix, since writers choose their format by it. A killed process leaves at
    most the hidden file, which the next run replaces.
    """
    partial = path.with_name(f".partial-{path.name}")
    # Not overwritten: somebody may have made it a link to a file elsewhere.
    partial.unlink(missing_ok=True)
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def refuse_odd_files(folder: Path) -> None:
    """Raise if results would be written through a link, to wherever it leads, or into a pipe.

    Args:
        folder: that gets results, whose links are not followed.

    Raises:
        OutputError: naming the first path that is no file and no folder.

    """
    for path in (folder, *folder.rglob("*")):
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            continue  # not there yet, or another run's that has just gone
        if stat.S_ISLNK(mode):
            raise OutputError(
                f"{path}: this is a link, and results are not written through links, which may "
                f"lead anywhere. Remove it, or choose another --out."
            )
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise OutputError(
                f"{path}: this is {kind_of(mode)}, where results belong. Remove it, or choose "
                f"another --out."
            )
