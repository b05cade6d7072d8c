"""What is trained for the tables."""

from collections.abc import Mapping
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from training.data import Data
from training.reg import RegConfig
from training.seg import SegConfig
from wsi_pipeline.model.architecture import Architecture

GUIDED = "Guided"
"""The name of the paper's own network in Table 6: guided by stage 1."""

AREA_RATIO = "Area ratio"
"""No regression at all: the cellularity derived from the nuclei that stage 1 finds. What does not
beat it has learnt nothing of its own."""

PLAIN_IMAGENET = "Plain with ImageNet"
"""What a plain regression makes of another pretraining than stage 1."""

GUIDED_IMAGENET = "Guided with ImageNet only"
"""The guided network whose guide was never taught nuclei: what its mere size is worth."""


class TableNetwork(Architecture):
    """A row of Table 6: a network, and what its regression backbone starts from."""

    imagenet: str | None = Field(
        default=None, description="source of ImageNet weights; null is the paper's Kaiming normal"
    )

    @property
    def architecture(self) -> Architecture:
        """The network alone."""
        return Architecture(**self.model_dump(exclude={"imagenet"}))


class TablesConfig(BaseModel):
    """What is trained for the tables: two recipes, and what varies."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sets: dict[str, Data] = Field(min_length=1, description="data by the name it has in the tables")
    seg: SegConfig = SegConfig()
    reg: RegConfig
    gammas: tuple[float, ...] = Field(default=(1.0, 2.0, 5.0), min_length=1)
    gamma_of_guide: float = Field(default=1.0, description="which stage 1 guides stage 2")
    networks: dict[str, TableNetwork | None] = Field(
        description="Table 6: networks by the name they have there; null is not run, and so is a "
        "network of the paper that is not named"
    )
    seg_seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    reg_seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    reg_folds: int | None = Field(
        default=None, gt=0, description="how many of a set's folds stage 2 takes; null is all"
    )

    @property
    def rows(self) -> Mapping[str, TableNetwork]:
        """The networks that are run."""
        return {name: row for name, row in self.networks.items() if row is not None}

    @model_validator(mode="after")
    def _rows_are_what_they_are_called(self) -> Self:
        """See that no row that others are judged by is left out unsaid, or is something else."""
        for name in (PLAIN_IMAGENET, GUIDED_IMAGENET):
            if name not in self.networks:
                raise ValueError(
                    f"networks: {name} is missing, by which the others are judged; name its "
                    "backbones, or set it to null, and the table says that it was not run"
                )
        for name, row in self.rows.items():
            guided = row.segmentation_backbone is not None
            if guided != (name in (GUIDED, GUIDED_IMAGENET)):
                raise ValueError(
                    f"{name}: guided networks, and they alone, are called {GUIDED} or "
                    f"{GUIDED_IMAGENET}"
                )
            if (row.imagenet is not None) != (name == PLAIN_IMAGENET):
                raise ValueError(
                    f"{name}: the network that starts from ImageNet, and it alone, is called "
                    f"{PLAIN_IMAGENET}"
                )
        if GUIDED_IMAGENET in self.rows and self.seg.imagenet is None:
            raise ValueError(
                f"{GUIDED_IMAGENET}: its guide takes the source of ImageNet weights from "
                "`seg.imagenet`, which is null; name one, or set the row to null"
            )
        if self.gamma_of_guide not in self.gammas:
            raise ValueError(
                f"gamma_of_guide: no stage 1 is trained with {self.gamma_of_guide:g}; take one of "
                "`gammas`"
            )
        return self
