"""From entries and measured beds to a case's burden, with what is missing said."""

from pathlib import Path
from typing import Literal

from wsi_pipeline.case.entries import CaseEntries
from wsi_pipeline.case.rcb import Burden, RcbClass, class_of, spread
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.facts import Record
from wsi_pipeline.outputs.summary import BedFigures, SlideSummary
from wsi_pipeline.scoring.folder import read_summary

Origin = Literal["entered", "measured", "missing"]

Z_95 = 1.959964
"""Half of a 95 % interval in standard deviations."""


class Term(Record):
    """One term of the burden."""

    name: str
    value: float | None
    unit: str
    origin: Origin
    how: str
    """Where it is from, or what to do to have it."""


class Block(Record):
    """One slide of the case."""

    folder: str
    slide: str
    digest: str
    model: str
    demonstration: bool
    bed: BedFigures | None


class RcbFigures(Record):
    """The residual cancer burden."""

    index: float
    rcb_class: RcbClass
    primary_term: float
    nodal_term: float
    invasive_share: float
    bed_mm: float
    interval: tuple[float, float] | None
    """95 %, from the uncertainty of the cellularity alone; None where that is not known."""
    flip_chance: float | None
    """How likely the class is another, for the same reason."""
    interval_is: str


class CaseResult(Record):
    """What a case comes to."""

    schema_version: Literal[1] = 1
    case: str
    blocks: tuple[Block, ...]
    terms: tuple[Term, ...]
    cellularity_deviation: float | None
    """Standard deviation of a measured cellularity; None where it was entered or is not known."""
    missing: tuple[str, ...]
    """What has to be known before there can be a class."""
    rcb: RcbFigures | None
    use: str = "Research use only; not a medical device."

    def term(self, name: str) -> Term:
        """Return a term by its name."""
        return next(term for term in self.terms if term.name == name)


def assess(entries: CaseEntries) -> CaseResult:
    """Assess a case.

    Raises:
        ConfigError: if a folder holds no finished result, or one was named twice.

    """
    blocks = tuple(_block(folder) for folder in entries.slides)
    _require_different(blocks)
    cellularity, deviation = _cellularity(entries, blocks)
    longest, across = _diameters(entries, blocks)
    terms = (cellularity, longest, across, *_entered(entries))
    missing = tuple(f"{term.name}: {term.how}" for term in terms if term.origin == "missing")
    return CaseResult(
        case=entries.case,
        blocks=blocks,
        terms=terms,
        cellularity_deviation=deviation,
        missing=missing,
        rcb=None if missing else _rcb(terms, deviation),
    )


def burden_of(terms: tuple[Term, ...]) -> Burden:
    """Return the burden that terms stand for, none of which is missing."""
    value = {term.name: term.value or 0.0 for term in terms}
    return Burden(
        cellularity=value["cellularity"] / 100,
        in_situ=value["in situ"] / 100,
        longest_mm=value["tumour bed, longest"],
        across_mm=value["tumour bed, across"],
        positive_nodes=round(value["positive nodes"]),
        largest_metastasis_mm=value["largest metastasis"],
    )


def _rcb(terms: tuple[Term, ...], deviation: float | None) -> RcbFigures:
    burden = burden_of(terms)
    around = None if deviation is None else spread(burden, deviation)
    return RcbFigures(
        index=round(burden.index, 4),
        rcb_class=class_of(burden.index),
        primary_term=round(burden.primary_term, 4),
        nodal_term=round(burden.nodal_term, 4),
        invasive_share=round(burden.invasive_share, 6),
        bed_mm=round(burden.bed_mm, 3),
        interval=None if around is None else (round(around.low, 3), round(around.high, 3)),
        flip_chance=None if around is None else round(around.flip_chance, 4),
        interval_is=(
            "how the index would vary with the cellularity's own interval; all that was entered is "
            "taken for exact"
            if around is not None
            else "none: the uncertainty of the cellularity is not known"
        ),
    )


def _block(folder: Path) -> Block:
    summary = read_summary(folder)
    if summary is None:
        raise ConfigError(
            f"{folder}: there is no finished result here. Score the slide with `wsi score` first, "
            f"and name its own folder."
        )
    made = summary.provenance
    return Block(
        folder=folder.name,
        slide=made.slide.name,
        digest=made.slide.digest,
        model=f"{made.bundle.name} {made.bundle.version}",
        demonstration=made.bundle.demonstration,
        bed=_usable_bed(summary),
    )


