"""The command itself: its options before any subcommand, and how it ends."""

import logging
import sys
from typing import Annotated

import typer
from rich.logging import RichHandler

from wsi_pipeline import __version__
from wsi_pipeline.cli.screen import screen, show_error
from wsi_pipeline.errors import WsiError
from wsi_pipeline.memory import enough_memory
from wsi_pipeline.shown import ShownFormatter, write_on_any_terminal

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Whole-slide cellularity scoring. Research use only; not a medical device.",
)


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


def main() -> None:
    """Run the command; bad input ends in one line and exit code 1, not in a traceback."""
    write_on_any_terminal()
    try:
        with enough_memory("The command"):
            app()
    except (WsiError, OSError) as error:
        show_error(error)
        sys.exit(1)
