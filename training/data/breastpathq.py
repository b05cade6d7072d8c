"""BreastPathQ as the challenge hands it out: patches with scores, and regions with marked nuclei.

Its layout, in a folder ``datasets`` of the root (or in the root itself)::

    train/{slide}_{rid}.tif             RGB patches of 512×512 px at 0.5 µm/px
    train_labels.csv                    slide,rid,y
    validation/, val_labels.csv         likewise
    test/, test_labels.csv              likewise, if they are there; two raters: slide,rid,y1,y2
    cells/{n}_Region {m}_crop.tif       RGB regions of various sizes at 0.5 µm/px
    cells/{n}_Region {m}_key.xml        their nuclei as points, a class per group of them

Petrick et al., SPIE-AAPM-NCI BreastPathQ challenge, Journal of Medical Imaging 8 (2021).
"""

import re
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Literal
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import DefusedXmlException, ElementTree
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from training.data.generated import Part
from training.data.labels import Report, read_rgb, read_table, refuse, reported, within
from training.data.picture import LazyPictures, Picture, Pictures, of_nuclei, of_score
from training.ground_truth import Nuclei, nucleus_mask, outline_nuclei
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.model.architecture import CLASSES

CLASS_OF_DESCRIPTION = {
    description: CLASSES.index(name)
    for name, descriptions in {
        "lymphocyte": ("TIL-E", "TIL-S"),
        "normal": ("normal", "UDH", "ADH"),
        "malignant": (
            *("IDC", "ILC", "Muc C", "DCIS 1", "DCIS 2", "DCIS 3"),
            *("MC-E", "MC-C", "MC-M"),
        ),
    }.items()
    for description in descriptions
}
"""The class of each description in the key files; case and spaces do not matter."""

ChallengePart = Literal["train", "validation", "test"]

TABLES: dict[ChallengePart, str] = {
    "train": "train_labels.csv",
    "validation": "val_labels.csv",
    "test": "test_labels.csv",
}
"""The table of scores of each folder of patches."""

PATCH_PX = 512

_REGION = re.compile(r"(?P<slide>\d+)_Region (?P<region>\d+)_(?:crop\.tif|key\.xml)")


class BreastPathQData(BaseModel):
    """The challenge's data: its regions teach stage 1, its patches stage 2.

    The challenge splits the patches. It does not split the regions, so whole slides of them are
    drawn at random until ``validation_regions`` are held back.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["breastpathq"]
    root: Path = Field(description="folder that holds `datasets`, or that folder")
    validation_regions: int = Field(default=8, gt=0, description="regions to judge stage 1 by")
    seed: int = Field(default=0, ge=0, description="decides which slides' regions these are")

    def nuclei(self, part: Part) -> Pictures:
        """Return regions with the masks that a watershed finds around their nuclei.

        Raises:
            ConfigError: If a file is missing or malformed, or all regions are of one slide; on
                reading a picture, if its image is damaged or does not hold its points.

        """
        training, validation = split(find_regions(self.root), self.validation_regions, self.seed)
        return region_pictures(training if part == "train" else validation)

    def cellularity(self, part: ChallengePart) -> Pictures:
        """Return patches with the score of each rater, read when asked for.

        Raises:
            ConfigError: If a table is malformed or does not fit the files beside it; on reading a
                picture, if its image is damaged, not RGB, or not 512×512 px.

        """
        return patch_pictures(find_patches(self.root, part))


@dataclass(frozen=True)
class Region:
    """A region in which every nucleus is marked."""

    slide: int
    number: int
    image: Path
    key: Path


@dataclass(frozen=True)
class Patch:
    """A patch and what each rater gave it."""

    slide: str
    image: Path
    scores: tuple[float, ...]


def datasets(root: Path) -> Path:
    """Return the folder that holds the set: the root's ``datasets``, if there, or the root."""
    return root / "datasets" if (root / "datasets").is_dir() else root


