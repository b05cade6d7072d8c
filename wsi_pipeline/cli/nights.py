"""The command of a night, and what signals make of it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Annotated

import typer

from wsi_pipeline.cli.app import app
from wsi_pipeline.cli.options import (
    AllowUpsampling,
    Bundle,
    ConfigFile,
    Device,
    MppOverride,
    Out,
)
from wsi_pipeline.cli.screen import (
    followed,
    show_night,
    show_outcome,
    tile_bars,
    warn_of_demonstration,
)
from wsi_pipeline.shown import shown


@app.command()
def cohort(
    inbox: Annotated[str, typer.Argument(help="A folder of slides, or an fsspec URL.")],
    out: Out,
    bundle: Bundle = None,
    config: ConfigFile = None,
    mpp: MppOverride = None,
    allow_upsampling: AllowUpsampling = None,
    device: Device = None,
    precision: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=0.5,
            help="Estimate every slide's mean to within this first, e.g. 0.02; then score those "
            "whole that may hold most.",
        ),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option(formats=["%H:%M"], help="End the night then; the next one goes on."),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Try slides again that have failed for good.")
    ] = False,
) -> None:
    """Score what is new in an inbox, each slide in a process that only it can bring down.

    Slides that may still be being copied, and those scored before with this bundle and
    configuration, are left alone. A table slides.csv in the inbox or beside it gives single slides
    an mpp, leave to be enlarged, and labels. The exit code is 0 only if no slide failed.
    """
    from wsi_pipeline.night.config import NightConfig
    from wsi_pipeline.night.plan import Cohort
    from wsi_pipeline.night.run import NightRun

    settings = NightConfig.resolve(
        config, mpp=mpp, allow_upsampling=allow_upsampling, device=device
    ).of_night(precision, None if until is None else until.time())
    prepared = Cohort.prepare(inbox, out, bundle, settings, again=again)
    warn_of_demonstration(prepared.bundle)
    code = 0
    with tile_bars() as bars, _signals_end_the_night():
        night = NightRun(prepared, partial(followed, bars))
        try:
            with night:
                for outcome in night:
                    show_outcome(bars.console, outcome)
        except _NightEndedError as ended:
            code = ended.code
    show_night(night.report)
    typer.echo(shown(f"The night's table: {night.page}"))
    if code or any(outcome.status == "failed" for outcome in night.report.outcomes):
        raise typer.Exit(code or 1)


class _NightEndedError(KeyboardInterrupt):
    """A signal asks for the night's end; `code` is the exit code that tells of it."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.code = 128 + number


@contextmanager
def _signals_end_the_night() -> Iterator[None]:
    """Have Ctrl-C, a service that stops and a terminal that closes end a night with its page."""

    def end(number: int, _frame: object) -> None:
        raise _NightEndedError(number)

    before = {
        number: signal.signal(number, end)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN  # as `nohup` has it
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
