"""What the crew and its workers tell each other over a pipe.

One way goes a `Setup`, once, and then `Job` after `Job`; the other way go events, of which `Ready`
or `Unusable` is the first, and `Ended` the last of each job.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from wsi_pipeline.night.inbox_table import SlideRow
from wsi_pipeline.night.outcome import Outcome
from wsi_pipeline.slide.files import SlideFile

if TYPE_CHECKING:
    from wsi_pipeline.scoring.config import ScoreConfig


@dataclass(frozen=True, slots=True)
class Setup:
    """What holds for all slides of a night."""

    out: Path
    bundle: Path
    """The folder of the model, and not a link that may lead elsewhere meanwhile."""
    source: str
    """Where the other machines of a cluster find it."""
    digest: str
    """Of the model: a night has one, whatever comes to lie in its folder."""
    config: "ScoreConfig"

    def on(self, device: str) -> "Setup":
        """Return the same for a worker that scores on a device of its own."""
        engine = self.config.engine.model_copy(update={"device": device})
        return replace(self, config=self.config.model_copy(update={"engine": engine}))


@dataclass(frozen=True, slots=True)
class Job:
    """A slide to be scored."""

    slide: SlideFile
    said: SlideRow = field(default_factory=SlideRow)
    """What the inbox's table says of it."""
    precision: float | None = None
    """Estimate its mean to this alone; None scores all of it."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is loaded."""


@dataclass(frozen=True, slots=True)
class Unusable:
    """The model cannot be used; no slide can be scored with it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Progress:
    """Tiles done, of how many."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Model:
    """What the worker has of the model: it waits for it, uses it, or has let go of it."""

    step: Literal["wanted", "taken", "released"]


@dataclass(frozen=True, slots=True)
class Ended:
    """How the job ended."""

    outcome: Outcome


Event = Ready | Unusable | Progress | Model | Ended
OnEvent = Callable[[Event], None]
