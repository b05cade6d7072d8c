"""Commands on finished results: write their outputs again, and see whether they are whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsi_pipeline.cli.app import app
from wsi_pipeline.cli.options import BedFile, ConfigFile
from wsi_pipeline.cli.screen import plain, screen
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.shown import shown

if TYPE_CHECKING:
    from wsi_pipeline.export.dicom_report import CaseBurden


@app.command()
def heatmap(
    folder: Annotated[Path, typer.Argument(help="A scored slide's folder of outputs.")],
    slide: Annotated[
        str | None, typer.Option(help="The slide's file, for the overlay too.")
    ] = None,
    bed: BedFile = None,
    config: ConfigFile = None,
) -> None:
    """Write the outputs of a scored slide again, from its store."""
    from wsi_pipeline.night.config import NightConfig
    from wsi_pipeline.scoring.rewrite import write_again
    from wsi_pipeline.scoring.slide_arguments import one_slide

    settings = NightConfig.resolve(config)
    meant = None if slide is None else one_slide(slide)
    summary = write_again(folder, settings, meant, bed)
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
                f"[bold red]damaged:[/] {plain(str(fault))}", highlight=False, soft_wrap=True
            )
    typer.echo(
        f"{results} results, {damaged} damaged; {len(folders) - results} slides without a result."
    )
    if damaged:
        raise typer.Exit(1)


@app.command()
def view(
    folder: Annotated[Path, typer.Argument(help="A scored slide's folder of outputs.")],
    slide: Annotated[str, typer.Option(help="The slide's file.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")
    ] = True,
    config: ConfigFile = None,
) -> None:
    """Serve a result's page with the slide's own pixels at every zoom, to this machine alone.

    The page's address holds a token that is drawn anew each time. Ctrl-C ends it.
    """
    import webbrowser

    from wsi_pipeline.night.config import NightConfig
    from wsi_pipeline.scoring.slide_arguments import one_slide
    from wsi_pipeline.scoring.view import served

    settings = NightConfig.resolve(config)
    with served(folder, one_slide(slide), settings, port) as found:
        typer.echo(f"{found.address}  (Ctrl-C ends it)")
        if browser:
            webbrowser.open(found.address)
        try:
            found.server.serve_forever()
        except KeyboardInterrupt:
            typer.echo("Ended.")


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="A scored slide's folder of outputs.")],
    ome_zarr: Annotated[
        Path | None,
        typer.Option("--ome-zarr", help="New OME-Zarr store with maps and overlay: NGFF 0.5."),
    ] = None,
    spatialdata: Annotated[
        Path | None,
        typer.Option("--spatialdata", help="New SpatialData store with maps, tiles and bed."),
    ] = None,
    qupath: Annotated[
        bool, typer.Option("--qupath", help="Write scripts for QuPath into FOLDER/qupath.")
    ] = False,
    dicom: Annotated[
        bool, typer.Option("--dicom", help="Write map and figures as DICOM into FOLDER/dicom.")
    ] = False,
    to: Annotated[
        str | None, typer.Option("--to", help="DICOMweb address that gets the DICOM files too.")
    ] = None,
    slide: Annotated[
        str | None, typer.Option(help="The slide's file: for QuPath's project, and if it is DICOM.")
    ] = None,
    case: Annotated[
        Path | None,
        typer.Option(help="Folder of `wsi case`, whose burden the DICOM report tells as well."),
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Write a finished result in the forms of other programs."""
    from wsi_pipeline.export.ome_zarr import write_ome_zarr
    from wsi_pipeline.export.qupath import write_qupath
    from wsi_pipeline.scoring.slide_arguments import one_slide

    own_slide = None if slide is None else one_slide(slide)
    if ome_zarr is None and spatialdata is None and not qupath and not dicom:
        raise ConfigError(
            "Nothing to export. Name a form: --ome-zarr NAME.ome.zarr, --spatialdata NAME.zarr, "
            "--qupath or --dicom."
        )
    if to is not None and not dicom:
        raise ConfigError(f"--to {to}: only DICOM files can be sent there. Add --dicom.")
    if case is not None and not dicom:
        raise ConfigError(f"--case {case}: only the DICOM report tells of a case. Add --dicom.")
    if ome_zarr is not None:
        typer.echo(shown(f"{write_ome_zarr(folder, ome_zarr)}"))
    if spatialdata is not None:
        typer.echo(shown(f"{_spatial_data(folder, spatialdata)}"))
    if qupath:
        for script in write_qupath(folder, own_slide):
            typer.echo(shown(script))
    if dicom:
        from wsi_pipeline.export.dicom import write_dicom
        from wsi_pipeline.export.dicom_web import send
        from wsi_pipeline.night.config import NightConfig

        burden = None if case is None else _burden(case, folder)
        files = write_dicom(folder, own_slide, NightConfig.resolve(config).names, burden)
        for file in files:
            typer.echo(shown(file))
        if to is not None:
            sent = send(files, to)
            typer.echo(shown(f"{sent} of {len(files)} sent to {to}; the others were there."))


def _spatial_data(folder: Path, target: Path) -> Path:
    try:
        from wsi_pipeline.export.spatial_data import write_spatial_data
    except ImportError as error:
        raise ConfigError(
            f"SpatialData needs a package that is not installed ({error.name}). Run: "
            'pip install "wsi-pipeline[spatialdata]"'
        ) from error
    return write_spatial_data(folder, target)


def _burden(case: Path, folder: Path) -> CaseBurden:
    """Read the burden of the case that a result is part of."""
    from wsi_pipeline.case.worksheet import CASE, read_case
    from wsi_pipeline.export.dicom_report import CaseBurden
    from wsi_pipeline.export.finished import scored_summary

    found = read_case(case)
    summary = scored_summary(folder)
    slide = summary.provenance.slide
    beds = {block.digest: block.bed for block in found.blocks}
    if slide.digest not in beds:
        raise ConfigError(f"{case / CASE}: {slide.name} is no slide of the case {found.case}.")
    if beds[slide.digest] != summary.bed:
        raise ConfigError(
            f"{case / CASE}: the bed of {slide.name} was measured anew since. Run the same "
            "`wsi case` again."
        )
    if found.rcb is None:
        raise ConfigError(
            f"{case / CASE}: the case has no class yet. Missing: {'; '.join(found.missing)}"
        )
    return CaseBurden(found.rcb.index, found.rcb.rcb_class, found.rcb.interval)
