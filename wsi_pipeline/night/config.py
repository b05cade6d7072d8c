"""What a night can be told: all that scoring can be told, and how an inbox is worked through.

One file serves both: `wsi score` reads it too, and uses none of a night's own sections.
"""

from datetime import time
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from wsi_pipeline.engine.execution import kind_of
from wsi_pipeline.machine import total_bytes
from wsi_pipeline.scoring.config import ScoreConfig


class InboxConfig(BaseModel):
    """When a slide counts as whole."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    quiet_s: float = Field(default=60, ge=0, le=1e6)
    """Files modified less than this long ago may still be in the middle of being copied."""
    look_again_s: float = Field(default=10, ge=0, le=1e6)
    """Files that change between two looks this far apart are being copied."""


class CrewConfig(BaseModel):
    """How many slides are worked on at once, and what one of them may cost."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    slides_at_once: int = Field(default=2, ge=1, le=256)
    """On each device. Its model takes one slide at a time; the others are read meanwhile."""
    devices: tuple[str, ...] = Field(default=(), max_length=64)
    """Several GPUs, such as cuda:0 and cuda:1, each with workers and a model of its own; none is
    `engine.device` alone."""
    stall_s: float = Field(default=1800.0, gt=0, le=1e6)
    """A slide on which nothing moves for so long is given up."""
    memory_gib: float | None = Field(default=None, gt=0, le=1e6)
    """A slide that takes more is given up; None is an equal share of 90 % of what there is: of
    the machine's, or the container's."""
    retries: int = Field(default=2, ge=0, le=100)
    """Times that a slide is tried again in a night if its file was away or its worker died."""
    retry_after_s: float = Field(default=60.0, ge=0, le=1e6)
    """Pause before that, after all others."""

    @property
    def memory_bytes(self) -> float:
        """What one worker may take."""
        if self.memory_gib is not None:
            return self.memory_gib * (1 << 30)
        return 0.9 * total_bytes() / self.workers

    @property
    def workers(self) -> int:
        """How many processes score."""
        return self.slides_at_once * max(1, len(self.devices))

    @model_validator(mode="after")
    def _devices_score_alike(self) -> Self:
        kinds = {kind_of(device) for device in self.devices}
        if len(kinds) > 1:
            raise ValueError(f"devices of {len(kinds)} kinds would score slides unlike each other")
        return self


class NightConfig(ScoreConfig):
    """A run's configuration with the sections that only nights use; none of them decides a result.

    Read from a file with `NightConfig.resolve`.
    """

    inbox: InboxConfig = InboxConfig()
    crew: CrewConfig = CrewConfig()
    estimate_first: float | None = Field(default=None, ge=0.001, le=0.5)
    """A precision, as of `wsi_pipeline.scoring.estimate`: every slide's mean is estimated first,
    and then those are scored whole that may hold most. None scores slide by slide."""
    until: time | None = None
    """When a night ends, by this machine's clock; the next one goes on. None is when it is done."""
    digest_cache: Path | None = None
    """Where nights keep the digests of slides that they have read, with the slides' file names;
    None is a hidden file in the output folder, or none at all with `names` "digest"."""

    def of_night(self, estimate_first: float | None, until: time | None) -> Self:
        """Return what holds for a night of which that is said; None leaves what the file says."""
        said = {"estimate_first": estimate_first, "until": until}
        given = {name: value for name, value in said.items() if value is not None}
        return self.model_validate(self.model_dump() | given)
