"""Patches drawn by a program, with exact truth; kept on disk, since drawing takes long."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Literal

import cv2
import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from rich.progress import track

from training import synthetic
from training.augment import Sample
from training.data.picture import PACKING, LazyPictures, Picture, Pictures, pack
from training.synthetic import PATTERN_WEIGHTS, Pattern, SyntheticConfig, generate_patch
from wsi_pipeline.files import atomic_path

Part = Literal["train", "validation"]

_SOURCES = Path(synthetic.__file__).parent
"""What the patches follow from: they are drawn anew when any of these files changes."""


class GeneratedData(BaseModel):
    """A set of generated patches.

    ``validation`` patches come from another stream of the seed and with shifted stains.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["generated"] = "generated"
    train: int = Field(default=2000, gt=0, description="number of patches to learn from")
    validation: int = Field(default=128, gt=0, description="number of patches to judge by")
    size: int = Field(default=512, ge=64, description="side of a patch, px at 0.5 µm/px")
    seed: int = 0
    weights: dict[Pattern, Annotated[float, Field(gt=0)]] | None = Field(
        default=None,
        min_length=1,
        description="how often each pattern is drawn; null spreads cellularity as BreastPathQ's is",
    )
    cache: Path = Field(default=Path("runs/patches"), description="folder to keep patches in")
    workers: int = Field(default=1, ge=1, description="processes that generate patches")

    def nuclei(self, part: Part) -> Pictures:
        """Return the patches with their exact masks."""
        count = self.train if part == "train" else self.validation
        return LazyPictures(count, partial(_read, generated_samples(self, part), part))

    def cellularity(self, part: Part) -> Pictures:
        """Return the same patches, since they hold their exact cellularity too."""
        return self.nuclei(part)


def generated_sample(
    part: Part, seed: int, size: int, i: int, weights: dict[Pattern, float] | None = None
) -> Sample:
    """Generate patch ``i`` of a part of a seed, packed."""
    rng = np.random.default_rng((seed, part == "validation", i))
    stain: Literal["usual", "shifted"] = "shifted" if part == "validation" else "usual"
    config = SyntheticConfig(size=size, stain=stain)
    return pack(generate_patch(rng, config, weights=weights or PATTERN_WEIGHTS))


def generated_samples(data: GeneratedData, part: Part) -> Path:
    """Return the file of a part's samples, uint8 [N, S, S, 4], which is made if need be."""
    count = data.train if part == "train" else data.validation
    drawn = b"".join(file.read_bytes() for file in sorted(_SOURCES.glob("*.py")))
    if data.weights is not None:
        drawn += repr(data.weights).encode()
    generator = hashlib.sha256(drawn).hexdigest()[:12]
    name = f"{part}-{count}x{data.size}-seed{data.seed}-{generator}-packed{PACKING}.npy"
    path = data.cache / name
    if not path.exists():
        data.cache.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as partial_path:
            shape = (count, data.size, data.size, 4)
            samples = open_memmap(partial_path, mode="w+", dtype=np.uint8, shape=shape)
            made = _generate(data, part, count)
            for i, sample in enumerate(track(made, f"generating {part} patches", count)):
                samples[i] = sample
            samples.flush()
    return path


def _read(samples: Path, part: Part, i: int) -> Picture:
    # Mapped anew each time: a process that loads batches is sent the path, and not the samples.
    mapped: NDArray[np.uint8] = np.load(samples, mmap_mode="r")
    name = f"{part} {i}"
    return Picture(name=name, group=name, sample=np.array(mapped[i]))


def _generate(data: GeneratedData, part: Part, count: int) -> Iterator[Sample]:
    make = partial(generated_sample, part, data.seed, data.size, weights=data.weights)
    if data.workers == 1:
        yield from map(make, range(count))
        return
    with ProcessPoolExecutor(
        data.workers, get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)
    ) as pool:
        yield from pool.map(make, range(count), chunksize=8)
