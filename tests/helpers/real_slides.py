"""Where the real slides are: a folder with `slides/` and, of some of them, `masks/`."""

import os
from pathlib import Path

DATA = Path(os.environ.get("WSI_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
SLIDES = DATA / "slides"
