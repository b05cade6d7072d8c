"""What a command costs: time, processor time, memory, disk."""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

EVERY_S = 0.25
SECTOR_BYTES = 512
TAIL_LINES = 6


class CommandFailed(Exception):
    """A command ended badly; the message is the end of what it said."""


@dataclass(frozen=True)
class Cost:
    """What one command took.

    Attributes:
        wall_s: from its start to its end.
        cpu_s: user and system time of it and all its children.
        peak_gib: the most memory of all its processes together; pages that they share count once.
        written_mb: what it had written to disk, what it deleted again included.
        stored_mb: what it left in its results.

    """

    wall_s: float
    cpu_s: float
    peak_gib: float
    written_mb: float
    stored_mb: float


def measure(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    cores: Sequence[int],
    log: Path,
    results: Path,
    limit_s: float,
) -> Cost:
    """Run a command on some cores, and return what it cost.

    Raises:
        CommandFailed: if it does not end with 0, or takes longer than `limit_s`.

    """
    start = time.perf_counter()
    peak = 0
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["taskset", "--cpu-list", ",".join(map(str, cores)), *command],
            env=dict(environment),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            ended = os.wait4(process.pid, os.WNOHANG)
            while ended[0] == 0 and time.perf_counter() - start < limit_s:
                peak = max(peak, held_bytes(process.pid))
                time.sleep(EVERY_S)
                ended = os.wait4(process.pid, os.WNOHANG)
        finally:
            kill_all(process.pid)
    wall_s = time.perf_counter() - start
    pid, status, usage = ended
    if pid == 0:
        process.wait()
        raise CommandFailed(f"still running after {limit_s:.0f} s")
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise CommandFailed(tail(log) or f"exit code {process.returncode}")
    return Cost(
        wall_s=wall_s,
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_gib=peak / (1 << 30),
        written_mb=usage.ru_oublock * SECTOR_BYTES / 1e6,
        stored_mb=sum(path.stat().st_size for path in results.rglob("*") if path.is_file()) / 1e6,
    )


def held_bytes(pid: int) -> int:
    """Return the memory of a process and all below it, shared pages counted once."""
    total = 0
    for process in family(pid):
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def family(pid: int) -> list[psutil.Process]:
    """Return a process and all below it."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill_all(pid: int) -> None:
    """End a process and all below it; none is left if it ended by itself."""
    for member in family(pid):
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue


def tail(log: Path) -> str:
    """Return the last words of a command, its error among them."""
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines()]
    return " / ".join([line for line in lines if line][-TAIL_LINES:])
