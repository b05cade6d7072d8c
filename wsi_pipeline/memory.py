"""Too little memory, told in one way whichever library finds it out."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from wsi_pipeline.errors import ShortOfMemoryError

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


def total_bytes(
    cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> int:
    """Return the memory there is for this process: the machine's, or its container's or unit's.

    Args:
        cgroups: where Linux shows control groups, of either version.
        own: what says which of them this process is in.

    """
    limits = [int(psutil.virtual_memory().total)]
    for line in own.read_text("utf-8").splitlines() if own.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, name = cgroups, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = cgroups / "memory", "memory.limit_in_bytes"
        else:
            continue
        # Each level above limits it too. Within a container, only its own may be shown.
        group = root / path.strip("/")
        for level in (group, *group.parents):
            with suppress(OSError, ValueError):  # "max" is none
                limits.append(int((level / name).read_text("ascii")))
            if level == root:
                break
    return min(limits)


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
