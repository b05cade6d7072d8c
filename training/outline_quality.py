"""How well the outlines round points agree with true ones, beside discs of a fixed radius.

``python -m training.outline_quality --consep ROOT --slide SLIDE --polygons XML --out FOLDER``

Each true nucleus is reduced to its centre and class; from these and the picture its outline is made
again (``training.ground_truth``) and compared. Discs are the simplest way from points to masks; for
every single figure they are given the radius that suits them best, found on the same pictures.
"""

import argparse
import csv
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage.feature
import skimage.measure
from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException
from numpy.typing import NDArray

from training.data import consep
from training.data.picture import PICTURE_MPP
from training.ground_truth import Labels, Nuclei, figure_2, nucleus_mask, outline_nuclei
from training.synthetic import generate_patch
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.files import atomic_path
from wsi_pipeline.geometry import Box
from wsi_pipeline.model.architecture import CLASSES
from wsi_pipeline.slide.slide import Slide

log = logging.getLogger(__name__)

_peaks: Any = skimage.feature.peak_local_max
_components: Any = skimage.measure.label

_RADII = (1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0)

PQ = "PQ"

CLASS_OF_POLYGON = {"Epithelial": "malignant", "Lymphocyte": "lymphocyte", "Neutrophil": "normal"}
"""What the polygons of a MoNuSAC slide count as. Those of macrophages, which outline the whole cell
and not its nucleus, and of ambiguous cells are left out."""


@dataclass(frozen=True)
class Outlined:
    """A picture at 0.5 µm/px with points, and the true outlines."""

    name: str
    rgb: NDArray[np.uint8]
    nuclei: Nuclei
    mask: NDArray[np.uint8]
    """true class ids, of the picture's size or a whole number of times finer"""
    labels: Labels | None
    """true nuclei, likewise, numbered at will; None where they are not told apart"""


@dataclass(frozen=True)
class Row:
    """One figure of the table."""

    data: str
    figure: str
    watershed: float
    discs: float
    disc_radius_um: float


# --- measures ----------------------------------------------------------------------------------


def dice(truth: NDArray[np.generic], predicted: NDArray[np.generic]) -> float:
    """Return twice the common foreground over the sum of both; 1 where neither has any."""
    a, b = truth.astype(bool), predicted.astype(bool)
    return float(2 * (a & b).sum() / max(1, a.sum() + b.sum())) if (a | b).any() else 1.0


def class_dice(
    truth: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: int = len(CLASSES)
) -> list[float]:
    """Return ``dice`` of each class but the background."""
    return [dice(truth == c, predicted == c) for c in range(1, classes)]


@dataclass(frozen=True)
class Matches:
    """True and predicted nuclei that agree by an intersection over union above one half."""

    iou: float
    """summed over the matches"""
    matched: int
    missed: int
    invented: int

    @property
    def panoptic_quality(self) -> float:
        """Detection quality (F1) times segmentation quality (mean IoU of the matches).

        Kirillov et al., Panoptic Segmentation (CVPR 2019). 1 where there is nothing to find and
        nothing is found.
        """
        nuclei = self.matched + (self.missed + self.invented) / 2
        return self.iou / nuclei if nuclei else 1.0

    def __add__(self, other: "Matches") -> "Matches":
        return Matches(
            self.iou + other.iou,
            self.matched + other.matched,
            self.missed + other.missed,
            self.invented + other.invented,
        )


def match_nuclei(truth: NDArray[np.integer], predicted: NDArray[np.integer]) -> Matches:
    """Match labels by IoU above one half: no nucleus can have two such partners."""
    height, width = int(truth.max(initial=0)) + 1, int(predicted.max(initial=0)) + 1
    pairs = truth.ravel().astype(np.int64) * width + predicted.ravel()
    common = np.bincount(pairs, minlength=height * width).reshape(height, width)
    true_area, area = common.sum(1)[1:], common.sum(0)[1:]
    common = common[1:, 1:]
    union = true_area[:, None] + area - common
    match = 2 * common > union
    matched = int(match.sum())
    iou = float((common[match] / union[match]).sum())
    return Matches(
        iou, matched, int((true_area > 0).sum()) - matched, int((area > 0).sum()) - matched
    )


def panoptic_quality(truth: NDArray[np.integer], predicted: NDArray[np.integer]) -> float:
    """Return the panoptic quality of labels; 0 is background, every nucleus counts alike."""
    return match_nuclei(truth, predicted).panoptic_quality


