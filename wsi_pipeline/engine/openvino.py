"""OpenVINO, as it is used here: without telemetry, and with one core for the process."""

import sys
from functools import cache
from importlib.util import find_spec
from typing import Any

from wsi_pipeline.errors import ConfigError


def openvino_is_installed() -> bool:
    """Say whether graphs can be run here."""
    return find_spec("openvino") is not None


def import_openvino() -> Any:  # noqa: ANN401
    """Import OpenVINO without what reports its use over the network.

    Raises:
        ConfigError: if it is not installed.

    """
    # Its converter and nncf do without, as they do where the package is not installed.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise ConfigError(
            "OpenVINO is not installed: `pip install wsi-pipeline[openvino]`, or set "
            "`engine.runtime: torch`."
        ) from error
    return openvino


@cache
def core() -> Any:  # noqa: ANN401
    """Return OpenVINO's core, one for the life of the process.

    Each core gives its thread another stack for signals. Of two that end in the order in which they
    began, the second puts the first one's stack back, which is gone: the next signal that Python
    handles, a night's cancellation for one, would be a segmentation fault.

    Raises:
        ConfigError: if OpenVINO is not installed.

    """
    return import_openvino().Core()
