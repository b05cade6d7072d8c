"""How much memory there is."""

from pathlib import Path

import psutil
import pytest

from wsi_pipeline.memory import total_bytes


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
    tmp_path: Path, own: str, files: dict[str, str], limit: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    (tmp_path / "own").write_text(f"{own}\n")
    found = total_bytes(tmp_path, tmp_path / "own")
    assert found == (psutil.virtual_memory().total if limit is None else limit)
    assert total_bytes() <= psutil.virtual_memory().total
