"""What a supervisor and its workers say to each other: JSON lines over a worker's pipes.

The supervisor says `Setup` once and then `Job` after `Job`; the worker answers with events, of
which `Ready` comes first and `Ended` is the last of each job.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from wsi_pipeline.naming import Filing
from wsi_pipeline.outcome import Outcome


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Setup(_Message):
    """What holds for all slides of a worker."""

    out: Path
    bundle: str
    config: dict[str, Any]
    """The `ScoreConfig`, as JSON."""
    slot: Path
    """The lock file that is held while the model is used."""


class Job(_Message):
    """A slide to be scored."""

    location: str
    filing: Filing


class Ready(_Message):
    """The model is loaded."""

    event: Literal["ready"] = "ready"


class Unusable(_Message):
    """The model or the configuration cannot be used; no slide can be scored with it."""

    event: Literal["unusable"] = "unusable"
    reason: str


class Progress(_Message):
    """Tiles done, of how many."""

    event: Literal["progress"] = "progress"
    done: int
    total: int


class Model(_Message):
    """What the worker has of the model: it waits for it, uses it, or has let go of it."""

    event: Literal["model"] = "model"
    step: Literal["wanted", "taken", "released"]


class Ended(_Message):
    """How the job ended."""

    event: Literal["ended"] = "ended"
    outcome: Outcome


Event = Annotated[Ready | Unusable | Progress | Model | Ended, Field(discriminator="event")]
EVENT: TypeAdapter[Event] = TypeAdapter(Event)
