"""Whole-slide cellularity scoring, from slide file to heatmap.

Research use only; not a medical device.
"""

from importlib.metadata import version

__version__ = version("wsi-pipeline")
