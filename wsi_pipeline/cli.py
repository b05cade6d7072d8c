"""The `wsi` command. It parses, shows progress and turns errors into lines; it decides nothing.

Each command imports what does its work when it runs: help, and mistakes in options, shall not
wait for it.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler
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

from wsi_pipeline import __version__
from wsi_pipeline.errors import WsiError
from wsi_pipeline.memory import enough_memory
from wsi_pipeline.shown import ShownFormatter, shown, write_on_any_terminal

if TYPE_CHECKING:
    from wsi_pipeline.model.bundle import ModelBundle
    from wsi_pipeline.night.outcome import Outcome
    from wsi_pipeline.night.report import NightReport
    from wsi_pipeline.night.run import Attempt
    from wsi_pipeline.night.worker_protocol import Event, Job
    from wsi_pipeline.outputs.summary import SlideSummary

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Whole-slide cellularity scoring. Research use only; not a medical device.",
)
screen = Console(stderr=True)

Slides = Annotated[list[str], typer.Argument(help="Slide files, folders of them, or fsspec URLs.")]
OneSlide = Annotated[
    str, typer.Argument(help="A slide file, the folder of one (DICOM), or an fsspec URL.")
]
Out = Annotated[Path, typer.Option(help="Folder that gets one folder per slide.")]
Bundle = Annotated[
    str | None, typer.Option(help="Model bundle: a folder or hf://owner/name. [default: the demo]")
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="YAML file; see configs/score.yaml.")
]
MppOverride = Annotated[
    float | None,
    typer.Option(help="Pixel size of level 0 in µm, where the file is wrong."),
]
AllowUpsampling = Annotated[
    bool | None,
    typer.Option("--allow-upsampling", help="Enlarge slides coarser than the model's resolution."),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Threads that read the slide.")]
KeepTiles = Annotated[
    bool | None, typer.Option("--keep-tiles", help="Keep the tiles' pixels in the store.")
]


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _setup(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show the log on the screen.")
    ] = False,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    # The handler's level, not the loggers': a run's log file has them pass on more.
    handler = RichHandler(
        logging.INFO if verbose else logging.WARNING,
        console=screen,
        show_path=False,
        markup=False,
    )
    handler.setFormatter(ShownFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler])
    # They log every oddity of a damaged file that an error of ours then names.
    for library in ("tifffile", "pydicom"):
        logging.getLogger(library).setLevel(logging.CRITICAL)


@app.command()
def score(
    slides: Slides,
    out: Out,
    bundle: Bundle = None,
    config: ConfigFile = None,
    mpp: MppOverride = None,
    allow_upsampling: AllowUpsampling = None,
    device: Device = None,
    workers: Workers = None,
    keep_tiles: KeepTiles = None,
) -> None:
    """Score slides; the same command goes on where it was interrupted.

    The exit code is 0 only if every slide was scored.
    """
    from wsi_pipeline.night.config import NightConfig
    from wsi_pipeline.outputs.summary import SlideSummary
    from wsi_pipeline.scoring.filing import file_slide, name_unread
    from wsi_pipeline.scoring.pipeline import score_slide
    from wsi_pipeline.scoring.scorer import start_engine
    from wsi_pipeline.scoring.slide_arguments import all_slides, own_folders

    settings = NightConfig.resolve(
        config,
        mpp=mpp,
        allow_upsampling=allow_upsampling,
        device=device,
        workers=workers,
        keep_tiles=keep_tiles,
    )
    folders = own_folders(all_slides(slides))
    engine = start_engine(_load_bundle(bundle), settings)
    outcomes: dict[str, SlideSummary | Exception] = {}
    known: set[str] = set()
    for number, (path, folder) in enumerate(folders.items(), start=1):
        name = name_unread(path, settings.names)
        name = f"{name} ({number})" if name in outcomes else name
        try:
            file = file_slide(path, settings.names, folder)
            name = file.folder
            with _progress(name) as advance:
                outcomes[name] = score_slide(
                    file,
                    out,
                    engine,
                    settings,
                    advance,
                    on_known=partial(known.add, name),
                )
        except (WsiError, OSError) as error:
            outcomes[name] = error
            _show_error(error)
    _show_outcomes(outcomes, known, out)
    if not all(
        isinstance(outcome, SlideSummary) and outcome.status == "scored"
        for outcome in outcomes.values()
    ):
        raise typer.Exit(1)


@app.command()
def cohort(
    inbox: Annotated[str, typer.Argument(help="A folder of slides, or an fsspec URL.")],
    out: Out,
    bundle: Bundle = None,
    config: ConfigFile = None,
    mpp: MppOverride = None,
    allow_upsampling: AllowUpsampling = None,
    device: Device = None,
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
    )
    prepared = Cohort.prepare(inbox, out, bundle, settings, again=again)
    _warn_of_demonstration(prepared.bundle)
    code = 0
    with _bars() as bars, _signals_end_the_night():
        night = NightRun(prepared, partial(_followed, bars))
        try:
            with night:
                for outcome in night:
                    _show_outcome(bars.console, outcome)
        except _NightEndedError as ended:
            code = ended.code
    _show_night(night.report)
    typer.echo(shown(f"The night's table: {night.page}"))
    if code or any(outcome.status == "failed" for outcome in night.report.outcomes):
        raise typer.Exit(code or 1)


@app.command()
def inspect(
    slide: OneSlide,
    bundle: Bundle = None,
    config: ConfigFile = None,
    mpp: MppOverride = None,
    allow_upsampling: AllowUpsampling = None,
    device: Device = None,
) -> None:
    """Show what a slide is, and what scoring it will take, before a run."""
    from wsi_pipeline.engine.build import build_engine
    from wsi_pipeline.night.config import NightConfig
    from wsi_pipeline.scoring.inspection import expect
    from wsi_pipeline.scoring.slide_arguments import one_slide
    from wsi_pipeline.slide.slide import Slide

    settings = NightConfig.resolve(
        config, mpp=mpp, allow_upsampling=allow_upsampling, device=device
    )
    slide = one_slide(slide)
    with Slide.open(slide, backend=settings.slide.backend, mpp=settings.slide.mpp) as opened:
        about = Table.grid(padding=(0, 2))
        size = opened.l0_size
        millimetres = size.width * opened.mpp / 1e3, size.height * opened.mpp / 1e3
        slide_is = f"{opened.name} ({opened.vendor}, read with {opened.backend})"
        about.add_row("Slide", _plain(slide_is))
        about.add_row(
            "Size",
            f"{size.width} × {size.height} px, {millimetres[0]:.1f} × {millimetres[1]:.1f} mm",
        )
        if opened.l0_bounds.size != size:
            bounds = opened.l0_bounds
            about.add_row(
                "Bounds", f"{bounds.width} × {bounds.height} px at ({bounds.x}, {bounds.y})"
            )
        about.add_row("Pixel size", _plain(f"{opened.mpp:.4g} µm/px, from the {opened.mpp_source}"))
        about.add_row("Sources", _plain(opened.mpp_sources.describe()))
        about.add_row(
            "Levels",
            ", ".join(
                f"{level.size.width} × {level.size.height} (1/{level.downsample:g})"
                for level in opened.levels
            ),
        )
        Console().print(about)
        engine = build_engine(_load_bundle(bundle, warn=False), settings.engine)
        expected = expect(opened, settings, engine)
    about = Table.grid(padding=(0, 2))
    about.add_row("Tissue", f"{expected.tissue_mm2:.2f} mm²")
    about.add_row("Tiles", f"{expected.n_tiles} of {expected.n_candidates} hold tissue")
    about.add_row(
        "Time",
        _plain(
            f"about {_duration(expected.total_s)} with {engine.bundle.card.name} "
            f"({engine.execution}); reading alone {_duration(expected.read_s)}"
        ),
    )
    Console().print(about)


@app.command()
def tile(
    slide: OneSlide,
    out: Out,
    config: ConfigFile = None,
    mpp: MppOverride = None,
    allow_upsampling: AllowUpsampling = None,
    workers: Workers = None,
) -> None:
    """Find the tissue and store its tiles, without scoring them."""
    from wsi_pipeline.night.config import NightConfig
    from wsi_pipeline.scoring.filing import name_unread
    from wsi_pipeline.scoring.pipeline import tile_slide
    from wsi_pipeline.scoring.slide_arguments import one_slide

    settings = NightConfig.resolve(
        config, mpp=mpp, allow_upsampling=allow_upsampling, workers=workers
    )
    slide = one_slide(slide)
    with _progress(name_unread(slide, settings.names)) as advance:
        store = tile_slide(slide, out, settings, advance)
    typer.echo(shown(f"{len(store)} tiles in {store.path}"))


@app.command()
def quantise(
    bundle: Annotated[str, typer.Argument(help="Model bundle: a folder or hf://owner/name.")],
    slides: Slides,
    tiles: Annotated[
        int, typer.Option(min=16, help="Tiles of tissue to take of all slides.")
    ] = 400,
    seed: Annotated[int, typer.Option(min=0, help="Of the tiles' choice.")] = 0,
    config: ConfigFile = None,
    mpp: MppOverride = None,
    allow_upsampling: AllowUpsampling = None,
) -> None:
    """Make a bundle ready for `engine.precision: int8`, calibrated on slides like those to come.

    Three quarters of the tiles serve to calibrate; on the others scores are compared with those in
    float32, and nothing is written if they are off by more than 0.01 on average.
    """
    from wsi_pipeline.engine.int8 import keep_quantised
    from wsi_pipeline.engine.quantise import quantise
    from wsi_pipeline.model.bundle import ModelBundle
    from wsi_pipeline.night.config import NightConfig
    from wsi_pipeline.scoring.sample import sample_tiles
    from wsi_pipeline.scoring.slide_arguments import all_slides

    settings = NightConfig.resolve(config, mpp=mpp, allow_upsampling=allow_upsampling)
    paths = all_slides(slides)
    model = ModelBundle.load(bundle)
    sample = sample_tiles(paths, model.card, settings, count=tiles, seed=seed)
    graph, cost = quantise(model, sample, slides=len(paths), seed=seed)
    path = keep_quantised(model, graph, cost)
    typer.echo(
        f"{shown(path)}: scores are off by {cost.mean_error:.4f} on average, "
        f"{cost.max_error:.4f} at most ({cost.checked_on} tiles)"
    )


@app.command()
def heatmap(
    folder: Annotated[Path, typer.Argument(help="A scored slide's folder of outputs.")],
    slide: Annotated[
        str | None, typer.Option(help="The slide's file, for the overlay too.")
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Write the outputs of a scored slide again, from its store."""
    from wsi_pipeline.night.config import NightConfig
    from wsi_pipeline.scoring.rewrite import write_again
    from wsi_pipeline.scoring.slide_arguments import one_slide

    settings = NightConfig.resolve(config)
    meant = None if slide is None else one_slide(slide)
    summary = write_again(folder, settings, meant)
    typer.echo(shown(f"Outputs of {summary.provenance.slide.name} written again in {folder}"))


