"""Score one slide as a Prefect flow run.

The flow has no tasks: a slide's store is what resumes after a kill, so a slide is the smallest
piece of work there is to schedule, retry or cancel, and results are neither cached nor persisted
by Prefect. How a run ends:

========= ========= ==============================================================================
type      name
========= ========= ==============================================================================
COMPLETED Completed the slide is scored
FAILED    Refused   there is no tissue, or too little of it could be read, and so no figure. It
                    counts as failed, as in the exit code of `wsi score`, since whoever waits for
                    a figure must hear that there is none; the name tells that all worked as meant
                    and that another try would end alike
FAILED    Failed    the message names the file, the cause and the remedy
========= ========= ==============================================================================
"""

import time
from pathlib import Path

from prefect import State, flow, get_run_logger
from prefect.artifacts import create_image_artifact, create_markdown_artifact
from prefect.states import Completed, Failed

import wsi_pipeline
from flows.progress import PROGRESS_EVERY_S, ProgressArtifact
from flows.report import artifact_key, headline, markdown, picture_uri
from flows.run_log import run_log
from wsi_pipeline import pipeline
from wsi_pipeline.bundle import DEMO_BUNDLE, ModelBundle
from wsi_pipeline.config import ScoreConfig
from wsi_pipeline.errors import WsiError
from wsi_pipeline.naming import file_slide
from wsi_pipeline.slide_folders import one_slide
from wsi_pipeline.summary import SlideSummary


@flow(
    name="score-slide",
    flow_run_name="{slide}",
    version=wsi_pipeline.__version__,
    persist_result=False,
)
def score_slide(
    slide: str,
    out: Path = Path("results"),
    bundle: str | None = None,
    mpp: float | None = None,
    allow_upsampling: bool | None = None,  # noqa: FBT001 - parameters are passed by name
    device: str | None = None,
    config: Path | None = None,
) -> State[Path]:
    """Score the cellularity of a slide: from its file to a heatmap, tables and a summary.

    A run that was killed goes on where it stopped when the same parameters are run again. Paths
    are seen from where the flow is served.

    Args:
        slide: A slide file, its folder (DICOM), or an fsspec URL.
        out: Folder that gets one folder per slide.
        bundle: Model bundle, a folder or hf://owner/name; the demonstration if left out.
        mpp: Pixel size of level 0 in µm, where the file is wrong.
        allow_upsampling: Enlarge slides coarser than the model's resolution.
        device: auto, cpu, cuda, cuda:1 or mps.
        config: YAML file; see configs/score.yaml.

    """
    with run_log():
        try:
            settings = ScoreConfig.resolve(
                config, mpp=mpp, allow_upsampling=allow_upsampling, device=device
            )
            slide = one_slide(slide)
            filing = file_slide(slide, settings.names)
            folder = out.absolute() / filing.folder
            model = ModelBundle.load(DEMO_BUNDLE if bundle is None else bundle)
            if model.card.demonstration:
                get_run_logger().warning(
                    "%s is a demonstration. %s", model.card.name, model.card.limitations
                )
            summary = pipeline.score_slide(
                slide,
                folder.parent,
                pipeline.start_engine(model, settings),
                settings,
                ScoringProgress(folder.name),
                filing=filing,
            )
        except WsiError as error:
            return Failed(message=str(error), data=error)
    publish(summary, folder)
    if summary.status == "refused":
        return Failed(name="Refused", message=summary.reason)
    return Completed(message=headline(summary), data=folder)


def publish(summary: SlideSummary, folder: Path) -> None:
    """Make the artifacts of a finished slide: its page and its picture."""
    name = folder.name
    create_markdown_artifact(
        markdown(summary, folder),
        key=artifact_key("summary", name),
        description=headline(summary),
    )
    scored = summary.status == "scored"
    create_image_artifact(
        picture_uri(folder / ("overlay.png" if scored else "tissue-outline.png")),
        key=artifact_key("overlay" if scored else "tissue", name),
        description=f"Cellularity over {name}" if scored else f"Tissue found on {name}",
    )


class ScoringProgress:
    """A progress artifact that follows the tiles."""

    def __init__(self, name: str) -> None:
        """Create the artifact of the slide of this name, within a flow run."""
        self._artifact = ProgressArtifact(name, f"Scoring {name}")
        self._due = 0.0

    def __call__(self, done: int, total: int) -> None:
        """Take note of the tiles done and the tiles in all."""
        if done < total and time.monotonic() < self._due:
            return
        self._artifact.show(100 * done / total, f"{done:,} of {total:,} tiles")
        self._due = time.monotonic() + PROGRESS_EVERY_S