def disc_nuclei(
    shape: tuple[int, int], nuclei: Nuclei, radius: float, mpp: float = PICTURE_MPP
) -> Labels:
    """Label a disc of ``radius`` µm round each point; where discs meet, the nearer point has it."""
    if not len(nuclei.xy):
        return np.zeros(shape, np.int32)
    places = np.minimum(nuclei.xy.astype(int), (shape[1] - 1, shape[0] - 1))
    elsewhere = np.ones(shape, np.uint8)
    elsewhere[places[:, 1], places[:, 0]] = 0
    distance, zone = cv2.distanceTransformWithLabels(
        elsewhere, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    label_of_zone = np.zeros(zone.max() + 1, np.int32)
    label_of_zone[zone[places[:, 1], places[:, 0]]] = np.arange(1, len(places) + 1)
    return np.where(distance * mpp <= radius, label_of_zone[zone], 0).astype(np.int32)


def measure(
    outlined: Sequence[Outlined], outline: Callable[[Outlined], Labels]
) -> dict[str, float]:
    """Measure outlines over all pictures together: pixels and nuclei are counted, not pictures."""
    overlap = np.zeros(len(CLASSES))
    either = np.zeros(len(CLASSES))
    matches = Matches(0, 0, 0, 0)
    for one in outlined:
        found = outline(one)
        finer = one.mask.shape[0] // found.shape[0]
        found = found.repeat(finer, 0).repeat(finer, 1)
        mask = nucleus_mask(found, one.nuclei)
        pairs = [(one.mask > 0, mask > 0)]
        pairs += [(one.mask == c, mask == c) for c in range(1, len(CLASSES))]
        overlap += [2 * int((a & b).sum()) for a, b in pairs]
        either += [int(a.sum()) + int(b.sum()) for a, b in pairs]
        if one.labels is not None:
            matches += match_nuclei(one.labels, found)
    figures = {
        name: float(o / e)
        for name, o, e in zip(
            ("Dice", *(f"Dice {c}" for c in CLASSES[1:])), overlap, either, strict=True
        )
        if e
    }
    if matches.matched + matches.missed:
        figures[PQ] = matches.panoptic_quality
    return figures


def _discs(radius: float, one: Outlined) -> Labels:
    height, width, _ = one.rgb.shape
    return disc_nuclei((height, width), one.nuclei, radius)


def compare(data: str, outlined: Sequence[Outlined]) -> list[Row]:
    """Measure watershed and discs; for every figure discs have the radius that suits it best."""
    watershed = measure(outlined, lambda one: outline_nuclei(one.rgb, one.nuclei, PICTURE_MPP))
    discs = {radius: measure(outlined, partial(_discs, radius)) for radius in _RADII}
    rows = []
    for figure, value in watershed.items():
        best = max(discs, key=lambda radius: discs[radius][figure])
        rows.append(Row(data, figure, value, discs[best][figure], best))
    return rows


# --- pictures with true outlines ---------------------------------------------------------------


def read_consep(root: Path, *, held_out: bool) -> Iterator[Outlined]:
    """Read CoNSeP: images of a number divisible by 3 are held out, the others were tuned on."""
    for number in consep.image_numbers(root):
        if (number % 3 == 0) == held_out:
            labels, mask = consep.read_types(root, number)
            rgb = consep.read_image(root, number)
            yield Outlined(
                f"train_{number}", rgb, consep.centres(labels, mask, finer=2), mask, labels
            )


def read_slide(path: Path, polygons: Path) -> Outlined:
    """Read a whole small slide at 0.5 µm/px, its nuclei outlined by polygons in level-0 pixels.

    Raises:
        ConfigError: If the polygons cannot be read.

    """
    with Slide.open(path) as slide:
        size = slide.size_at(PICTURE_MPP)
        rgb = slide.read(Box(0, 0, slide.l0_size.width, slide.l0_size.height), size)
        scale = np.array(
            [size.width / slide.l0_size.width, size.height / slide.l0_size.height], np.float64
        )
    labels, mask = np.zeros(rgb.shape[:2], np.int32), np.zeros(rgb.shape[:2], np.uint8)
    try:
        annotations = ElementTree.parse(polygons).findall("Annotation")
    except (OSError, ElementTree.ParseError, DefusedXmlException) as error:
        raise ConfigError(
            f"{polygons} is no XML of polygons ({error}); give the file that comes with the slide."
        ) from error
    count = 0
    for annotation in annotations:
        attribute = annotation.find("Attributes/Attribute")
        name = CLASS_OF_POLYGON.get("" if attribute is None else attribute.get("Name", ""))
        for region in annotation.iter("Region") if name else ():
            corners = [(float(v.get("X", 0)), float(v.get("Y", 0))) for v in region.iter("Vertex")]
            # fillPoly counts from the centres of pixels, in sixteenths of one.
            outline = np.round((np.array(corners) * scale - 0.5) * 16).astype(np.int32)
            count += 1
            cv2.fillPoly(labels, [outline], count, shift=4)
            cv2.fillPoly(mask, [outline], CLASSES.index(name or ""), shift=4)
    return Outlined(path.name, rgb, consep.centres(labels, mask, finer=1), mask, labels)


def generate(count: int) -> Iterator[Outlined]:
    """Generate tissue: its nuclei are not told apart where they touch, so points are the depths."""
    made = 0
    for seed in range(4 * count):
        patch = generate_patch(np.random.default_rng((2026, seed)))
        if made == count or not (patch.mask > 0).any():
            continue
        made += 1
        places, classes = [np.zeros((0, 2))], [np.zeros(0, np.uint8)]
        for c in range(1, len(CLASSES)):
            depth = cv2.distanceTransform((patch.mask == c).astype(np.uint8), cv2.DIST_L2, 5)
            peaks = _peaks(
                cv2.GaussianBlur(depth, (0, 0), 1),
                min_distance=5,
                exclude_border=False,
                labels=_components(patch.mask == c),
            )
            places.append(peaks[:, ::-1] + 0.5)
            classes.append(np.full(len(peaks), c, np.uint8))
        nuclei = Nuclei(np.concatenate(places), np.concatenate(classes))
        yield Outlined(f"generated {seed}", patch.rgb, nuclei, patch.mask, None)


# --- command -----------------------------------------------------------------------------------


def to_markdown(rows: Sequence[Row]) -> str:
    """Return the table of all figures."""
    lines = [
        "| data | figure | watershed | best discs | their radius, µm |",
        "|---|---|---:|---:|---:|",
    ]
    lines += [
        f"| {r.data} | {r.figure} | {r.watershed:.3f} | {r.discs:.3f} | {r.disc_radius_um:.1f} |"
        for r in rows
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare generated outlines with true ones: a table, and a figure of the first picture."""
    parser = argparse.ArgumentParser(prog="python -m training.outline_quality", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--consep", type=Path, help="folder of the CoNSeP images")
    parser.add_argument("--slide", type=Path, help="small slide whose nuclei are outlined")
    parser.add_argument("--polygons", type=Path, help="their outlines, in MoNuSAC's XML")
    parser.add_argument("--generated", type=int, default=12, help="number of generated patches")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    chosen = parser.parse_args(arguments)
    if (chosen.slide is None) != (chosen.polygons is None):
        parser.error("--slide and --polygons belong together")
    sets = {"generated tissue": list(generate(chosen.generated))}
    if chosen.consep:
        sets["CoNSeP, tuned on"] = list(read_consep(chosen.consep, held_out=False))
        sets["CoNSeP, held out"] = list(read_consep(chosen.consep, held_out=True))
    if chosen.slide:
        sets[chosen.slide.name] = [read_slide(chosen.slide, chosen.polygons)]
    rows = [row for name, outlined in sets.items() if outlined for row in compare(name, outlined)]
    chosen.out.mkdir(parents=True, exist_ok=True)
    table = to_markdown(rows)
    with atomic_path(chosen.out / "outlines.md") as path:
        path.write_text(table, encoding="utf-8")
    with (
        atomic_path(chosen.out / "outlines.csv") as path,
        path.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row.__dataclass_fields__)
        writer.writerows(
            (r.data, r.figure, round(r.watershed, 6), round(r.discs, 6), r.disc_radius_um)
            for r in rows
        )
    for outlined in sets.values():
        for one in outlined[:1]:
            drawn = figure_2(one.rgb, one.nuclei, outline_nuclei(one.rgb, one.nuclei, PICTURE_MPP))
            cv2.imwrite(str(chosen.out / f"{one.name.replace(' ', '-')}.png"), drawn[..., ::-1])
    log.info("%s\nThe table and figures are in %s", table, chosen.out)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
