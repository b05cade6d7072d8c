"""Labelled pictures: where they come from, how they are split, and how they reach a batch.

Each source is a frozen configuration with two methods: ``nuclei(part)`` for stage 1 and
``cellularity(part)`` for stage 2, where part is ``train`` or ``validation``. No patient, slide or
image has pictures in both parts.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from training.data.bcss import BcssData
from training.data.brca_m2c import BrcaM2cData
from training.data.breast import BreastData
from training.data.breastpathq import BreastPathQData, ChallengePart
from training.data.brecahad import BrecahadData
from training.data.camelyon16 import Camelyon16Data
from training.data.consep import ConsepData
from training.data.crchisto import CrcHistoData
from training.data.generated import GeneratedData, Part
from training.data.patients import PatientSplit
from training.data.picture import Joined, Pictures
from training.data.tnbc import TnbcData
from wsi_pipeline.errors import ConfigError


class JoinedData(BaseModel):
    """Several sources at once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["joined"]
    parts: tuple["Data", ...] = Field(min_length=1)

    def nuclei(self, part: Part) -> Pictures:
        """Return every source's pictures with the masks of their nuclei, source by source."""
        return Joined([source.nuclei(part) for source in self.parts])

    def cellularity(self, part: Part) -> Pictures:
        """Return every source's pictures with their cellularity, source by source."""
        return Joined([source.cellularity(part) for source in self.parts])


Data = Annotated[
    GeneratedData
    | BreastPathQData
    | CrcHistoData
    | ConsepData
    | BreastData
    | BrcaM2cData
    | BrecahadData
    | TnbcData
    | BcssData
    | Camelyon16Data
    | JoinedData,
    Field(discriminator="kind"),
]

JoinedData.model_rebuild()


def under(data: Data, root: Path) -> Data:
    """Return a source whose relative paths start from a folder; absolute ones stay."""
    match data:
        case JoinedData():
            parts = tuple(under(part, root) for part in data.parts)
            return data.model_copy(update={"parts": parts})
        case GeneratedData():
            return data
        case _:
            return data.model_copy(update={"root": root / data.root})


def cellularity(data: Data, part: ChallengePart) -> Pictures:
    """Return a part's pictures with their cellularity; the challenge alone has a part ``test``.

    Raises:
        ConfigError: If there is no such part.

    """
    if isinstance(data, BreastPathQData):
        return data.cellularity(part)
    if part == "test":
        raise ConfigError(
            f"Data of kind {data.kind} has no part 'test'; take 'validation', or BreastPathQ's."
        )
    return data.cellularity(part)


def folds_of(data: Data) -> tuple[Data, ...]:
    """Return a source once for each of its folds, or as it is if its split is fixed."""
    if isinstance(data, ConsepData | PatientSplit):
        return tuple(data.model_copy(update={"fold": fold}) for fold in range(data.folds))
    return (data,)
