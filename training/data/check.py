"""Look at a folder of labelled data before hours are spent on it.

``python -m training.data check ROOT --contact-sheet sheet.png`` reads every file as training would,
lists all that is wrong, and shows what is there.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.progress import track
from rich.table import Table

from training.data import (
    bcss,
    brca_m2c,
    breastpathq,
    brecahad,
    camelyon16,
    consep,
    crchisto,
    fetch,
    tnbc,
)
from training.data.breast import BreastSet
from training.data.generated import Part
from training.data.labels import Report, reported
from training.data.picture import (
    LazyPictures,
    Picture,
    Pictures,
    of_nuclei,
    pixels_digest,
    unpack,
)
from training.data.truth import BENIGN_NUCLEUS, IGNORED, NO_TUMOUR, NUCLEUS, TUMOUR_NEAR
from training.ground_truth import Nuclei
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.files import atomic_path
from wsi_pipeline.model.architecture import CLASSES

SHOWN_FAULTS = 50
"""Beyond these, faults are only counted."""

SHOWN_PICTURES = 24
"""How many pictures a contact sheet holds at most."""

BINS = 10
"""Bins of the histogram of cellularity."""

_PARTS: tuple[Part, ...] = ("train", "validation")

# Haematoxylin and eosin come near none of them.
_COLOURS = {
    CLASSES.index("lymphocyte"): (255, 225, 0),
    CLASSES.index("normal"): (0, 220, 80),
    CLASSES.index("malignant"): (0, 235, 255),
    IGNORED: (255, 255, 255),
    NUCLEUS: (255, 130, 0),
    BENIGN_NUCLEUS: (170, 255, 60),
    NO_TUMOUR: (0, 110, 40),
    TUMOUR_NEAR: (0, 80, 160),
}
_NAMES = dict(enumerate(CLASSES)) | {
    IGNORED: "not judged",
    NUCLEUS: "any nucleus",
    BENIGN_NUCLEUS: "lymphocyte or normal",
    NO_TUMOUR: "no tumour",
    TUMOUR_NEAR: "some of it tumour",
}
_CELL_PX, _CAPTION_PX, _COLUMNS = 360, 24, 6
_BAR = 6  # characters of a bin that holds everything


@dataclass(frozen=True)
class LabelledSet:
    """Pictures of one kind and one part of a folder, as training reads them."""

    kind: str
    part: str
    pictures: Pictures
    """Reading one whose files are at fault raises a ``ConfigError``."""
    nuclei: Callable[[int], Nuclei] | None = None
    """Reads the nuclei of picture i, at 0.5 µm/px, where they are labelled."""
    tells_cellularity: bool = True
    """Whether it was judged or can be derived."""

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"{self.kind}, {self.part}"

    def drawn(self, picture: Picture, nuclei: Nuclei | None) -> Image.Image:
        """Draw a picture small, with what is known of it."""
        return draw_tile(picture, nuclei, self._cellularity(picture))

    def _cellularity(self, picture: Picture) -> str:
        if not self.tells_cellularity:
            return ""
        scores = picture.scores or (picture.cellularity,)
        told = " / ".join(f"{score:.2f}" for score in scores)
        return told if picture.scores else f"{told} derived"


@dataclass(frozen=True)
class Entry:
    """What is kept of a picture that was read."""

    name: str
    group: str
    digest: bytes
    """Of its pixels."""
    nuclei: Counter[str]
    """Number of nuclei by class."""
    cellularity: float | None
    """None where nothing tells it."""
    judged: bool
    """Whether raters gave the cellularity; otherwise it is derived from the mask."""
    tile: Image.Image | None
    """The picture with its labels drawn in, if it was chosen for the contact sheet."""


def labelled_sets(root: Path, report: Report) -> list[LabelledSet]:
    """Return the sets of a folder, whose layout its files tell.

    Raises:
        ConfigError: If the layout is none that training reads.

    """
    datasets = breastpathq.datasets(root)
    if any((datasets / name).exists() for name in ("cells", *breastpathq.TABLES.values())):
        return list(_breastpathq_sets(root, report))
    if any(root.glob("train_*_type.png")):
        return [_consep_set(root)]
    if (root / "brca_ds_train.txt").exists():
        return [_brca_m2c_set(root, report)]
    if weak := _weakly_labelled(root, report):
        kind, pictures = weak
        return [LabelledSet(kind, "all", pictures, tells_cellularity=False)]
    if any((root / name).is_dir() for name in ("brca-m2c", "brecahad", "bcss", "camelyon16")):
        return [one for name in get_args(BreastSet) for one in labelled_sets(root / name, report)]
    if any(any((root / part).glob("*.csv")) for part in _PARTS):
        return [_crchisto_set(root, part, report) for part in _PARTS]
    raise ConfigError(
        f"{root} holds no layout that is known: BreastPathQ has datasets/train_labels.csv and "
        "datasets/cells, CoNSeP train_1.png and train_1_type.png, CRCHistoPhenotypes "
        "train/img1.png and train/img1.csv, BRCA-M2C brca_ds_train.txt, BreCaHAD cells.csv, TNBC "
        "1004_nuclei.png, BCSS …_mostly_tumour.png, Camelyon16 tumor and normal, and a folder with "
        "these five brca-m2c and so on. Name the folder that holds these."
    )


def read_set(source: LabelledSet, tiles: int, report: Report) -> list[Entry]:
    """Read every picture of a set, and draw ``tiles`` of them, evenly chosen."""
    count = len(source.pictures)
    drawn = set(np.linspace(0, count - 1, min(count, tiles)).round().astype(int).tolist())
    entries = []
    for i in track(range(count), f"reading {source.name}", console=Console(stderr=True)):
        with reported(report):
            picture = source.pictures[i]
            nuclei = source.nuclei(i) if source.nuclei else None
            entries.append(
                Entry(
                    name=picture.name,
                    group=picture.group,
                    digest=pixels_digest(picture),
                    nuclei=Counter(CLASSES[c] for c in nuclei.classes) if nuclei else Counter(),
                    cellularity=picture.cellularity if source.tells_cellularity else None,
                    judged=bool(picture.scores),
                    tile=source.drawn(picture, nuclei) if i in drawn else None,
                )
            )
    return entries


def leaks(one: Sequence[Entry], other: Sequence[Entry]) -> Iterator[str]:
    """Say what two parts have in common: a network would be judged by what it has learnt."""
    for group in sorted({entry.group for entry in one} & {entry.group for entry in other}):
        yield f"{group} has pictures in both; move all of them to one side."
    twins = {entry.digest: entry.name for entry in one}
    for entry in other:
        if entry.digest in twins:
            yield f"{twins[entry.digest]} and {entry.name} are the same picture; remove one."


def summary(found: dict[str, list[Entry]]) -> Table:
    """Tabulate what was read: a column per set, a row per figure, then the histogram."""
    table = Table()
    table.add_column(no_wrap=True)
    for name in found:
        table.add_column(name.replace(", ", "\n"), justify="right", no_wrap=True)
    rows = zip(*(_figures(entries) for entries in found.values()), strict=True)
    for label, row in zip(_FIGURES, rows, strict=True):
        table.add_row(label, *row, end_section=label == _FIGURES[-BINS - 1])
    return table


def draw_tile(picture: Picture, nuclei: Nuclei | None, caption: str) -> Image.Image:
    """Draw a picture small, its nuclei outlined and dotted in the colour of their class."""
    height, width = picture.sample.shape[:2]
    scale = _CELL_PX / max(height, width)
    size = (round(width * scale), round(height * scale))
    patch = unpack(picture.sample)
    rgb = cv2.resize(np.ascontiguousarray(patch.rgb), size, interpolation=cv2.INTER_AREA)
    mask = cv2.resize(patch.mask, size, interpolation=cv2.INTER_NEAREST)
    for c, colour in _COLOURS.items():
        where = (mask == c).astype(np.uint8)
        outlines, _ = cv2.findContours(where, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(rgb, outlines, -1, colour)
    tile = Image.new("RGB", (_CELL_PX, _CELL_PX + _CAPTION_PX), "white")
    # At the bottom of its cell, next to its caption.
    above = _CELL_PX - size[1]
    tile.paste(Image.fromarray(rgb), (0, above))
    pen = ImageDraw.Draw(tile)
    if nuclei:
        dots = nuclei.xy * scale + (0, above)
        for (x, y), c in zip(dots.tolist(), nuclei.classes, strict=True):
            pen.ellipse((x - 1, y - 1, x + 1, y + 1), fill=_COLOURS[c])
    font = ImageFont.load_default(14)
    pen.text((_CELL_PX - 4, _CELL_PX + 3), caption, fill="black", font=font, anchor="ra")
    room = _CELL_PX - 14 - pen.textlength(caption, font=font)
    name = picture.name
    while pen.textlength(name, font=font) > room:
        name = f"{name.removesuffix('…')[:-1]}…"
    pen.text((2, _CELL_PX + 3), name, fill="black", font=font)
    return tile


def contact_sheet(tiles: Sequence[Image.Image]) -> Image.Image:
    """Lay tiles out in rows, under a key to the colours."""
    columns = min(_COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    width, height = _CELL_PX + 6, _CELL_PX + _CAPTION_PX + 6
    font = ImageFont.load_default(14)
    key = sum(44 + font.getlength(_NAMES[c]) for c in _COLOURS)
    size = (max(columns * width, round(key)), _CAPTION_PX + rows * height)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    x = 4.0
    for c, colour in _COLOURS.items():
        name = _NAMES[c]
        pen.rectangle((x, 6, x + 12, 18), fill=colour, outline="black")
        pen.text((x + 18, 3), name, fill="black", font=font)
        x += 40 + pen.textlength(name, font=font)
    for i, tile in enumerate(tiles):
        row, column = divmod(i, columns)
        sheet.paste(tile, (column * width, _CAPTION_PX + row * height))
    return sheet


def check(root: Path, sheet: Path | None = None) -> list[str]:
    """Read a folder of labelled data, print what is there, and return all that is wrong with it."""
    faults: list[str] = []
    found: dict[str, list[Entry]] = {}
    with reported(faults.append):
        sets = labelled_sets(root, faults.append)
        tiles = max(1, SHOWN_PICTURES // max(1, len(sets)))
        found = {source.name: read_set(source, tiles, faults.append) for source in sets}
        for one, other in combinations(sets, 2):
            if one.kind == other.kind:
                pair = f"{one.name} and {other.part}"
                shared = leaks(found[one.name], found[other.name])
                faults += [f"{pair}: {leak}" for leak in shared]
    drawn = [entry.tile for entries in found.values() for entry in entries if entry.tile]
    if found:
        # Never narrower than the table, which loses its figures otherwise.
        Console(width=max(Console().width, 24 + 16 * len(found))).print(summary(found))
    if sheet and drawn:
        sheet.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(sheet) as partial_path:
            contact_sheet(drawn).save(partial_path, format="PNG")
    return faults


def main(arguments: Sequence[str] | None = None) -> None:
    """Work with folders of labelled data."""
    parser = argparse.ArgumentParser(prog="python -m training.data", description=main.__doc__)
    commands = parser.add_subparsers(required=True, dest="command", metavar="check | fetch")
    fetching = commands.add_parser(
        "fetch", help="clone BRCA-M2C, and say where the other sets are", description=fetch.__doc__
    )
    fetching.add_argument("root", type=Path, metavar="DATA", help="folder of all sets")
    command = commands.add_parser(
        "check", help="validate a folder and show what it holds", description=__doc__
    )
    command.add_argument("root", type=Path, metavar="ROOT", help="folder as it was downloaded")
    command.add_argument("--contact-sheet", type=Path, metavar="FILE", help="PNG to draw")
    chosen = parser.parse_args(arguments)
    screen = Console(soft_wrap=True, markup=False, highlight=False)
    if chosen.command == "fetch":
        try:
            screen.print(f"BRCA-M2C lies in {fetch.fetch(chosen.root)}")
        except ConfigError as error:
            raise SystemExit(str(error)) from error
        for line in fetch.still_missing(chosen.root):
            screen.print(f"to be fetched by hand into {line}")
        return
    faults = check(chosen.root, chosen.contact_sheet)
    for fault in faults[:SHOWN_FAULTS]:
        screen.print(fault)
    if len(faults) > SHOWN_FAULTS:
        screen.print(f"… and {len(faults) - SHOWN_FAULTS} more")
    if faults:
        raise SystemExit(1)
    screen.print("no faults found")


def _breastpathq_sets(root: Path, report: Report) -> Iterator[LabelledSet]:
    regions = breastpathq.find_regions(root, report)

    def nuclei(i: int) -> Nuclei:
        return breastpathq.read_region(regions[i])[1]

    pictures = breastpathq.region_pictures(regions)
    yield LabelledSet("regions", "all", pictures, nuclei)
    for part in breastpathq.TABLES:
        optional = part == "test" and not (breastpathq.datasets(root) / part).exists()
        if not optional:
            patches = breastpathq.find_patches(root, part, report)
            yield LabelledSet("patches", part, breastpathq.patch_pictures(patches))


def _crchisto_set(root: Path, part: Part, report: Report) -> LabelledSet:
    images = crchisto.find_images(root, part, report)

    def nuclei(i: int) -> Nuclei:
        return crchisto.read_image(images[i])[1]

    return LabelledSet("images", part, crchisto.pictures(images, part), nuclei)


def _brca_m2c_set(root: Path, report: Report) -> LabelledSet:
    fields = brca_m2c.find_fields(root, report)

    def nuclei(i: int) -> Nuclei:
        return brca_m2c.read_field(fields[i])[1]

    return LabelledSet("BRCA-M2C", "all", brca_m2c.pictures(fields, "train"), nuclei)


def _weakly_labelled(root: Path, report: Report) -> tuple[str, Pictures] | None:
    """Return a set that tells of pixels what no cellularity can be derived from."""
    if (root / "cells.csv").exists():
        return "BreCaHAD", brecahad.pictures(brecahad.find_images(root, report))
    if any(root.glob("*_nuclei.png")):
        return "TNBC", tnbc.pictures(tnbc.find_images(root, report))
    if any(root.glob("*_mostly_tumour.png")):
        return "BCSS", bcss.pictures(bcss.find_regions(root, report))
    if (root / "tumor").is_dir() and (root / "normal").is_dir():
        return "Camelyon16", camelyon16.pictures(camelyon16.find_patches(root, report))
    return None


def _consep_set(root: Path) -> LabelledSet:
    numbers = consep.image_numbers(root)

    def read(i: int) -> Picture:
        rgb = consep.read_image(root, numbers[i])
        mask = consep.outline_mask(consep.read_types(root, numbers[i])[1])
        name = f"train_{numbers[i]}"
        return Picture(name=name, group=name, sample=of_nuclei(rgb, mask))

    def nuclei(i: int) -> Nuclei:
        return consep.read_nuclei(root, numbers[i])

    pictures = LazyPictures(len(numbers), read)
    return LabelledSet("images", "all", pictures, nuclei)


_FIGURES = (
    *("pictures", "slides or images", *(f"{name} nuclei" for name in CLASSES[1:])),
    *("cellularity is", "its mean"),
    *(f"{i / BINS:.1f} to {(i + 1) / BINS:.1f}" for i in range(BINS)),
)


def _figures(entries: list[Entry]) -> list[str]:
    """Return the figures of a set in the order of ``_FIGURES``."""
    nuclei = sum((entry.nuclei for entry in entries), Counter[str]())
    cellularity = [entry.cellularity for entry in entries if entry.cellularity is not None]
    judged = "judged" if any(entry.judged for entry in entries) else "derived"
    counts, _ = np.histogram(cellularity, BINS, (0, 1))
    return [
        f"{len(entries)}",
        f"{len({entry.group for entry in entries})}",
        *(f"{nuclei[name]}" if nuclei else "–" for name in CLASSES[1:]),
        judged if cellularity else "unknown",
        f"{np.mean(cellularity):.3f}" if cellularity else "–",
        *(f"{'█' * round(_BAR * n / max(1, len(entries))):{_BAR}} {n:4d}" for n in counts),
    ]
