"""Commands on slides: what one is, its tiles, its score, and a model's calibration on some."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from wsi_pipeline.cli.app import app
from wsi_pipeline.cli.options import (
    AllowUpsampling,
    BedFile,
    Bundle,
    ConfigFile,
    Device,
    KeepTiles,
    MppOverride,
    OneSlide,
    Out,
    Precision,
    Slides,
    Workers,
)
from wsi_pipeline.cli.screen import (
    duration,
    plain,
    progress,
    show_error,
    show_outcomes,
    warn_of_demonstration,
)
from wsi_pipeline.errors import ConfigError, WsiError
from wsi_pipeline.shown import shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsi_pipeline.model.bundle import ModelBundle
    from wsi_pipeline.night.config import NightConfig
    from wsi_pipeline.outputs.estimate import Estimate
    from wsi_pipeline.outputs.summary import SlideSummary


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
        about.add_row("Slide", plain(slide_is))
        about.add_row(
            "Size",
            f"{size.width} × {size.height} px, {millimetres[0]:.1f} × {millimetres[1]:.1f} mm",
        )
        if opened.l0_bounds.size != size:
            bounds = opened.l0_bounds
            about.add_row(
                "Bounds", f"{bounds.width} × {bounds.height} px at ({bounds.x}, {bounds.y})"
            )
        about.add_row("Pixel size", plain(f"{opened.mpp:.4g} µm/px, from the {opened.mpp_source}"))
        about.add_row("Sources", plain(opened.mpp_sources.describe()))
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
        plain(
            f"about {duration(expected.total_s)} with {engine.bundle.card.name} "
            f"({engine.execution}); reading alone {duration(expected.read_s)}"
        ),
    )
    Console().print(about)


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
    bed: BedFile = None,
    precision: Precision = None,
) -> None:
    """Score slides; the same command goes on where it was interrupted.

    With a precision, an estimate of each slide's mean (of its bed's with --bed) is left, estimate.*
    in its folder; the same command without goes on from there to the result. The exit code is 0
    only if every slide was scored.
    """
    from wsi_pipeline.night.config import NightConfig
    from wsi_pipeline.scoring.begun import finished_result
    from wsi_pipeline.scoring.filing import file_slide, name_unread
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
    if bed is not None and len(folders) != 1:
        raise ConfigError(f"--bed {bed}: a bed is of one slide, and here are {len(folders)}.")
    model = _load_bundle(bundle)
    score_one: Callable[..., SlideSummary | Estimate] | None = None
    outcomes: dict[str, SlideSummary | Estimate | Exception] = {}
    known: set[str] = set()
    for number, (path, folder) in enumerate(folders.items(), start=1):
        name = name_unread(path, settings.names)
        name = f"{name} ({number})" if name in outcomes else name
        try:
            file = file_slide(path, settings.names, folder)
            name = file.folder
            done = finished_result(file, out, model, settings, bed)
        except (WsiError, OSError) as error:
            outcomes[name] = error
            show_error(error)
            continue
        if done is not None:
            outcomes[name] = done
            known.add(name)
            continue
        score_one = score_one or _scoring(model, settings, precision)
        try:
            with progress(name) as advance:
                outcomes[name] = score_one(file, out, progress=advance, bed=bed)
        except (WsiError, OSError) as error:
            outcomes[name] = error
            show_error(error)
    show_outcomes(outcomes, known, out)
    if any(
        isinstance(outcome, Exception) or getattr(outcome, "status", "") == "refused"
        for outcome in outcomes.values()
    ):
        raise typer.Exit(1)


def _scoring(
    model: ModelBundle, settings: NightConfig, precision: float | None
) -> Callable[..., SlideSummary | Estimate]:
    """Start the engine; return what scores a slide with it, or estimates it to a precision."""
    from wsi_pipeline.scoring.scorer import start_engine

    engine = start_engine(model, settings)
    if precision is None:
        from wsi_pipeline.scoring.pipeline import score_slide

        return partial(score_slide, engine=engine, config=settings)
    from wsi_pipeline.scoring.estimate import estimate_slide

    return partial(estimate_slide, engine=engine, config=settings, precision=precision)


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
    with progress(name_unread(slide, settings.names)) as advance:
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


def _load_bundle(location: str | None, *, warn: bool = True) -> ModelBundle:
    from wsi_pipeline.model.bundle import ModelBundle

    bundle = ModelBundle.load(location)
    if warn:
        warn_of_demonstration(bundle)
    return bundle
