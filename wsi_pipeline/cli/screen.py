"""What commands show: bars, outcomes and errors, with nothing in them that steers a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from wsi_pipeline.errors import WsiError
from wsi_pipeline.shown import shown

if TYPE_CHECKING:
    from wsi_pipeline.model.bundle import ModelBundle
    from wsi_pipeline.night.outcome import Outcome
    from wsi_pipeline.night.report import NightReport
    from wsi_pipeline.night.run import Attempt
    from wsi_pipeline.night.worker_protocol import Event, Job
    from wsi_pipeline.outputs.estimate import Estimate
    from wsi_pipeline.outputs.summary import SlideSummary

screen = Console(stderr=True)


def plain(text: object) -> str:
    """Return a text that rich shows as it is."""
    return escape(shown(text))


def show_error(error: WsiError | OSError) -> None:
    """Show an error as one line on stderr."""
    line = str(error)
    if isinstance(error, OSError) and error.filename:
        line = f"{error.filename}: {error.strerror}."
    screen.print(f"[bold red]error:[/] {plain(line)}", highlight=False, soft_wrap=True)


def warn_of_demonstration(bundle: ModelBundle) -> None:
    """Say so if a bundle is not to be trusted with tissue, and what it was trained on."""
    if bundle.card.demonstration:
        screen.print(
            f"[yellow]Using {plain(bundle.card.name)} {plain(bundle.card.version)}, a "
            f"demonstration:[/] {plain(bundle.card.trained_on.split('. ')[0].rstrip('.'))}. "
            "Pass --bundle for a model of your own.",
            highlight=False,
        )


def tile_bars() -> Progress:
    """Return bars that count tiles, one for each slide at work."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("tiles"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=screen,
    )


@contextmanager
def progress(name: str) -> Iterator[Callable[[int, int], None]]:
    """Show one slide's bar; yield what moves it."""
    with tile_bars() as bars:
        task = bars.add_task(plain(name), total=None)

        def advance(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)

        yield advance


def followed(bars: Progress, job: Job, attempt: Attempt) -> Outcome:
    """Score a slide of a night under a bar of its own."""
    from wsi_pipeline.night.worker_protocol import Progress as TilesDone

    task = bars.add_task(plain(job.slide.name), total=None)

    def moved(event: Event) -> None:
        if isinstance(event, TilesDone):
            bars.update(task, completed=event.done, total=event.total)

    try:
        return attempt(moved)
    finally:
        bars.remove_task(task)


def show_outcome(console: Console, outcome: Outcome) -> None:
    """Show how one slide of a night ended, in a line; slides left alone are none."""
    if outcome.status != "left":
        well = outcome.status in ("scored", "estimated")
        how = "green" if well else "bold red"
        what = outcome.name if well else outcome.reason
        console.print(
            f"[{how}]{outcome.status}[/] {plain(what)}",
            highlight=False,
            soft_wrap=True,
        )


def show_outcomes(
    outcomes: dict[str, SlideSummary | Estimate | Exception], known: set[str], out: Path
) -> None:
    """Show how each slide ended, as a table."""
    from wsi_pipeline.outputs.estimate import ESTIMATE_PICTURE, Estimate

    rows = []
    for name, outcome in outcomes.items():
        already = "already " if name in known else ""
        if isinstance(outcome, Exception):
            rows.append((name, "failed", "", "", ""))
        elif isinstance(outcome, Estimate):
            figure = f"{outcome.low:.1%} to {outcome.high:.1%}, about {outcome.mean:.1%}"
            path = str(out / name / ESTIMATE_PICTURE)
            tiles = f"{outcome.scored} of {outcome.tiles}"
            rows.append((name, f"estimated, {outcome.of}", tiles, figure, path))
        elif outcome.status == "refused":
            rows.append((name, f"{already}refused: {outcome.reason or ''}", "", "", ""))
        else:
            figure = f"{outcome.cellularity.mean:.1%}" if outcome.cellularity else ""
            path = str(out / name / "report.html")
            rows.append((name, f"{already}scored", str(outcome.tiles.scored), figure, path))
    _show_table(("slide", "outcome", "tiles", "cellularity of the tissue", "report"), rows)


def show_night(night: NightReport) -> None:
    """Show how each slide of a night ended, as a table."""
    rows = []
    for outcome in night.sorted_outcomes():
        figure = outcome.summary.cellularity if outcome.summary is not None else None
        mean = f"{figure.mean:.1%}" if figure is not None else ""
        if outcome.estimate is not None:
            mean = f"{outcome.estimate.low:.1%} to {outcome.estimate.high:.1%}"
        rows.append((outcome.name, outcome.status, mean, outcome.reason))
    _show_table(("slide", "outcome", "cellularity of the tissue", "why"), rows)


def _show_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Show a table; without a terminal, as lines with tabs that another program can take apart."""
    console = Console()
    if not console.is_terminal:
        for row in (headings, *rows):
            console.file.write("\t".join(map(shown, row)) + "\n")
        return
    table = Table()
    for heading in headings:
        # Whole names and paths, on several lines if need be: they are there to be copied.
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(plain, row))
    console.print(table)


def duration(seconds: float) -> str:
    """Return a time in the unit that fits it.

    >>> duration(75), duration(600), duration(7200)
    ('75 s', '10 min', '2.0 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
