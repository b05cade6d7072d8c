"""Whole-slide cellularity scoring, from slide file to heatmap.

Research use only; not a medical device.

After ``import wsi_pipeline as wsi`` a module is imported when it is first named, as in
``wsi.slide.Slide.open(path)``: all of them together take seconds.
"""

from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # checkers know no __getattr__: here are the modules that are named so
    from wsi_pipeline import (  # noqa: F401
        bundle,
        cohort,
        config,
        crew,
        engine,
        folder,
        geometry,
        graphs,
        inspection,
        naming,
        night,
        night_run,
        outcome,
        pipeline,
        quantise,
        slide,
        slide_folders,
        store,
        summary,
        verify,
    )
else:

    def __getattr__(name: str) -> ModuleType:
        if find_spec(f"{__name__}.{name}") is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return import_module(f"{__name__}.{name}")


__version__ = version("wsi-pipeline")
