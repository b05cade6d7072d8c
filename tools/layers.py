"""Draw the layers of the code from the contracts that import-linter checks.

`python -m tools.layers` writes `docs/layers.svg`. The contracts and the first sentence of each
docstring are the only sources, so that the picture says what the code says.
"""

import ast
import textwrap
import tomllib
from dataclasses import dataclass
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "layers.svg"

WIDTH_PX = 760
GAP_PX = 10
PAD_PX = 14
LINE_PX = 18
CHARACTER_PX = 6.8
"""Width of an average character of the small text, a little more than browsers draw."""

STYLE = """
  text { font: 13px sans-serif; fill: #3b3b3b }
  .name { font: bold 14px sans-serif; fill: #1c1c1c }
  .package { fill: #f3f0f7; stroke: #440154; stroke-width: 1.5 }
  .room { fill: #eaf3f1; stroke: #21918c; stroke-width: 1.5 }
  .page { fill: #ffffff }
"""


@dataclass(frozen=True)
class Box:
    """A package, folder or module in the picture.

    Attributes:
        name: its path in the repository.
        purpose: the first sentence of its docstring.

    """

    name: str
    purpose: str


def layers(root: Path) -> tuple[list[Box], list[list[Box]]]:
    """Return the packages, and the layers inside the library, the topmost first in both."""
    pyproject = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    packages, rooms = (
        contract
        for contract in pyproject["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    )
    (library,) = rooms["containers"]
    return (
        [box_of(root, name) for name in packages["layers"] if name != library],
        [
            [box_of(root, f"{library}/{name.strip()}") for name in layer.split("|")]
            for layer in rooms["layers"]
        ],
    )


def box_of(root: Path, name: str) -> Box:
    """Return the box of a folder or a module."""
    folder = root / name / "__init__.py"
    source = folder if folder.exists() else root / f"{name}.py"
    docstring = ast.get_docstring(ast.parse(source.read_text("utf-8"))) or ""
    purpose = " ".join(docstring.replace("`", "").split()).partition(". ")[0].removesuffix(".")
    return Box(f"{name}/" if source == folder else f"{name}.py", purpose)


def row(boxes: list[Box], top_px: int, css: str) -> tuple[list[str], int]:
    """Draw boxes side by side; return their SVG and the height that they take, in pixels."""
    width = (WIDTH_PX - GAP_PX * (len(boxes) - 1)) / len(boxes)
    texts = [textwrap.wrap(box.purpose, int((width - 2 * PAD_PX) / CHARACTER_PX)) for box in boxes]
    height = 34 + LINE_PX * max(map(len, texts))
    svg = []
    for index, (box, lines) in enumerate(zip(boxes, texts, strict=True)):
        left = index * (width + GAP_PX)
        svg.append(
            f'<rect class="{css}" x="{left + 1:g}" y="{top_px}" '
            f'width="{width - 2:g}" height="{height}" rx="6"/>'
        )
        for number, line in enumerate([box.name, *lines]):
            mark = ' class="name"' if number == 0 else ""
            baseline = top_px + 24 + LINE_PX * number
            svg.append(f'<text{mark} x="{left + PAD_PX:g}" y="{baseline}">{escape(line)}</text>')
    return svg, height + GAP_PX


def picture(root: Path) -> str:
    """Return the picture of the layers as SVG."""
    packages, rooms = layers(root)
    svg, y = [], 1
    for boxes, css in [
        *(([box], "package") for box in packages),
        *((each, "room") for each in rooms),
    ]:
        drawn, height = row(boxes, y, css)
        svg += drawn
        y += height
    caption = (
        "Code imports only what lies below it. Boxes beside each other know nothing of each other."
    )
    body = "\n".join([*svg, f'<text x="2" y="{y + 10}">{caption}</text>'])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH_PX} {y + 22}" '
        f'width="{WIDTH_PX}" role="img" aria-label="The layers of the code">\n'
        f"<style>{STYLE}</style>\n"
        f'<rect class="page" width="{WIDTH_PX}" height="{y + 22}"/>\n{body}\n</svg>\n'
    )


if __name__ == "__main__":
    PICTURE.write_text(picture(ROOT), "utf-8")
