"""Small folders of labelled data in the layouts that training reads."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image


def key_xml(*groups: tuple[str, list[tuple[int, int]]]) -> str:
    """A key file as the challenge's program writes it: groups of a description and its points."""
    graphics = "".join(
        f'<graphic type="point" name="Region 2" description="{description}">'
        '<pen color="#9f9f9fff" width="10" style="Solid"/><point-list>'
        + "".join(f"<point>{x},{y}</point>" for x, y in points)
        + "</point-list></graphic>"
        for description, points in groups
    )
    return (
        '<?xml version="1.0"?><session software="PathCore Session Printer" version="0.1.0">'
        f'<image identifier="Y:\\cells\\crop.tif"><overlays>{graphics}</overlays></image></session>'
    )


@dataclass(frozen=True)
class Challenge:
    """A BreastPathQ root with six regions of three slides, three patches, two and one."""

    root: Path

    KEY = (("MC- E", [(53, 61), (65, 80)]), ("til-s", [(0, 0)]), ("DCIS  1", []), ("UDH", [(7, 9)]))

    @property
    def datasets(self) -> Path:
        return self.root / "datasets"

    def region(self, slide: int, number: int, what: str) -> Path:
        name = {"image": "crop.tif", "key": "key.xml"}[what]
        return self.datasets / "cells" / f"{slide}_Region {number}_{name}"

    def write_key(self, slide: int, number: int, *groups: tuple[str, list]) -> Path:
        path = self.region(slide, number, "key")
        path.write_text(key_xml(*groups))
        return path


@pytest.fixture
def challenge(tmp_path: Path, tissue_like: Callable[..., NDArray[np.uint8]]) -> Challenge:
    made = Challenge(tmp_path / "breastpathq")
    tables = {
        ("train", "train_labels.csv"): "slide,rid,y\n1001,1,0.4\n1001,2,0\n1002,1,1\n",
        ("validation", "val_labels.csv"): "slide,rid,y\n2001,1,0.95\n2001,10,0.15\n",
        ("test", "test_labels.csv"): "slide,rid,y1,y2\n3001,1,0.3,0.5\n",
    }
    picture = tissue_like(512, 512)
    count = 0
    for (part, table), content in tables.items():
        (made.datasets / part).mkdir(parents=True)
        (made.datasets / table).write_text(content)
        for line in content.splitlines()[1:]:
            slide, rid, *_ = line.split(",")
            count += 1
            patch = np.roll(picture, 50 * count, axis=1)
            tifffile.imwrite(made.datasets / part / f"{slide}_{rid}.tif", patch, photometric="rgb")
    (made.datasets / "cells").mkdir()
    for slide, number in ((29, 1), (29, 2), (30, 1), (31, 1), (31, 2), (31, 10)):
        count += 1
        region = np.roll(picture, 50 * count, axis=1)[:90, :120]
        tifffile.imwrite(made.region(slide, number, "image"), region, photometric="rgb")
        made.write_key(slide, number, *Challenge.KEY)
    return made


@pytest.fixture
def crchisto_root(tmp_path: Path, tissue_like: Callable[..., NDArray[np.uint8]]) -> Path:
    root = tmp_path / "crchisto"
    table = "x,y,class\n10.5,20.5,epithelial\n0.2,0.3,inflammatory\n100.0,80.0,fibroblast\n"
    for i, name in enumerate(("train/img1", "train/img2", "validation/img3")):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tissue_like(80, 100, i)).save(path.with_suffix(".png"))
        path.with_suffix(".csv").write_text(table)
    return root
