"""`slides.csv`, a table in an inbox or beside it: what holds for single slides of it.

=================== =============================================================================
column              meaning
=================== =============================================================================
``slide``           the file: its path below the inbox, its name, or its name without the suffix
``mpp``             overrides what the file says of its level-0 pixel size, in µm
``allow_upsampling``  yes or no: whether the slide may be enlarged to the model's resolution
any other           a label, such as case or bed, that goes into the night's table
=================== =============================================================================

Cells may be empty. It is read as spreadsheets write it: with commas, semicolons or tabs, decimal
points or commas, in UTF-8 or UTF-16 or Windows' code page.

A row that cannot be used costs its own slide. A table that cannot be used at all costs all of them:
nobody can tell which slides it was meant for, and a figure at a wrong scale shows no sign of it.
"""

import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from unicodedata import normalize

from wsi_pipeline.files import is_url, open_binary
from wsi_pipeline.shown import shown
from wsi_pipeline.slide.mpp import PLAUSIBLE_MPP
from wsi_pipeline.slide.stated_mpp import number_of

NAME = "slides.csv"

SLIDE, MPP, UPSAMPLING = "slide", "mpp", "allow_upsampling"

MAX_BYTES = 1 << 26

_YES = frozenset({"yes", "y", "true", "1", "x", "ja", "wahr", "oui", "vrai", "si", "sí"})
_NO = frozenset({"no", "n", "false", "0", "nein", "falsch", "non", "faux"})


@dataclass(frozen=True, slots=True)
class SlideRow:
    """What is said of one slide; None is nothing.

    Attributes:
        mpp: µm per level-0 pixel.
        allow_upsampling: whether it may be enlarged.
        labels: by column.

    """

    mpp: float | None = None
    allow_upsampling: bool | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SlideTable:
    """What is said of an inbox's slides.

    Attributes:
        name: of the table, for messages.
        rows: the cells of each slide's row by column, by the row's line.
        faults: why a row cannot be used, by its line.
        fault: why the table cannot be used at all; empty if it can.

    """

    name: str = NAME
    rows: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    faults: Mapping[int, str] = field(default_factory=dict)
    fault: str = ""

    def assign(self, slides: Sequence[str]) -> "tuple[dict[str, SlideRow | str], list[int]]":
        """Tell what is said of each slide.

        Args:
            slides: their paths below the inbox, parts joined by "/".

        Returns:
            by slide, for those that are named, what is said of it, or why that cannot be used; and
            the lines that name no slide.

        """
        named: dict[str, list[str]] = defaultdict(list)
        for slide in slides:
            path = PurePosixPath(slide)
            for name in {slide, path.name, path.stem, str(path.with_suffix(""))}:
                named[_key(name)].append(slide)
        owners: dict[int, list[str]] = {}
        for line, cells in self.rows.items():
            wanted = _key(cells.get(SLIDE, ""))
            # A whole path below the inbox names that slide alone.
            whole = [slide for slide in named[wanted] if _key(slide) == wanted]
            owners[line] = whole or named[wanted]
        lines: dict[str, list[int]] = defaultdict(list)
        for line, its in owners.items():
            for slide in its:
                lines[slide].append(line)
        said: dict[str, SlideRow | str] = {}
        for slide, its_lines in lines.items():
            shared = any(len(owners[line]) > 1 for line in its_lines)
            try:
                said[slide] = self._row(its_lines, shared=shared)
            except ValueError as error:
                said[slide] = f"{self.name}, line {its_lines[0]}: {error}"
        return said, [line for line, its in owners.items() if not its]

    def _row(self, lines: Sequence[int], *, shared: bool) -> SlideRow:
        first, *others = lines
        if first in self.faults:
            raise ValueError(self.faults[first])
        if others:
            raise ValueError(
                f"line {' and '.join(map(str, others))} names the same slide. Keep one of them."
            )
        if shared:
            raise ValueError("it names more than one slide. Give each its path below the inbox.")
        cells = self.rows[first]
        return SlideRow(
            mpp=_mpp(cells.get(MPP, "")),
            allow_upsampling=_answer(cells.get(UPSAMPLING, "")),
            labels={
                column: shown(text)
                for column, text in cells.items()
                if column not in {SLIDE, MPP, UPSAMPLING} and text
            },
        )


