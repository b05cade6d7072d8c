"""A command on this machine: what it has, and whether the model runs right on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsi_pipeline.cli.app import app
from wsi_pipeline.cli.options import Bundle
from wsi_pipeline.shown import shown

if TYPE_CHECKING:
    from wsi_pipeline.scoring.doctor import Way


@app.command()
def doctor(
    device: Annotated[str, typer.Option(help="auto, cpu or cuda: which is tried.")] = "auto",
    bundle: Bundle = None,
) -> None:
    """Say what this machine has, and score a sample in every way that it can run the model.

    The exit code is 0 only if nothing is amiss.
    """
    from wsi_pipeline.model.bundle import ModelBundle
    from wsi_pipeline.scoring.doctor import gpu_ways, machine, ways

    amiss = False
    for finding in machine(Path()):
        amiss |= finding.remedy is not None
        remedy = "" if finding.remedy is None else f"  -> {finding.remedy}"
        typer.echo(shown(f"{finding.what:18} {finding.found}{remedy}"))
    model = ModelBundle.load(bundle)
    typer.echo(shown(f"{'model':18} {model.card.name} {model.card.version}"))
    found = ways(model, device)
    amiss |= _show(found)
    if not any(way.chosen for way in found):
        typer.echo("Nothing here runs the model as it would be run by itself.")
        amiss = True
    if any(way.name.startswith("cuda") and way.failure is None for way in found):
        typer.echo("On the GPU, held against eager float32:")
        amiss |= _show(gpu_ways(model, device if device.startswith("cuda") else "cuda"))
    if amiss:
        raise typer.Exit(1)


def _show(found: Sequence[Way]) -> bool:
    """Show ways to run the model; return whether one that is used scores wrong."""
    from wsi_pipeline.scoring.doctor import LARGEST_ERROR

    amiss = False
    for way in found:
        if way.failure is not None:
            typer.echo(shown(f"{way.name:26} cannot run: {way.failure}"))
            continue
        wrong = way.largest_error > LARGEST_ERROR
        amiss |= wrong and way.chosen
        said = "  <- used by itself" if way.chosen else ""
        typer.echo(
            f"{way.name:26} {way.tiles_per_s:7.1f} tiles/s, off by at most {way.largest_error:.4f}"
            f"{'  WRONG' if wrong else ''}{said}"
        )
    return amiss