@app.command()
def verify(
    where: Annotated[
        Path, typer.Argument(metavar="DIR", help="One slide's folder, or that of all results.")
    ],
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every file and store, whatever its time says.")
    ] = False,
    config: ConfigFile = None,
) -> None:
    """Check that finished results are what they were when they were written.

    Files are known by size and time, or by all their bytes. The exit code is 0 only if nothing is
    damaged or lost.
    """
    from wsi_pipeline.night.config import NightConfig
    from wsi_pipeline.scoring.folder import read_summary
    from wsi_pipeline.scoring.verify import faults, slide_folders

    settings = NightConfig.resolve(config)
    folders = slide_folders(where)
    results = damaged = 0
    for folder in folders:
        found = faults(folder, settings.store, deep=deep)
        results += bool(found) or read_summary(folder) is not None
        damaged += bool(found)
        for fault in found:
            screen.print(
                f"[bold red]damaged:[/] {_plain(str(fault))}", highlight=False, soft_wrap=True
            )
    typer.echo(
        f"{results} results, {damaged} damaged; {len(folders) - results} slides without a result."
    )
    if damaged:
        raise typer.Exit(1)


def main() -> None:
    """Run the command; bad input ends in one line and exit code 1, not in a traceback."""
    write_on_any_terminal()
    try:
        with enough_memory("The command"):
            app()
    except (WsiError, OSError) as error:
        _show_error(error)
        sys.exit(1)


