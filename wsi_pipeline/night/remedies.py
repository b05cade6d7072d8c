"""What a person can do about a slide's settings, at the entry point where it is read.

Errors are raised far from there: they name the option of the command, which others replace.
"""

from wsi_pipeline.night.inbox_table import MPP, NAME, UPSAMPLING
from wsi_pipeline.slide import mpp
from wsi_pipeline.tiles import grid

_ROW = f"Add a row for it to {NAME} in the inbox"


def at_night(text: str) -> str:
    """Say what a table in the inbox can do."""
    return text.replace(mpp.REMEDY, f"{_ROW}, with its true {MPP}.").replace(
        grid.REMEDY, f"{_ROW}, with {UPSAMPLING}"
    )


def in_flow(text: str) -> str:
    """Say what a parameter of the flow can do."""
    return text.replace(mpp.REMEDY, "Run it with the true value as the parameter mpp.").replace(
        grid.REMEDY, "Set the parameter allow_upsampling"
    )
