"""Peak memory at 1, 4 and 16 times the area, each run in a process of its own.

python -m tests.benchmarks.memory [--score]

Without --score the slide is tiled; with it, a smaller one goes all the way to its outputs.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.big_slide import build
from wsi_pipeline.slide.slide import Slide

WSI = Path(sys.executable).with_name("wsi")


def peak_gib(command: list[str]) -> float:
    """Run a command and return the most memory that it held."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return usage.ru_maxrss / (1 << 20)


def main(command: str, repeats: tuple[int, ...]) -> None:
    for repeat in repeats:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "big.tif"
            build(path, repeat)
            with Slide.open(path) as slide:
                size = slide.l0_size
            peak = peak_gib([str(WSI), command, str(path), "--out", f"{folder}/out"])
            megapixels = size.width * size.height / 1e6
            print(f"wsi {command}: {megapixels:8.0f} megapixels, peak {peak:.2f} GiB", flush=True)


if __name__ == "__main__":
    if "--score" in sys.argv:
        main("score", (1, 2, 4))
    else:
        main("tile", (3, 6, 12))
