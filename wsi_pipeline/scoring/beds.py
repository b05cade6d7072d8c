"""Which tumour bed a result is made with: the one named, or the one drawn for it before."""

from pathlib import Path

from wsi_pipeline.bed.outline import BED, Bed, read_bed
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.geometry import Size
from wsi_pipeline.outputs.summary import SlideSummary
from wsi_pipeline.scoring.folder import output_file, read_summary
from wsi_pipeline.slide.slide import Slide


def bed_to_take(folder: Path, named: Path | None, slide: Slide, slide_digest: str) -> Bed | None:
    """Return the drawn bed that a slide is to be scored with.

    A bed that somebody drew outlives the night: scoring the slide again takes it over.

    Args:
        folder: the slide's, where an earlier result may be.
        named: the outline that was named for it; None if none was.
        slide: the slide.
        slide_digest: of its bytes.

    Raises:
        ConfigError: if the outline cannot be used.

    """
    if named is not None:
        return read_bed(named, slide.l0_size, slide.name)
    before = read_summary(folder)
    if before is None or before.provenance.slide.digest != slide_digest:
        return None
    return drawn_for(folder, before, None, slide.l0_size)


def drawn_for(folder: Path, summary: SlideSummary, named: Path | None, l0_size: Size) -> Bed | None:
    """Return the bed that is named, or else the one that a result was made with, if it was drawn.

    Raises:
        ConfigError: if the outline cannot be used, or is not what it was.

    """
    name = summary.provenance.slide.name
    if named is not None:
        return read_bed(named, l0_size, name)
    if summary.provenance.config.bed is None:
        return None
    path, was = folder / BED, summary.outputs.get(BED)
    if was is None or not path.is_file() or output_file(path) != was:
        raise ConfigError(
            f"{path}: the bed that was drawn for {name} is gone or was changed. Name its outline "
            f"with --bed, or move the folder away to score the slide without."
        )
    return read_bed(path, l0_size, name)
