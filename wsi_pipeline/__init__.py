"""Whole-slide cellularity scoring, from slide file to heatmap.

``import wsi_pipeline as wsi`` gives what a notebook or a script needs, and loads nothing before it
is used. The names in ``__init__.pyi`` are the promise; whatever else can be imported may change.
See ``docs/python-api.md``.

Research use only; not a medical device.
"""

from importlib.metadata import version

import lazy_loader

__version__ = version("wsi-pipeline")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