def find_table(inbox: str) -> SlideTable:
    """Read the table in an inbox, or else the one beside it; an empty one if there is none."""
    within = inbox.rstrip("/")
    beside = within.rsplit("/", 1)[0] if is_url(within) else str(Path(within).absolute().parent)
    for folder in (within, beside):
        table = _read(f"{folder}/{NAME}")
        if table is not None:
            return table
    return SlideTable()


def parse_table(content: bytes, name: str = NAME) -> SlideTable:
    """Read a table, whatever spreadsheet has written it; what is wrong with it is its `fault`."""
    text = _text(content)
    first, _, rest = text.partition("\n")
    if first.strip().lower().startswith("sep="):  # Excel's own
        delimiter, text = first.strip()[4:5], rest
        first = text.partition("\n")[0]
        skipped = 1
    else:
        delimiter = max(";\t,", key=first.count)
        skipped = 0
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter or ",", strict=True)
        header = [_column(cell) for cell in next(reader, [])]
        lines = ((reader.line_num + skipped, cells) for cells in reader)
        found = {line: cells for line, cells in lines if any(map(str.strip, cells))}
    except csv.Error as error:
        return SlideTable(name, fault=f"{name}: this is no table ({error}). Save it as CSV again.")
    if fault := _fault_of_header(header, name):
        return SlideTable(name, fault=fault)
    rows = {
        line: {column: cell.strip() for column, cell in zip(header, cells, strict=False) if column}
        for line, cells in found.items()
    }
    faults = {
        line: f"it has more cells than the first line has columns. Put texts that hold a "
        f"{delimiter!r} into quotation marks."
        for line, cells in found.items()
        if any(map(str.strip, cells[len(header) :]))
    }
    return SlideTable(name, rows, faults)


def _read(location: str) -> SlideTable | None:
    try:
        if not is_url(location) and not Path(location).is_file():
            if not Path(location).exists():
                return None
            return SlideTable(fault=f"{location}: this is no file. Clear the way.")
        with open_binary(location) as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    # Object stores have errors of their own, which no class unites.
    except Exception as error:  # noqa: BLE001
        return SlideTable(fault=f"{NAME}: it is there and cannot be read ({error}).")
    if len(content) > MAX_BYTES:
        return SlideTable(fault=f"{NAME}: it has more than {MAX_BYTES >> 20} MiB.")
    return parse_table(content)


def _text(content: bytes) -> str:
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16", "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def _column(cell: str) -> str:
    return "_".join(cell.strip().lower().replace("-", " ").replace("_", " ").split())


def _fault_of_header(header: Sequence[str], name: str) -> str:
    if SLIDE not in header:
        return f"{name}: its first line has no column {SLIDE!r}. Name the columns there."
    for column in header:
        if column and header.count(column) > 1:
            return f"{name}: two columns are called {shown(column)!r}. Rename one."
        if column not in {SLIDE, MPP, UPSAMPLING}:
            meant = get_close_matches(column, (MPP, UPSAMPLING), n=1, cutoff=0.66)
            if meant or "upsampl" in column or "mpp" in column:
                return (
                    f"{name}: there is no setting {shown(column)!r}. If it is to be a label, give "
                    f"it another name; else write {(meant or [MPP, UPSAMPLING])[0]!r}."
                )
    return ""


def _mpp(text: str) -> float | None:
    if not text:
        return None
    value = number_of(text)
    low, high = PLAUSIBLE_MPP
    if value is None or not low <= value <= high:
        raise ValueError(
            f"{shown(text)!r} is no mpp. Give the µm per pixel of level 0, such as 0.25."
        )
    return value


def _answer(text: str) -> bool | None:
    word = text.casefold()
    if word in _YES:
        return True
    if not word or word in _NO:
        return False if word else None
    raise ValueError(f"{shown(text)!r} is neither yes nor no. Say whether to allow upsampling.")


def _key(name: str) -> str:
    return normalize("NFC", name.replace("\\", "/").removeprefix("./")).casefold()
