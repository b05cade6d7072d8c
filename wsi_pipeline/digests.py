"""Digests: made of mappings here, and recognised where they come from outside.

A digest may be read from a model card, a store, a cache or a file of an older run, and parts of
some become names of folders. Whatever has not exactly as many hexadecimal digits as it should is
refused.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import StringConstraints, TypeAdapter, ValidationError

SlideDigest = Annotated[str, StringConstraints(pattern=r"\A[0-9a-f]{32}\z")]
"""BLAKE2b of 16 bytes over a slide's files, see `wsi_pipeline.slide.files.content_digest`."""

Sha256 = Annotated[str, StringConstraints(pattern=r"\A[0-9a-f]{64}\z")]
"""SHA-256 of a bundle, a graph, or a mapping of facts."""

_SLIDE: Final[TypeAdapter[str]] = TypeAdapter(SlideDigest)
_SHA256: Final[TypeAdapter[str]] = TypeAdapter(Sha256)


def digest_of(value: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a JSON-able mapping, independent of the order of its keys.

    >>> digest_of({"mpp": 0.5, "tile_px": 512}) == digest_of({"tile_px": 512, "mpp": 0.5})
    True
    """
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def is_slide_digest(value: object) -> bool:
    """Tell whether a value can be a slide's digest."""
    return _fits(_SLIDE, value)


def is_sha256(value: object) -> bool:
    """Tell whether a value can be a SHA-256."""
    return _fits(_SHA256, value)


def _fits(kind: TypeAdapter[str], value: object) -> bool:
    try:
        kind.validate_python(value, strict=True)
    except ValidationError:
        return False
    return True
