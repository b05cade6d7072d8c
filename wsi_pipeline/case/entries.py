"""What a pathologist enters of a case: a YAML file. What is entered wins over what is measured."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from wsi_pipeline.validation import load_yaml

Millimetres = Annotated[FiniteFloat, Field(gt=0, le=500)]
Percent = Annotated[FiniteFloat, Field(ge=0, le=100)]


class CaseEntries(BaseModel):
    """One case."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    case: Annotated[str, Field(min_length=1, max_length=200)]
    """What the worksheet calls it."""
    slides: tuple[Path, ...] = ()
    """Folders of scored slides, one for each block; relative to the file."""
    tumour_bed_mm: tuple[Millimetres, Millimetres] | None = None
    """The bed's two largest dimensions, from the specimen; None takes those of the map."""
    cellularity_percent: Percent | None = None
    """Of the whole bed, by eye; None takes the map's."""
    in_situ_percent: Percent | None = None
    """Share of the cancer that is in situ. It is never assumed."""
    positive_nodes: Annotated[int, Field(ge=0, le=200)] | None = None
    largest_metastasis_mm: Millimetres | None = None
    """Of the nodes; not asked for where none is positive."""

    @model_validator(mode="after")
    def _nodes_agree(self) -> "CaseEntries":
        if self.positive_nodes == 0 and self.largest_metastasis_mm is not None:
            raise ValueError("largest_metastasis_mm is given, and positive_nodes is 0")
        return self


def read_entries(path: Path) -> CaseEntries:
    """Read a case; its slides' folders are taken relative to the file.

    Raises:
        ConfigError: if the file cannot be used.

    """
    entries = load_yaml(path, CaseEntries)
    folders = tuple(path.parent / folder for folder in entries.slides)
    return entries.model_copy(update={"slides": folders})