def _usable_bed(summary: SlideSummary) -> BedFigures | None:
    return summary.bed if summary.status == "scored" else None


def _require_different(blocks: tuple[Block, ...]) -> None:
    for number, block in enumerate(blocks):
        if block.digest in {other.digest for other in blocks[:number]}:
            raise ConfigError(f"{block.slide} is named twice: each block of a case counts once.")


def _undrawn(blocks: tuple[Block, ...]) -> str | None:
    """Say of which blocks nobody has outlined the bed."""
    if not blocks:
        return "enter it, or name scored slides with outlined beds"
    names = [
        block.slide
        for block in blocks
        if block.bed is None or block.bed.source != "drawn" or block.bed.cellularity is None
    ]
    if not names:
        return None
    return (
        f"outline the tumour bed of {', '.join(names)} on its report, and give the outline to "
        f"`wsi heatmap --bed`; a proposed bed is nobody's"
    )


def _cellularity(entries: CaseEntries, blocks: tuple[Block, ...]) -> tuple[Term, float | None]:
    if entries.cellularity_percent is not None:
        entered = entries.cellularity_percent
        return _term("cellularity", entered, "%", "entered", "by the pathologist"), None
    if (wanted := _undrawn(blocks)) is not None:
        return _term("cellularity", None, "%", "missing", wanted), None
    beds = [block.bed for block in blocks if block.bed is not None]
    area = sum(bed.area_mm2 for bed in beds)
    shares = [bed.area_mm2 / area for bed in beds]
    mean = sum(share * (bed.cellularity or 0.0) for share, bed in zip(shares, beds, strict=True))
    how = f"area-weighted over outlined beds, {len(beds)} in all, {area:.1f} mm²"
    if any(bed.interval is None for bed in beds):
        deviation = None
    else:
        deviations = [bed.interval.deviation for bed in beds if bed.interval]
        # Errors of one model on one patient's slides go the same way: they are added as they are.
        deviation = sum(s * d for s, d in zip(shares, deviations, strict=True))
    return _term("cellularity", 100 * mean, "%", "measured", how), deviation


def _diameters(entries: CaseEntries, blocks: tuple[Block, ...]) -> tuple[Term, Term]:
    names = "tumour bed, longest", "tumour bed, across"
    if entries.tumour_bed_mm is not None:
        entered = sorted(entries.tumour_bed_mm, reverse=True)
        how = "by the pathologist"
        longest, across = (
            _term(n, v, "mm", "entered", how) for n, v in zip(names, entered, strict=True)
        )
        return longest, across
    if (wanted := _undrawn(blocks)) is not None:
        longest, across = (_term(name, None, "mm", "missing", wanted) for name in names)
        return longest, across
    if len(blocks) > 1:
        wanted = (
            "enter tumour_bed_mm from the specimen: a bed that reaches over several blocks cannot "
            "be measured on one of them"
        )
        longest, across = (_term(name, None, "mm", "missing", wanted) for name in names)
        return longest, across
    bed = blocks[0].bed
    assert bed is not None  # noqa: S101 - `_undrawn` has seen to it
    how = f"on the outlined bed of {blocks[0].slide}"
    values = bed.longest_mm, bed.across_mm
    longest, across = (
        _term(n, v, "mm", "measured", how) for n, v in zip(names, values, strict=True)
    )
    return longest, across


def _entered(entries: CaseEntries) -> tuple[Term, ...]:
    nodes = entries.positive_nodes
    metastasis = 0.0 if nodes == 0 else entries.largest_metastasis_mm
    asked = (
        ("in situ", entries.in_situ_percent, "%", "enter in_situ_percent: it is never assumed"),
        ("positive nodes", nodes, "", "enter positive_nodes"),
        ("largest metastasis", metastasis, "mm", "enter largest_metastasis_mm"),
    )
    return tuple(
        _term(name, None, unit, "missing", wanted)
        if value is None
        else _term(name, float(value), unit, "entered", "by the pathologist")
        for name, value, unit, wanted in asked
    )


def _term(name: str, value: float | None, unit: str, origin: Origin, how: str) -> Term:
    known = None if value is None else round(value, 4)
    return Term(name=name, value=known, unit=unit, origin=origin, how=how)