def _load_bundle(location: str | None, *, warn: bool = True) -> ModelBundle:
    from wsi_pipeline.model.bundle import DEMO_BUNDLE, ModelBundle

    bundle = ModelBundle.load(location if location is not None else DEMO_BUNDLE)
    if warn:
        _warn_of_demonstration(bundle)
    return bundle


def _warn_of_demonstration(bundle: ModelBundle) -> None:
    if bundle.card.demonstration:
        screen.print(
            f"[yellow]Using {_plain(bundle.card.name)} {_plain(bundle.card.version)}, a "
            f"demonstration:[/] {_plain(bundle.card.trained_on.split('. ')[0].rstrip('.'))}. "
            "Pass --bundle for a model of your own.",
            highlight=False,
        )


def _bars() -> Progress:
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
def _progress(name: str) -> Iterator[Callable[[int, int], None]]:
    """Show one slide's bar; yield what moves it."""
    with _bars() as bars:
        task = bars.add_task(_plain(name), total=None)

        def advance(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)

        yield advance


def _followed(bars: Progress, job: Job, attempt: Attempt) -> Outcome:
    """Score a slide of a night under a bar of its own."""
    from wsi_pipeline.night.worker_protocol import Progress as TilesDone

    task = bars.add_task(_plain(job.slide.name), total=None)

    def moved(event: Event) -> None:
        if isinstance(event, TilesDone):
            bars.update(task, completed=event.done, total=event.total)

    try:
        return attempt(moved)
    finally:
        bars.remove_task(task)


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


