"""Score an inbox of slides as a Prefect flow run: the night.

Each slide is a task run, in which a worker process scores it (`wsi_pipeline.night.crew`): what
brings such a process down costs that slide alone. While one slide has the model the next is read.
The slides' stores are what resumes after a kill, so nothing is cached or persisted by Prefect, and
a night that was cut short goes on with the next run. How task runs and the night end:

========== ========== ============================================================================
type       name
========== ========== ============================================================================
COMPLETED  Scored     the slide is scored
COMPLETED  Estimated  its mean is known from a part of its tiles; the whole waits for time
COMPLETED  Left       another run is at work on the slide
COMPLETED  Refused    all worked as meant, but the slide gives no figure; see `night.outcome`
FAILED     Failed     of a slide: it is damaged, or something broke
COMPLETED  Completed  no slide of the night failed
FAILED     Incomplete some slides did; all others were worked on to their end
FAILED     Failed     no slide at all could be worked on, for the reason in the message
========== ========== ============================================================================
"""

import threading
import time
from collections import Counter
from contextvars import copy_context
from datetime import UTC, datetime
from datetime import time as clock
from pathlib import Path
from uuid import UUID

from prefect import State, flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from pydantic import HttpUrl

import wsi_pipeline
from flows import night_page
from flows.night_page import counted, headline, night_name, table, where
from flows.notices import INCOMPLETE, tell_of_failure
from flows.progress import PROGRESS_EVERY_S, ProgressArtifact, unless_away
from flows.report import artifact_key
from flows.report import headline as slide_headline
from flows.run_log import run_log
from wsi_pipeline.errors import WsiError
from wsi_pipeline.night.config import NightConfig
from wsi_pipeline.night.outcome import Outcome
from wsi_pipeline.night.plan import Cohort
from wsi_pipeline.night.report import NightReport
from wsi_pipeline.night.report_page import thumbnail
from wsi_pipeline.night.run import Attempt, Follow, NightRun
from wsi_pipeline.night.worker_protocol import Event, Job, Progress


@flow(
    name="score-cohort",
    flow_run_name=lambda: night_name(datetime.now(UTC), "at work"),
    version=wsi_pipeline.__version__,
    persist_result=False,
    on_failure=[tell_of_failure],
    on_crashed=[tell_of_failure],
)
def score_cohort(
    inbox: str,
    out: Path = Path("results"),
    bundle: str | None = None,
    mpp: float | None = None,
    allow_upsampling: bool | None = None,  # noqa: FBT001 - parameters are passed by name
    device: str | None = None,
    config: Path | None = None,
    precision: float | None = None,
    until: clock | None = None,
    again: bool = False,  # noqa: FBT001, FBT002 - parameters are passed by name
    notify: str | None = None,  # noqa: ARG001 - for `flows.notices`
    results_url: HttpUrl | None = None,
) -> State[Path]:
    """Score what is new in an inbox of slides, and write the night's table.

    Slides that may still be being copied are left for the next night, and so is what has been
    scored with this bundle and configuration, by whatever name. Paths are seen from where the flow
    runs.

    Args:
        inbox: A folder or fsspec URL, searched with its subfolders.
        out: Folder that gets one folder per slide, and one per night in nights/.
        bundle: Model bundle, a folder or hf://owner/name; left out, the bundled one.
        mpp: Pixel size of level 0 in µm, where the files of all slides are wrong; for single ones
            there is slides.csv in the inbox.
        allow_upsampling: Enlarge slides coarser than the model's resolution.
        device: auto, cpu, cuda, cuda:1 or mps.
        config: YAML file; see configs/score.yaml.
        precision: Estimate every slide's mean to within this first, such as 0.02; then score those
            whole that may hold most. Left out, `estimate_first` of the configuration.
        until: When the night ends, such as 06:00, by the clock of this machine; the next goes on.
            Left out, `until` of the configuration.
        again: Try slides again that have failed for good on an earlier night.
        notify: Name of a notification block, as type/name, that is told if slides fail.
        results_url: Address at which others find what is in `out`, for the artifacts' links.

    """
    logger = get_run_logger()
    with run_log():
        try:
            settings = NightConfig.resolve(
                config, mpp=mpp, allow_upsampling=allow_upsampling, device=device
            ).of_night(precision, until)
            cohort = Cohort.prepare(inbox, out, bundle, settings, again=again)
            if cohort.bundle.card.demonstration:
                logger.warning(
                    "%s is a demonstration. %s",
                    cohort.bundle.card.name,
                    cohort.bundle.card.limitations,
                )
            with (
                ProgressArtifact(out.absolute().name, "Looking into the inbox") as artifact,
                NightRun(cohort, as_task_runs(progress := NightProgress(artifact))) as run,
            ):
                for outcome in run:
                    progress.ended(outcome)
            night, page = run.report, run.page
        except WsiError as error:
            call_run(night_name(datetime.now(UTC), "failed"))
            return Failed(message=str(error), data=error)
    done = headline(night)
    logger.info("%s The table: %s", done, page)
    call_run(night_name(night.started, counted(night)))
    publish(night, cohort.out, page, None if results_url is None else str(results_url))
    if any(outcome.status == "failed" for outcome in night.outcomes):
        return Failed(name=INCOMPLETE, message=done)
    return Completed(message=done, data=page)


