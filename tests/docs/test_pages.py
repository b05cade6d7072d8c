"""What the pages say of the repository is so, and the site of them builds."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.helpers.pages import PAGES, ROOT
from tools import layers

FILE = re.compile(
    r"`((?:wsi_pipeline|flows|training|tests|tools|configs|deploy|docs)/[\w./-]+)(?:::\w+)?`"
)
MODULE = re.compile(
    r"(?:python|torchrun\b[^`\n]*) -m ((?:wsi_pipeline|flows|training|tests|tools)[\w.]*)"
)

TEXTS = {str(page.relative_to(ROOT)): page.read_text("utf-8") for page in PAGES}


def test_the_readme_is_short() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= 250


@pytest.mark.parametrize("page", TEXTS)
def test_files_and_modules_that_are_named_exist(page: str) -> None:
    files = set(FILE.findall(TEXTS[page]))
    modules = set(MODULE.findall(TEXTS[page]))
    assert [name for name in sorted(files) if not (ROOT / name).exists()] == []
    assert [name for name in sorted(modules) if find_spec(name) is None] == []


def test_the_architecture_answers_questions_with_files() -> None:
    rows = re.findall(r"^\| (\d+) \| .+\? \| (.+) \|$", TEXTS["docs/architecture.md"], re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 25))
    assert all(FILE.search(answer) for _, answer in rows)


def test_the_picture_of_the_layers_is_that_of_the_contract() -> None:
    """Draw it again with `python -m tools.layers`."""
    assert layers.PICTURE.read_text("utf-8") == layers.picture(ROOT)


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """Links, anchors, pictures, references, and nothing that readers would fetch from elsewhere."""
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={"PATH": "/nowhere", "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "index.html").exists()
