"""Prefect flows over `wsi_pipeline`: parameters in, artifacts out, and nothing decided here."""

import os

# Prefect reports anonymous usage to its makers unless told otherwise, here or in the environment.
os.environ.setdefault("DO_NOT_TRACK", "1")
