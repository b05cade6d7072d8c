"""torch and its company: an extra, which the bundled model does without on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

from wsi_pipeline.errors import ConfigError

_PACKAGES = {"torch", "torchvision", "timm", "segmentation_models_pytorch"}


@contextmanager
def torch_at_hand(what: str) -> Iterator[None]:
    """Turn a failing import of torch's packages into an error that names the extra.

    Args:
        what: needs them, such as "scoring on cuda"; the message begins with it.

    Raises:
        ConfigError: if one of them is not installed.

    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _PACKAGES:
            raise
        raise ConfigError(
            f"{what} needs {error.name}, which is not installed: "
            '`pip install "wsi-pipeline[torch]"`.'
        ) from error


def torch_version() -> str:
    """Return torch's version; empty where it is not installed."""
    try:
        return version("torch")
    except PackageNotFoundError:
        return ""
