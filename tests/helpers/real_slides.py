"""Where the real slides are: a folder with `slides/` and, of some of them, `masks/`."""

import os
from pathlib import Path

DATA = Path(os.environ.get("WSI_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
SLIDES = DATA / "slides"

SAMPLE = Path(__file__).parents[2] / "docs" / "sample" / "tcga-a2-a0d2.tif"
"""The slide of `make demo`, which is part of the repository."""


def slides_or_sample() -> list[Path]:
    """Return the real slides, or the sample where there are none: benchmarks run anywhere."""
    found = sorted(SLIDES.iterdir()) if SLIDES.is_dir() else [SAMPLE]
    return [path for path in found if path.suffix in (".svs", ".tif")]