@unless_away
def call_run(name: str) -> None:
    """Give this flow run its name."""
    run_id = flow_run.get_id()
    with get_client(sync_client=True) as client:
        client.update_flow_run(UUID(run_id), name=name)


@unless_away
def publish(night: NightReport, out: Path, report: Path, results_url: str | None) -> None:
    """Make the artifacts of a night that is over."""
    table_at = where(report, out, results_url)
    create_table_artifact(
        table(night),
        key=artifact_key("night", out.name),
        description=f"{headline(night)}\n\nThe whole table: {table_at}",
    )
    create_markdown_artifact(
        night_page.page(night, out, report, results_url, thumbnail),
        key=artifact_key("pictures", out.name),
        description=headline(night),
    )


def as_task_runs(shown: "NightProgress") -> Follow:
    """Return what makes a task run of each attempt at a slide, within this flow run."""
    context = copy_context()

    def follow(job: Job, attempt: Attempt) -> Outcome:
        shown.expect(job)
        kept: list[Outcome] = []

        # Within, since Prefect would search an argument such as `attempt` for futures.
        @task(
            name="slide",
            task_run_name=job.slide.name.replace("{", "{{").replace("}", "}}"),
            persist_result=False,
            cache_policy=NO_CACHE,
        )
        def slide() -> State[None]:
            outcome = attempt(shown.follow(job))
            kept.append(outcome)
            if outcome.status == "scored" and outcome.summary is not None:
                return Completed(name="Scored", message=slide_headline(outcome.summary))
            if outcome.status == "estimated":
                return Completed(name="Estimated", message=outcome.reason)
            if outcome.status == "left":
                return Completed(name="Left", message=outcome.reason)
            if outcome.traceback is not None:
                get_run_logger().error("%s", outcome.traceback)
            if outcome.status == "refused":
                return Completed(name="Refused", message=outcome.reason)
            return Failed(message=outcome.reason)

        state = context.copy().run(slide, return_state=True)
        if not kept:
            raise RuntimeError(f"Prefect did not score the slide: {state.message}")
        return kept[0]

    return follow


class NightProgress:
    """Follows the night."""

    def __init__(self, artifact: ProgressArtifact) -> None:
        self._artifact = artifact
        self._lock = threading.Lock()
        self._due = 0.0
        self._expected: set[tuple[str, bool]] = set()
        self._ended: Counter[str] = Counter()
        self._running: dict[str, float] = {}

    def expect(self, job: Job) -> None:
        """Take note of a slide that will be scored, or tried again."""
        with self._lock:
            self._expected.add((job.slide.folder, job.precision is None))

    def follow(self, job: Job) -> "Follower":
        """Return what takes note of a slide's events."""
        return Follower(self, job.slide.name)

    def moved(self, name: str, share: float) -> None:
        """Take note of how far a slide has come."""
        with self._lock:
            self._running[name] = share
            if time.monotonic() < self._due:
                return
            self._due = time.monotonic() + PROGRESS_EVERY_S
        self._show()

    def ended(self, outcome: Outcome) -> None:
        """Take note of a slide's end."""
        with self._lock:
            self._running.pop(outcome.name, None)
            self._ended[outcome.status] += 1
        if outcome.status != "left":
            self._show()

    def _show(self) -> None:
        with self._lock:
            worked = sum(count for status, count in self._ended.items() if status != "left")
            share = (worked + sum(self._running.values())) / max(1, len(self._expected))
            ended = ", ".join(f"{count} {status}" for status, count in self._ended.items())
            running = ", ".join(f"{name} {share:.0%}" for name, share in self._running.items())
        self._artifact.show(
            100 * min(1.0, share), f"{ended or 'none ended yet'}; at work: {running or 'none'}"
        )


class Follower:
    """Hears a worker's events for one slide."""

    def __init__(self, night: NightProgress, name: str) -> None:
        self._night = night
        self._name = name

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        if isinstance(event, Progress) and event.total:
            self._night.moved(self._name, event.done / event.total)
