"""Commands on many results: a patient's burden, and a laboratory's acceptance of a model."""

from pathlib import Path
from typing import Annotated

import typer

from wsi_pipeline.cli.app import app
from wsi_pipeline.shown import shown


@app.command()
def case(
    entries: Annotated[
        Path, typer.Argument(metavar="CASE.yaml", help="What was entered; see configs/case.yaml.")
    ],
    out: Annotated[Path, typer.Option(help="Folder that gets case.json and worksheet.html.")],
) -> None:
    """Work out the residual cancer burden of a case from its scored slides and what is entered.

    The exit code is 0 only if nothing is missing and there is a class.
    """
    from wsi_pipeline.case.assess import assess
    from wsi_pipeline.case.entries import read_entries
    from wsi_pipeline.case.worksheet import write_case

    result = assess(read_entries(entries))
    path = write_case(out, result)
    if result.rcb is None:
        typer.echo(shown(f"{result.case}: no class yet. Missing:"))
        for what in result.missing:
            typer.echo(shown(f"  {what}"))
    else:
        typer.echo(
            shown(f"{result.case}: RCB index {result.rcb.index:.2f}, {result.rcb.rcb_class}")
        )
    typer.echo(shown(f"{path}"))
    if result.rcb is None:
        raise typer.Exit(1)


@app.command()
def accept(
    readings: Annotated[
        Path,
        typer.Argument(
            metavar="SLIDES.csv", help="Columns folder (of a scored slide), cellularity_percent."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder that gets acceptance.html and the errors.")],
) -> None:
    """Compare a model with a pathologist on a laboratory's own slides, 30 or so."""
    from wsi_pipeline.accept.accept import accept as compare
    from wsi_pipeline.accept.page import write_acceptance

    result = compare(readings)
    path, found = write_acceptance(out, result), result.agreement
    low, high = (100 * limit for limit in found.limits)
    typer.echo(
        shown(
            f"{found.slides} slides, {result.model}: ICC {found.icc:.2f}, bias "
            f"{100 * found.bias:+.1f} points, limits {low:+.1f} to {high:+.1f}"
        )
    )
    typer.echo(shown(f"{path}"))
