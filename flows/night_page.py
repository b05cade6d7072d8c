"""What a night looks like among Prefect's runs and artifacts: pure functions of its report."""

from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from wsi_pipeline.night.outcome import Outcome
from wsi_pipeline.night.report import NightReport
from wsi_pipeline.shown import markdown, shown

MAX_PICTURES_CHARS = 300_000
"""Of all pictures together: artifacts lie in the server's database, and pages load them whole."""

MAX_ROWS = 200
"""Of slides shown with their figures; the table and the page that the link leads to have all."""

Thumbnail = Callable[[Path, Outcome], str | None]


def night_name(started: datetime, how: str) -> str:
    """Return what to call the run of a night.

    Args:
        started: when it began, aware of its time zone; the date is that of this machine's place.
        how: it goes, or went.

    """
    return f"night {started.astimezone():%Y-%m-%d}: {how}"


def counted(night: NightReport) -> str:
    """Return how many slides ended how, without those that were left alone."""
    count = Counter(outcome.status for outcome in night.outcomes)
    named = [
        f"{count[status]:,} {status}" for status in ("scored", "estimated", "refused", "failed")
    ]
    counts = ", ".join(each for each in named if not each.startswith("0 ")) or "nothing new"
    return counts if night.is_whole else f"{counts}, ended early"


def headline(night: NightReport) -> str:
    """Return how a night went, in one line."""
    count = Counter(outcome.status for outcome in night.outcomes)
    estimated = f"{count['estimated']} estimated, " if count["estimated"] else ""
    return (
        f"{count['scored']} slides scored, {estimated}{count['refused']} refused, "
        f"{count['failed']} failed, {count['left']} left alone."
    )


def where(path: Path, out: Path, results_url: str | None) -> str:
    """Return in Markdown where to find a file of the results: its address, or else its path."""
    if results_url is None:
        return markdown(path)
    address = "/".join(quote(part, safe="") for part in path.relative_to(out).parts)
    return f"[{markdown(path.name)}]({results_url.rstrip('/')}/{address})"


def table(night: NightReport) -> list[dict[str, str]]:
    """Return a row for each slide, what needs a person first."""
    return [
        {
            "slide": shown(outcome.name),
            "outcome": outcome.status,
            "cellularity of all tissue": _mean(outcome),
            "why": shown(outcome.reason),
        }
        for outcome in night.sorted_outcomes()
    ]


def page(
    night: NightReport, out: Path, report: Path, results_url: str | None, thumbnail: Thumbnail
) -> str:
    """Return a night's figures and small pictures, in Markdown.

    Args:
        night: what became of the slides.
        out: the folder with one folder per slide.
        report: the night's page in it.
        results_url: address at which others find `out`; None if there is none.
        thumbnail: gives a slide's picture as a data URI, if it has any.

    """
    worked = [each for each in night.sorted_outcomes() if each.status != "left"]
    lines = [
        f"# {night_name(night.started, counted(night))}",
        f"{headline(night)} From {markdown(night.inbox)}.",
        f"The whole table: {where(report, out, results_url)}",
    ]
    if worked:
        head = ["| | Slide | Outcome | Cellularity | Tissue | Scored | Why |", "| --- " * 7 + "|"]
        left_chars = MAX_PICTURES_CHARS
        for outcome in worked[:MAX_ROWS]:
            uri = thumbnail(out, outcome) or ""
            fits = 0 < len(uri) <= left_chars
            left_chars -= len(uri) if fits else 0
            name = markdown(outcome.name)
            if results_url is not None and outcome.folder:
                name = f"[{name}]({results_url.rstrip('/')}/{quote(outcome.folder, safe='')}/)"
            cells = [f"![]({uri})" if fits else "", name, outcome.status, *_figures(outcome)]
            head.append(f"| {' | '.join(cells)} | {markdown(outcome.reason)} |")
        lines.append("\n".join(head))
    if len(worked) > MAX_ROWS:
        lines.append(f"And {len(worked) - MAX_ROWS:,} more.")
    return "\n\n".join([*lines, "Research use only; not a medical device."])


def _figures(outcome: Outcome) -> tuple[str, str, str]:
    summary = outcome.summary
    if summary is None:
        return _mean(outcome), "", ""
    tissue, coverage = f"{summary.tissue_area_mm2:.1f} mm²", f"{100 * summary.coverage:.0f} %"
    cellularity = summary.cellularity
    interval = None if cellularity is None else cellularity.mean_95_interval
    if interval is None:
        return _mean(outcome), tissue, coverage
    return (
        f"{_mean(outcome)} ({100 * interval.low:.1f} to {100 * interval.high:.1f})",
        tissue,
        coverage,
    )


def _mean(outcome: Outcome) -> str:
    summary, estimate = outcome.summary, outcome.estimate
    if estimate is not None:
        return f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f} %, estimated"
    if summary is None or summary.cellularity is None:
        return ""
    return f"{100 * summary.cellularity.mean:.1f} %"
