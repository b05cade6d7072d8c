"""The `wsi` command. It parses, shows progress and turns errors into lines; it decides nothing.

Each command imports what does its work when it runs: help, and mistakes in options, shall not
wait for it.
"""

from wsi_pipeline.cli import slides, nights, results, cases, machine, bundles  # isort: skip  (as help lists them)
from wsi_pipeline.cli.app import app, main

__all__ = ["app", "bundles", "cases", "machine", "main", "nights", "results", "slides"]
