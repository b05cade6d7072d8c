"""Fetch the public data of the breast model, as far as a public git repository holds it.

The others are behind pages of their own: where, under which licence and in which form they belong
below the same folder is told. Nothing is fetched unless somebody asks for it.
"""

import shutil
import subprocess
from pathlib import Path
from typing import Final

from wsi_pipeline.errors import ConfigError

BRCA_M2C: Final = "https://github.com/TopoXLab/Dataset-BRCA-M2C"
"""BRCA-M2C, BSD-3-Clause."""

BY_HAND: Final = {
    "brecahad": "BreCaHAD, CC BY 4.0: figshare, article 7379186; images and cells.csv",
    "tnbc": "TNBC, CC BY 4.0: zenodo, record 1175282; N.png and N_nuclei.png",
    "bcss": "BCSS, CC0: github.com/PathologyDataScience/BCSS; NAME.png and NAME_mostly_tumour.png",
    "camelyon16": "patches of Camelyon16, CC0: github.com/DIDSR/DeepLearningCamelyon_II; "
    "normal/ and tumor/",
}
"""What has to be fetched by hand, by the folder that it belongs into; the modules of these names
say how files are called there."""


def fetch(root: Path, address: str = BRCA_M2C) -> Path:
    """Clone BRCA-M2C into a folder of its name, unless that is there; return the folder.

    Args:
        root: the folder of all sets.
        address: of the repository, as git takes it.

    Raises:
        ConfigError: If git is not installed, or cannot clone it.

    """
    folder = root / "brca-m2c"
    if folder.exists():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    partial = root / ".partial-brca-m2c"
    shutil.rmtree(partial, ignore_errors=True)
    command = ["git", "clone", "--quiet", "--depth", "1", "--", address, str(partial)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    except FileNotFoundError as error:
        raise ConfigError("git is not installed, which fetches BRCA-M2C; install it.") from error
    except subprocess.CalledProcessError as error:
        said = (error.stderr or "").strip().splitlines()
        cause = said[-1] if said else f"exit code {error.returncode}"
        raise ConfigError(
            f"{address} cannot be cloned ({cause}): see to the network, and try again, or put "
            f"the set into {folder} by hand."
        ) from error
    partial.rename(folder)
    return folder


def still_missing(root: Path) -> list[str]:
    """Return a line for each set that is not there and has to be fetched by hand."""
    return [
        f"{root / name}: {what}" for name, what in BY_HAND.items() if not (root / name).is_dir()
    ]
