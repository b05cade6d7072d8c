"""Check what each module keeps to by itself: its length, and the private names of others.

A name that begins with an underscore is used by its own module alone: ruff's SLF001 sees
`module._name`, and this sees `from module import _name`, which ruff allows within a package. A
module has at most 400 lines, or says in its docstring why it has more: "Over 400 lines: ...".
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("flows", "tools", "training", "wsi_pipeline")
MAX_LINES = 400
REASON = f"Over {MAX_LINES} lines: "


def faults(file: str, source: str) -> Iterator[str]:
    """Yield a line for each thing that a module does not keep to."""
    module = ast.parse(source)
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom):
            for name in (alias.name for alias in node.names if is_private(alias.name)):
                yield (
                    f"{file}:{node.lineno}: {name} is private to {node.module}. Give it a public "
                    f"name there, or keep to its public ones."
                )
    lines = source.count("\n")
    if lines > MAX_LINES and REASON not in (ast.get_docstring(module) or ""):
        yield (
            f"{file}: {lines} lines. Split it by its subjects, or say in its docstring why it "
            f'is one: "{REASON}...".'
        )


def is_private(name: str) -> bool:
    """Tell `_name` from `name` and `__name__`."""
    return name.startswith("_") and not name.endswith("__")


def main() -> None:
    found = [
        fault
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        for fault in faults(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))
    ]
    if found:
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
