"""``python -m training.calibrate``: how far a bundle's scores are off, put beside it.

``python -m training.calibrate --bundle BUNDLE --data DATA``

Errors are those of the fields of BRCA-M2C whose patients training held back: one field of about
250 µm, which is a tile, of each. Which part of an error all tiles of a patient share is told by
quarters of these fields (a random-effects analysis of variance). By how much errors grow out of the
domain is told by the same fields stained otherwise, blurred, and enlarged from 0.7 µm/px.
"""

import argparse
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from skimage.color import hed_from_rgb, rgb_from_hed

from training.data.brca_m2c import BrcaM2cData
from training.data.breast import BreastData
from training.data.generated import GeneratedData
from training.data.picture import Picture, Pictures, is_glass, of_score, padded
from wsi_pipeline.errors import ConfigError, WsiError
from wsi_pipeline.files import atomic_path
from wsi_pipeline.geometry import Mpp
from wsi_pipeline.model.architecture import REGRESSION_STRIDE
from wsi_pipeline.model.bundle import ModelBundle
from wsi_pipeline.model.score_error import (
    LEVEL,
    SCORE_ERROR_NAME,
    ScoreError,
    StainDomain,
    Widened,
    conformal_quantile,
    scale,
    stain_of,
)

log = logging.getLogger(__name__)

MPP = Mpp(0.5)
WITHIN = 0.95
"""Share of the training's pictures that lies within the distance from which intervals widen."""

REFUSED_AT = 4.0
"""Times that distance from which there is no figure."""

_HALVES = 200
"""Random splits that coverage is measured by."""

Score = Callable[[NDArray[np.uint8]], float]


@dataclass(frozen=True)
class Errors:
    """Scores beside their truth, one of each picture."""

    truth: NDArray[np.float64]
    score: NDArray[np.float64]
    patient: NDArray[np.str_]

    @property
    def in_units(self) -> NDArray[np.float64]:
        """Signed errors in units of `scale`."""
        return np.asarray((self.score - self.truth) / scale(self.score))


def measured(pictures: Pictures, score: Score) -> Errors:
    """Score pictures."""
    found = [pictures[i] for i in range(len(pictures))]
    scores = [score(pixels_of(picture)) for picture in track(found, "scoring")]
    return Errors(
        truth=np.array([picture.cellularity for picture in found]),
        score=np.array(scores),
        patient=np.array([picture.group for picture in found]),
    )


def pixels_of(picture: Picture) -> NDArray[np.uint8]:
    """Return a picture's pixels, uint8 [rows, columns, 3]."""
    return np.ascontiguousarray(picture.sample[..., :3])


def quarters(picture: Picture) -> list[Picture]:
    """Cut a picture into four, which overlap where it is not two tiles wide."""
    height, width = picture.sample.shape[:2]
    side = max(1, -(-min(height, width) // 2 // REGRESSION_STRIDE)) * REGRESSION_STRIDE
    tops, lefts = {0, max(0, height - side)}, {0, max(0, width - side)}
    return [
        Picture(picture.name, picture.group, picture.sample[y : y + side, x : x + side])
        for y in sorted(tops)
        for x in sorted(lefts)
    ]


def shared_deviation(errors: Errors) -> float:
    """Return the deviation of what all errors of a patient share, in units of `scale`.

    The patients' mean error counts too: it is shared by all.
    """
    by_patient = [errors.in_units[errors.patient == name] for name in np.unique(errors.patient)]
    of_each = np.mean([len(group) for group in by_patient])
    within = np.mean([group.var(ddof=1) for group in by_patient if len(group) > 1])
    means = np.array([group.mean() for group in by_patient])
    between = max(0.0, means.var(ddof=1) - within / of_each)
    return float(np.sqrt(between + means.mean() ** 2))


def coverage(errors: NDArray[np.float64], quantile: float) -> float:
    """Return the share of errors, in units of `scale`, that an interval holds."""
    return float(np.mean(np.abs(errors) <= quantile))


def left_out_coverage(errors: Errors) -> float:
    """Return how many patients the interval holds that all the others make."""
    held = []
    for name in np.unique(errors.patient):
        own = errors.patient == name
        quantile = conformal_quantile(np.abs(errors.in_units[~own]))
        held.append(coverage(errors.in_units[own], quantile))
    return float(np.mean(held))


def halves_coverage(errors: Errors, seed: int = 0) -> float:
    """Return how many of one random half the interval of the other half holds, on average."""
    rng, count, held = np.random.default_rng(seed), len(errors.truth), []
    for _ in range(_HALVES):
        order = rng.permutation(count)
        half, other = order[: count // 2], order[count // 2 :]
        quantile = conformal_quantile(np.abs(errors.in_units[half]))
        held.append(coverage(errors.in_units[other], quantile))
    return float(np.mean(held))


def stained_otherwise(rgb: NDArray[np.uint8], haematoxylin: float, eosin: float) -> Any:  # noqa: ANN401
    """Return a picture with more or less of either stain."""
    stains = np.maximum(-np.log(np.maximum((rgb + 1.0) / 256, 1e-6)) @ hed_from_rgb, 0)
    changed = stains * (haematoxylin, eosin, 1.0)
    return np.clip(np.exp(-changed @ rgb_from_hed) * 256 - 1, 0, 255).astype(np.uint8)


STAINS = "darker", "paler", "more eosin"


def out_of_domain() -> dict[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]]:
    """Return what is done to pictures to take them out of the domain."""

    def enlarged(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = rgb.shape[:2]
        small = cv2.resize(rgb, None, fx=0.72, fy=0.72, interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC))

    return {
        "darker": lambda rgb: stained_otherwise(rgb, 1.6, 1.3),
        "paler": lambda rgb: stained_otherwise(rgb, 0.6, 0.7),
        "more eosin": lambda rgb: stained_otherwise(rgb, 0.8, 1.6),
        "out of focus": lambda rgb: np.asarray(cv2.GaussianBlur(rgb, (0, 0), 2.0)),
        "enlarged": enlarged,
    }


def _changed(
    errors: Errors,
    pictures: Sequence[Picture],
    change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]],
    score: Score,
) -> Errors:
    """Return the errors of the same pictures after a change."""
    scores = [score(change(pixels_of(picture))) for picture in pictures]
    return Errors(errors.truth, np.array(scores), errors.patient)


