"""A night at work: slides are taken up as workers get free, and told of as they end.

::

    inbox ─ plan ─┬─ crew of workers ─┬─ outcomes, one by one ─ page
                  └─ left alone ──────┘

Where every slide is to be estimated first, the crew gets all of them to a precision, and then the
whole ones, those first that may hold most. A night that has an end goes no further.

Each worker has a thread that takes up the next slide when it is free: so the digest of a slide is
read while another slide has the model, and no more slides are looked at than can be worked on. The
caller's thread does nothing but wait for what the others tell. Whatever is raised in it, by Ctrl-C
or by a service that stops, ends the night at once: its workers are killed, the slides that have not
come to their ends are left to the next night, and the page is written.
"""

import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait as wait_for
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from datetime import time as clock
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from wsi_pipeline.errors import ConfigError, ModelUnavailableError, OutputError, WsiError
from wsi_pipeline.night.outcome import Outcome, left, of_error
from wsi_pipeline.night.patience import elsewhere
from wsi_pipeline.night.plan import Cohort, Step, labelled, plan, remember, unread
from wsi_pipeline.night.report import NightReport
from wsi_pipeline.night.report_folder import write_report
from wsi_pipeline.night.worker_protocol import Job, OnEvent
from wsi_pipeline.slide.files import SlideFile

log = logging.getLogger(__name__)

THREADS_END_WITHIN_S = 5.0
LOOKED_WITHIN_S = 3600.0
"""A million files on a slow drive take minutes to list, and a drive that hangs takes for ever."""

LOOK_AT_CLOCK_S = 30.0
"""Clocks are set, and machines sleep."""

Attempt = Callable[[OnEvent], Outcome]
"""Tries to score a slide, and tells of it meanwhile; whatever happens to it is its outcome."""

Follow = Callable[[Job, Attempt], Outcome]
"""Makes an attempt, in the thread that waits for it, and returns what comes of it."""

ENDED = ("ended", "The night was ended before it was done; the next one goes on with it.")


def night_end(now: datetime, until: clock) -> datetime:
    """Return when this machine's clock next shows a time of day.

    Args:
        now: aware of its time zone.
        until: the time of day.

    """
    local = now.astimezone()
    end = datetime.combine(local.date(), until).astimezone()
    if end <= local:
        end = datetime.combine(local.date() + timedelta(days=1), until).astimezone()
    return end


def _unfollowed(_job: Job, attempt: Attempt) -> Outcome:
    return attempt(lambda _event: None)


