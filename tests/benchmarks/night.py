"""How long the model waits between slides, with one slide at a time and with two.

python -m tests.benchmarks.night [--slides 8] [--px 2560]

Generated slides of equal size, the demonstration bundle, this machine's processor. Two figures:
the share of the time between the first slide's model and the last's in which no slide had the model
(`NightReport.model_idle_share`), and that in which it computed nothing, waits for pixels included.
"""

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tests.helpers.made import write_slide
from tests.helpers.nights import a_night
from training.synthetic import generate_region
from wsi_pipeline.model.bundle import BUNDLED_MODEL
from wsi_pipeline.night.config import CrewConfig, InboxConfig, NightConfig
from wsi_pipeline.night.report import NightReport


def computing_share(night: NightReport) -> float:
    """Return the share of the model's whole span in which it computed."""
    had = [outcome for outcome in night.outcomes if outcome.model_from is not None]
    span = max(o.model_until or 0.0 for o in had) - min(o.model_from or 0.0 for o in had)
    return sum(outcome.model_s for outcome in had) / span


def main(
    slides: Annotated[int, typer.Option(help="How many.")] = 8,
    px: Annotated[int, typer.Option(help="Their sides, at 0.5 µm/px.")] = 2560,
) -> None:
    """Measure both, and print a row for each."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inbox = folder / "inbox"
        inbox.mkdir()
        for number in range(slides):
            rgb = generate_region(number, px).rgb
            write_slide(inbox / f"{number}.tif", rgb, downsamples=(4, 16), compression="jpeg")
        print("| slides at once | night, s | no slide had the model | model computed | load |")
        print("| ---: | ---: | ---: | ---: | ---: |")
        for at_once in (1, 2):
            config = NightConfig(
                inbox=InboxConfig(quiet_s=0, look_again_s=0),
                crew=CrewConfig(slides_at_once=at_once),
            )
            night = a_night(inbox, folder / f"results {at_once}", BUNDLED_MODEL, config)
            idle = night.model_idle_share()
            seconds = (night.ended - night.started).total_seconds()
            print(
                f"| {at_once} | {seconds:.0f} | {idle:.1%} | {computing_share(night):.1%} "
                f"| {os.getloadavg()[1]:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    typer.run(main)