def find_regions(root: Path, report: Report = refuse) -> list[Region]:
    """List the regions, by slide and number; their keys are read, their images are not."""
    folder = datasets(root) / "cells"
    files: dict[tuple[int, int], dict[str, Path]] = {}
    for path in folder.glob("*.*"):
        if path.suffix not in (".tif", ".xml"):
            continue
        if not (parts := _REGION.fullmatch(path.name)):
            report(
                f"{path} has no name of a region; call it '29_Region 1_crop.tif' or "
                "'29_Region 1_key.xml', after its slide and region, or remove it."
            )
            continue
        files.setdefault((int(parts["slide"]), int(parts["region"])), {})[path.suffix] = path
    if not files:
        report(f"{folder} holds no regions; stage 1 needs the challenge's folder 'cells' there.")
    regions = []
    for (slide, number), pair in sorted(files.items()):
        if ".tif" not in pair:
            report(f"{pair['.xml']} has no image beside it; add '…_crop.tif' or remove the key.")
        elif ".xml" not in pair:
            report(f"{pair['.tif']} has no key beside it; add '…_key.xml' or remove the image.")
        else:
            with reported(report):
                read_key(pair[".xml"])
                regions.append(Region(slide, number, pair[".tif"], pair[".xml"]))
    return regions


def split(
    regions: list[Region], validation_regions: int, seed: int
) -> tuple[list[Region], list[Region]]:
    """Part regions into those to learn from and those to judge by, whole slides at a time.

    Raises:
        ConfigError: If too few slides are there to leave some to learn from.

    """
    slides = sorted({region.slide for region in regions})
    np.random.default_rng(seed).shuffle(slides)
    held_back: set[int] = set()
    while slides and sum(region.slide in held_back for region in regions) < validation_regions:
        held_back.add(slides.pop())
    if not slides:
        raise ConfigError(
            f"Holding back {validation_regions} of {len(regions)} regions, whole slides at a time, "
            "leaves none to learn from; choose a smaller `validation_regions` or add slides."
        )
    training = [region for region in regions if region.slide not in held_back]
    return training, [region for region in regions if region.slide in held_back]


def find_patches(root: Path, part: ChallengePart, report: Report = refuse) -> list[Patch]:
    """List a part's patches in the order of its table; their images are not read."""
    folder = datasets(root) / part
    table = datasets(root) / TABLES[part]
    images = {path.name for path in folder.glob("*.tif")}
    if not images:
        report(f"{folder} holds no *.tif; put the patches there that {table} lists.")
        return []
    patches: list[Patch] = []
    listed: set[str] = set()
    with reported(report):
        rows = read_table(table, ("slide", "rid"), report)
        if rows and not _raters(rows[0][1]):
            raise ConfigError(
                f"{table} lacks the column y (or y1, y2 … of several raters); add it."
            )
        for place, row in rows:
            name = f"{row['slide']}_{row['rid']}.tif"
            if name in listed:
                report(f"{place}, lists {name} a second time; remove one of the two rows.")
            elif name not in images:
                report(
                    f"{place}, lists {folder / name}, which is missing; add it or remove the row."
                )
            else:
                with reported(report):
                    patches.append(Patch(row["slide"], folder / name, _scores(place, row)))
            listed.add(name)
        for name in sorted(images - listed):
            report(f"{folder / name} has no row in {table}; add its score or remove the patch.")
    return patches


def region_pictures(regions: list[Region]) -> Pictures:
    """Return regions with the masks that a watershed finds around their nuclei."""
    return LazyPictures(len(regions), partial(_read_region, regions))


def patch_pictures(patches: list[Patch]) -> Pictures:
    """Return patches with their scores."""
    return LazyPictures(len(patches), partial(_read_patch, patches))