class NightRun:
    """A night: who iterates over it works through it, and who leaves it ends it.

    Example::

        with NightRun(cohort) as night:
            for outcome in night:
                print(outcome.name, outcome.status)
        print(night.page)

    Attributes:
        report: what became of the slides, once the block is left.
        page: where that can be read.

    """

    report: NightReport
    page: Path

    def __init__(self, cohort: Cohort, follow: Follow = _unfollowed) -> None:
        """Start nothing yet.

        Args:
            cohort: what is to be scored, and how.
            follow: called for each attempt at a slide, from as many threads as there are workers.

        """
        self._cohort = cohort
        self._follow = follow
        self._crew = cohort.crew()
        self._started = datetime.now(UTC)
        until = cohort.config.until
        self._ends = None if until is None else night_end(self._started, until)
        self._outcomes: dict[str, Outcome] = {}
        """By location; that of an estimate until the slide is scored whole."""
        self._waiting: dict[str, SlideFile] = {}
        """Slides that have not come to their ends, by location."""
        self._threads: list[threading.Thread] = []
        self._taking = threading.Lock()
        self._all_taken = False
        self._unavailable = ModelUnavailableError("The model was not loaded.")
        self._is_over = False
        self._time_was_up = False

    def __iter__(self) -> Iterator[Outcome]:
        """Yield how each slide ended, in the order in which they do.

        One that is estimated may end twice: it may be scored whole yet.

        Raises:
            ConfigError: if there is no inbox. What is wrong with a single slide is its outcome.

        """
        # A drive that hangs must not keep the night from being ended.
        looking = elsewhere(self._cohort.look)
        if not wait_for([looking], LOOKED_WITHIN_S).done:
            raise ConfigError(
                f"{self._cohort.inbox}: the inbox could not be listed within "
                f"{LOOKED_WITHIN_S:.0f} s. Check its drive."
            )
        inbox = looking.result()
        names = self._cohort.config.names
        for slide in (*inbox.copying, *inbox.slides):
            self._waiting[slide.location] = unread(slide, names)
        if self._ends is not None:
            log.info("The night ends at %s", self._ends.strftime("%Y-%m-%d %H:%M %Z"))
        precision = self._cohort.config.estimate_first
        jobs: list[tuple[str, Job]] = []

        def first(step: Step) -> Step:
            location, what = step
            if not isinstance(what, Job):
                return step
            jobs.append((location, what))
            return location, replace(what, precision=precision)

        yield from self._worked(map(first, plan(self._cohort, inbox)))
        if precision is not None and not self._is_over:
            yield from self._worked(iter(self._by_promise(jobs)))

    def _by_promise(self, jobs: list[tuple[str, Job]]) -> list[Step]:
        """Return the slides that are estimated, to be scored whole; those first that may hold most.

        By the upper ends of their intervals: high means and wide intervals come first.
        """
        known = {
            location: outcome.estimate.high
            for location, outcome in self._outcomes.items()
            if outcome.estimate is not None
        }
        waiting: list[Step] = [(location, job) for location, job in jobs if location in known]
        return sorted(waiting, key=lambda step: -known[step[0]])

    def _worked(self, steps: Iterator[Step]) -> Iterator[Outcome]:
        """Work through steps, trying again what may end otherwise."""
        crew = self._cohort.config.crew
        for tries_left in range(crew.retries, -1, -1):
            again: list[Step] = []
            self._all_taken = False
            for location, step, outcome in self._side_by_side(steps):
                if outcome.kind == ENDED[0] and location in self._outcomes:
                    continue  # its estimate stands
                if isinstance(step, Job) and outcome.retry == "now" and tries_left:
                    log.warning("It will be tried again tonight. %s", outcome.reason)
                    again.append((location, step))
                else:
                    yield self._end(location, step, outcome)
            if self._all_taken and not again:
                return
            # What was away for a moment shall have time to come back.
            time.sleep(crew.retry_after_s if tries_left else 0)
            steps = itertools.chain(again, steps)
        for location, file in list(self._waiting.items()):
            if location in self._outcomes:
                continue
            yield self._end(location, None, of_error(file, self._unavailable))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the night and write its page.

        Raises:
            OutputError: if it cannot be written.

        """
        self._is_over = True
        # A second Ctrl-C, or what a service sends after it, is not to cost the page.
        page = elsewhere(partial(self._finish, error), daemon=False).result()
        if page is not None:
            self.page = page

    def _finish(self, error: BaseException | None) -> Path | None:
        self._crew.close()
        deadline = time.monotonic() + THREADS_END_WITHIN_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if isinstance(error, WsiError):
            return None
        ended = [
            left(slide, *ENDED)
            for location, slide in self._waiting.items()
            if location not in self._outcomes
        ]
        self.report = NightReport(
            started=self._started,
            ended=datetime.now(UTC),
            inbox=self._cohort.inbox,
            outcomes=[*self._outcomes.values(), *ended],
            is_whole=error is None and not ended and not self._time_was_up,
        )
        try:
            return write_report(self._cohort.out, self.report)
        except OSError as error_of_page:
            raise OutputError(
                f"{self._cohort.out}: the night's page cannot be written "
                f"({error_of_page.strerror}). Free space, or clear the way; the slides' own "
                f"results are kept."
            ) from error_of_page

    def _side_by_side(self, steps: Iterator[Step]) -> Iterator[tuple[str, Job | Outcome, Outcome]]:
        """Work on as many slides at once as there are workers; yield their outcomes as they end.

        A worker that cannot load the model takes no further slide: some may be left.
        """
        told: queue.SimpleQueue[tuple[str, Job | Outcome, Outcome] | BaseException | None]
        told = queue.SimpleQueue()

        def work() -> None:
            try:
                for location, step in iter(partial(self._take, steps), None):
                    outcome = step if isinstance(step, Outcome) else self._try(step)
                    told.put((location, step, outcome))
                    if outcome.kind == ModelUnavailableError.__name__:
                        break
            except BaseException as error:  # noqa: BLE001 - raised where the night is worked through
                told.put(error)
            told.put(None)

        self._threads = [
            threading.Thread(target=work, name=f"slide-{number}", daemon=True)
            for number in range(self._cohort.config.crew.workers)
        ]
        for thread in self._threads:
            thread.start()
        working = len(self._threads)
        while working:
            try:
                message = told.get(timeout=self._seconds_left())
            except queue.Empty:
                if self._time_was_up:
                    return  # what has not ended by now is left to the next night
                if self._seconds_left() == 0:
                    log.info("The night's time is up")
                    self._time_was_up = self._is_over = True
                    self._crew.close()
                continue
            if isinstance(message, BaseException):
                raise message
            if message is None:
                working -= 1
            else:
                yield message

    def _seconds_left(self) -> float | None:
        """Return how long to wait for what comes next; None is for ever."""
        if self._time_was_up:
            return THREADS_END_WITHIN_S
        if self._ends is None:
            return None
        left_s = (self._ends - datetime.now(UTC)).total_seconds()
        return min(max(0.0, left_s), LOOK_AT_CLOCK_S)

    def _take(self, steps: Iterator[Step]) -> Step | None:
        with self._taking:
            step = None if self._is_over else next(steps, None)
        if step is None:
            self._all_taken = True
        elif isinstance(step[1], Job):
            self._waiting[step[0]] = step[1].slide
        return step

    def _try(self, job: Job) -> Outcome:
        def attempt(on_event: OnEvent) -> Outcome:
            try:
                outcome = self._crew.score(job, on_event)
            except ModelUnavailableError as error:
                self._unavailable = error
                outcome = of_error(job.slide, error)
            # What was killed at the night's end is not to blame for it.
            was_killed = self._is_over and outcome.status == "failed"
            return left(job.slide, *ENDED) if was_killed else outcome

        try:
            return self._follow(job, attempt)
        except Exception as error:  # noqa: BLE001 - whoever follows a slide must not end the night
            return of_error(job.slide, error)

    def _end(self, location: str, step: Job | Outcome | None, outcome: Outcome) -> Outcome:
        if isinstance(step, Job):
            if outcome.kind == "WorkerDied":  # every time, as with other damaged files
                outcome = outcome.model_copy(update={"retry": "never"})
            remember(self._cohort.of_slide(step.said), outcome)
            outcome = labelled(outcome, step.said)
        self._outcomes[location] = outcome
        self._waiting.pop(location)
        return outcome
