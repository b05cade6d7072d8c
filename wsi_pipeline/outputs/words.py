"""What a summary says, in a person's words: for pages and notebooks."""

from wsi_pipeline.outputs.summary import SlideSummary

_SPACE = "\N{NO-BREAK SPACE}"


def warnings(summary: SlideSummary) -> list[str]:
    """Return what may have harmed the figures, a sentence for each of the summary's flags."""
    quality, slide = summary.quality, summary.provenance.slide
    bundle = summary.provenance.bundle
    sentences = {
        "demonstration model": (
            f"{bundle.name} {bundle.version} is a demonstration model: its scores show that the "
            f"pipeline works, and say nothing about a patient."
        ),
        "not all tissue scored": (
            f"Only {percent(summary.coverage)} of the tissue could be read and scored: "
            f"{summary.tiles.scored} of {summary.tiles.tissue} tiles."
        ),
        "a few fields only": (
            f"Only {summary.tissue_area_mm2:.2g} mm² of tissue were found: the figure is that of a "
            f"few fields."
        ),
        "out of focus": f"{percent(quality.blurred_fraction)} of the tissue is out of focus.",
        "pen marks": f"{percent(quality.pen_fraction)} of the tissue lies under pen ink.",
        "stain unlike the model's": (
            f"The stain is {quality.stain_distance or 0:.1f} standard deviations from what the "
            f"model has seen: intervals are widened."
        ),
        "enlarged to the model's resolution": (
            f"The slide ({slide.mpp:.3g} µm/px) is coarser than the model's resolution and was "
            f"enlarged to it."
        ),
        "pixel size assumed from the objective": (
            f"The pixel size ({slide.mpp:.3g} µm/px) was assumed from the objective's power: the "
            f"file does not state one."
        ),
    }
    raised = sorted(quality.flags, key=lambda flag: flag != "demonstration model")
    return [sentences.get(flag, flag) for flag in raised]


def percent(share: float, digits: int = 1) -> str:
    """Return a share as a person reads it."""
    return f"{100 * share:.{digits}f}{_SPACE}%"
