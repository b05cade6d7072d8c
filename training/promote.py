"""Put a bundle in use if it is better than the one in use, on pictures that training has not seen.

A folder of models holds each bundle that was ever promoted under its digest, a link ``current`` to
the one in use, and ``promotions.jsonl``, a line per decision with its figures. The link is swapped
in one step, so whoever loads ``models/current`` gets one bundle or the other. To go back, point the
link at an older bundle: ``ln -sfn DIGEST models/current``.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, model_validator

from training.data import Data, cellularity
from training.data.breastpathq import BreastPathQData, ChallengePart
from training.data.picture import Pictures, pixels_digest, windows
from training.evaluate import Evaluation, Verdict, evaluate_bundle, is_better
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.files import atomic_path
from wsi_pipeline.model.architecture import REGRESSION_STRIDE
from wsi_pipeline.model.bundle import ModelBundle

CURRENT = "current"
PROMOTIONS_NAME = "promotions.jsonl"


class HeldOut(BaseModel):
    """Pictures to compare bundles by; nothing may have been learnt from them or chosen by them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Data
    part: ChallengePart = Field(description="which part of the data; BreastPathQ has a test part")
    window: int | None = Field(
        default=None,
        gt=0,
        multiple_of=REGRESSION_STRIDE,
        description="side of the squares that unjudged pictures are cut into; null is whole",
    )

    @model_validator(mode="after")
    def _part_exists(self) -> Self:
        if self.part == "test" and not isinstance(self.data, BreastPathQData):
            raise ValueError(f"data of kind {self.data.kind} has no part test")
        return self

    def whole(self) -> Pictures:
        """Return the pictures uncut."""
        return cellularity(self.data, self.part)

    def pictures(self) -> Pictures:
        """Return what bundles are judged by."""
        return self.whole() if self.window is None else windows(self.whole(), self.window)


@dataclass(frozen=True)
class Decision:
    """Whether a candidate came into use, and why."""

    candidate: Evaluation
    in_use: Evaluation | None
    """What the candidate was compared with; None if nothing was in use."""
    verdict: Verdict
    """On the candidate beside what was in use or, if nothing was, beside the best constant."""

    @property
    def promoted(self) -> bool:
        """Whether the candidate is in use from now on."""
        return self.verdict.better

    @property
    def reason(self) -> str:
        """What decided."""
        if self.in_use is None:
            return f"beside the best constant score, {self.verdict.reason}"
        if self.in_use.digest == self.candidate.digest:
            return "it is the bundle in use already"
        return self.verdict.reason

    def record(self) -> dict[str, Any]:
        """Return the decision as it is written."""
        return {
            "promoted": self.promoted,
            "reason": self.reason,
            "candidate": _record(self.candidate),
            "in_use": None if self.in_use is None else _record(self.in_use),
            "difference": {name: e.record() for name, e in self.verdict.difference.items()},
            "pictures": len(self.candidate.names),
            "groups": len(set(self.candidate.groups)),
        }


def promote(bundle: ModelBundle, pictures: Pictures, models: Path) -> Decision:
    """Put a bundle in use if it is better than the one in use, and record the decision.

    Where nothing is in use yet, it must be better than a predictor that knows the pictures' median
    cellularity and says it of each.

    Args:
        bundle: the candidate.
        pictures: held-out ones, see ``refuse_known``.
        models: folder of models; it may be new.

    Raises:
        BundleError: If either bundle is damaged.
        ConfigError: If ``current`` is no link, or the pictures do not suit a bundle.

    """
    models.mkdir(parents=True, exist_ok=True)
    # Two candidates at once would both be compared with the same old bundle.
    with FileLock(models / ".lock"):
        old = bundle_in_use(models)
        candidate = evaluate_bundle(bundle, pictures)
        in_use = None if old is None else evaluate_bundle(old, pictures)
        verdict = is_better(candidate, in_use or best_constant(candidate))
        decision = Decision(candidate, in_use, verdict)
        # First, so that no bundle is ever in use of which the record knows nothing.
        record_decision(models, decision)
        if decision.promoted:
            put_in_use(bundle, models)
    return decision


def best_constant(evaluation: Evaluation) -> Evaluation:
    """Return what the constant score of the lowest L1, the median of the truth, would reach."""
    median = np.full_like(evaluation.prediction, np.median(evaluation.truth))
    return replace(evaluation, model="the best constant", digest="", prediction=median)


def bundle_in_use(models: Path) -> ModelBundle | None:
    """Load the bundle that a folder of models has in use, if there is one.

    Raises:
        BundleError: If the link leads to no bundle.
        ConfigError: If there is something else instead of the link.

    """
    current = models / CURRENT
    if current.is_symlink():
        return ModelBundle.load(current.resolve())
    if current.exists():
        raise ConfigError(
            f"{current} is no link, so it cannot be swapped in one step; rename it, and link to "
            f"it by its new name: ln -s NAME {current}"
        )
    return None


def put_in_use(bundle: ModelBundle, models: Path) -> None:
    """Add a bundle to a folder of models and point ``current`` at it.

    A process that is killed meanwhile leaves in use what was.
    """
    folder = models / bundle.digest
    bundle.save(folder)
    link = models / f".partial-{CURRENT}"
    link.unlink(missing_ok=True)
    link.symlink_to(folder.name, target_is_directory=True)
    link.replace(models / CURRENT)


def record_decision(models: Path, decision: Decision) -> None:
    """Add a decision to the folder's record, unless it is the last, taken again after a kill."""
    path = models / PROMOTIONS_NAME
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    line = json.dumps(decision.record())
    if lines[-1:] != [line]:
        with atomic_path(path) as partial:
            partial.write_text("\n".join([*lines, line, ""]), encoding="utf-8")


def refuse_known(held_out: Pictures, known: Iterable[Pictures]) -> None:
    """See that no held-out picture is one that a model learnt from or was chosen by.

    Pictures are told by their pixels, whatever their files are called. That other pictures of the
    same patients are held out too, only who holds them out can see to.

    Raises:
        ConfigError: If one is.

    """
    names = {pixels_digest(picture): picture.name for picture in held_out}
    shared = {
        names[digest]
        for pictures in known
        for picture in pictures
        if (digest := pixels_digest(picture)) in names
    }
    if shared:
        raise ConfigError(
            f"{len(shared)} of {len(names)} held-out pictures ({min(shared)}, for one) are among "
            "those that training learns from or is validated by, so they cannot tell which model "
            "is better; hold out others."
        )


def _record(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "model": evaluation.model,
        "digest": evaluation.digest,
        "figures": {name: figure.record() for name, figure in evaluation.figures.items()},
    }
