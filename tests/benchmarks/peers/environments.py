"""The peers' virtual environments: made on first use, from exact pins."""

import logging
import shutil
import subprocess
import sys
import venv
from hashlib import sha256
from pathlib import Path

log = logging.getLogger(__name__)

REQUIREMENTS = Path(__file__).parent / "requirements"
MARKER = "requirements.sha256"


def python_of(name: str, folder: Path) -> Path:
    """Return the interpreter of a peer's environment, made first if need be.

    Packages come from wherever pip is configured to look.

    Raises:
        CalledProcessError: if pip cannot install what is pinned.

    """
    requirements = REQUIREMENTS / f"{name}.txt"
    digest = sha256(requirements.read_bytes()).hexdigest()
    home = folder / name
    python = home / "bin" / "python"
    marker = home / MARKER
    if marker.is_file() and marker.read_text(encoding="utf-8") == digest:
        return python
    log.info("Making the environment of %s in %s (minutes)", name, home)
    shutil.rmtree(home, ignore_errors=True)
    home.parent.mkdir(parents=True, exist_ok=True)
    venv.create(home, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--requirement", str(requirements)], check=True, stdout=sys.stderr)
    marker.write_text(digest, encoding="utf-8")
    return python
