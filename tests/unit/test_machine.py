"""What of the machine is this process's, by control groups as Linux and Docker show them."""

import os
from pathlib import Path

import psutil
import pytest

from wsi_pipeline.machine import cores, free_bytes, threads, total_bytes

Files = dict[str, str]
ALL_CORES = len(os.sched_getaffinity(0))


def groups(folder: Path, own: str, files: Files) -> tuple[Path, Path]:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{text}\n")
    (folder / "own").write_text(f"{own}\n")
    return folder, folder / "own"


@pytest.mark.parametrize(
    ("own", "files", "limit"),
    [
        ("0::/system.slice/wsi.service", {"system.slice/wsi.service/memory.max": "max"}, None),
        ("0::/system.slice/wsi.service",
         {"system.slice/wsi.service/memory.max": "max", "system.slice/memory.max": "5000"}, 5000),
        ("0::/", {"memory.max": "4000"}, 4000),  # within a container
        ("9:cpu:/\n4:memory:/docker/1a\n0::/", {"memory/memory.limit_in_bytes": "3000"}, 3000),
    ],
)  # fmt: skip
def test_memory_is_what_the_container_or_unit_is_left(
    tmp_path: Path, own: str, files: Files, limit: int | None
) -> None:
    found = total_bytes(*groups(tmp_path, own, files))
    assert found == (psutil.virtual_memory().total if limit is None else limit)
    assert free_bytes() <= total_bytes() <= psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("own", "files", "free"),
    [
        ("0::/", {"memory.max": "9000", "memory.current": "4000",
                  "memory.stat": "anon 1\ninactive_file 1000\nfile 5"}, 6000),
        ("0::/", {"memory.max": "9000", "memory.current": "9500", "memory.stat": "anon 1"}, 0),
        ("0::/", {"memory.max": "9000"}, 9000),
        ("4:memory:/a", {"memory/a/memory.limit_in_bytes": "9000",
                         "memory/a/memory.usage_in_bytes": "8000",
                         "memory/a/memory.stat": "cache 1\ntotal_inactive_file 500"}, 1500),
        # The group above is fuller, with what others in it use.
        ("0::/a/b", {"a/b/memory.max": "9000", "a/b/memory.current": "10",
                     "a/memory.max": "9000", "a/memory.current": "8990"}, 10),
    ],
)  # fmt: skip
def test_free_memory_is_what_the_container_has_left(
    tmp_path: Path, own: str, files: Files, free: int
) -> None:
    assert free_bytes(*groups(tmp_path, own, files)) == free


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/", {"cpu.max": "max 100000"}, ALL_CORES),
        ("0::/", {"cpu.max": "100000 100000"}, 1),
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/", {"cpu.max": "130000 100000"}, min(2, ALL_CORES)),
        ("0::/", {"cpu.max": "9900000 100000"}, min(99, ALL_CORES)),
        ("0::/u/s", {"u/s/cpu.max": "max 100000", "u/cpu.max": "100000 100000"}, 1),
        ("3:cpu,cpuacct:/docker/1a", {"cpu/cpu.cfs_quota_us": "-1"}, ALL_CORES),
        ("3:cpu,cpuacct:/d", {"cpu/d/cpu.cfs_quota_us": "100000",
                              "cpu/d/cpu.cfs_period_us": "100000"}, 1),
        ("0::/", {"cpu.max": "nonsense"}, ALL_CORES),
        ("0::/", {}, ALL_CORES),
    ],
)  # fmt: skip
def test_cores_are_the_containers_share(
    tmp_path: Path, own: str, files: Files, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    where = groups(tmp_path, own, files)
    assert cores(*where) == expected
    assert threads(*where) == (expected if expected < ALL_CORES else None)
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
    assert threads(*where) == 3
