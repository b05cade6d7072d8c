"""How the night of one slide ended, in the terms in which a person must act on it.

========= =======================================================================================
status    what it means
========= =======================================================================================
scored    there is a figure and a heatmap
refused   all worked as meant, and the slide itself gives no figure: no pixel size, no tissue, too
          little of it readable. The reason says what a person can do
estimated its mean is known from a part of its tiles; the whole of it waits for time
failed    the file is damaged, or something broke; the others were not held up
left      nothing was to be done: still being copied, done before, the same slide as another,
          another run is at work on it, or the night was ended
========= =======================================================================================
"""

import traceback
from typing import Literal

from pydantic import BaseModel, ConfigDict

from wsi_pipeline.digests import SlideDigest
from wsi_pipeline.errors import (
    ClusterError,
    ColourError,
    CoverageError,
    InUseError,
    ModelUnavailableError,
    MppError,
    OutputError,
    SlideError,
    SlideUnavailableError,
    StoreError,
    TissueError,
    WsiError,
)
from wsi_pipeline.night.remedies import at_night
from wsi_pipeline.outputs.estimate import Estimate
from wsi_pipeline.outputs.summary import SlideSummary
from wsi_pipeline.slide.files import SlideFile
from wsi_pipeline.slide.redaction import without_name

Status = Literal["scored", "estimated", "refused", "failed", "left"]
Retry = Literal["now", "another night", "never"]

REFUSALS = (ColourError, MppError, TissueError, CoverageError)
"""All worked as meant, and the slide gives no figure."""


class Outcome(BaseModel):
    """How one slide ended.

    Attributes:
        name: what outputs call the slide.
        folder: the name of its folder below the output folder.
        slide_digest: of its bytes; None if they were not read.
        status: see the table above.
        kind: of what kept it from being scored: the error's class, or a word for why it was left.
        reason: the same in a sentence, for whoever reads the night's table.
        traceback: where it broke, if that was not foreseen.
        retry: whether another try can end otherwise: within the night, on another one, or never
            with these bytes and these settings.
        summary: all figures, if there are any.
        estimate: what is known of a slide of which a part is scored.
        labels: what the inbox's table says of the slide, by column.
        seconds: from its start to its end.
        model_s: seconds in which the model worked on it.
        model_from: when it first had the model, and `model_until`, when it let go of it, in
            seconds since 1970; None if it never had.

    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    folder: str
    slide_digest: SlideDigest | None = None
    status: Status
    kind: str = ""
    reason: str = ""
    traceback: str | None = None
    retry: Retry = "never"
    summary: SlideSummary | None = None
    estimate: Estimate | None = None
    labels: dict[str, str] = {}
    seconds: float = 0.0
    model_s: float = 0.0
    model_from: float | None = None
    model_until: float | None = None


def of_summary(slide: SlideFile, summary: SlideSummary) -> Outcome:
    """Return the outcome of a slide that came to its end."""
    refused = summary.status == "refused"
    return Outcome(
        name=slide.name,
        folder=slide.folder,
        slide_digest=summary.provenance.slide.digest,
        status=summary.status,
        kind=_kind_of_refusal(summary) if refused else "",
        reason=summary.reason or "",
        summary=summary,
    )


def of_estimate(slide: SlideFile, estimate: Estimate) -> Outcome:
    """Return the outcome of a slide that was scored in part."""
    return Outcome(
        name=slide.name,
        folder=slide.folder,
        slide_digest=estimate.provenance.slide.digest,
        status="estimated",
        reason=(
            f"{estimate.scored} of {estimate.tiles} tiles are scored; a night with time left goes "
            "on with the others."
        ),
        retry="another night",
        estimate=estimate,
    )


def of_error(slide: SlideFile, error: Exception) -> Outcome:
    """Return the outcome of a slide that ended in an error; it goes by the name it is filed under.

    The traceback is kept of what nobody foresaw: errors of ours say all there is to say.
    """
    if isinstance(error, InUseError):
        found = left(slide, "in use", without_name(str(error), slide))
        return found.model_copy(update={"retry": retry_after(error)})
    foreseen = isinstance(error, WsiError)
    trace = None if foreseen else "".join(traceback.format_exception(error))
    reason = str(error) if foreseen else f"{type(error).__name__}: {error}"
    return Outcome(
        name=slide.name,
        folder=slide.folder,
        slide_digest=slide.digest,
        status="refused" if isinstance(error, REFUSALS) else "failed",
        kind=type(error).__name__,
        reason=without_name(at_night(" ".join(reason.split())), slide),
        traceback=None if trace is None else without_name(trace, slide),
        retry=retry_after(error),
    )


def left(slide: SlideFile, kind: str, reason: str, summary: SlideSummary | None = None) -> Outcome:
    """Return the outcome of a slide with which nothing was to be done."""
    return Outcome(
        name=slide.name,
        folder=slide.folder,
        slide_digest=slide.digest,
        status="left",
        kind=kind,
        reason=reason,
        summary=summary,
    )


def retry_after(error: Exception) -> Retry:
    """Say whether another try can end otherwise: a network may be back, a corrupt file may not."""
    match error:
        case SlideUnavailableError() | ClusterError() | ConnectionError() | TimeoutError():
            return "now"
        case ModelUnavailableError():
            return "now"
        case InUseError():
            return "now"  # the other run may have ended by the time all others are scored
        case SlideError(__cause__=FileNotFoundError()):
            return "now"  # it was there when the inbox was looked into
        case SlideError(__cause__=OSError()):
            return "another night"
        case StoreError() | OutputError():
            return "another night"
        case SlideError() | MppError() | TissueError() | CoverageError():
            return "never"
        case _:
            return "another night"


def _kind_of_refusal(summary: SlideSummary) -> str:
    return (TissueError if summary.tiles.tissue == 0 else CoverageError).__name__
