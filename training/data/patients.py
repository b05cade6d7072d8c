"""Sets that are split by patient: each patient has a fold of its own, whatever else is there.

The fold follows from the patient's name alone. So a patient of two sets is on the same side in
both, and another picture, set or patient moves nobody to the other side.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from training.data.generated import Part
from training.data.picture import Pictures
from wsi_pipeline.errors import ConfigError


class PatientSplit(BaseModel, ABC):
    """A folder of pictures of many patients, a share of whom is held back."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    root: Path = Field(description="folder of the set")
    fold: int | None = Field(
        default=0, ge=0, description="which fold of patients is held back; null holds none back"
    )
    folds: int = Field(default=5, ge=2)

    @model_validator(mode="after")
    def _fold_exists(self) -> Self:
        if self.fold is not None and self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} is none of {self.folds} folds, counted from 0")
        return self

    @abstractmethod
    def nuclei(self, part: Part) -> Pictures:
        """Return the pictures of a part's patients with what is known of their pixels."""

    def cellularity(self, part: Part) -> Pictures:  # noqa: ARG002
        """Return the pictures whose cellularity is known or can be derived; here there are none.

        Raises:
            ConfigError: Always; sets that can tell it have a method of their own.

        """
        raise ConfigError(
            f"{self.root} holds no cellularity: its labels are too weak to derive one. Use it for "
            "stage 1 alone."
        )

    def is_in(self, part: Part, patient: str) -> bool:
        """Tell whether a patient belongs to a part."""
        held_back = self.fold is not None and fold_of(patient, self.folds) == self.fold
        return held_back == (part == "validation")


def fold_of(patient: str, folds: int) -> int:
    """Return the fold of a patient, by the name alone."""
    return int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8], "big") % folds


def tcga_patient(name: str) -> str:
    """Return the patient of a picture that is named as The Cancer Genome Atlas does.

    Raises:
        ConfigError: If it is not so named.

    """
    patient = name[:12]
    if [len(part) for part in patient.split("-")] != [4, 2, 4] or not name.startswith("TCGA-"):
        raise ConfigError(
            f"{name} does not begin with a TCGA patient such as TCGA-A7-A0DB, and without the "
            "patient pictures cannot be split; give it its published name."
        )
    return patient


def require_found(found: Sequence[object], root: Path, what: str) -> None:
    """See that a folder holds anything at all."""
    if not found:
        raise ConfigError(f"{root} holds no {what}; give the folder of the set.")
