"""What became of an inbox in a night, in the order in which a person wants to know."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from wsi_pipeline.night.outcome import Outcome, Status

ORDER: tuple[Status, ...] = ("failed", "refused", "scored", "estimated", "left")
"""What needs a person first."""

LEFT_ORDER = ("failed before", "ended", "in use", "copying", "duplicate", "done")


@dataclass(frozen=True)
class NightReport:
    """What became of an inbox.

    Attributes:
        started: when it began, aware of its time zone.
        ended: when all slides had come to their ends, likewise.
        inbox: what to call the inbox.
        outcomes: one for each slide.
        is_whole: False if it was ended before all slides had come to their ends.

    """

    started: datetime
    ended: datetime
    inbox: str
    outcomes: Sequence[Outcome]
    is_whole: bool = True

    def sorted_outcomes(self) -> list[Outcome]:
        """Return the outcomes as the report shows them: what needs a person first, then by name."""

        def place(outcome: Outcome) -> tuple[int, int, str, str]:
            kind = LEFT_ORDER.index(outcome.kind) if outcome.kind in LEFT_ORDER else -1
            return ORDER.index(outcome.status), kind, outcome.name.casefold(), outcome.folder

        return sorted(self.outcomes, key=place)

    def model_idle_share(self) -> float | None:
        """Return how much of the time between the first slide and the last the model had none.

        None if fewer than two slides had it.
        """
        spans = sorted(
            (outcome.model_from, outcome.model_until)
            for outcome in self.outcomes
            if outcome.model_from is not None and outcome.model_until is not None
        )
        if len(spans) < 2:
            return None
        first = until = spans[0][0]
        idle = 0.0
        for start, end in spans:
            idle += max(0.0, start - until)
            until = max(until, end)
        return idle / (until - first) if until > first else None
