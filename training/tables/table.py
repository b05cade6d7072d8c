"""A table as text, and how tables are written."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsi_pipeline.files import atomic_path


@dataclass(frozen=True)
class Table:
    """A table of text, as it is read."""

    name: str
    """What its file is called."""
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    @property
    def markdown(self) -> str:
        """The table in Markdown, under its title."""
        lines = [self.header, ("---",) * len(self.header), *self.rows]
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        return f"### {self.title}\n\n{table}\n" + (f"\n{self.note}\n" if self.note else "")


def write_tables(tables: Sequence[Table], out: Path) -> None:
    """Write all tables to ``tables.md`` and each to a CSV file of its name."""
    out.mkdir(parents=True, exist_ok=True)
    with atomic_path(out / "tables.md") as partial:
        partial.write_text("\n".join(table.markdown for table in tables), encoding="utf-8")
    for table in tables:
        with (
            atomic_path(out / f"{table.name}.csv") as partial,
            partial.open("w", encoding="utf-8", newline="") as file,
        ):
            csv.writer(file, lineterminator="\n").writerows([table.header, *table.rows])
