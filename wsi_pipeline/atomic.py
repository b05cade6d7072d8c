"""Files appear under their final names only when they are whole."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