def _show_outcome(console: Console, outcome: Outcome) -> None:
    if outcome.status != "left":
        how = "green" if outcome.status == "scored" else "bold red"
        console.print(
            f"[{how}]{outcome.status}[/] {_plain(outcome.reason or outcome.name)}",
            highlight=False,
            soft_wrap=True,
        )


def _plain(text: object) -> str:
    """Return a text that rich shows as it is."""
    return escape(shown(text))


def _show_error(error: WsiError | OSError) -> None:
    line = str(error)
    if isinstance(error, OSError) and error.filename:
        line = f"{error.filename}: {error.strerror}."
    screen.print(f"[bold red]error:[/] {_plain(line)}", highlight=False, soft_wrap=True)


def _show_outcomes(
    outcomes: dict[str, SlideSummary | Exception], known: set[str], out: Path
) -> None:
    table = Table()
    for heading in ("slide", "outcome", "tiles", "cellularity of the tissue", "heatmap"):
        # Whole names and paths, on several lines if need be: they are there to be copied.
        table.add_column(heading, overflow="fold")
    for name, outcome in outcomes.items():
        already = "already " if name in known else ""
        if isinstance(outcome, Exception):
            table.add_row(_plain(name), "failed", "", "", "")
        elif outcome.status == "refused":
            why = f"{already}refused: {_plain(outcome.reason or '')}"
            table.add_row(_plain(name), why, "", "", "")
        else:
            table.add_row(
                _plain(name),
                f"{already}scored",
                str(outcome.tiles.scored),
                f"{outcome.cellularity.mean:.1%}" if outcome.cellularity else "",
                _plain(str(out / name / "cellularity.ome.tiff")),
            )
    Console().print(table)


def _show_night(night: NightReport) -> None:
    table = Table()
    for heading in ("slide", "outcome", "cellularity of the tissue", "why"):
        table.add_column(heading, overflow="fold")
    for outcome in night.sorted_outcomes():
        summary = outcome.summary
        figure = summary.cellularity if summary is not None else None
        table.add_row(
            _plain(outcome.name),
            outcome.status,
            f"{figure.mean:.1%}" if figure is not None else "",
            _plain(outcome.reason),
        )
    Console().print(table)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
