"""All breast tissue that may be trained on and shipped from, in one folder, split by patient.

Each set lies in a folder of its name: ``brca-m2c``, ``brecahad``, ``tnbc``, ``bcss`` and
``camelyon16``. A patient of two sets is on the same side in both.
"""

from functools import cached_property
from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from training.data.bcss import BcssData
from training.data.brca_m2c import BrcaM2cData, Truth
from training.data.brecahad import BrecahadData
from training.data.camelyon16 import Camelyon16Data
from training.data.generated import GeneratedData, Part
from training.data.patients import PatientSplit
from training.data.picture import Joined, Pictures
from training.data.tnbc import TnbcData

BreastSet = Literal["brca-m2c", "brecahad", "tnbc", "bcss", "camelyon16"]


class BreastData(PatientSplit):
    """The mixture: some sets tell classes, others a nucleus, a tumour or its absence alone."""

    kind: Literal["breast"]
    sets: tuple[BreastSet, ...] = Field(default=get_args(BreastSet), min_length=1)
    times: dict[BreastSet, int] = Field(
        default={},
        description="how often an epoch shows each picture of a set, such as of large ones",
    )
    truth: Truth = Field(
        default="nuclei",
        description="outlines of nuclei, or of cells with the mean areas of the paper's",
    )

    generated: GeneratedData | None = Field(
        default=None,
        description="tissue to learn from as well, never to judge by",
    )

    @model_validator(mode="after")
    def _cells_come_alone(self) -> Self:
        if self.truth == "cells" and set(self.sets) & {"brecahad", "tnbc"}:
            raise ValueError(
                "brecahad and tnbc know nuclei and no cells; leave them out of `sets` with "
                "`truth: cells`"
            )
        if wrong := [name for name, times in self.times.items() if times < 1]:
            raise ValueError(f"times of {wrong[0]} is less than 1; leave the set out instead")
        return self

    @cached_property
    def parts(self) -> dict[BreastSet, PatientSplit]:
        """Each set of the mixture, with its split."""
        split = {"fold": self.fold, "folds": self.folds}
        made: dict[BreastSet, PatientSplit] = {
            "brca-m2c": BrcaM2cData(
                kind="brca-m2c", root=self.root / "brca-m2c", truth=self.truth, **split
            ),
            "brecahad": BrecahadData(kind="brecahad", root=self.root / "brecahad", **split),
            "tnbc": TnbcData(kind="tnbc", root=self.root / "tnbc", **split),
            "bcss": BcssData(kind="bcss", root=self.root / "bcss", **split),
            "camelyon16": Camelyon16Data(kind="camelyon16", root=self.root / "camelyon16", **split),
        }
        return {name: made[name] for name in self.sets}

    def nuclei(self, part: Part) -> Pictures:
        """Return every set's pictures with what is known of their pixels, set by set."""
        parts = [source.nuclei(part) for source in self.parts.values()]
        shown = [self.times.get(name, 1) if part == "train" else 1 for name in self.parts]
        return self._with_generated(Joined(parts, shown), part)

    def cellularity(self, part: Part) -> Pictures:
        """Return the pictures whose cellularity is derived or known to be 0."""
        telling = (BrcaM2cData, Camelyon16Data)
        told = {n: source for n, source in self.parts.items() if isinstance(source, telling)}
        shown = [self.times.get(name, 1) if part == "train" else 1 for name in told]
        real = Joined([source.cellularity(part) for source in told.values()], shown)
        return self._with_generated(real, part)

    def _with_generated(self, real: Joined, part: Part) -> Pictures:
        if self.generated is None or part == "validation":
            return real
        return Joined([real, self.generated.nuclei("train")])
