"""What of the machine is this process's: all of it, or its container's or unit's share.

Linux tells in its control groups, of either version. Each group above limits a process too; within
a container, only its own may be shown.
"""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

_GROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def cores(groups: Path = _GROUPS, own: Path = _OWN) -> int:
    """Return how many cores may be kept busy; a share of one counts as one.

    Args:
        groups: where control groups are shown.
        own: what says which of them this process is in.

    """
    limits = [_allowed_cores()]
    for group, version in _own_groups("cpu", groups, own):
        with suppress(OSError, ValueError):  # no limit is "max", or -1
            if version == 2:
                quota, period = map(int, _words(group / "cpu.max"))
            else:
                (quota,), (period,) = (
                    map(int, _words(group / f"cpu.cfs_{what}_us")) for what in ("quota", "period")
                )
            if quota > 0:
                limits.append(math.ceil(quota / period))
    return max(1, min(limits))


def threads(groups: Path = _GROUPS, own: Path = _OWN) -> int | None:
    """Return how many threads shall compute; None is what libraries find out by themselves.

    They count the cores that they may run on, and know nothing of a share of their time.
    """
    outermost = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if outermost.isdecimal() and int(outermost):
        return int(outermost)
    share = cores(groups, own)
    return share if share < _allowed_cores() else None


def total_bytes(groups: Path = _GROUPS, own: Path = _OWN) -> int:
    """Return the memory there is; see `cores` for the arguments."""
    limits = [int(psutil.virtual_memory().total)]
    limits += [limit for limit, _ in _memory(groups, own)]
    return min(limits)


def free_bytes(groups: Path = _GROUPS, own: Path = _OWN) -> int:
    """Return the memory that is free; see `cores` for the arguments."""
    left = [int(psutil.virtual_memory().available)]
    left += [max(0, limit - used) for limit, used in _memory(groups, own)]
    return min(left)


def _allowed_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory(groups: Path, own: Path) -> Iterator[tuple[int, int]]:
    """Yield the limit of each group that has one, and what is used of it and cannot be let go."""
    for group, version in _own_groups("memory", groups, own):
        names = ("memory.max", "memory.current", "inactive_file")
        if version == 1:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        with suppress(OSError, ValueError):  # "max" is none
            limit = int((group / names[0]).read_text("ascii"))
            used = 0
            with suppress(OSError, ValueError):
                used = int((group / names[1]).read_text("ascii"))
                stat = dict(line.split() for line in (group / "memory.stat").open(encoding="ascii"))
                used -= int(stat.get(names[2], 0))
            yield limit, max(0, used)


def _own_groups(controller: str, groups: Path, own: Path) -> Iterator[tuple[Path, int]]:
    """Yield this process's groups of a controller, from its own upwards, and their version."""
    for line in own.read_text("utf-8").splitlines() if own.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, version = groups, 2
        elif controller in controllers.split(","):
            root, version = groups / controller, 1
        else:
            continue
        group = root / path.strip("/")
        for level in (group, *group.parents):
            yield level, version
            if level == root:
                break


def _words(path: Path) -> list[str]:
    return path.read_text("ascii").split()