def stain_domain(pictures: Sequence[Picture]) -> StainDomain:
    """Return the stains of the training's pictures."""
    stains = [stain_of(rgb, MPP, ~is_glass(rgb)) for rgb in map(pixels_of, pictures)]
    known = np.array([stain for stain in stains if stain is not None])
    precision = np.linalg.inv(np.cov(known.T))
    domain = StainDomain(
        mean=tuple(known.mean(0)), precision=tuple(map(tuple, precision)),
        widened_from=1, refused_from=1,
    )  # fmt: skip
    limit = float(np.quantile([domain.distance(stain) for stain in known], WITHIN))
    return domain.model_copy(update={"widened_from": limit, "refused_from": REFUSED_AT * limit})


def calibrate(bundle: ModelBundle, data: Path, split: dict[str, int]) -> tuple[ScoreError, Any]:
    """Measure a bundle's errors.

    Returns:
        the errors, and what was measured of their coverage.

    """
    network = bundle.network().eval()

    @torch.inference_mode()
    def score(rgb: NDArray[np.uint8]) -> float:
        whole = padded([Picture("", "", of_score(rgb))], REGRESSION_STRIDE)[0]
        pixels = torch.from_numpy(pixels_of(whole)[None])
        return float(network(pixels, with_segmentation=False).score)

    source = BrcaM2cData(kind="brca-m2c", root=data / "brca-m2c", **split)
    fields = source.cellularity("validation")
    held_back = [fields[i] for i in range(len(fields))]
    errors = measured(fields, score)
    parts = measured([part for field in held_back for part in quarters(field)], score)
    quantile = conformal_quantile(np.abs(errors.in_units))
    if not np.isfinite(quantile):
        raise ConfigError(
            f"{len(held_back)} patients are too few for a 90 % interval; ten will do."
        )
    told: dict[str, float] = {"patients left out, one by one": left_out_coverage(errors)}
    moved = {
        name: np.abs(_changed(errors, held_back, change, score).in_units)
        for name, change in out_of_domain().items()
    }
    growth = {name: max(1.0, conformal_quantile(units) / quantile) for name, units in moved.items()}
    widened = Widened(
        stain=max(growth[name] for name in STAINS),
        focus=growth["out of focus"],
        enlarged=growth["enlarged"],
    )
    for name, units in moved.items():
        told[f"{name}, not widened"] = coverage(units, quantile)
    generated = measured(GeneratedData(train=1, validation=128).nuclei("validation"), score)
    told["generated tissue, by the interval of real tissue"] = coverage(
        generated.in_units, quantile
    )
    told["generated tissue, one half by the other"] = halves_coverage(generated)
    everything = BreastData(kind="breast", root=data, **split).nuclei("train")
    return (
        ScoreError(
            bundle=bundle.digest,
            measured_on=(
                f"one field of about 250 µm of each of {len(held_back)} patients of BRCA-M2C, held "
                f"back from training; cellularity derived from labelled nuclei"
            ),
            patients=len(set(errors.patient)),
            tiles=len(held_back),
            tile_quantile=quantile,
            patient_deviation=shared_deviation(parts),
            widened=widened,
            stain=stain_domain([everything[i] for i in range(len(everything))]),
        ),
        told,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure how far a bundle's scores are off, and write it beside the bundle."""
    parser = argparse.ArgumentParser(prog="python -m training.calibrate", description=main.__doc__)
    parser.add_argument("--bundle", required=True, help="folder of the bundle")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the sets")
    parser.add_argument("--fold", type=int, default=0, help="the one that training held back")
    parser.add_argument("--folds", type=int, default=4, help="how many there are")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        bundle = ModelBundle.load(chosen.bundle)
        split = {"fold": chosen.fold, "folds": chosen.folds}
        errors, told = calibrate(bundle, chosen.data, split)
    except WsiError as error:
        raise SystemExit(str(error)) from error
    for name, share in told.items():
        log.info("%.0f %% of %s (meant: %.0f %%)", 100 * share, name, 100 * LEVEL)
    with atomic_path(Path(chosen.bundle) / SCORE_ERROR_NAME) as partial:
        partial.write_text(errors.model_dump_json(indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