def read_key(path: Path) -> Nuclei:
    """Read the nuclei of a key file, in pixels of its region.

    Whatever the file holds must be points of a known class. Nothing is passed over, since a nucleus
    that is left out would teach that it is background; for the same reason a key without any point
    is an error and no empty region.

    Raises:
        ConfigError: If the file is missing, damaged, empty, or holds something else.

    """
    try:
        graphics = list(ElementTree.parse(path).iter("graphic"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}).") from error
    except (ParseError, DefusedXmlException) as error:
        raise ConfigError(f"{path} is not proper XML ({error}); download it again.") from error
    points: list[tuple[float, float]] = []
    classes: list[int] = []
    for graphic in graphics:
        found = _points(path, graphic)
        points += found
        classes += [_class(path, graphic)] * len(found)
    if not points:
        raise ConfigError(
            f"{path} marks no nucleus, so its region would count as background all over; mark them "
            "or remove the key and its image."
        )
    return Nuclei(xy=np.array(points, np.float64), classes=np.array(classes, np.uint8))


def read_region(region: Region) -> tuple[NDArray[np.uint8], Nuclei]:
    """Read a region, uint8 [H, W, 3], and its nuclei."""
    rgb = read_rgb(region.image)
    return rgb, within(region.key, read_key(region.key), rgb)


def read_patch(path: Path) -> NDArray[np.uint8]:
    """Read a patch, uint8 [512, 512, 3]."""
    rgb = read_rgb(path)
    height, width = rgb.shape[:2]
    if (height, width) != (PATCH_PX, PATCH_PX):
        raise ConfigError(
            f"{path} is {width}×{height} px; its score is of {PATCH_PX}×{PATCH_PX} px at "
            "0.5 µm/px. Download it again."
        )
    return rgb


def _points(path: Path, graphic: Element) -> list[tuple[float, float]]:
    kind = graphic.get("type")
    if kind != "point":
        raise ConfigError(
            f"{path} holds a graphic of type '{kind}' described as '{graphic.get('description')}'; "
            "nuclei are marked by graphics of type 'point'. Mark its nuclei so or remove it."
        )
    points = []
    for point in graphic.iter("point"):
        try:
            x, y = map(float, (point.text or "").split(","))
        except ValueError as error:
            raise ConfigError(
                f"{path} holds the point '{point.text}'; a point is x,y in pixels of the region."
            ) from error
        points.append((x, y))
    return points


def _class(path: Path, graphic: Element) -> int:
    description = graphic.get("description", "")
    if (c := _CLASS_OF_BARE.get(_bare(description))) is None:
        raise ConfigError(
            f"{path} describes nuclei as '{description}'; known are "
            f"{', '.join(CLASS_OF_DESCRIPTION)}. Correct the description."
        )
    return c


def _bare(description: str) -> str:
    return "".join(description.split()).casefold()


_CLASS_OF_BARE = {_bare(name): c for name, c in CLASS_OF_DESCRIPTION.items()}


def _raters(row: dict[str, str]) -> list[str]:
    return [column for column in row if re.fullmatch(r"y\d*", column)]


def _scores(place: str, row: dict[str, str]) -> tuple[float, ...]:
    scores = []
    for column in _raters(row):
        try:
            score = float(row[column])
        except ValueError as error:
            raise ConfigError(
                f"{place}, gives {column} as '{row[column]}', which is no number; a score is a "
                "share in 0..1."
            ) from error
        if not 0 <= score <= 1:
            raise ConfigError(
                f"{place}, gives {column} as {score:g}; a score is a share in 0..1 (divide per "
                "cents by 100)."
            )
        scores.append(score)
    return tuple(scores)


def _read_region(regions: list[Region], i: int) -> Picture:
    return _outlined(regions[i])


# The watershed takes longer than a training step, and all the regions fit in memory.
@cache
def _outlined(region: Region) -> Picture:
    rgb, nuclei = read_region(region)
    mask = nucleus_mask(outline_nuclei(rgb, nuclei), nuclei)
    group = f"breastpathq cells {region.slide}"
    return Picture(name=region.image.name, group=group, sample=of_nuclei(rgb, mask))


def _read_patch(patches: list[Patch], i: int) -> Picture:
    patch = patches[i]
    group = f"breastpathq {patch.slide}"
    sample = of_score(read_patch(patch.image))
    return Picture(name=patch.image.name, group=group, sample=sample, scores=patch.scores)
