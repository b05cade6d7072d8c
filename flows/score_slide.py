"""Score one slide as a Prefect flow run.

The flow has no tasks: a slide's store is what resumes after a kill, so a slide is the smallest
piece of work there is to schedule, retry or cancel, and results are neither cached nor persisted
by Prefect. How a run ends:

========= ========= ==============================================================================
type      name
========= ========= ==============================================================================
COMPLETED Completed the slide is scored
COMPLETED Refused   all worked as meant, but the slide gives no figure; see `night.outcome`
FAILED    Failed    the message names the file, the cause and the remedy
========= ========= ==============================================================================
"""

import time
from pathlib import Path

from prefect import State, flow, get_run_logger
from prefect.artifacts import create_image_artifact, create_markdown_artifact
from prefect.states import Completed, Failed
from pydantic import HttpUrl

import wsi_pipeline
from flows.progress import PROGRESS_EVERY_S, ProgressArtifact, unless_away
from flows.report import artifact_key, headline, markdown, picture_uri
from flows.run_log import run_log
from wsi_pipeline.errors import WsiError
from wsi_pipeline.model.bundle import ModelBundle
from wsi_pipeline.night.config import NightConfig
from wsi_pipeline.night.outcome import REFUSALS
from wsi_pipeline.night.remedies import in_flow
from wsi_pipeline.outputs.summary import SlideSummary
from wsi_pipeline.scoring import pipeline
from wsi_pipeline.scoring.filing import file_slide
from wsi_pipeline.scoring.scorer import start_engine
from wsi_pipeline.scoring.slide_arguments import one_slide


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
    results_url: HttpUrl | None = None,
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
        results_url: Address at which others find what is in `out`, for the artifacts' links.

    """
    with run_log():
        try:
            settings = NightConfig.resolve(
                config, mpp=mpp, allow_upsampling=allow_upsampling, device=device
            )
            slide = one_slide(slide)
            file = file_slide(slide, settings.names)
            folder = out.absolute() / file.folder
            model = ModelBundle.load(bundle)
            if model.card.demonstration:
                get_run_logger().warning(
                    "%s is a demonstration. %s", model.card.name, model.card.limitations
                )
            with ProgressArtifact(folder.name, f"Scoring {folder.name}") as artifact:
                summary = pipeline.score_slide(
                    file,
                    folder.parent,
                    start_engine(model, settings),
                    settings,
                    ScoringProgress(artifact),
                )
        except REFUSALS as error:
            return Completed(name="Refused", message=in_flow(str(error)))
        except WsiError as error:
            return Failed(message=in_flow(str(error)), data=error)
    publish(summary, folder, None if results_url is None else str(results_url))
    if summary.status == "refused":
        return Completed(name="Refused", message=summary.reason, data=folder)
    return Completed(message=headline(summary), data=folder)


@unless_away
def publish(summary: SlideSummary, folder: Path, results_url: str | None) -> None:
    """Make the artifacts of a finished slide: its page and its picture."""
    name = folder.name
    create_markdown_artifact(
        markdown(summary, folder, results_url),
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
    """Follows the tiles."""

    def __init__(self, artifact: ProgressArtifact) -> None:
        self._artifact = artifact
        self._due = 0.0

    def __call__(self, done: int, total: int) -> None:
        """Take note of the tiles done and the tiles in all."""
        if done < total and time.monotonic() < self._due:
            return
        self._artifact.show(100 * done / total, f"{done:,} of {total:,} tiles")
        self._due = time.monotonic() + PROGRESS_EVERY_S
