"""What `mkdocs.yml` adds to MkDocs: pages made of files outside `docs/`, and checks of the pages.

- The README, `CONTRIBUTING.md` and `CHANGELOG.md` become pages, so that nothing is written twice.
- Each folder of the library gets a page of reference with the names that it hands out.
- Marks of code blocks, as in ```` ```sh needs=root ````, which the tests read, are left out.
- A page that would have its readers fetch something from elsewhere fails the build.
"""

import ast
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

log = logging.getLogger("mkdocs.hooks.site")

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "wsi_pipeline"

OUTSIDE = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
"""Pages of the site, by the files in the repository's root that they are."""

FETCHED = re.compile(
    r'<(?:script|img|iframe|source|video|link rel="(?:stylesheet|preconnect|icon)")'
    r'[^>]*\s(?:src|href)="((?:https?:)?//[^"]*)"'
)


def on_config(config: MkDocsConfig) -> None:
    """Put the pages of reference into the navigation."""
    pages = [{title: uri} for uri, title, _ in reference()]
    config.nav = [*(config.nav or []), {"Reference": pages}]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages that do not lie in `docs/`."""
    moved = {"](docs/": "](", **{f"]({source}": f"]({uri}" for uri, source in OUTSIDE.items()}}
    for uri, source in OUTSIDE.items():
        text = (ROOT / source).read_text("utf-8")
        for link, here in moved.items():
            text = text.replace(link, here)
        files.append(File.generated(config, uri, content=text))
    for uri, _, text in reference():
        files.append(File.generated(config, uri, content=text))


def reference() -> Iterator[tuple[str, str, str]]:
    """Yield the address, title and text of each page of reference.

    A name that several packages hand out stands on the first of their pages alone.
    """
    told: set[str] = set()
    for stub in sorted(LIBRARY.rglob("__init__.pyi")):
        package = ".".join(stub.parent.relative_to(ROOT).parts)
        docstring = ast.get_docstring(ast.parse(stub.with_suffix(".py").read_text("utf-8"))) or ""
        own = [name for name in handed_out(stub, package) if name not in told]
        told.update(own)
        names = "\n\n".join(f"::: {name}" for name in own)
        uri = f"reference/{package.rpartition('.')[2]}.md"
        yield uri, package, f"# `{package}`\n\n{docstring}\n\n{names}\n"


def handed_out(stub: Path, package: str) -> Iterator[str]:
    """Yield the full names of what a package's stub hands out."""
    for node in ast.parse(stub.read_text("utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            module = f"{package}.{node.module}" if node.level else node.module
            yield from (f"{module}.{alias.name}" for alias in node.names if alias.asname)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Leave out the marks of code blocks."""
    return re.sub(r"^(```\w+) .*$", r"\1", markdown, flags=re.MULTILINE)


def on_post_page(output: str, *, page: Page, **_: object) -> str:
    """Warn, which fails a strict build, of what readers would fetch from elsewhere."""
    for address in FETCHED.findall(output):
        log.warning(
            "%s fetches %s when it is read; keep it in docs/assets", page.file.src_uri, address
        )
    return output
