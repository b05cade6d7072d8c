"""Too little memory, told in one way whichever library finds it out."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from wsi_pipeline.errors import ShortOfMemoryError
from wsi_pipeline.machine import total_bytes

_REMEDY = (
    "Set a smaller `engine.batch_size`, fewer `workers` or `crew.slides_at_once`, or use a machine "
    "that has more."
)

_SIGNS = re.compile(
    r"out of memory|allocat|bad_alloc|memory object|storage size calculation overflowed"
    r"|can't start new thread",
    re.IGNORECASE,
)
"""Of what torch, CUDA, OpenVINO and Python say in a RuntimeError; none has a kind for it that is
the same on all devices."""


@contextmanager
def enough_memory(what: str) -> Iterator[None]:
    """Have errors about memory be one of ours.

    Args:
        what: was being done, such as "slide.svs: scoring it".

    Raises:
        ShortOfMemoryError: if the block runs out of memory.

    """
    try:
        yield
    except MemoryError as error:
        raise _short(what, error) from error
    except RuntimeError as error:
        if is_about_memory(error):
            raise _short(what, error) from error
        raise


def is_about_memory(error: RuntimeError) -> bool:
    """Tell whether a library means that there is too little memory."""
    return _SIGNS.search(str(error)) is not None


def require_memory(what: str, least_bytes: float) -> None:
    """Raise if something takes more memory than there is in all.

    Where memory is promised before it is there, the process would be killed without a word.

    Raises:
        ShortOfMemoryError: if it does.

    """
    has = total_bytes()
    if least_bytes > has:
        raise ShortOfMemoryError(
            f"{what} takes {least_bytes / (1 << 30):,.0f} GiB of memory at least, and this machine "
            f"has {has / (1 << 30):,.0f}. {_REMEDY}"
        )


def _short(what: str, error: Exception) -> ShortOfMemoryError:
    said = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return ShortOfMemoryError(f"{what} takes more memory than there is ({said}). {_REMEDY}")
