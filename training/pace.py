"""How a run tells whoever waits for it how far it is: a forecast or two, and a line a minute."""

import logging
import time
from collections.abc import Callable
from datetime import datetime, timedelta

log = logging.getLogger(__name__)

FORECAST_AFTER = 20
"""Steps until the first forecast; the next comes after ten times as many, when pictures that are
read once are read."""

_WARMING = 3  # steps in which caches fill and kernels are chosen
_LINE_EVERY_S = 60.0


class Pace:
    """Counts steps and logs what they mean for the rest of a run."""

    def __init__(
        self,
        total: int,
        done: int,
        *,
        lines: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin to count.

        Args:
            total: steps of the whole run.
            done: steps that an earlier process took.
            lines: whether to log a line a minute; the forecast is logged in any case.
            clock: tells seconds.

        """
        self._total, self._done, self._lines, self._clock = total, done, lines, clock
        self._first = done
        self._mark = (clock(), done)
        self._rate = 0.0
        self._forecast_at = FORECAST_AFTER

    def step(self, where: Callable[[], str]) -> None:
        """Count a step; ``where`` tells what is known of it, and is asked only if that is shown."""
        self._done += 1
        taken, now = self._done - self._first, self._clock()
        if taken == _WARMING:
            self._mark = (now, self._done)
        elif taken == self._forecast_at:
            self._forecast_at *= 10
            self._measure(now)
            log.info(
                "%.2f steps/s: the %d that are left take about %s, until %s (validations apart)",
                *(self._rate, self._total - self._done, self._left(), self._end()),
            )
        elif taken > FORECAST_AFTER and now - self._mark[0] >= _LINE_EVERY_S:
            self._measure(now)
            if self._lines:
                log.info("%s, %.2f steps/s, %s to go", where(), self._rate, self._left())

    def _measure(self, now: float) -> None:
        since, done = self._mark
        self._rate = (self._done - done) / max(now - since, 1e-9)
        self._mark = (now, self._done)

    def _remaining(self) -> timedelta:
        return timedelta(seconds=(self._total - self._done) / self._rate)

    def _left(self) -> str:
        minutes = round(self._remaining().total_seconds() / 60)
        return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"

    def _end(self) -> str:
        return f"{datetime.now().astimezone() + self._remaining():%a %H:%M}"
