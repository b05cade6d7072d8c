"""The pages that people read: the README, `CONTRIBUTING.md` and all of `docs/`."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
